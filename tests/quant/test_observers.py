"""Range observers: streaming equals all at once, and each rule finds the range it promises."""

import pytest
import torch

from quant.observers import OBSERVERS, Extremes, Histogram, affine_range
from quant.scales import AffineFormat


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def watched(*batches: torch.Tensor, bins: int = 2048) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.update(batch)
    return histogram


def error_of(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    form = AffineFormat.from_range(low, high, bits)
    return (form.dequantize(form.quantize(values.t())).t() - values).square().mean(1)


def test_extremes_are_exact():
    batches = [normal(seed, 3, 100) * 10**seed for seed in range(3)]
    extremes = Extremes()
    for batch in batches:
        extremes.update(batch)
    joined = torch.cat(batches, 1)
    assert torch.equal(extremes.minimum, joined.amin(1)) and torch.equal(extremes.maximum, joined.amax(1))


@pytest.mark.parametrize("factor", [0.01, 1.0, 300.0, -300.0])
def test_histograms_keep_every_value_when_the_range_grows(factor):
    first = torch.stack([normal(0, 5000), normal(1, 5000).abs(), -normal(2, 5000).abs()])
    second = first.flip(1) * factor
    histogram = watched(first, second)
    assert histogram.counts.sum(1).tolist() == [10000] * 3
    joined = torch.cat((first, second), 1)
    width = histogram.centres[:, 1] - histogram.centres[:, 0]
    # A value lies within half a bin of its bin's centre, so sorted values do, too; bins may be of different widths
    # in their history, but never wider than now.
    expanded = torch.stack([c.repeat_interleave(n) for c, n in zip(histogram.centres, histogram.counts)])
    assert ((expanded - joined.sort(1).values).abs() <= 0.51 * width[:, None]).all()
    # The range is at most a few times wider than it must be.
    assert (width * histogram.bins <= 4.1 * (joined.amax(1) - joined.amin(1))).all()


def test_constant_channels():
    histogram = watched(torch.tensor([[0.0] * 8, [3.5] * 8, [-1e-3] * 8]))
    for observer in OBSERVERS:
        low, high = affine_range(histogram, 8, observer)
        assert (low <= 0).all() and (high >= 0).all() and torch.isfinite(high - low).all()
        form = AffineFormat.from_range(low, high, 8)
        values = form.dequantize(form.quantize(torch.tensor([[0.0, 3.5, -1e-3]])))
        assert torch.allclose(values, torch.tensor([[0.0, 3.5, -1e-3]]), rtol=0.05, atol=1e-6)


def test_undefined_values_are_refused():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="infinite or undefined"):
            watched(torch.tensor([[1.0, bad]]))


def test_quantiles():
    values = torch.rand(2, 100000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [50.0]])
    histogram = watched(values)
    for share in (0.001, 0.25, 0.999):
        assert torch.allclose(histogram.quantile(share), share * torch.tensor([1.0, 50.0]), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_contain_zero(observer):
    values = torch.stack([normal(0, 3000).abs() + 5, -normal(1, 3000).abs() - 5, normal(2, 3000)])
    low, high = affine_range(watched(values), 8, observer)
    assert (low <= 0).all() and (high >= 0).all()
    assert low[0] == 0 and high[1] == 0


def test_minmax_covers_everything():
    values = normal(0, 4, 1000)
    low, high = affine_range(watched(values), 8, "minmax")
    assert torch.equal(low, values.amin(1)) and torch.equal(high, values.amax(1))


def test_percentile_clips_outliers():
    values = normal(0, 1, 100000)
    values[0, :5] = 1000.0
    low, high = affine_range(watched(values), 8, "percentile")
    assert -5 < float(low) < -3 and 3 < float(high) < 5


@pytest.mark.parametrize("bits", range(2, 9))
def test_mse_is_no_worse_than_any_other_range(bits):
    values = torch.nn.functional.hardswish(torch.stack([normal(0, 20000), 3 * normal(1, 20000), normal(2, 20000) ** 3]))
    histogram = watched(values)
    low, high = affine_range(histogram, bits, "mse")
    error = error_of(values, low, high, bits)
    assert (error <= 1.02 * error_of(values, *affine_range(histogram, bits, "minmax"), bits)).all()
    assert (error <= 1.02 * error_of(values, *affine_range(histogram, bits, "percentile"), bits)).all()
    for shrink in torch.linspace(0.1, 1.0, 19):
        assert (error <= 1.05 * error_of(values, values.amin(1), shrink * values.amax(1), bits)).all()


def test_per_tensor_is_one_channel():
    values = normal(0, 4, 1000)
    low, high = affine_range(watched(values.reshape(1, -1)), 8, "mse")
    assert low.shape == high.shape == (1,)
