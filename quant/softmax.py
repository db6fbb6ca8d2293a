"""From real numbers to the integers of a softmax attention: exponents, biases, and probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quant import numerics
from quant.integer_network import Requant
from quant.numerics import Operand
from quant.observers import Histogram, affine_range
from quant.scales import BIAS_LIMIT, AffineFormat, fixed_point, shared_fixed_point

__all__ = ["LEAST_PROBABILITY_SCALE", "exponents", "probability_format", "probability_requant", "relative_bias"]

#: the zero-points of v become biases in units of a probability's code, and these have limits
LEAST_PROBABILITY_SCALE = 255 / BIAS_LIMIT


def exponents(score_unit: Tensor, index_bits: int) -> tuple[Tensor, Tensor]:
    """Multipliers and shifts, (heads,), from scores whose unit stands for `score_unit` to indices of the table."""
    return fixed_point(score_unit * (math.log2(math.e) * 2**index_bits))


def relative_bias(bias: Tensor, score_unit: Tensor) -> Tensor:
    """Integers (heads, T, T) of a real bias, in units of the scores."""
    limit = (1 << (numerics.BIAS_BITS - 1)) - 1
    return torch.round(bias.double() / score_unit.reshape(-1, 1, 1)).clamp(-limit, limit).long()


def probability_format(histogram: Histogram | None, heads: int, bits: int, observer: str) -> AffineFormat:
    """Unsigned codes of probabilities: of each head those that occur, or of all heads 0 to 1 if none were watched."""
    levels = (1 << bits) - 1
    if histogram is None:
        largest = torch.ones(heads, dtype=torch.float64)
    else:
        largest = affine_range(histogram, bits, observer)[1].double().clamp(max=1.0)
    scale = (largest / levels).clamp(min=LEAST_PROBABILITY_SCALE)
    return AffineFormat(scale, torch.zeros(heads, dtype=torch.int64), bits)


def probability_requant(form: AffineFormat) -> tuple[Requant, AffineFormat]:
    """The requantization of the softmax's terms (see `numerics.softmax`), and the format that it really makes.

    A quotient gets as many fractional bits as leave the largest code within 16 bits: 15 at least.
    """
    codes = 1 << form.bits
    fraction = torch.floor(torch.log2(((1 << (numerics.OPERAND_BITS - 1)) - 1) / (codes * form.scale))).long()
    most = 2 * numerics.RECIPROCAL_BITS
    fraction = fraction.clamp(0, most)
    multiplier2, shift2 = shared_fixed_point(torch.ldexp(1.0 / form.scale, -fraction))
    none = torch.zeros_like(fraction)
    requant = Requant(
        bias=none,
        multiplier=none,
        shift=most - fraction,
        zero_point=none,
        multiplier2=multiplier2,
        shift2=shift2,
        operand=Operand.STAGE,
        out_bits=form.bits,
    )
    exact = torch.ldexp(1.0 / multiplier2.double(), shift2 - fraction)
    return requant, AffineFormat(exact, form.zero, form.bits)
