"""Scales per channel: less noise than one scale, within what the readers can absorb."""

import pytest
import torch

from quant.equalize import LEAST_CHANNEL_SCALE, Reader, attention_format, equalized_format
from quant.observers import Histogram, affine_range
from quant.scales import AffineFormat, quantize_weight

CHANNELS = 24


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    """(C, n) activations whose channels differ a lot in size and offset."""
    size = torch.logspace(-1, 1, CHANNELS)[:, None]
    return torch.nn.functional.hardswish(size * (normal(0, CHANNELS, 4000) + normal(1, CHANNELS, 1)))


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return normal(2, 16, CHANNELS).double()


def histogram(values: torch.Tensor) -> Histogram:
    result = Histogram()
    result.update(values)
    return result


def coded(values: torch.Tensor, form: AffineFormat) -> torch.Tensor:
    return form.dequantize(form.quantize(values.t())).t()


def output_noise(values: torch.Tensor, weight: torch.Tensor, form: AffineFormat, weight_bits: int) -> float:
    """Mean squared error of a pointwise convolution whose weights have absorbed the scales."""
    scale = form.scale.expand(len(values))
    codes, unit = quantize_weight(weight * scale, weight_bits, clip=False)
    exact = codes.double() * unit[:, None] / scale
    return float((exact @ coded(values, form).double() - weight @ values.double()).square().mean())


def one_scale(values: torch.Tensor, bits: int) -> AffineFormat:
    return AffineFormat.from_range(*affine_range(histogram(values.reshape(1, -1)), bits, "mse"), bits).expand(CHANNELS)


def choose(values: torch.Tensor, readers: list[Reader], *, shared_zero: bool = False):
    return equalized_format(histogram(values), readers, act_bits=8, observer="mse", shared_zero=shared_zero)


@pytest.mark.parametrize("weight_bits", [4, 6, 8])
@pytest.mark.parametrize("shared_zero", [False, True])
def test_pointwise_outputs_have_less_noise(values, weight, weight_bits, shared_zero):
    reader = Reader(weight.square().sum(0), weight, weight_bits)
    form = choose(values, [reader], shared_zero=shared_zero)
    noise = output_noise(values, weight, form, weight_bits)
    assert noise <= 1.02 * output_noise(values, weight, one_scale(values, 8), weight_bits)
    if weight_bits == 8:
        assert noise < 0.7 * output_noise(values, weight, one_scale(values, 8), weight_bits)
    assert (len(form.zero.unique()) == 1) or not shared_zero


def test_depthwise_filters_let_every_channel_have_its_own_scale(values):
    form = choose(values, [Reader(torch.ones(CHANNELS).double())])
    low, high = affine_range(histogram(values), 8, "mse")
    own = AffineFormat.from_range(low, high, 8)
    floor = own.scale.max() * LEAST_CHANNEL_SCALE
    assert torch.allclose(form.scale, own.scale.clamp(min=float(floor)), rtol=0.02)


def test_coarse_weights_keep_the_scales_together(values, weight):
    readers = (Reader(weight.square().sum(0), weight, bits) for bits in (8, 3))
    fine, coarse = (choose(values, [reader]).scale for reader in readers)
    assert coarse.max() / coarse.min() < fine.max() / fine.min()


def test_formats_are_within_the_codes(values):
    for shared_zero in (False, True):
        form = choose(values, [Reader(torch.ones(CHANNELS).double())], shared_zero=shared_zero)
        assert len(form.scale) == len(form.zero) == CHANNELS and form.bits == 8
        assert 0 <= int(form.zero.min()) and int(form.zero.max()) <= 255 and float(form.scale.min()) > 0


def test_dead_tensors():
    zeros = torch.zeros(3 * 8, 50)
    form = choose(zeros, [Reader(torch.ones(24).double(), torch.ones(2, 24).double())])
    assert torch.isfinite(form.scale).all() and (coded(zeros, form) == 0).all()
    form = attention_format(histogram(zeros), 8, bits=8, observer="mse", attention_only=True)
    assert torch.isfinite(form.scale).all() and (coded(zeros, form) == 0).all()


@pytest.mark.parametrize("attention_only", [False, True])
@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_attention_inputs(attention_only, observer):
    d, heads = 4, 3
    qkv = normal(0, heads * 3 * d, 3000) * torch.exp(normal(1, heads * 3 * d, 1))
    form = attention_format(histogram(qkv), d, bits=8, observer=observer, attention_only=attention_only)
    scale = form.scale.reshape(heads, 3, d)
    product = scale[:, 0] * scale[:, 1]
    assert torch.allclose(product, product[:, :1].expand(-1, d), rtol=1e-12) and len(form.zero.unique()) == 1
    # What matters is represented: v on both sides, q and k above zero.
    back, wanted = (x.reshape(heads, 3, d, -1) for x in (coded(qkv, form), qkv))
    for part in range(3):
        limit = (lambda x: x) if part == 2 else torch.relu
        error = (limit(back[:, part]) - limit(wanted[:, part])).square().mean()
        assert float(error / limit(wanted[:, part]).square().mean()) < 3e-3
