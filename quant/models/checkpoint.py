"""The project's own checkpoint file: safetensors with the facts about the training beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from quant.data.image_folder import CROP_RATIO
from quant.models.registry import MODELS, Model, build_model

__all__ = ["CheckpointError", "CheckpointInfo", "is_own_checkpoint", "parse_info", "read_checkpoint", "save_checkpoint"]

FORMAT = "vitsmith-1"


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is and where it comes from.

    Parameters
    ----------
    model : a key of ``MODELS``.
    num_classes : outputs of the last layer.
    size : height and width of the input in pixels.
    mean, std : per-channel normalisation constants for pixels scaled to 0..1.
    data : name of the data set.
    top1 : accuracy on the whole test split, 0..1; None if not measured.
    seed : seed of the training run.
    command : the command line that made it.
    note : anything else a reader should know, e.g. epochs and wall time.
    crop_ratio : of the test pictures, where the data is an image folder; see ``quant.data.image_folder``.
    """

    model: str
    num_classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    data: str
    top1: float | None
    seed: int
    command: str
    note: str = ""
    crop_ratio: float = CROP_RATIO


def save_checkpoint(path: Path | str, model: Model, info: CheckpointInfo) -> None:
    """Write weights (float32) and ``info`` to one safetensors file, atomically."""
    path = Path(path)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata={"format": FORMAT, "info": json.dumps(asdict(info))})
    os.replace(temporary, path)


def is_own_checkpoint(path: Path | str) -> bool:
    """Whether a file was written by ``save_checkpoint``; False for anything else that exists.

    Raises
    ------
    CheckpointError : no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (SafetensorError, OSError):
        return False


def read_checkpoint(path: Path | str) -> tuple[Model, CheckpointInfo]:
    """Read a file written by ``save_checkpoint``; the model comes in evaluation mode.

    Raises
    ------
    CheckpointError : no such file, or not a whole checkpoint of this project.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); get it again") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by vitsmith; read it with quant.models.loaders.load_checkpoint")
    info = parse_info(path, metadata.get("info", ""))
    try:
        model = build_model(info.model, info.num_classes, info.size)
        model.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a whole {info.model}: {error}") from error
    return model.eval(), info


def parse_info(path: Path, text: str) -> CheckpointInfo:
    """The facts that lie beside the weights in the file at `path`. Raises `CheckpointError` if they are damaged."""
    try:
        values = json.loads(text)
        names = {field.name for field in fields(CheckpointInfo)}
        values = {key: value for key, value in values.items() if key in names}
        info = CheckpointInfo(**values | {key: tuple(values[key]) for key in ("mean", "std")})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} has damaged metadata ({error}); get it again") from error
    if info.model not in MODELS:
        raise CheckpointError(f"{path} holds an unknown model {info.model!r}")
    return info
