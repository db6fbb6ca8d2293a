"""From real numbers to the integers of a network: formats, fixed-point multipliers, weight codes, activation tables.

This is where float ends: everything returned for the network is integer, and nothing after it computes in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quant import numerics

__all__ = [
    "ActivationTable",
    "AffineFormat",
    "fitted_unit",
    "fixed_point",
    "gelu_table",
    "hardswish_table",
    "per_filter",
    "quantize_weight",
    "shared_fixed_point",
    "signed_fixed_point",
]

MULTIPLIER_MAGNITUDE_BITS = numerics.MULTIPLIER_BITS - 2  #: multipliers are in [2**15, 2**16)
MAX_SHIFT = (1 << numerics.SHIFT_BITS) - 1
#: multipliers are below it
LARGEST_FACTOR = (1 << (MULTIPLIER_MAGNITUDE_BITS - 1)) - 1
#: |bias| stays below this, so that biases can never be what overflows an accumulator
BIAS_LIMIT = 1 << 23
#: shrink steps of the search for the clipping of each filter
WEIGHT_STEPS = 60


@dataclass(frozen=True)
class AffineFormat:
    """How codes stand for real numbers: value = scale * (code - zero), per tensor or per channel.

    Parameters
    ----------
    scale : float64 (C,) or (1,).
    zero : int64 (C,) or (1,).
    bits : width of a code.
    signed : codes are signed (class scores, residual streams); else unsigned.
    """

    scale: Tensor
    zero: Tensor
    bits: int
    signed: bool = False

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int) -> AffineFormat:
        """Cover [low, high] (low <= 0 <= high) with unsigned codes; zero gets an exact code."""
        low, high = low.double(), high.double()
        levels = (1 << bits) - 1
        # An empty range (a tensor that is always zero) may have any scale.
        width = torch.where(high > low, high - low, torch.ones_like(low))
        scale = width / levels
        return cls(scale, torch.round(-low / scale).long().clamp(0, levels), bits)

    @classmethod
    def symmetric(cls, largest: float, bits: int) -> AffineFormat:
        """Signed codes, the largest of which stands for `largest`."""
        scale = torch.tensor([largest / ((1 << (bits - 1)) - 1)], dtype=torch.float64)
        return cls(scale, torch.zeros(1, dtype=torch.int64), bits, signed=True)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values (float32) of codes (N, C, ...)."""
        shape = (1, -1) + (1,) * (codes.ndim - 2)
        return ((codes - self.zero.reshape(shape)) * self.scale.reshape(shape)).float()

    def stored(self, codes: Tensor) -> Tensor:
        """Codes in the smallest type that holds them."""
        return codes.to(torch.int16 if self.signed else torch.uint8)

    def quantize(self, values: Tensor) -> Tensor:
        """Codes (int64) of real values (N, C, ...)."""
        shape = (1, -1) + (1,) * (values.ndim - 2)
        codes = torch.round(values.double() / self.scale.reshape(shape)).long() + self.zero.reshape(shape)
        return codes.clamp(*numerics.code_range(self.bits, self.signed))

    def expand(self, channels: int) -> AffineFormat:
        """The same format with one scale and zero-point per channel."""
        return AffineFormat(self.scale.expand(channels), self.zero.expand(channels), self.bits, self.signed)


def fixed_point(real: Tensor) -> tuple[Tensor, Tensor]:
    """Positive real multipliers as (multiplier, shift): real = multiplier / 2**shift.

    The multiplier is in [2**15, 2**16) and the shift in 1..31; reals too small for that get a shift of 31 and fewer
    significant bits. Zero gives (0, 31). Raises ValueError for 2**15 and more, which no calibrated network has.
    """
    real = real.double()
    if not bool((torch.isfinite(real) & (real >= 0) & (real < LARGEST_FACTOR)).all()):
        raise ValueError(f"a rescaling factor of {float(real.max()):g} is not within 0 and {2**15}")
    shift = (MULTIPLIER_MAGNITUDE_BITS - torch.frexp(real).exponent.long()).clamp(max=MAX_SHIFT)
    shift = torch.where(real == 0, MAX_SHIFT, shift)
    multiplier = torch.round(torch.ldexp(real, shift)).long()
    carry = multiplier == 1 << MULTIPLIER_MAGNITUDE_BITS
    return torch.where(carry, multiplier >> 1, multiplier), shift - carry.long()


def signed_fixed_point(real: Tensor) -> tuple[Tensor, Tensor]:
    """`fixed_point` of the magnitudes, with the signs on the multipliers."""
    multiplier, shift = fixed_point(real.abs())
    return torch.where(real < 0, -multiplier, multiplier), shift


