"""Streaming range observers: what values a float tensor takes, and which part of them the codes should cover.

A `Histogram` watches a tensor over many batches, per channel or as a whole. Three rules turn it into a range
[low, high], which always contains zero, because zero needs an exact code (padding, ReLU, zero-points):
`minmax`, `percentile` (clips rare outliers), and `mse` (the least squared error of the quantized values).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["OBSERVERS", "Extremes", "Histogram", "affine_range", "code_error"]

OBSERVERS = ("minmax", "percentile", "mse")
BINS = 2048
#: mass that `percentile` clips at either end
PERCENTILE_TAIL = 1e-4
#: channels whose errors are computed at a time, so that the working set stays in the cache
CHUNK = 32


class Extremes:
    """Smallest and largest value of each channel.

    Members
    -------
    minimum, maximum : (C,) float32, of all values seen so far; infinite before the first batch.
    """

    def __init__(self) -> None:
        self.minimum, self.maximum = torch.tensor([torch.inf]), torch.tensor([-torch.inf])

    def update(self, values: Tensor) -> None:
        """Take in a batch; `values` is (C, n), channels first. All batches have the same C."""
        low, high = values.amin(1), values.amax(1)
        if not bool(torch.isfinite(low + high).all()):
            raise ValueError("it has infinite or undefined values")
        self.minimum, self.maximum = torch.minimum(self.minimum, low), torch.maximum(self.maximum, high)


class Histogram(Extremes):
    """Counts of the values of each channel in equal bins; a range that turns out too small is doubled.

    Parameters
    ----------
    bins : bins per channel, even.

    Members
    -------
    counts : (C, bins) int64; None before the first batch.
    """

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        self.bins = bins
        self.counts: Tensor | None = None

    def update(self, values: Tensor) -> None:
        super().update(values)
        if self.counts is None:
            low, high = self.minimum, self.maximum
            # A little slack keeps the extremes of the first batch inside; a constant channel gets some width.
            width = torch.maximum((high - low) * 1.01, torch.maximum(high.abs(), low.abs()) * 1e-3).clamp(min=1e-12)
            self._low, self._width = (low + high - width) / 2, width
            self.counts = torch.zeros(len(values), self.bins, dtype=torch.int64)
        self._grow()
        index = ((values - self._low[:, None]) * (self.bins / self._width)[:, None]).long().clamp_(0, self.bins - 1)
        index += torch.arange(len(values))[:, None] * self.bins
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).reshape_as(self.counts)

    def _grow(self) -> None:
        half = self.bins // 2
        while True:
            down, up = self.minimum < self._low, self.maximum > self._low + self._width
            if not bool((down | up).any()):
                return
            pairs = self.counts.reshape(len(self.counts), half, 2).sum(2)
            empty = torch.zeros_like(pairs)
            lower = torch.cat((empty, pairs), 1)  # the old range is the upper half of the new one
            upper = torch.cat((pairs, empty), 1)
            self.counts = torch.where(down[:, None], lower, torch.where(up[:, None], upper, self.counts))
            self._low = torch.where(down, self._low - self._width, self._low)
            self._width = torch.where(down | up, 2 * self._width, self._width)

    @property
    def centres(self) -> Tensor:
        """(C, bins) the value in the middle of each bin, float32."""
        middle = (torch.arange(self.bins) + 0.5) / self.bins
        return self._low[:, None] + self._width[:, None] * middle

    def quantile(self, share: float) -> Tensor:
        """(C,) the smallest bin edge with at least `share` of the values below it."""
        below = self.counts.cumsum(1).double() / self.counts.sum(1, keepdim=True)
        edge = (below < share).sum(1) + 1
        return torch.clamp(self._low + self._width * edge / self.bins, self.minimum, self.maximum)


def affine_range(histogram: Histogram, bits: int, observer: str) -> tuple[Tensor, Tensor]:
    """Range (low, high), each (C,) and low <= 0 <= high, for unsigned codes of `bits` bits with a zero-point."""
    low, high = histogram.minimum.clamp(max=0.0), histogram.maximum.clamp(min=0.0)
    if observer == "percentile":
        low = torch.minimum(histogram.quantile(PERCENTILE_TAIL), low.new_zeros(()))
        high = torch.maximum(histogram.quantile(1.0 - PERCENTILE_TAIL), high.new_zeros(()))
    if observer == "mse":
        low, high = _search(histogram, low, high, bits)
    return low, high


def code_error(values: Tensor, counts: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """(C,) sum of `counts` times the squared errors of `values`, both (C, n) float32, in unsigned codes.

    `scale` and `zero` are (C,) float32.
    """
    scale, zero = scale[:, None], zero[:, None]
    codes = torch.round(values / scale).clamp_(min=-zero).clamp_(max=(1 << bits) - 1 - zero)
    return codes.mul_(scale).sub_(values).square_().mul_(counts).sum(1)


def _affine_error(values: Tensor, counts: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    scale = ((high - low) / ((1 << bits) - 1)).clamp(min=1e-30)
    return code_error(values, counts, scale, torch.round(-low / scale), bits)


def _search(histogram: Histogram, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Least error over ranges inside [low, high]: shrink both ends together, then each alone."""
    values, counts = histogram.centres, histogram.counts.float()
    parts = []
    for start in range(0, len(values), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(_search_chunk(values[rows], counts[rows], low[rows], high[rows], bits))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _search_chunk(values: Tensor, counts: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    best_low, best_high = low, high
    best = _affine_error(values, counts, low, high, bits)
    for ends, steps in (((1, 1), 40), ((0, 1), 20), ((1, 0), 20)):
        centre_low, centre_high = best_low, best_high
        # Together the ends may shrink to a twentieth; alone they move by up to a half.
        floor = 0.05 if ends == (1, 1) else 0.5
        for step in range(steps):
            factor = floor + (1.0 - floor) * step / steps
            trial_low = centre_low * (factor if ends[0] else 1.0)
            trial_high = centre_high * (factor if ends[1] else 1.0)
            trial = _affine_error(values, counts, trial_low, trial_high, bits)
            better = trial < best
            best = torch.where(better, trial, best)
            best_low = torch.where(better, trial_low, best_low)
            best_high = torch.where(better, trial_high, best_high)
    return best_low, best_high
