"""EfficientViT checkpoints made by others: the official files and timm's.

Read: a state dict, flat or under ``state_dict`` or ``model``, with or without the prefix
``module.``, in PyTorch's file format or in safetensors. timm's keys differ from the official ones in
prefixes only. Pickles are read with ``weights_only=True``: no code in a file is run.
"""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from quant.data.image_folder import CROP_RATIO
from quant.models.checkpoint import CheckpointError
from quant.models.efficientvit import EFFICIENTVIT, EfficientViT, build_efficientvit

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

STEM_KEY = "backbone.input_stem.op_list.0.conv.weight"
CLASSIFIER_KEY = "head.op_list.3.linear.weight"
NAME_BY_STEM_WIDTH = {config.widths[0]: name for name, config in EFFICIENTVIT.items()}


def load_checkpoint(path: Path | str, name: str | None = None, num_classes: int | None = None) -> EfficientViT:
    """Load an official or a timm checkpoint of EfficientViT B0..B3.

    Parameters
    ----------
    path : the file (.pt, .pth, .bin, .safetensors; told apart by content, not by name).
    name : a key of ``EFFICIENTVIT``; found out from the tensors if not given.
    num_classes : classes expected; found out from the tensors if not given.

    Returns
    -------
    The model in evaluation mode, float32.

    Raises
    ------
    CheckpointError : the file is absent, damaged, not a checkpoint, or its tensors do not fit.
    """
    path = Path(path)
    tensors = _official_keys(_state_dict(path, _read(path)))
    name = name or _variant(path, tensors)
    if num_classes is None:
        num_classes = _shape(path, tensors, CLASSIFIER_KEY)[0]
    model = build_efficientvit(name, num_classes)
    _check_tensors(path, name, model.state_dict(), tensors)
    # Strict but for the batch norms' step counters, which some files lack and inference ignores.
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def evaluation_crop(path: Path | str, size: int) -> float:
    """Crop ratio (see `quant.data.image_folder`) with which the makers of a checkpoint evaluate it at an input size."""
    path = Path(path)
    from_timm = any(_official_key(key) != key for key in _state_dict(path, _read(path)))
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
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason}); it is damaged, "
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


def _official_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's keys; official ones stay as they are."""
    return {_official_key(key): value for key, value in tensors.items()}


def _official_key(key: str) -> str:
    for pattern, replacement in TIMM_PREFIXES:
        renamed, count = pattern.subn(replacement, key)
        if count:
            return renamed
    return key


def _variant(path: Path, tensors: dict[str, Tensor]) -> str:
    width = _shape(path, tensors, STEM_KEY)[0]
    if width not in NAME_BY_STEM_WIDTH:
        raise CheckpointError(
            f"{path} starts with {width} channels; EfficientViT B0..B3 start with {sorted(NAME_BY_STEM_WIDTH)}"
        )
    return NAME_BY_STEM_WIDTH[width]


def _shape(path: Path, tensors: dict[str, Tensor], key: str) -> torch.Size:
    if key not in tensors or tensors[key].ndim < 2:
        raise CheckpointError(
            f"{path} is not an EfficientViT B0..B3 classifier: it has no weight {key}; its tensors are "
            f"{_some(list(tensors))}. Other networks, the L series among them, are not supported"
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
            f"{path} does not fit EfficientViT {name.upper()}: {'; '.join(texts)}. "
            "Check the variant and the class count, or get the file again"
        )


def _some(items: list) -> str:
    shown = ", ".join(str(item) for item in items[:4])
    return shown + (f" and {len(items) - 4} more" if len(items) > 4 else "")
