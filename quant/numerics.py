"""The integer operations of vitsmith: one definition for the golden model, the hardware tests, and the tables.

Everything here takes and returns integer `torch` tensors (or builds integer tables); there is no float in this module.
Widths are named once, below, and imported by the hardware.

Requantization is a two-stage pipeline (all modes of all engines):

    stage  = saturate24(round_shift((acc + bias) * multiplier, shift))
    output = clamp(zero_point + round_shift(operand * multiplier2 + addend, shift2))

where (operand, addend) depends on the mode: see `Operand`.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

MULTIPLIER_BITS = 18  #: signed first-stage multiplier: sign and 16 significant bits (LayerNorm gains may be negative)
MULTIPLIER2_BITS = 16  #: unsigned second-stage multiplier
SHIFT_BITS = 5  #: first-stage shift, 0..31: beyond, a multiplier of fewer bits loses less than 2**-6 of a code
SHIFT2_BITS = 5  #: second-stage shift, 0..31
BIAS_BITS = 25  #: signed bias
INDEX_ZERO_BITS = 13  #: signed offset of a table index
STAGE_BITS = 24  #: signed result of the first stage, saturated
OPERAND_BITS = 16  #: signed operand of the second-stage multiplier; also a table entry; also the width of class scores
DIVISOR_BITS = 8  #: unsigned code of a uniformly quantized divisor
RECIPROCAL_BITS = 15  #: fractional bits of a normalised reciprocal and of a reciprocal square root
NORM_FRACTION_BITS = 12  #: fractional bits of a normalised LayerNorm element
NORM_INDEX_BITS = 8  #: index bits of the reciprocal-square-root table (1 exponent parity bit, 7 mantissa bits)
NORM_ELEMENTS = 1 << 12  #: the most elements that a normalisation takes
EXP_INDEX_BITS = 6  #: default index bits of the table of powers of two: so many fractional bits has an exponent
EXP_FRACTION_BITS = 15  #: fractional bits of a power of two
EXP_OCTAVE_BITS = 5  #: integer bits of an exponent: 2**-17 and less are 0 anyway
STREAM_BITS = 16  #: signed codes of a residual stream, the default and the most


class Operand(IntEnum):
    """What the second requantization stage multiplies by `multiplier2`, and what it adds."""

    NONE = 0  #: operand 0, addend stage: plain requantization
    RESIDUAL = 1  #: operand residual - residual_zero, addend stage: residual add, `shift2` guard bits
    TABLE = 2  #: operand table[clamp(stage + index_zero)], addend 0: activation function
    STAGE = 3  #: operand stage saturated to 16 bits, addend 0: quotients


def _table(entries: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(entries, dtype=torch.int64, device=device)


def _half(shift: Tensor | int) -> Tensor | int:
    """What round_shift adds: 2**(shift-1), and 0 for a shift of 0."""
    if isinstance(shift, Tensor):
        return (torch.ones_like(shift) << (shift - 1).clamp(min=0)) * (shift > 0)
    return (1 << shift) >> 1


def round_shift(x: Tensor, shift: Tensor | int) -> Tensor:
    """Divide by 2**shift, rounding half up: `(x + 2**(shift-1)) >> shift`; a shift of 0 returns `x`."""
    return (x + _half(shift)).bitwise_right_shift_(shift)


def saturate(x: Tensor, bits: int) -> Tensor:
    """Clamp to the signed range of `bits` bits."""
    return x.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _round_shift_(x: Tensor, shift: Tensor | int) -> Tensor:
    """`round_shift` in place. Half the time of a network goes into passes over 64-bit maps and their allocation."""
    return x.add_(_half(shift)).bitwise_right_shift_(shift)


def _saturate_(x: Tensor, bits: int) -> Tensor:
    """`saturate` in place."""
    return x.clamp_(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def first_stage(acc: Tensor, bias: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """`saturate24(round_shift((acc + bias) * multiplier, shift))` in 64-bit integers, as a new tensor."""
    # The same sum, with what is the same for all pixels multiplied once per channel.
    product = torch.addcmul(bias * multiplier + _half(shift), acc.long(), multiplier)
    return _saturate_(product.bitwise_right_shift_(shift), STAGE_BITS)


def second_stage(
    stage: Tensor,
    operand: Operand,
    multiplier2: Tensor,
    shift2: int,
    *,
    table: Tensor | None = None,
    index_zero: int = 0,
    residual: Tensor | None = None,
    residual_zero: int = 0,
) -> Tensor:
    """Second requantization stage before the zero-point and the clamp; see the module docstring and `Operand`.

    `stage` is overwritten.
    """
    if operand == Operand.NONE:
        return _round_shift_(stage, shift2)
    if operand == Operand.RESIDUAL:
        return _round_shift_(stage.add_((residual.long() - residual_zero) * multiplier2), shift2)
    if operand == Operand.TABLE:
        index = stage.add_(index_zero).clamp_(0, len(table) - 1)
        value = table.long().index_select(0, index.flatten()).reshape(index.shape)
    else:
        value = _saturate_(stage, OPERAND_BITS)
    return _round_shift_(value * multiplier2, shift2)


def code_range(bits: int, signed: bool = False) -> tuple[int, int]:
    """Smallest and largest code of an unsigned (activations) or signed (class scores) tensor."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def weight_range(bits: int) -> tuple[int, int]:
    """Smallest and largest code of a signed, symmetric and narrow weight: -127..127 at 8 bits."""
    return -(1 << (bits - 1)) + 1, (1 << (bits - 1)) - 1


