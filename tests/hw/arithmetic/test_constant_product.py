"""Sums of shifts equal products."""

import pytest
from amaranth.hdl import Module, Signal

from hw.arithmetic.constant_product import constant_product
from tests.hw.support import simulate


@pytest.mark.parametrize("factor", [0, 1, 3, 7, 8, 255])
def test_constant_product(factor):
    value = Signal(8)
    product = constant_product(value, factor)
    assert factor == 0 or len(product) >= 8 + factor.bit_length() - 1

    async def bench(ctx):
        for x in range(256):
            ctx.set(value, x)
            assert ctx.get(product) == x * factor
            await ctx.tick()

    m = Module()
    m.d.sync += Signal().eq(1)
    simulate(m, bench)
