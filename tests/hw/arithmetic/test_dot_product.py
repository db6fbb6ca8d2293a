import random

import pytest
from amaranth.sim import Simulator

from hw.arithmetic.dot_product import DotProduct


@pytest.mark.parametrize(("inputs", "act_bits", "weight_bits"), [(2, 8, 8), (8, 4, 4), (16, 8, 8), (32, 4, 8)])
def test_sums_latency_and_freeze(inputs, act_bits, weight_bits):
    rng = random.Random(inputs)
    dut = DotProduct(inputs=inputs, act_bits=act_bits, weight_bits=weight_bits)
    top, low, high = (1 << act_bits) - 1, -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1

    def operands(cycle):
        if cycle < 2:  # the extremes of the sum
            return [top] * inputs, [[(low, high)[cycle]] * inputs] * 2
        return [rng.randint(0, top) for _ in range(inputs)], [
            [rng.randint(low, high) for _ in range(inputs)] for _ in range(2)
        ]

    async def bench(ctx):
        expected = {}
        valid = 0  # shift register, bit s: operands were valid s cycles ago
        shown = None
        for cycle in range(100):
            if cycle in expected:
                shown = expected[cycle]
            if shown:
                assert [ctx.get(dut.psum[o]) for o in range(2)] == shown
            valid = (valid << 1 | (cycle < 4 or rng.random() < 0.6)) & ((1 << dut.latency) - 1)
            a, w = operands(cycle)
            ctx.set(dut.activations, a)
            ctx.set(dut.weights, w)
            ctx.set(dut.enable, valid)
            if valid & 1:
                expected[cycle + dut.latency] = [sum(x * y for x, y in zip(a, w[o])) for o in range(2)]
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_latency():
    assert [DotProduct.latency_of(n) for n in (2, 4, 8, 16, 32, 64)] == [2, 2, 3, 3, 4, 4]
