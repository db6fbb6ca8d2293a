"""Ranges of attention states: found for the quotients, not for the states."""

import torch

from quant.attention import state_units

D = 8


def heads(seed: int, images: int = 16, count: int = 2) -> torch.Tensor:
    """Centred codes of [q k v] heads; the images' brightness differs a lot."""
    generator = torch.Generator().manual_seed(seed)
    codes = 40 * torch.randn(images, count, 3, D, 3, 3, generator=generator)
    codes[:, :, 1] *= torch.logspace(-1, 0.5, images).reshape(-1, 1, 1, 1, 1)
    return codes.round().clamp(-128, 127).reshape(images, count * 3 * D, 3, 3).int()


def states(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = codes.reshape(len(codes), -1, 3, D, 9).double().unbind(2)
    q, k = q.relu(), k.relu()
    return k @ v.transpose(-1, -2), k.sum(-1, keepdim=True), q


def test_minmax_covers_the_largest_state():
    codes = heads(0)
    state, sums, _ = states(codes)
    state_unit, sum_unit = state_units(codes, D, torch.ones(2 * D), bits=8, observer="minmax", groups=2)
    assert torch.allclose(state_unit * 127, state.abs().amax((0, 2, 3)))
    assert torch.allclose(sum_unit * 127, sums.amax((0, 2, 3)))


def test_mse_is_better_for_the_quotients():
    codes = heads(0)
    state, sums, q = states(codes)
    weight = torch.linspace(0.5, 2.0, 2 * D).double()

    def error(observer: str) -> torch.Tensor:
        units = state_units(codes, D, weight, bits=8, observer=observer, groups=2)

        def quotient(state: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
            divisor = sums.transpose(-1, -2) @ q
            return torch.where(divisor > 0, (state.transpose(-1, -2) @ q) / divisor.clamp(min=1e-9), 0.0)

        coded = [
            torch.round(x / u.reshape(-1, 1, 1)).clamp(-127, 127) * u.reshape(-1, 1, 1)
            for x, u in zip((state, sums), units)
        ]
        difference = quotient(*coded) - quotient(state, sums)
        return (difference * weight.reshape(-1, D, 1)).square().sum((0, 2, 3))

    assert (error("mse") < 0.9 * error("minmax")).all()


def test_heads_without_keys_have_some_unit():
    codes = heads(0)
    codes.reshape(16, 2, 3, D, 9)[:, 0, 1] = -5
    for observer in ("minmax", "mse"):
        state_unit, sum_unit = state_units(codes, D, torch.ones(2 * D), bits=4, observer=observer, groups=2)
        assert (state_unit > 0).all() and (sum_unit > 0).all()
