import random

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.sim import Simulator

from hw.arithmetic.dot_product import DotProductFormat, DotProducts
from hw.config import Multipliers


@pytest.mark.parametrize("style", Multipliers)
@pytest.mark.parametrize(
    ("inputs", "a", "b"),
    [
        (2, signed(8), unsigned(8)),
        (3, unsigned(8), signed(8)),
        (3, unsigned(6), signed(3)),
        (8, signed(4), unsigned(4)),
        (16, signed(8), unsigned(8)),
        (16, signed(2), unsigned(2)),
        (32, signed(8), unsigned(4)),
    ],
)
def test_sums_latency_and_freeze(inputs, a, b, style):
    rng = random.Random(inputs)
    form = DotProductFormat(inputs, a, b, (8, 4), style)
    i_count, j_count = form.packing.counts
    m = Module()
    m.submodules.dut = dut = DotProducts(form)
    factors_a = Signal(data.ArrayLayout(data.ArrayLayout(a, i_count), inputs))
    factors_b = Signal(data.ArrayLayout(data.ArrayLayout(b, j_count), inputs))
    m.d.comb += [port.eq(form.packing.pack_a(list(factors))) for port, factors in zip(dut.a, factors_a)]
    m.d.comb += [port.eq(form.packing.pack_b(list(factors))) for port, factors in zip(dut.b, factors_b)]

    def extremes(shape):
        high = (1 << (shape.width - shape.signed)) - 1
        return -high if shape.signed else 0, high

    def operands(cycle):
        if cycle < 8:  # the extremes of all sums, together and apart
            even, odd, other = (extremes(shape)[cycle >> bit & 1] for bit, shape in enumerate((a, a, b)))
            return [[(even, odd)[i % 2] for i in range(i_count)]] * inputs, [[other] * j_count] * inputs
        return tuple(
            [[rng.randint(*extremes(shape)) for _ in range(count)] for _ in range(inputs)]
            for shape, count in ((a, i_count), (b, j_count))
        )

    async def bench(ctx):
        expected = {}
        valid = 0  # shift register, bit s: operands were valid s cycles ago
        shown = None
        for cycle in range(120):
            if cycle in expected:
                shown = expected[cycle]
            if shown:
                assert [[ctx.get(psum) for psum in row] for row in dut.psum] == shown
            valid = (valid << 1 | (cycle < 8 or rng.random() < 0.6)) & ((1 << form.latency) - 1)
            x, y = operands(cycle)
            ctx.set(factors_a, x)
            ctx.set(factors_b, y)
            ctx.set(dut.enable, valid)
            if valid & 1:
                expected[cycle + form.latency] = [
                    [sum(u[i] * v[j] for u, v in zip(x, y)) for j in range(j_count)] for i in range(i_count)
                ]
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_latency():
    latencies = [
        DotProductFormat(n, signed(8), unsigned(8), (2, 1), Multipliers.PLAIN).latency for n in (2, 3, 4, 8, 16, 32)
    ]
    assert latencies == [2, 2, 2, 3, 3, 4]
