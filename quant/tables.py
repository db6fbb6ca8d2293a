"""What the widths of the tables of `quant.numerics` are worth: errors over whole ranges, and codes that differ.

Every row goes through the integers that a network goes through, and is compared with float64 on the same values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quant import numerics
from quant.scales import AffineFormat, gelu_table, shared_fixed_point, signed_fixed_point
from quant.softmax import exponents, probability_requant

__all__ = ["CODE_BITS", "TableRow", "gelu_rows", "power_rows", "reciprocal_rows", "root_rows"]

#: widths of the codes that are compared
CODE_BITS = (8, 4, 3, 2)
#: of the rows of softmax: standard deviation of the logits, and scale of the codes relative to that of LSQ
SOFTMAX_SETTINGS = ((1.0, 1.0), (2.0, 1.0), (2.0, 4.0), (3.0, 8.0))
SOFTMAX_ROWS, KEYS = 250, 197
#: real value of one unit of a score: some 2**21 units make the largest logits
SCORE_UNIT = 1e-5
NORM_ROWS, NORM_SIZES = 400, (384, 64)
#: pre-activations of the GELU
GELU_SAMPLES, GELU_MEAN, GELU_DEVIATION = 400_000, -0.5, 1.2


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One width of a table.

    Parameters
    ----------
    index_bits : the table has 2**index_bits entries.
    table_bits : of all entries.
    worst_error, rms_error : over the whole range, relative; of the GELU absolute.
    disagreement : share of the codes of `CODE_BITS` that differ from float.
    """

    index_bits: int
    table_bits: int
    worst_error: float
    rms_error: float
    disagreement: tuple[float, ...]


def power_rows(widths: Sequence[int]) -> Iterator[TableRow]:
    """Powers of two by bits of the index. Errors over all exponents of an octave, in steps of 2**-16; what a shift
    cuts off is at most half of 2**-15 more. Codes are those of probabilities, with the default reciprocal."""
    exponent = torch.arange(1 << 16).double() / (1 << 16)
    for bits in widths:
        index = torch.floor(exponent * 2**bits + 0.5).long()
        error = numerics.power(index, bits).double() / 2**numerics.EXP_FRACTION_BITS / torch.exp2(-exponent) - 1
        entry_bits = numerics.EXP_FRACTION_BITS + 1
        yield _row(bits, entry_bits << bits, error, lambda code, n=bits: _softmax_disagreement(code, n, 8))


def reciprocal_rows(widths: Sequence[int]) -> Iterator[TableRow]:
    """Reciprocals by bits of the mantissa. Errors over all divisors of 17 bits. Codes are those of probabilities, with
    the default powers of two."""
    divisor = torch.arange(1 << 16, 1 << 17)
    for bits in widths:
        r, e = numerics.reciprocal(divisor, bits)
        error = torch.ldexp(r.double() * divisor, -numerics.RECIPROCAL_BITS - e) - 1
        size = (numerics.RECIPROCAL_BITS + 1 << bits) if bits else 0
        yield _row(bits, size, error, lambda code, n=bits: _softmax_disagreement(code, numerics.EXP_INDEX_BITS, n))


def root_rows(widths: Sequence[int]) -> Iterator[TableRow]:
    """Reciprocal square roots by bits of the index. Errors over all mantissas of 16 bits in [1, 4). Codes are those of
    LayerNorm, and of rectification, of Gaussian rows."""
    mantissa = torch.arange(1 << 16, 1 << 18)
    for bits in widths:
        parity = (mantissa >= 1 << 17).long()
        table = torch.tensor(numerics.rsqrt_table(bits), dtype=torch.float64)
        half = bits - 1
        index = (parity << half) | ((mantissa >> (16 - half) >> parity) & ((1 << half) - 1))
        error = table[index] / 2**numerics.RECIPROCAL_BITS * (mantissa.double() / (1 << 16)).sqrt() - 1
        yield _row(bits, numerics.RECIPROCAL_BITS + 1 << bits, error, lambda code, n=bits: _norm_disagreement(code, n))


def gelu_rows(widths: Sequence[int]) -> Iterator[TableRow]:
    """GELU by bits of the index. Errors over all pre-activations from -6 to 6 in steps of 2**-12. Codes are those of
    Gaussian pre-activations, unsigned with a zero-point."""
    x = torch.arange(-6 << 12, (6 << 12) + 1).double() / (1 << 12)
    for bits in widths:
        table = gelu_table(6.0, bits)
        index = torch.floor(x / table.index_scale + 0.5).long() + table.index_zero
        values = table.entries[index.clamp(0, len(table.entries) - 1)] * table.value_scale
        error = values - F.gelu(x)
        yield _row(bits, numerics.OPERAND_BITS << bits, error, lambda code, n=bits: _gelu_disagreement(code, n))


