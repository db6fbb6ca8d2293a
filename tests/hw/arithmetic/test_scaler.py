"""Scaler against `quant.numerics`, including every shift."""

from random import Random

import pytest
import torch

from hw.arithmetic.scaler import Scaler
from hw.config import Multipliers
from quant import numerics
from tests.hw.support import simulate


@pytest.mark.parametrize("style", [Multipliers.PLAIN, Multipliers.LOGIC])
@pytest.mark.parametrize(("x_bits", "y_bits"), [(16, 10), (26, 10), (33, 10), (21, 20)])
def test_scaler(x_bits: int, y_bits: int, style: Multipliers) -> None:
    rng = Random(x_bits)
    dut = Scaler(x_bits, 16, y_bits, style)
    limit = 1 << (x_bits - 1)
    x = [
        rng.choice([-limit, limit - 1, 0, 1, -1, rng.randrange(-limit, limit) >> rng.randrange(x_bits)])
        for _ in range(1500)
    ]
    multiplier = [rng.choice([0, 1, (1 << 16) - 1, rng.randrange(1 << 15, 1 << 16)]) for _ in x]
    shift = [i % 32 for i in range(len(x))]
    product = torch.tensor(x) * torch.tensor(multiplier)
    expected = numerics.saturate(numerics.round_shift(product, torch.tensor(shift)), y_bits).tolist()
    results = []

    async def bench(ctx):
        valids = [False] * Scaler.latency
        cases = list(zip(x, multiplier, shift))
        while len(results) < len(expected):
            valid = bool(cases) and rng.random() < 0.8
            ctx.set(dut.valid, valid)
            if valid:
                for port, value in zip((dut.x, dut.multiplier, dut.shift), cases.pop(0)):
                    ctx.set(port, value)
            await ctx.tick()
            valids = [valid, *valids[:-1]]
            if valids[-1]:
                results.append(ctx.get(dut.y))

    simulate(dut, bench)
    assert results == expected
