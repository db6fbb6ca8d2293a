"""Checkpoints made by others: the official files of EfficientViT, DeiT, and Swin, and timm's.

Read: a state dict, flat or under ``state_dict`` or ``model``, with or without the prefix
``module.``, in PyTorch's file format or in safetensors. Official keys and timm's differ in prefixes only, in DeiT not
at all. Pickles are read with ``weights_only=True``: no code in a file is run.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from quant.data.image_folder import CROP_RATIO
from quant.models.checkpoint import CheckpointError
from quant.models.deit import DEIT, DeiTConfig
from quant.models.efficientvit import EFFICIENTVIT, EfficientViTConfig
from quant.models.registry import MODELS, Config, Model, at_size, build, model_name
from quant.models.swin import SWIN, SwinConfig

__all__ = ["CheckpointError", "evaluation_crop", "load_checkpoint"]

# timm prefix -> official prefix.
TIMM_PREFIXES = (
    (re.compile(r"^stem\.in_conv\."), "backbone.input_stem.op_list.0."),
    (re.compile(r"^stem\.res(\d+)\."), lambda m: f"backbone.input_stem.op_list.{int(m[1]) + 1}."),
    (re.compile(r"^stages\.(\d+)\.blocks\."), r"backbone.stages.\1.op_list."),
    (re.compile(r"^head\.in_conv\."), "head.op_list.0."),
    (re.compile(r"^head\.classifier\.0\."), "head.op_list.2.linear."),
    (re.compile(r"^head\.classifier\.1\."), "head.op_list.2.norm."),
    (re.compile(r"^head\.classifier\.4\."), "head.op_list.3.linear."),
)

# timm evaluates checkpoints of more than this size on whole pictures, without the border that others crop off.
TIMM_CROPPED_SIZE = 224
#: of DeiT and Swin
TRANSFORMER_CROP_RATIO = 0.9

# Found in the networks of one family only.
STEM_KEY = "backbone.input_stem.op_list.0.conv.weight"
TOKEN_KEY = "cls_token"
WINDOW_KEY = "layers.0.blocks.0.attn.relative_position_bias_table"

# The original Swin files have the merging at the end of the stage before, and buffers that can be computed.
ORIGINAL_SWIN_KEY = "layers.0.downsample.reduction.weight"
SWIN_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")
SWIN_BUFFERS = ("relative_position_index", "attn_mask")


def load_checkpoint(
    path: Path | str, name: str | None = None, num_classes: int | None = None, size: int | None = None
) -> Model:
    """Load an official or a timm checkpoint of EfficientViT B0..B3, DeiT, or Swin.

    Parameters
    ----------
    path : the file (.pt, .pth, .bin, .safetensors; told apart by content, not by name).
    name : a key of ``MODELS``; found out from the tensors if not given.
    num_classes : classes expected; found out from the tensors if not given.
    size : height and width of the input; the one of training if not given. Positions of a DeiT are interpolated.

    Returns
    -------
    The model in evaluation mode, float32.

    Raises
    ------
    CheckpointError : the file is absent, damaged, not a checkpoint, or its tensors do not fit.
    """
    path = Path(path)
    tensors = _known_keys(_state_dict(path, _read(path)))
    try:
        config = _config(path, tensors, name, num_classes)
        model = build(config)
        _check_tensors(path, model_name(config), model.state_dict(), tensors)
        # Strict but for the batch norms' step counters, which some files lack and inference ignores.
        model.load_state_dict(tensors, strict=False)
        return at_size(model.eval(), size) if size else model.eval()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def evaluation_crop(path: Path | str, size: int) -> float:
    """Crop ratio (see `quant.data.image_folder`) with which the makers of a checkpoint evaluate it at an input size."""
    path = Path(path)
    tensors = _state_dict(path, _read(path))
    if TOKEN_KEY in tensors or WINDOW_KEY in tensors:
        return TRANSFORMER_CROP_RATIO
    from_timm = any(_official_key(key) != key for key in tensors)
    return 1.0 if from_timm and size > TIMM_CROPPED_SIZE else CROP_RATIO


def _read(path: Path) -> object:
    """Return what the file holds, by its content's format."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file starts with the length of its header, 8 bytes, and the header's brace.
        if len(start) == 9 and start[8:] == b"{":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint file") from error
    # Readers of damaged bytes raise almost anything.
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if isinstance(error, pickle.UnpicklingError):  # whose own words advise to run whatever code a file holds
            reason = "a damaged or unsafe pickle"
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}); it is damaged, "
            "incomplete, or not a PyTorch or safetensors file of plain tensors: get it again"
        ) from error


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """Take the state dict out of its wrappings."""
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path} holds no state dict (found {type(content).__name__}); save the model's "
            "`state_dict()`, flat or under 'state_dict' or 'model'"
        )
    foreign = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise CheckpointError(
            f"{path} holds other things than named tensors: {_some(foreign)}; save the model's `state_dict()`"
        )
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content