def _row(bits: int, table_bits: int, error: Tensor, disagreement: Callable[[int], float]) -> TableRow:
    return TableRow(
        index_bits=bits,
        table_bits=table_bits,
        worst_error=float(error.abs().max()),
        rms_error=float(error.square().mean().sqrt()),
        disagreement=tuple(disagreement(code) for code in CODE_BITS),
    )


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softmax_disagreement(code_bits: int, index_bits: int, mantissa_bits: int) -> float:
    """Of probabilities of `SOFTMAX_SETTINGS`, all together."""
    differing = 0.0
    for seed, (deviation, scale) in enumerate(SOFTMAX_SETTINGS):
        scores = torch.round(deviation * _normal(seed, SOFTMAX_ROWS, KEYS) / SCORE_UNIT).long()
        probabilities = (scores.double() * SCORE_UNIT).softmax(-1)
        levels = (1 << code_bits) - 1
        step = scale * 2 * probabilities.mean().reshape(1) / math.sqrt(levels)
        requant, form = probability_requant(AffineFormat(step, torch.zeros(1, dtype=torch.int64), code_bits))
        unit = torch.full((1,), SCORE_UNIT, dtype=torch.float64)
        terms, (r, e) = numerics.softmax(
            scores, *exponents(unit, index_bits), index_bits=index_bits, mantissa_bits=mantissa_bits
        )
        found = requant(terms[:, None, None], reciprocal=(r[:, None, None], e[:, None, None]))[:, 0, 0]
        differing += _differing(found, probabilities / form.scale, levels)
    return differing / len(SOFTMAX_SETTINGS)


def _norm_disagreement(code_bits: int, index_bits: int) -> float:
    """Of rows of a stream, and of rows of the 12-bit codes of a head; gains are log-normal, shifts Gaussian."""
    differing = 0.0
    for size, bits in zip(NORM_SIZES, (numerics.STREAM_BITS, 12)):
        spread = (0.4 * _normal(1, NORM_ROWS, 1)).exp() * (1 << (bits - 5))
        x = torch.round(spread * _normal(0, NORM_ROWS, size)).long().clamp(*numerics.code_range(bits, True))
        gain, shift = (0.25 * _normal(2, size)).exp(), 0.2 * _normal(3, size)
        exact = F.layer_norm(x.double(), (size,), gain, shift, eps=1e-12)
        levels, one = (1 << code_bits) - 1, 1 << numerics.NORM_FRACTION_BITS
        step = 2 * exact.abs().mean() / math.sqrt(levels / 2)
        zero = (levels + 1) // 2
        multiplier, amount = signed_fixed_point(gain / one / step)
        stage = numerics.first_stage(
            numerics.normalise(x, 1, index_bits=index_bits), torch.round(shift / gain * one).long(), multiplier, amount
        )
        differing += _differing((stage + zero).clamp(0, levels), exact / step + zero, levels)
    return differing / len(NORM_SIZES)


def _gelu_disagreement(code_bits: int, index_bits: int) -> float:
    unit = 2.0**-14  # of an accumulator
    acc = torch.round((GELU_MEAN + GELU_DEVIATION * _normal(0, GELU_SAMPLES)) / unit).long()
    exact = F.gelu(acc.double() * unit)
    table = gelu_table(float(acc.max()) * unit, index_bits)
    form = AffineFormat.from_range(exact.min().reshape(1), exact.max().reshape(1), code_bits)
    multiplier, shift = signed_fixed_point(torch.tensor([unit / table.index_scale]))
    multiplier2, shift2 = shared_fixed_point(table.value_scale / form.scale)
    stage = numerics.first_stage(acc, torch.zeros_like(shift), multiplier, shift)
    codes = numerics.second_stage(
        stage, numerics.Operand.TABLE, multiplier2, shift2, table=table.entries, index_zero=table.index_zero
    )
    levels = (1 << code_bits) - 1
    return _differing((codes + form.zero).clamp(0, levels), exact / form.scale + form.zero, levels)


def _differing(codes: Tensor, exact: Tensor, levels: int) -> float:
    """Share of the codes that are not what the exact values round to, half up."""
    return float((codes != torch.floor(exact + 0.5).clamp(0, levels)).double().mean())
