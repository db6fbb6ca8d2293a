"""PerformanceCounters count exactly the cycles of a run."""

from random import Random

from hw.control.counters import COUNTERS, PerformanceCounters
from hw.control.descriptors import Engine
from tests.hw.support import simulate


def test_counts_of_two_runs():
    dut = PerformanceCounters()
    rng = Random(1)

    async def bench(ctx):
        for length in (40, 25):
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            ctx.set(dut.running, 1)
            busy, stall = [0] * len(Engine), [0] * len(Engine)
            for _ in range(length):
                flags = rng.getrandbits(len(Engine)), rng.getrandbits(len(Engine))
                ctx.set(dut.busy, flags[0])
                ctx.set(dut.stall, flags[1])
                for engine in Engine:
                    busy[engine] += flags[0] >> engine & 1
                    stall[engine] += flags[1] >> engine & 1
                await ctx.tick()
            ctx.set(dut.running, 0)
            assert await read_all(ctx, dut) == [length, 0, *busy, *stall]

    simulate(dut, bench)


def test_counts_are_exact_during_a_run():
    dut = PerformanceCounters()

    async def bench(ctx):
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        ctx.set(dut.running, 1)
        ctx.set(dut.busy, 0b111111)
        for cycle in range(50):
            name = COUNTERS[ctx.get(dut.turn)]
            assert ctx.get(dut.count) == (cycle if name == "CYCLES_LO" or name.startswith("BUSY") else 0), name
            await ctx.tick()

    simulate(dut, bench)


def test_cycles_have_64_bits():
    dut = PerformanceCounters()

    async def bench(ctx):
        ctx.set(dut.running, 1)
        await ctx.tick().repeat(len(COUNTERS))
        ctx.set(dut.memory.data[0], 2**32 - 3)
        await ctx.tick().repeat(2 * len(COUNTERS))
        ctx.set(dut.running, 0)
        low, high, *_ = await read_all(ctx, dut)
        assert high == 1 and low < 3 * len(COUNTERS)

    simulate(dut, bench)


async def read_all(ctx, dut) -> list[int]:
    """All counters, as they get their turns."""
    counts = {}
    for _ in COUNTERS:
        counts[ctx.get(dut.turn)] = ctx.get(dut.count)
        await ctx.tick()
    return [counts[index] for index in range(len(COUNTERS))]