def shared_fixed_point(real: Tensor) -> tuple[Tensor, int]:
    """Positive real second-stage multipliers with one shift: real is about multiplier2 / 2**shift2.

    The largest multiplier2 is in [2**15, 2**16) unless that needs a shift above 31; all are at least 1.
    """
    limit = 1 << numerics.MULTIPLIER2_BITS
    exponent = int(torch.frexp(real.double().max()).exponent)
    shift = min(numerics.MULTIPLIER2_BITS - exponent, (1 << numerics.SHIFT2_BITS) - 1)
    if shift < 0:
        raise ValueError(f"a second rescaling factor of {float(real.max()):g} is not below {limit}")
    multiplier = torch.round(torch.ldexp(real.double(), torch.tensor(shift))).long()
    return multiplier.clamp(1, limit - 1), shift


def per_filter(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Values (C,) or (1,) of input channels, for what each filter of `weight` (O, C/groups, k, k) reads:
    (O, C/groups, 1, 1)."""
    outputs, per_group = weight.shape[:2]
    by_group = values.expand(groups * per_group).reshape(groups, per_group)
    return by_group.repeat_interleave(outputs // groups, 0)[:, :, None, None]


def quantize_weight(
    weight: Tensor, bits: int, *, clip: bool = True, least_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Signed, symmetric and narrow codes of each filter: (codes int8 like `weight`, scale float64 (O,)).

    Parameters
    ----------
    weight : float (O, ...).
    bits : 2..8.
    clip : search for the scale with the least squared error; else the largest weight gets the largest code.
    least_scale : (O,) lower bound of the scales.
    """
    levels = numerics.weight_range(bits)[1]
    rows = weight.double().flatten(1)
    # A filter of zeros may have any scale; a tiny one gives tiny multipliers.
    scale = rows.abs().amax(1).clamp(min=1e-30) / levels
    if clip:
        scale = _least_error_scale(rows, scale, levels)
    if least_scale is not None:
        scale = torch.maximum(scale, least_scale.double())
    codes = torch.round(rows / scale[:, None]).clamp(-levels, levels)
    return codes.reshape(weight.shape).to(torch.int8), scale


def fitted_unit(codes: Tensor, weight: Tensor, least_scale: Tensor) -> Tensor:
    """(O,) the scale of each filter, `least_scale` or more, with the least squared error of `codes` times it.

    codes, weight : (O, ...).
    """
    rows = codes.double().flatten(1)
    unit = (rows * weight.double().flatten(1)).sum(1) / rows.square().sum(1).clamp(min=1.0)
    return torch.maximum(unit, least_scale.clamp(min=1e-30))


def _least_error_scale(rows: Tensor, scale: Tensor, levels: int) -> Tensor:
    best, best_error = scale, torch.full_like(scale, torch.inf)
    for step in range(WEIGHT_STEPS):
        trial = scale * (1.0 - 0.8 * step / WEIGHT_STEPS)
        codes = torch.round(rows / trial[:, None]).clamp_(-levels, levels)
        error = codes.mul_(trial[:, None]).sub_(rows).square_().sum(1)
        best = torch.where(error < best_error, trial, best)
        best_error = torch.minimum(error, best_error)
    return best


@dataclass(frozen=True)
class ActivationTable:
    """An activation function on integers.

    Members
    -------
    entries : int64 (2**index_bits,), 16-bit signed.
    index_zero : the index of the pre-activation 0.
    index_scale : pre-activation of one index step.
    value_scale : value of one unit of an entry.
    """

    entries: Tensor
    index_zero: int
    index_scale: float
    value_scale: float


def hardswish_table(high: float, index_bits: int) -> ActivationTable:
    """Table of x * min(max(x + 3, 0), 6) / 6 for pre-activations from -3, below which it is 0, to `high` at least."""
    return _activation_table(F.hardswish, 3.0, high, index_bits)


def gelu_table(high: float, index_bits: int) -> ActivationTable:
    """Table of x * (1 + erf(x / sqrt(2))) / 2 for pre-activations from -4, below which it is 0 but for 0.00013, to
    `high` at least."""
    return _activation_table(F.gelu, 4.0, high, index_bits)


def _activation_table(
    function: Callable[[Tensor], Tensor], below: float, high: float, index_bits: int
) -> ActivationTable:
    """A function's values from -below to `high` at least.

    Indices outside the table mean its first or last entry. The step is a power of two, so that few different tables
    exist and layers share them: the hardware need not load one for every layer.
    """
    size = 1 << index_bits
    index_scale = 2.0 ** math.ceil(math.log2((max(high, 0.0) + below) / (size - 1)))
    index_zero = round(below / index_scale)
    values = function((torch.arange(size, dtype=torch.float64) - index_zero) * index_scale)
    largest = (1 << (numerics.OPERAND_BITS - 1)) - 1
    value_scale = max(float(values.abs().max()), 1e-9) / largest
    return ActivationTable(torch.round(values / value_scale).long(), index_zero, index_scale, value_scale)
