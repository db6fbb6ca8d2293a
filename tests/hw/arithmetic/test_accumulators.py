import random

import pytest
from amaranth.sim import Simulator

from hw.arithmetic.accumulators import Accumulators


def wrap(value, bits):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@pytest.mark.parametrize(
    ("depth", "lanes", "groups", "acc_bits", "psum_bits"),
    [(8, 1, 1, 16, 10), (8, 6, 2, 26, 18), (16, 12, 4, 32, 22), (8, 3, 1, 16, 20)],
)
def test_passes_and_drain(depth, lanes, groups, acc_bits, psum_bits):
    rng = random.Random(depth * lanes)
    dut = Accumulators(depth=depth, lanes=lanes, acc_bits=acc_bits, psum_bits=psum_bits, groups=groups)
    half = 1 << (psum_bits - 1)
    operations = []  # per tile: the operations in order; None is an idle cycle
    expected = []  # per tile: {address: lanes}
    for tile in range(6):
        used = rng.choice([1, 2, 3, depth])
        sums = {}
        for block in range(blocks := rng.choice([1, 2, 4])):
            for address in range(used):
                psum = [rng.randrange(-half, half) for _ in range(lanes)]
                old = sums.get(address, [0] * lanes)
                sums[address] = [wrap(a + b, acc_bits) for a, b in zip(old, psum)]
                operations.append((address, block == 0, block == blocks - 1, tile % 2, psum, tile))
                operations += [None] * (rng.random() < 0.2)
            operations += [None] * max(0, Accumulators.MIN_REVISIT - used)
        expected.append(sums)
    finished = {op[5]: cycle for cycle, op in enumerate(operations) if op}

    async def operate(ctx):
        psum = None
        for op in [*operations, None]:
            if psum is not None:
                ctx.set(dut.psum, psum)
            ctx.set(dut.valid, op is not None)
            psum = None
            if op is not None:
                ctx.set(dut.address, op[0])
                ctx.set(dut.first, op[1])
                ctx.set(dut.last, op[2])
                ctx.set(dut.bank, op[3])
                psum = op[4]
            await ctx.tick()

    async def drain(ctx):
        cycle = 0
        size = lanes // groups
        for tile, sums in enumerate(expected):
            # as early as promised; the model overwrites a bank two tiles later, so the drain may lag behind
            while cycle < finished[tile] + Accumulators.OUTPUT_LATENCY:
                await ctx.tick()
                cycle += 1
            address, group = max(sums), rng.randrange(groups)
            ctx.set(dut.read, 1)
            ctx.set(dut.read_bank, tile % 2)
            ctx.set(dut.read_address, address)
            ctx.set(dut.read_group, group)
            await ctx.tick()
            ctx.set(dut.read, 0)
            await ctx.tick()
            cycle += Accumulators.READ_LATENCY
            got = [ctx.get(dut.read_data[i]) for i in range(size)]
            assert got == sums[address][group * size : (group + 1) * size]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(operate)
    sim.add_testbench(drain)
    sim.run()


def test_refuses_uneven_groups():
    with pytest.raises(ValueError, match="multiple of groups"):
        Accumulators(depth=8, lanes=5, acc_bits=26, psum_bits=20, groups=2)
