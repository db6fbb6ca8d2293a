"""Trio-ViT's two formats of the maps inside an MBConv (arXiv 2405.03882), which our own formats are compared with.

Both become what the hardware has for every channel anyway, a scale and a zero-point, so they cost nothing either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant.observers import Histogram, code_error
from quant.scales import AffineFormat

__all__ = ["migrated_format", "shifted_format"]

#: bounds of a migration factor s_c
LEAST_FACTOR, LARGEST_FACTOR = 1 / 10, 64.0
#: share of the values below the reference of the migration
REFERENCE_SHARE = 0.99
#: shrink factors of a range that are tried
SHRINKS = tuple(1.0 - step / 80 for step in range(60))


def migrated_format(histogram: Histogram, bits: int, *, search: bool) -> AffineFormat:
    """Channel-wise migration, for the input A of depthwise filters W.

    A'_c = A_c / s_c and W'_c = W_c * s_c, with s_c = clip(m_c / ref, 1/10, 64), m_c = max(A_c), and
    ref = max(mean of m_c, 99th percentile of A). A' has one scale and zero-point; so A has scales in the ratio of s_c.

    Parameters
    ----------
    histogram : of all C channels.
    search : shrink the range of A' to that of the least squared error; else it covers all values.
    """
    largest = histogram.maximum
    reference = torch.maximum(largest.mean(), _pooled_quantile(histogram, REFERENCE_SHARE))
    factor = (largest / reference.clamp(min=1e-12)).clamp(LEAST_FACTOR, LARGEST_FACTOR)
    low = float((histogram.minimum / factor).min().clamp(max=0.0))
    high = float((largest / factor).max().clamp(min=0.0))
    return _least_error(histogram, factor.double(), torch.zeros(len(factor)), low, high, bits, search=search)


def shifted_format(histogram: Histogram, bits: int, *, search: bool) -> AffineFormat:
    """Filter-wise shifting, for the input A of the second pointwise filters W; Trio-ViT, eq. (9) and (10).

    A^_i = A_i - c_i with c_i = (max(A_i) + min(A_i)) / 2, and b^_j = b_j + sum over i of c_i * w_ij. A^ has one scale
    and zero-point; so A has one scale, and zero-points that differ by c_i in units of it. As a zero-point is an
    integer, c_i is a multiple of the scale; the sum over the quantized weights is exact.

    Parameters
    ----------
    histogram : of all C channels.
    search : shrink the range of A^ to that of the least squared error; else it covers all values.
    """
    # Zero-points are codes, so zero lies within the range of every channel.
    low, high = histogram.minimum.clamp(max=0.0), histogram.maximum.clamp(min=0.0)
    centre = (low + high) / 2
    reach = float((high - low).max()) / 2
    return _least_error(histogram, torch.ones(len(centre)).double(), centre, -reach, reach, bits, search=search)


def _least_error(
    histogram: Histogram, factor: Tensor, centre: Tensor, low: float, high: float, bits: int, *, search: bool
) -> AffineFormat:
    """Code (A - centre) / factor within [low, high] or, with `search`, within the best shrunk part of it."""
    levels = (1 << bits) - 1
    values, counts = histogram.centres, histogram.counts.float()
    best, least = None, torch.inf
    for shrink in SHRINKS if search else SHRINKS[:1]:
        step = (shrink * (high - low) or 1.0) / levels
        scale = factor * step
        zero = torch.round(-shrink * low / step - centre / scale).long().clamp(0, levels)
        error = float(code_error(values, counts, scale.float(), zero.float(), bits).double().sum())
        if error < least:
            best, least = AffineFormat(scale, zero, bits), error
    return best


def _pooled_quantile(histogram: Histogram, share: float) -> Tensor:
    """The value with `share` of the values of all channels below it."""
    values, order = histogram.centres.flatten().sort()
    below = histogram.counts.flatten()[order].cumsum(0)
    return values[int(torch.searchsorted(below, share * below[-1].double()).clamp(max=len(values) - 1))]
