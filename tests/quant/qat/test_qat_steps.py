"""Learned steps: values, gradients, and where they start."""

import pytest
import torch

from quant.qat.steps import LEAST_STEP, MapQuantizer, StreamQuantizer, WeightQuantizer, learned_step


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through(x: torch.Tensor) -> torch.Tensor:
    """Rounded, with the gradient of what was rounded."""
    return x + (x.round() - x).detach()


def plainly(x, step, zero, low, high, shares):
    """The same as `learned_step` by automatic differentiation."""

    def scaled(parameter):
        factor = (shares * high) ** -0.5
        return parameter * factor + (parameter * (1 - factor)).detach()

    step = scaled(step)
    code, moved = zero.round().clamp(low, high).detach(), scaled(zero)
    zero = code + (moved - moved.detach())
    inside = (x / step).clamp(low - code, high - code) == x / step
    return torch.where(inside, through(x / step), ((x / step).round() + code).clamp(low, high) - zero) * step


@pytest.mark.parametrize("low", [-7, 0, 1])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 1, 1, 1)])
def test_values_and_gradients(low, shape):
    x = normal(4, 3, 5, 5).requires_grad_()
    step = (0.1 + normal(*shape, seed=1).abs() / 4).requires_grad_()
    zero = (4 + normal(*shape, seed=2)).requires_grad_()
    shares, upstream = x.numel() // step.numel(), normal(4, 3, 5, 5, seed=3)
    results = []
    for function in (learned_step, plainly):
        value = function(x, step, zero, low, 7, shares)
        results.append((value, *torch.autograd.grad(value, (x, step, zero), upstream)))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    codes = results[0][0] / step + zero.round().clamp(low, 7)
    assert ((codes - codes.round()).abs() < 1e-4).all() and codes.min() >= low - 1e-4 and codes.max() <= 7 + 1e-4


def test_weights_are_narrow_and_their_codes_are_integers():
    weight, factor = normal(6, 4, 1, 1), torch.tensor([1.0, 0.5, 0.25, 1.0])[None, :, None, None]
    quantizer = WeightQuantizer(6, 3)
    quantizer.start(weight, factor)
    codes = quantizer.codes(weight, factor)
    assert codes.dtype == torch.int8 and codes.abs().max() <= 3
    expected = codes * quantizer.step[:, None, None, None] / factor
    torch.testing.assert_close(quantizer(weight, factor), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_maps_start_near_what_they_are_made_for(bits):
    x = normal(8, 6, 4, 4) * torch.tensor([1.0, 1, 1, 5, 5, 5])[:, None, None] + 1
    group, narrow = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([False, True])
    quantizer = MapQuantizer(bits, group, narrow)
    quantizer.start(x)
    small, large = quantizer.step.tolist()
    assert 3 < large / small < 8
    noise = (quantizer(x) - x).square().mean((0, 2, 3)) / x.var((0, 2, 3))
    assert noise.max() < {2: 0.4, 3: 0.1, 4: 0.03, 8: 2e-4}[bits]


def test_maps_are_what_their_format_says():
    x = normal(8, 6, 4, 4) + 0.5
    quantizer = MapQuantizer(4, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([False, True]))
    quantizer.start(x)
    form = quantizer.form()
    codes = form.quantize(x)
    codes[:, 3:].clamp_(min=1)  # the narrow group
    torch.testing.assert_close(quantizer(x), form.dequantize(codes))
    assert quantizer(x)[:, 3:].unique().numel() <= 15 * 3


def test_channels_differ_by_powers_of_two():
    x = normal(8, 4, 8, 8)
    x = x / x.abs().amax((0, 2, 3), keepdim=True) * torch.tensor([8.0, 1.9, 0.9, 0.01])[:, None, None]
    quantizer = MapQuantizer(4, torch.zeros(4, dtype=torch.int64), torch.tensor([False]))
    quantizer.start(x, grouped=True)
    assert quantizer.exponent.tolist() == [0, 2, 3, 3]
    scale = quantizer.form().scale
    assert (scale[0] / scale).tolist() == [1, 4, 8, 8]


def test_a_stream_covers_what_it_has_seen():
    quantizer = StreamQuantizer()
    x = 10 * normal(2, 3, 4, 4)
    largest = float(x.abs().max())
    assert torch.equal(quantizer(x), x) and float(quantizer.largest) == largest
    assert 0 < (quantizer.eval()(x) - x).abs().max() <= 1.25 * largest / 32767
    quantizer(100 * x)
    assert float(quantizer.largest) == largest


@pytest.mark.parametrize("bits", [2, 4])
def test_steps_are_learned(bits):
    """From a bad start, gradients find steps that are about as good as those of a search."""
    x = normal(4, 1, 64, 64)
    errors = []
    for start in (False, True):
        quantizer = MapQuantizer(bits, torch.zeros(1, dtype=torch.int64), torch.tensor([False]))
        quantizer.start(x)
        if start:
            errors.append((quantizer(x) - x).square().mean().item())
            continue
        quantizer.set_step(4 * quantizer.step)
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
        for _ in range(300):
            loss = (quantizer(x) - x).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append((quantizer(x) - x).square().mean().item())
    assert errors[0] < 1.1 * errors[1]


def test_an_update_is_the_same_share_of_every_step():
    """Of 8-bit weights, whose steps are smaller than a learning rate of Adam, too."""
    quantizer = WeightQuantizer(2, bits=8)
    quantizer.set_step(torch.tensor([1e-4, 1e-1]))
    before = quantizer.step.detach()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-3)
    quantizer.step.sum().backward()
    optimizer.step()
    shares = quantizer.step.detach() / before
    torch.testing.assert_close(shares[0], shares[1])
    assert 0.9 < shares[0] < 1


def test_files_that_have_the_steps_themselves_load():
    quantizer = WeightQuantizer(2, bits=4)
    state = quantizer.state_dict()
    steps = torch.tensor([0.01, 0.3])
    del state["exponent_of_step"]
    quantizer.load_state_dict(state | {"step": steps})
    torch.testing.assert_close(quantizer.step.detach(), steps)
    quantizer.load_state_dict(state | {"step": -steps})
    torch.testing.assert_close(quantizer.step.detach(), torch.full((2,), LEAST_STEP))
