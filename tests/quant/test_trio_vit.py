"""Trio-ViT's formats: exactly its equations, in scales and zero-points."""

import pytest
import torch

from quant.observers import Histogram
from quant.scales import AffineFormat
from quant.trio_vit import migrated_format, shifted_format

#: ranges from next to nothing to very much, so that both bounds of the factors are met
MAXIMA = torch.tensor([0.01, 0.3, 1.0, 2.0, 4.0, 400.0])


def histogram(values: torch.Tensor) -> Histogram:
    result = Histogram()
    result.update(values)
    return result


@pytest.fixture(scope="module")
def activations() -> torch.Tensor:
    """(C, n), as Hardswish makes them: at least -0.375, with `MAXIMA`."""
    values = torch.rand(6, 8000, generator=torch.Generator().manual_seed(0)) ** 3 * MAXIMA[:, None]
    values[:, 0] = MAXIMA
    values[2:, 1] = -0.375
    return values


def coded(values: torch.Tensor, form: AffineFormat) -> torch.Tensor:
    return form.dequantize(form.quantize(values.t())).t()


def test_migration_factors(activations):
    form = migrated_format(histogram(activations), 8, search=False)
    reference = max(float(MAXIMA.mean()), float(activations.quantile(0.99)))
    factor = (MAXIMA / reference).clamp(1 / 10, 64)
    assert torch.allclose(form.scale / form.scale[-1], (factor / factor[-1]).double(), rtol=2e-2)
    assert form.zero.numel() == 6 and len(form.zero.unique()) == 1
    # Nothing is clipped.
    assert ((coded(activations, form) - activations).abs() <= form.scale[:, None] * 0.51).all()


def test_shifts_are_the_middles(activations):
    form = shifted_format(histogram(activations), 8, search=False)
    assert len(form.scale.unique()) == 1
    centre = (MAXIMA + activations.amin(1).clamp(max=0)) / 2
    assert torch.allclose((127.5 - form.zero) * form.scale, centre.double(), atol=float(form.scale[0]) * 1.1)
    assert ((coded(activations, form) - activations).abs() <= form.scale[:, None] * 1.01).all()


@pytest.mark.parametrize("make", [migrated_format, shifted_format])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_search_lowers_the_error(make, bits, activations):
    errors = [
        float((coded(activations, make(histogram(activations), bits, search=search)) - activations).square().sum())
        for search in (False, True)
    ]
    assert errors[1] <= errors[0] * 1.001 and (bits == 8 or errors[1] < errors[0])


@pytest.mark.parametrize("make", [migrated_format, shifted_format])
def test_maps_of_zeros(make):
    zeros = torch.zeros(3, 10)
    form = make(histogram(zeros), 8, search=True)
    assert torch.isfinite(form.scale).all() and (coded(zeros, form) == 0).all()