def _known_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys to those of our models: official ones of EfficientViT, timm's of Swin."""
    if WINDOW_KEY in tensors:
        return _swin_keys(tensors)
    return {_official_key(key): value for key, value in tensors.items()}


def _official_key(key: str) -> str:
    for pattern, replacement in TIMM_PREFIXES:
        renamed, count = pattern.subn(replacement, key)
        if count:
            return renamed
    return key


def _swin_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {key: value for key, value in tensors.items() if not key.endswith(SWIN_BUFFERS)}
    if ORIGINAL_SWIN_KEY not in kept:
        return kept
    heads = {"head.weight": "head.fc.weight", "head.bias": "head.fc.bias"}
    return {
        heads.get(key, SWIN_MERGING.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", key)): value
        for key, value in kept.items()
    }


def _config(path: Path, tensors: dict[str, Tensor], name: str | None, num_classes: int | None) -> Config:
    """The sizes of the network whose tensors these are; `name` and `num_classes` go before what the tensors say."""
    if TOKEN_KEY in tensors:
        found, classifier = _deit(path, tensors), "head.weight"
    elif WINDOW_KEY in tensors:
        found, classifier = _swin(path, tensors), "head.fc.weight"
    else:
        found, classifier = _efficientvit(path, tensors), "head.op_list.3.linear.weight"
    if name is not None and name != model_name(found):
        found = _known(name)
    return found.replace(num_classes=num_classes or _shape(path, tensors, classifier)[0])


def _known(name: str) -> Config:
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name]


def _efficientvit(path: Path, tensors: dict[str, Tensor]) -> EfficientViTConfig:
    width = _shape(path, tensors, STEM_KEY)[0]
    for config in EFFICIENTVIT.values():
        if config.widths[0] == width:
            return config
    known = sorted(config.widths[0] for config in EFFICIENTVIT.values())
    raise CheckpointError(f"{path} starts with {width} channels; EfficientViT B0..B3 start with {known}")


def _deit(path: Path, tensors: dict[str, Tensor]) -> DeiTConfig:
    width, _, patch, _ = _shape(path, tensors, "patch_embed.proj.weight", 4)
    depth, distilled = _count(tensors, r"blocks\.(\d+)\."), "dist_token" in tensors
    for config in DEIT.values():
        if (config.width, config.depth, config.patch, config.distilled) == (width, depth, patch, distilled):
            patches = _shape(path, tensors, "pos_embed", 3)[1] - config.prefix
            return config.replace(size=patch * math.isqrt(max(patches, 1)))
    raise CheckpointError(
        f"{path} has {depth} blocks of {width} channels on patches of {patch} pixels, which no known DeiT has"
    )


def _swin(path: Path, tensors: dict[str, Tensor]) -> SwinConfig:
    width, _, patch, _ = _shape(path, tensors, "patch_embed.proj.weight", 4)
    stages = _count(tensors, r"layers\.(\d+)\.")
    depths = tuple(_count(tensors, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
    window = (math.isqrt(_shape(path, tensors, WINDOW_KEY)[0]) + 1) // 2
    for config in SWIN.values():
        if (config.width, config.depths, config.patch) == (width, depths, patch):
            return config.replace(window=window, size=config.size * window // config.window)
    raise CheckpointError(f"{path} has stages of {depths} blocks, the first of {width} channels, which no Swin has")


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number in keys that start as `pattern` says."""
    return 1 + max((int(found[1]) for found in (re.match(pattern, key) for key in tensors) if found), default=-1)


def _shape(path: Path, tensors: dict[str, Tensor], key: str, dimensions: int = 2) -> torch.Size:
    if key not in tensors or tensors[key].ndim < dimensions:
        raise CheckpointError(
            f"{path} is not an EfficientViT B0..B3, DeiT, or Swin classifier: it has no weight {key}; its tensors are "
            f"{_some(list(tensors))}. Other networks, EfficientViT's L series among them, are not supported"
        )
    return tensors[key].shape


def _check_tensors(path: Path, name: str, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Compare names, shapes and values; raise one error that tells all that is wrong."""
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    common = [key for key in expected if key in found]
    wrong_shape = [key for key in common if found[key].shape != expected[key].shape]
    problems = {
        "unknown": [key for key in found if key not in expected],
        "missing": [key for key in expected if key not in found and key not in counters],
        "wrongly shaped": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}" for key in wrong_shape
        ],
        "not finite": [key for key in common if not bool(torch.isfinite(found[key]).all())],
    }
    texts = [f"{len(keys)} {problem}: {_some(keys)}" for problem, keys in problems.items() if keys]
    if texts:
        raise CheckpointError(
            f"{path} does not fit {name}: {'; '.join(texts)}. "
            "Check the variant and the class count, or get the file again"
        )


def _some(items: list) -> str:
    shown = ", ".join(str(item) for item in items[:4])
    return shown + (f" and {len(items) - 4} more" if len(items) > 4 else "")
