"""All networks by name, and what is done with any of them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import asdict

from quant.models.deit import DEIT, DeiT, DeiTConfig, resized_positions
from quant.models.efficientvit import EFFICIENTVIT, EfficientViT, EfficientViTConfig
from quant.models.swin import SWIN, Swin, SwinConfig
from quant.models.transformer import SizeError

__all__ = ["MODELS", "Config", "Model", "at_size", "build", "build_model", "model_name"]

#: a float classifier
Model = EfficientViT | DeiT | Swin
#: its sizes
Config = EfficientViTConfig | DeiTConfig | SwinConfig

# A chain lists its last map first.
MODELS: Mapping[str, Config] = ChainMap(SWIN, DEIT, EFFICIENTVIT)

_CLASSES = {EfficientViTConfig: EfficientViT, DeiTConfig: DeiT, SwinConfig: Swin}
#: what may differ between two networks of one name
_FREE = ("num_classes", "size", "window")


def build(config: Config) -> Model:
    """A randomly initialised classifier."""
    return _CLASSES[type(config)](config)


def build_model(name: str, num_classes: int | None = None, size: int | None = None) -> Model:
    """A randomly initialised classifier.

    Parameters
    ----------
    name : a key of ``MODELS``.
    num_classes : outputs of the last layer; those of the named network if not given.
    size : height and width of the input; those of the named network if not given. EfficientViT takes any.

    Raises
    ------
    ValueError : unknown name, or a size that the network cannot have.
    """
    if name not in MODELS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(MODELS)}")
    config = MODELS[name].replace(**({} if num_classes is None else {"num_classes": num_classes}))
    return build(_with_size(config, size))


def model_name(config: Config) -> str:
    """The name under which a network of these sizes is known, whatever its input, window, and classes.

    Raises
    ------
    ValueError : none has them.
    """
    for name, known in MODELS.items():
        if type(known) is type(config) and _structure(known) == _structure(config):
            return name
    raise ValueError(f"no known network has the sizes {config}; known are {', '.join(MODELS)}")


def at_size(model: Model, size: int) -> Model:
    """The same network for an input of `size` pixels: `model` itself if it takes that, else a copy.

    Positions of a DeiT are interpolated.

    Raises
    ------
    SizeError : one that the network cannot have.
    """
    config = _with_size(model.config, size)
    if config == model.config:
        return model
    if isinstance(config, SwinConfig):
        _check_windows(model.config, config)
    copy, state = build(config), model.state_dict()
    if isinstance(config, DeiTConfig):
        state["pos_embed"] = resized_positions(state["pos_embed"], config.prefix, config.grid)
    copy.load_state_dict(state)
    return copy.train(model.training)


def _structure(config: Config) -> dict[str, object]:
    return {name: value for name, value in asdict(config).items() if name not in _FREE}


def _with_size(config: Config, size: int | None) -> Config:
    return config if size is None or isinstance(config, EfficientViTConfig) else config.replace(size=size)


def _check_windows(trained: SwinConfig, config: SwinConfig) -> None:
    for stage in range(len(config.depths)):
        if config.window_of(stage) != trained.window_of(stage):
            raise SizeError(
                f"stage {stage} was trained on windows of {trained.window_of(stage)}, and {config.size} pixels leave "
                f"{config.window_of(stage)}; choose a larger size"
            )
