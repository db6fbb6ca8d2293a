"""Adaptive rounding: starts at the weights, moves by less than a step, ends as whole codes within their range."""

import pytest
import torch

from quant.reconstruction.rounding import AdaptiveRounding, penalty, penalty_exponent


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))


STEP = torch.linspace(0.2, 0.6, 6).reshape(6, 1, 1, 1)


def test_it_starts_at_the_weight(weight):
    soft, share = AdaptiveRounding(weight, STEP, 127)()
    assert torch.allclose(soft, weight, atol=1e-3)
    assert torch.allclose(share, weight / STEP - (weight / STEP).floor(), atol=1e-3)
    assert torch.equal(AdaptiveRounding(weight, STEP, 127).hardened().float(), torch.round(weight / STEP))


def test_hardened_codes_are_the_limit_of_the_soft_ones(weight):
    rounding = AdaptiveRounding(weight, STEP, 3)
    with torch.no_grad():
        rounding.alpha.copy_(20 * torch.sign(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))))
    soft, share = rounding()
    codes = rounding.hardened()
    assert codes.dtype == torch.int8 and int(codes.abs().max()) == 3
    assert torch.equal(codes * STEP, soft) and set(share.unique().tolist()) == {0.0, 1.0}
    assert float(penalty(share.detach(), 2.0)) == 0.0


def test_the_penalty_drives_shares_to_the_ends(weight):
    rounding = AdaptiveRounding(weight, STEP, 127)
    optimizer = torch.optim.Adam(rounding.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        penalty(rounding()[1], 2.0).backward()
        optimizer.step()
    soft, share = rounding()
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(soft, rounding.hardened() * STEP)


def test_the_exponent_is_annealed():
    assert penalty_exponent(0.1, 0.2) is None
    assert penalty_exponent(0.2, 0.2) == 20.0 and penalty_exponent(1.0, 0.2) == 2.0
    assert 2.0 < penalty_exponent(0.6, 0.2) < 20.0
