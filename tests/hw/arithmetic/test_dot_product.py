import random

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.sim import Simulator

from hw.arithmetic.dot_product import DotProductFormat, DotProducts
from hw.config import Multipliers


@pytest.mark.parametrize("style", Multipliers)
@pytest.mark.parametrize(
    ("inputs", "shared", "other"),
    [
        (2, unsigned(8), signed(8)),
        (3, signed(8), unsigned(8)),
        (3, signed(3), unsigned(6)),
        (8, unsigned(4), signed(4)),
        (16, unsigned(8), signed(8)),
        (32, unsigned(4), signed(8)),
    ],
)
def test_sums_latency_and_freeze(inputs, shared, other, style):
    rng = random.Random(inputs)
    form = DotProductFormat(inputs, shared, other, style)
    m = Module()
    m.submodules.dut = dut = DotProducts(form)
    factors = Signal(data.ArrayLayout(data.ArrayLayout(other, 2), inputs))
    m.d.comb += [port.eq(form.pair(*pair)) for port, pair in zip(dut.pairs, factors)]

    def extremes(shape):
        high = (1 << (shape.width - shape.signed)) - 1
        return -high if shape.signed else 0, high

    def operands(cycle):
        if cycle < 8:  # the extremes of both sums, together and apart
            s, o, p = (extremes(shape)[cycle >> bit & 1] for bit, shape in enumerate((shared, other, other)))
            return [s] * inputs, [[o, p]] * inputs
        return [rng.randint(*extremes(shared)) for _ in range(inputs)], [
            [rng.randint(*extremes(other)) for _ in range(2)] for _ in range(inputs)
        ]

    async def bench(ctx):
        expected = {}
        valid = 0  # shift register, bit s: operands were valid s cycles ago
        shown = None
        for cycle in range(120):
            if cycle in expected:
                shown = expected[cycle]
            if shown:
                assert [ctx.get(dut.psum[o]) for o in range(2)] == shown
            valid = (valid << 1 | (cycle < 8 or rng.random() < 0.6)) & ((1 << form.latency) - 1)
            s, pairs = operands(cycle)
            ctx.set(dut.shared, s)
            ctx.set(factors, pairs)
            ctx.set(dut.enable, valid)
            if valid & 1:
                expected[cycle + form.latency] = [sum(x * pair[o] for x, pair in zip(s, pairs)) for o in range(2)]
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_latency():
    latencies = [DotProductFormat(n, unsigned(8), signed(8), Multipliers.PLAIN).latency for n in (2, 3, 4, 8, 16, 32)]
    assert latencies == [2, 2, 2, 3, 3, 4]
