"""Learned steps: the codes of the format, and the gradients of LSQ."""

import pytest
import torch

from quant.reconstruction.steps import LearnedSteps, pass_round
from quant.scales import AffineFormat

FORM = AffineFormat(torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([3, 8]), 4)


@pytest.fixture
def values() -> torch.Tensor:
    return torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))


def test_values_are_those_of_the_codes(values):
    steps = LearnedSteps(FORM, independent=True)
    assert torch.allclose(steps(values), FORM.dequantize(FORM.quantize(values)), atol=1e-6)
    centred = steps.centred(steps(values))
    assert torch.allclose(centred, (FORM.quantize(values) - FORM.zero.reshape(1, 2, 1, 1)).float(), atol=1e-5)


@pytest.mark.parametrize("independent", [False, True])
def test_gradients(values, independent):
    def reference(x: torch.Tensor, log_factor: torch.Tensor) -> torch.Tensor:
        scale = FORM.scale.float().reshape(-1, 1, 1) * log_factor.exp()
        zero = FORM.zero.reshape(-1, 1, 1)
        return pass_round(torch.minimum(torch.maximum(x / scale, -zero), 15 - zero)) * scale

    weight = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    steps = LearnedSteps(FORM, independent=independent)
    gradients = []
    for function in (steps, lambda x: reference(x, steps.log_factor)):
        x = values.clone().requires_grad_()
        gradients.append(torch.autograd.grad((function(x) * weight).sum(), (x, steps.log_factor)))
    for found, expected in zip(*gradients):
        assert torch.allclose(found, expected, atol=1e-5)
    assert steps.log_factor.shape == (2 if independent else 1, 1, 1)


def test_steps_move_to_where_the_error_is_least():
    x = torch.randn(1, 2, 50, 50, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 0.2])[:, None, None]
    steps = LearnedSteps(AffineFormat(torch.tensor([0.05, 0.5]), torch.tensor([8, 8]), 4), independent=True)
    optimizer = torch.optim.Adam(steps.parameters(), lr=0.05)
    errors = []
    for _ in range(100):
        optimizer.zero_grad()
        error = (steps(x) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.2 * errors[0]
    form = steps.format()
    assert float(form.scale[0]) > 0.15 and float(form.scale[1]) < 0.15
    assert torch.allclose(form.dequantize(form.quantize(x)), steps(x), atol=1e-6)
