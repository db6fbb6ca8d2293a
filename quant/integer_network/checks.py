"""Checks of numbers and tensors that may come from a foreign file."""

import torch
from torch import Tensor

from quant import numerics

__all__ = [
    "CODE_RANGE",
    "EPSILON_BITS",
    "MULTIPLIER2_RANGE",
    "SHIFT_RANGE",
    "IntegerNetworkError",
    "check_number",
    "check_tensor",
    "signed_range",
]


class IntegerNetworkError(ValueError):
    """A malformed integer network or file; the message names the node and what to do."""


def signed_range(bits: int) -> tuple[int, int]:
    """Smallest and largest signed number of so many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


CODE_RANGE = numerics.code_range(8)  #: of codes and zero-points of all activations
MULTIPLIER2_RANGE = (0, (1 << numerics.MULTIPLIER2_BITS) - 1)
SHIFT_RANGE = (0, (1 << numerics.SHIFT_BITS) - 1)
EPSILON_BITS = 40  #: of a LayerNorm


def check_number(name: str, value: object, low: int, high: int) -> None:
    """An integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise IntegerNetworkError(f"{name} = {value!r} is not an integer from {low} to {high}")


def check_tensor(name: str, value: object, shape: tuple[int, ...], low: int, high: int) -> None:
    """A tensor of int64 (weights: int8) with this shape and values in this range."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int8) or value.shape != shape:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise IntegerNetworkError(f"{name} is {found}, not integers of shape {shape}")
    if value.numel() and not (low <= int(value.min()) and int(value.max()) <= high):
        raise IntegerNetworkError(
            f"{name} has values from {int(value.min())} to {int(value.max())}; {low} to {high} are allowed"
        )