def floor_log2(x: Tensor) -> Tensor:
    """Index of the leading one of positive integers below 2**62; 0 for 0."""
    result = torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        large = (x >> step) > 0
        result = torch.where(large, result + step, result)
        x = torch.where(large, x >> step, x)
    return result


def reciprocal_table(mantissa_bits: int) -> list[int]:
    """Reciprocals of the mantissa cells: entry i is round(2**15 * m) with 1/m the centre of cell i of [1, 2).

    With 0 mantissa bits the divisor is a power of two and the only entry is 2**15.
    """
    if mantissa_bits == 0:
        return [1 << RECIPROCAL_BITS]
    cells = 1 << mantissa_bits
    numerator = 2 * cells << RECIPROCAL_BITS
    centres = [2 * (cells + i) + 1 for i in range(cells)]
    return [(2 * numerator + c) // (2 * c) for c in centres]


def reciprocal(divisor: Tensor, mantissa_bits: int) -> tuple[Tensor, Tensor]:
    """Normalised reciprocal `(r, e)` of non-negative integers: 1/divisor is about r * 2**-(15 + e).

    With 0 mantissa bits, the leading one is rounded by the bit below it (Trio-ViT, section on log2 divisors:
    a mantissa of 1.5 or more rounds up). A zero divisor gives (0, 0), so that the quotient is 0.
    """
    exponent = floor_log2(divisor)
    if mantissa_bits == 0:
        round_up = (divisor << 1 >> exponent) & 1
        mantissa, exponent = (
            torch.zeros_like(divisor),
            exponent + torch.where(exponent > 0, round_up, 0),
        )
    else:
        mantissa = ((divisor << mantissa_bits) >> exponent) & ((1 << mantissa_bits) - 1)
    r = _table(reciprocal_table(mantissa_bits), divisor.device)[mantissa]
    zero = divisor == 0
    return torch.where(zero, 0, r), torch.where(zero, 0, exponent)


def uniform_divisor(divisor: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """8-bit code of non-negative divisors, in Trio-ViT the row that fails (Table V, uniform 8-bit divisor).

    Most divisors are small beside the largest, so they share few codes; those that become 0 make the quotient 0, where
    the paper's float model has NaN. No hardware does this: it is here to be compared with.
    """
    return round_shift(divisor * multiplier, shift).clamp(*code_range(DIVISOR_BITS))


def rsqrt_table(index_bits: int = NORM_INDEX_BITS) -> list[int]:
    """Reciprocal square roots of mantissas in [1, 4), 15 fractional bits.

    With half = 2**(index_bits - 1), entry `parity * half + i` belongs to mantissas in
    `2**parity * [1 + i/half, 1 + (i+1)/half)`, taken at the centre.
    """
    half = 1 << (index_bits - 1)
    table = []
    for parity in (0, 1):
        for i in range(half):
            # centre = (2*(half+i)+1) / (2*half) * 2**parity; 2**15 / sqrt(centre), rounded by one extra bit
            squared = (2 * half << (2 * RECIPROCAL_BITS + 2)) // ((2 * (half + i) + 1) << parity)
            table.append((math.isqrt(squared) + 1) >> 1)
    return table


def normalise(
    x: Tensor, epsilon: int, *, dim: int = -1, centred: bool = True, index_bits: int = NORM_INDEX_BITS
) -> Tensor:
    """LayerNorm without gain and bias, over dimension `dim` of n codes: (x - mean) / std with 12 fractional bits.

    sum1 = sum(x), sum2 = sum(x*x), variance * n*n = n*sum2 - sum1**2 + epsilon (epsilon >= 1 code, scaled by n*n),
    element = round_shift((n*x - sum1) * rsqrt, 3 + exponent/2). The mean's zero-point cancels.
    Not `centred`, sum1 is taken as 0: x over its root mean square, where x has no zero-point.

    Ranges: for n <= NORM_ELEMENTS and 16-bit signed codes, n*sum2 <= 2**54, so the variance has 55 bits (epsilon is
    below 2**40), and `index_bits - 1 <= 8` bits more while its mantissa is taken: 63. |n*x - sum1| <= 2**28, times
    2**15 less than 2**43. Elements are at most 2**12 * sqrt(n - 1) * (1 + 2**-8) < 2**19.
    """
    x = x.long()
    n = x.shape[dim]
    sum2 = (x * x).sum(dim, keepdim=True)
    sum1 = x.sum(dim, keepdim=True) if centred else torch.zeros_like(sum2)
    variance = n * sum2 - sum1 * sum1 + epsilon
    exponent = floor_log2(variance)
    mantissa_bits = index_bits - 1
    mantissa = ((variance << mantissa_bits) >> exponent) & ((1 << mantissa_bits) - 1)
    index = ((exponent & 1) << mantissa_bits) | mantissa
    r = _table(rsqrt_table(index_bits), x.device)[index]
    return round_shift((n * x - sum1) * r, RECIPROCAL_BITS - NORM_FRACTION_BITS + (exponent >> 1))


def exp_table(index_bits: int, fraction_bits: int = EXP_FRACTION_BITS) -> list[int]:
    """Powers of two between 1 and 1/2: entry i is round(2**fraction_bits * 2**(-i / 2**index_bits)).

    Every further bit of the index takes one square root of an integer of 128 bits; nothing else is rounded.
    """
    precision = 128
    root, powers = 1 << (precision - 1), [1 << precision]
    for _ in range(index_bits):
        root = math.isqrt(root << precision)
        powers = [x for power in powers for x in (power, power * root >> precision)]
    return [((power >> (precision - fraction_bits - 1)) + 1) >> 1 for power in powers]


def power(index: Tensor, index_bits: int, fraction_bits: int = EXP_FRACTION_BITS) -> Tensor:
    """2**(-index / 2**index_bits) with `fraction_bits` fractional bits, of non-negative integers.

    The low bits of the index choose a table entry, the others shift it: one table of an octave serves all.
    """
    index = index.clamp(max=(1 << (index_bits + EXP_OCTAVE_BITS)) - 1)
    table = _table(exp_table(index_bits, fraction_bits), index.device)
    entries = table.index_select(0, (index & ((1 << index_bits) - 1)).flatten()).reshape(index.shape)
    return _round_shift_(entries, index >> index_bits)


def softmax(
    scores: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    *,
    index_bits: int = EXP_INDEX_BITS,
    mantissa_bits: int = 8,
    masked: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Softmax over the last dimension: terms, and the normalised reciprocal (r, e) of their sum.

    term = 2**-(index / 2**index_bits), 15 fractional bits, index = first_stage(largest - score): the row's maximum is
    subtracted before anything is rounded, so that whatever is the same for all keys cancels exactly.
    probability = term * r * 2**-(30 + e). The largest term is 1, so a sum is 2**15 at least, and e is 0 at least.

    Parameters
    ----------
    scores : (..., keys), integers below 2**30, and fewer than 2**15 keys.
    multiplier, shift : of the first stage, broadcastable; log2(e) times the real value of one unit of a score, times
        2**index_bits, is multiplier / 2**shift.
    masked : bool, broadcastable; these keys have the term 0 and no part in the maximum. Every row has others.
    """
    scores = scores.long()
    if masked is not None:
        scores = scores.masked_fill(masked, -(1 << 31))
    distance = scores.amax(-1, keepdim=True) - scores
    index = first_stage(distance, torch.zeros_like(multiplier), multiplier, shift)
    terms = power(index, index_bits)
    if masked is not None:
        terms = terms.masked_fill_(masked, 0)
    r, e = reciprocal(terms.sum(-1, keepdim=True), mantissa_bits)
    return terms, (r, e - EXP_FRACTION_BITS)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Exact integer product of int32 matrices (..., n, k) x (k, m); the caller has proved that 32 bits suffice."""
    # Doubles are exact below 2**53, in any order, and integers have no fast product.
    return torch.matmul(a.double(), b.double()).int()


def pointwise(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """1x1 convolution. x: (N, C, H, W) codes, weight: (O, C/groups) -> (N, O, H, W) int32 accumulators."""
    n, c, h, w = x.shape
    o = weight.shape[0]
    columns = x.int().permute(1, 0, 2, 3).reshape(groups, c // groups, n * h * w)
    kernel = weight.int().reshape(groups, o // groups, c // groups)
    parts = [matmul(kernel[g], columns[g]) for g in range(groups)]
    return torch.cat(parts).reshape(o, n, h, w).permute(1, 0, 2, 3).contiguous()


def pad_codes(x: Tensor, padding: int, pad_value: Tensor) -> Tensor:
    """Surround (N, C, H, W) codes with `padding` pixels of a per-channel code (the zero-point), pad_value: (C,)."""
    n, c, h, w = x.shape
    padded = pad_value.int().reshape(1, c, 1, 1).repeat(n, 1, h + 2 * padding, w + 2 * padding)
    padded[:, :, padding : padding + h, padding : padding + w] = x
    return padded


def taps(x: Tensor, kernel: int, stride: int, pad_value: Tensor) -> list[Tensor]:
    """The kernel*kernel shifted views of a padded map in raster order of the kernel, each (N, C, Ho, Wo)."""
    padded = pad_codes(x.int(), kernel // 2, pad_value)
    height = (x.shape[2] - 1) // stride + 1
    width = (x.shape[3] - 1) // stride + 1
    return [
        padded[
            :,
            :,
            ky : ky + stride * (height - 1) + 1 : stride,
            kx : kx + stride * (width - 1) + 1 : stride,
        ]
        for ky in range(kernel)
        for kx in range(kernel)
    ]


def depthwise(x: Tensor, weight: Tensor, stride: int, pad_value: Tensor) -> Tensor:
    """Depthwise convolution. x: (N, C, H, W), weight: (C, k, k), odd k, "same" padding -> int32 accumulators."""
    n, c, height, width = x.shape
    kernel = weight.shape[-1]
    flat = weight.int().reshape(c, -1)
    padded = pad_codes(x.int(), kernel // 2, pad_value)
    pitch = padded.shape[-1]
    pixels = padded.reshape(n, c, -1)
    # A tap is a shift of the whole padded map: long runs of pixels. What comes out between the rows is dropped.
    span = (height - 1) * pitch + width
    acc = torch.zeros(n, c, height * pitch, dtype=torch.int32, device=x.device)
    for tap in range(kernel * kernel):
        offset = tap // kernel * pitch + tap % kernel
        acc[..., :span].addcmul_(pixels[..., offset : offset + span], flat[:, tap].reshape(1, c, 1))
    return acc.reshape(n, c, height, pitch)[..., ::stride, :width:stride].contiguous()


def dense(x: Tensor, weight: Tensor, stride: int, pad_value: Tensor) -> Tensor:
    """Dense convolution by im2col. x: (N, C, H, W), weight: (O, C, k, k) -> int32 accumulators (N, O, Ho, Wo)."""
    columns = torch.stack(taps(x, weight.shape[-1], stride, pad_value), 2)  # (N, C, k*k, Ho, Wo)
    n, c, kk, h, w = columns.shape
    return pointwise(columns.reshape(n, c * kk, h, w), weight.reshape(weight.shape[0], -1))


def patches(x: Tensor, size: int) -> Tensor:
    """Squares of `size` x `size` pixels become pixels: (N, C, H, W) -> (N, C*size*size, H/size, W/size).

    Channels lie as the weights of a convolution do: channel of x, row, column.
    """
    n, c, h, w = x.shape
    squares = x.reshape(n, c, h // size, size, w // size, size).permute(0, 1, 3, 5, 2, 4)
    return squares.reshape(n, c * size * size, h // size, w // size)


def merge(x: Tensor) -> Tensor:
    """2 x 2 pixels become one: (N, C, H, W) -> (N, 4*C, H/2, W/2).

    First all channels of the upper left pixel, then of the lower left, upper right, and lower right one.
    """
    n, c, h, w = x.shape
    squares = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 5, 3, 1, 2, 4)
    return squares.reshape(n, 4 * c, h // 2, w // 2)


def split_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """Tokens of every window: (N, C, H, W) -> (N, windows, C, window*window), all in raster order.

    Pixel (y, x) of the windows' map is pixel (y + shift, x + shift) of the given one, around its edges.
    """
    n, c, h, w = x.shape
    x = x.roll((-shift, -shift), (2, 3)).reshape(n, c, h // window, window, w // window, window)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h // window * (w // window), c, window * window)


def join_windows(x: Tensor, window: int, shift: int, height: int, width: int) -> Tensor:
    """Undo `split_windows`: (N, windows, C, window*window) -> (N, C, height, width)."""
    n, c = x.shape[0], x.shape[2]
    x = x.reshape(n, height // window, width // window, c, window, window).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(n, c, height, width).roll((shift, shift), (2, 3))


def window_mask(height: int, width: int, window: int, shift: int, device: torch.device | str = "cpu") -> Tensor:
    """Which tokens of a window do not see each other, because the cyclic shift brought them together: bool
    (windows, tokens, tokens)."""
    regions = torch.zeros(1, 1, height, width, dtype=torch.int64, device=device)
    # What went around an edge lies, in the windows' map, behind the last window's first `window - shift` pixels.
    regions[:, :, :shift] += 1
    regions[:, :, :, :shift] += 2
    regions = split_windows(regions, window, shift)[0, :, 0]
    return regions[:, :, None] != regions[:, None, :]
