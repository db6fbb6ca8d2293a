"""Scales per channel where the network leaves them free, chosen for the least noise in what reads the tensor.

Where every reader is a convolution, each channel may have a scale of its own. Depthwise filters absorb it for nothing
(Trio-ViT's channel-wise migration is a restricted form of this). Pointwise filters absorb it in their weights, whose
quantization then suffers if scales differ a lot: between one scale for all channels and one scale for each lies an
optimum, found here by adding up both kinds of noise. A residual sum absorbs it in its second multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.observers import Histogram, affine_range, code_error
from quant.scales import AffineFormat, quantize_weight

__all__ = ["Reader", "equalized_format"]

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
    """

    importance: Tensor
    weight: Tensor | None = None


def equalized_format(
    histogram: Histogram,
    readers: Sequence[Reader],
    *,
    act_bits: int,
    weight_bits: int,
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
    best, least = None, torch.inf
    for form in _candidates(low, high, act_bits, shared_zero, SHRINKS if observer == "mse" else SHRINKS[:1]):
        noise = code_error(values, shares, form.scale.float(), form.zero.float(), act_bits).double()
        total = sum(_relative_noise(reader, noise, power, form.scale, weight_bits) for reader in readers)
        if total < least:
            best, least = form, total
    return best


def _candidates(low: Tensor, high: Tensor, bits: int, shared_zero: bool, shrinks: Sequence[float]):
    levels = (1 << bits) - 1
    own = _own_zeros(low, high, levels) if not shared_zero else None
    zeros = [own] if own is not None else _shared_zeros(low, high, levels)
    for zero in zeros:
        # The least scale with which a channel's range fits around its zero-point.
        need = torch.maximum(-low / zero.clamp(min=1), high / (levels - zero).clamp(min=1))
        # A tensor that is always zero may have any scale.
        common = float(need.max()) or 1.0
        need = need.clamp(min=common * LEAST_CHANNEL_SCALE)
        for exponent in EXPONENTS:
            for shrink in shrinks if exponent < 1.0 else (1.0,):
                scale = need**exponent * (shrink * common) ** (1.0 - exponent)
                fitted = zero if shared_zero else torch.round(-low / scale).long().clamp(0, levels)
                yield AffineFormat(scale, fitted.expand(len(scale)), bits)


def _own_zeros(low: Tensor, high: Tensor, levels: int) -> Tensor:
    width = torch.where(high > low, high - low, torch.ones_like(low))
    return torch.round(-low * levels / width).long().clamp(0, levels)


def _shared_zeros(low: Tensor, high: Tensor, levels: int) -> list[Tensor]:
    """Zero-points from that of the widest range to the middle of the codes."""
    first = float(-low.min() / (high.max() - low.min()).clamp(min=1e-12)) * levels
    middle = (levels + 1) / 2
    return [torch.tensor([round(first + (middle - first) * step / 4)]) for step in range(5)]


def _relative_noise(reader: Reader, noise: Tensor, power: Tensor, scale: Tensor, weight_bits: int) -> float:
    """Noise power over signal power in the reader's outputs, as if channels were independent."""
    signal = (reader.importance * power).sum()
    total = (reader.importance * noise).sum()
    if reader.weight is not None:
        scaled = reader.weight * scale
        codes, weight_scale = quantize_weight(scaled, weight_bits, clip=False)
        error = (codes.double() * weight_scale[:, None] - scaled) / scale
        total = total + (error.square() * power).sum()
    return float(total / signal.clamp(min=1e-30))
