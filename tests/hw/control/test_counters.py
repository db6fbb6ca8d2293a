"""PerformanceCounters count exactly the cycles of a run."""

from random import Random

from hw.control.counters import PerformanceCounters
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
            await ctx.tick().repeat(3)
            assert ctx.get(dut.cycles) == length
            assert list(ctx.get(dut.busy_cycles)) == busy
            assert list(ctx.get(dut.stall_cycles)) == stall

    simulate(dut, bench)
