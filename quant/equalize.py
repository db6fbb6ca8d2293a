"""Scales per channel where the network leaves them free, chosen for the least noise in what reads the tensor.

Where every reader is a convolution, each channel may have a scale of its own. Depthwise filters absorb it for nothing
(Trio-ViT's channel-wise migration is a restricted form of this). Pointwise filters absorb it in their weights, whose
quantization then suffers if scales differ a lot: between one scale for all channels and one scale for each lies an
optimum, found here by adding up both kinds of noise. A residual sum absorbs it in its second multiplier. Linear
attention absorbs the scales of v in its output's multipliers, and those of q and k cancel as long as, within a head,
the product of the two scales is the same for all channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.observers import Histogram, affine_range, code_error
from quant.scales import AffineFormat, quantize_weight

__all__ = ["Reader", "attention_format", "equalized_format", "softmax_format"]

#: channels with small ranges get scales down to this part of the largest one: multipliers keep 10 significant bits
LEAST_CHANNEL_SCALE = 1 / 64
#: exponents tried between one common scale (0) and scales that follow the channels' ranges (1)
EXPONENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: shrink factors tried for the common scale: it may clip channels that matter little
SHRINKS = (1.0, 0.8, 0.64, 0.5, 0.4)


@dataclass(frozen=True)
class Reader:
    """What noise in a tensor of C channels does to one operation that reads it.

    Parameters
    ----------
    importance : (C,) noise power in the reader's outputs for noise power 1 in each channel.
    weight : (O, C) weights that absorb the scales and are quantized afterwards; None if scales are absorbed exactly.
    weight_bits : of those.
    """

    importance: Tensor
    weight: Tensor | None = None
    weight_bits: int = 8


def equalized_format(
    histogram: Histogram,
    readers: Sequence[Reader],
    *,
    act_bits: int,
    observer: str,
    shared_zero: bool,
) -> AffineFormat:
    """Choose a scale per channel, and a zero-point per channel or one for all (`shared_zero`).

    Parameters
    ----------
    histogram : of all C channels.
    """
    low, high = (end.double() for end in affine_range(histogram, act_bits, observer))
    values, shares = histogram.centres, (histogram.counts / histogram.counts.sum(1, keepdim=True)).float()
    power = (values.square() * shares).sum(1).double()
    # Where scales are absorbed exactly, nothing speaks against each channel having its own.
    exponents = EXPONENTS if any(reader.weight is not None for reader in readers) else EXPONENTS[-1:]
    shrinks = SHRINKS if observer == "mse" else SHRINKS[:1]
    best, least = None, torch.inf
    for form in _candidates(low, high, act_bits, shared_zero, exponents, shrinks):
        noise = code_error(values, shares, form.scale.float(), form.zero.float(), act_bits).double()
        total = sum(_relative_noise(reader, noise, power, form.scale) for reader in readers)
        if total < least:
            best, least = form, total
    return best


def attention_format(
    histogram: Histogram, head_dim: int, *, bits: int, observer: str, attention_only: bool
) -> AffineFormat:
    """Choose a scale per channel and one zero-point for a tensor of [q k v] heads.

    Parameters
    ----------
    histogram : of all 3 * heads * head_dim channels.
    attention_only : nothing but the attention reads the tensor, so that negative q and k do not matter.
    """
    levels = (1 << bits) - 1
    low, high = (end.double() for end in affine_range(histogram, bits, observer))
    values, shares = histogram.centres, (histogram.counts / histogram.counts.sum(1, keepdim=True)).float()
    if attention_only:
        is_value = (torch.arange(len(low)) // head_dim) % 3 == 2
        low = torch.where(is_value, low, 0.0)
        values = torch.where(is_value[:, None], values, values.clamp(min=0.0))
    power = (values.square() * shares).sum(1).double().reshape(-1, head_dim).sum(1)
    best, least = None, torch.inf
    for zero in _shared_zeros(low, high, levels):
        need = _needed_scale(low, high, zero, levels).reshape(-1, 3, head_dim)
        # q, k, and v may be of very different sizes: the quotient does not depend on that of k.
        scale = _coupled(torch.stack([_floored(part) for part in need.unbind(1)], 1)).flatten()
        form = AffineFormat(scale, zero.expand(len(scale)), bits)
        noise = code_error(values, shares, scale.float(), form.zero.float(), bits).double().reshape(-1, head_dim).sum(1)
        total = float((noise / power.clamp(min=1e-30)).sum())
        if total < least:
            best, least = form, total
    return best


def softmax_format(histogram: Histogram, heads: int, *, bits: int, observer: str) -> AffineFormat:
    """Choose a scale and a zero-point per channel for a tensor that softmax attention reads: q, k, v, each heads x d.

    The product of q's scale and k's is the same for all channels of a head. Keys and values leave the smallest code
    free: less the middle of the codes, they are symmetric and narrow, as weights are.

    Parameters
    ----------
    histogram : of all 3 * heads * d channels.
    """
    low, high = (end.double() for end in affine_range(histogram, bits, observer))
    narrow = (torch.arange(len(low)) >= len(low) // 3).long()
    levels = (1 << bits) - 1 - narrow
    need = ((high - low) / levels).reshape(3, heads, -1)
    need = torch.stack([_floored(part) for part in need], 1)
    scale = _coupled(need).transpose(0, 1).flatten()
    # What was seen lies around the middle.
    zero = torch.round(levels / 2 - (low + high) / (2 * scale)).long() + narrow
    return AffineFormat(scale, zero.clamp(0, (1 << bits) - 1), bits)


def _coupled(need: Tensor) -> Tensor:
    """Scales (heads, 3, d) no less than needed, with q's times k's the same for all channels of a head."""
    product = need[:, 0] * need[:, 1]
    slack = (product.amax(1, keepdim=True) / product).sqrt()
    return torch.stack((need[:, 0] * slack, need[:, 1] * slack, need[:, 2]), 1)


def _candidates(
    low: Tensor, high: Tensor, bits: int, shared_zero: bool, exponents: Sequence[float], shrinks: Sequence[float]
) -> Iterator[AffineFormat]:
    levels = (1 << bits) - 1
    for zero in _shared_zeros(low, high, levels) if shared_zero else [None]:
        need = _floored((high - low) / levels) if zero is None else _floored(_needed_scale(low, high, zero, levels))
        common = float(need.max())
        for exponent in exponents:
            for shrink in shrinks if exponent < 1.0 else (1.0,):
                scale = need**exponent * (shrink * common) ** (1.0 - exponent)
                fitted = torch.round(-low / scale).long().clamp(0, levels) if zero is None else zero
                yield AffineFormat(scale, fitted.expand(len(scale)), bits)


def _needed_scale(low: Tensor, high: Tensor, zero: Tensor, levels: int) -> Tensor:
    """The least scale with which each channel's range fits around a zero-point."""
    return torch.maximum(-low / zero.clamp(min=1), high / (levels - zero).clamp(min=1))


def _floored(scale: Tensor) -> Tensor:
    # A tensor that is always zero may have any scale.
    return scale.clamp(min=(float(scale.max()) or 1.0) * LEAST_CHANNEL_SCALE)


def _shared_zeros(low: Tensor, high: Tensor, levels: int) -> list[Tensor]:
    """Zero-points from that of the widest range to the middle of the codes."""
    first = float(-low.min() / (high.max() - low.min()).clamp(min=1e-12)) * levels
    middle = (levels + 1) / 2
    return [torch.tensor([round(first + (middle - first) * step / 4)]) for step in range(5)]


def _relative_noise(reader: Reader, noise: Tensor, power: Tensor, scale: Tensor) -> float:
    """Noise power over signal power in the reader's outputs, as if channels were independent."""
    signal = (reader.importance * power).sum()
    total = (reader.importance * noise).sum()
    if reader.weight is not None:
        scaled = reader.weight * scale
        codes, weight_scale = quantize_weight(scaled, reader.weight_bits, clip=False)
        error = (codes.double() * weight_scale[:, None] - scaled) / scale
        total = total + (error.square() * power).sum()
    return float(total / signal.clamp(min=1e-30))
