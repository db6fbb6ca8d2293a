"""Ram and RamFifo."""

from random import Random

import pytest

from hw.memory.ram import Ram
from hw.memory.ram_fifo import RamFifo
from tests.hw.support import simulate, stream_get, stream_put


def test_reads_see_earlier_writes_and_never_those_of_the_same_cycle():
    """What is written in the cycle of the read comes as the complement of the old data, the rest as it is."""
    dut = Ram(width=16, depth=8, granularity=4)
    rng = Random(1)
    words = [rng.getrandbits(16) for _ in range(8)]

    async def bench(ctx):
        ctx.set(dut.write_enable, 0xF)
        for address, word in enumerate(words):
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, word)
            await ctx.tick()
        for _ in range(200):
            enable, written, data = rng.getrandbits(4), rng.randrange(8), rng.getrandbits(16)
            reading, read = rng.random() < 0.8, rng.randrange(8)
            before = ctx.get(dut.read_data)
            ctx.set(dut.write_enable, enable)
            ctx.set(dut.write_address, written)
            ctx.set(dut.write_data, data)
            ctx.set(dut.read_enable, reading)
            ctx.set(dut.read_address, read)
            await ctx.tick()
            mask = sum(0xF << 4 * lane for lane in range(4) if enable >> lane & 1)
            expected = words[read] ^ (mask if read == written else 0)
            assert ctx.get(dut.read_data) == (expected if reading else before)
            words[written] = words[written] & ~mask | data & mask

    simulate(dut, bench)


@pytest.mark.parametrize("depth", [3, 4, 9])
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_fifo_keeps_the_order(depth, idle):
    dut = RamFifo(width=12, depth=depth)
    entries = [Random(2).getrandbits(12) for _ in range(100)]

    async def source(ctx):
        await stream_put(ctx, dut.i, entries, Random(3), idle)

    async def sink(ctx):
        assert await stream_get(ctx, dut.o, len(entries), Random(4), idle) == entries

    simulate(dut, source, sink)


def test_fifo_holds_depth_entries_and_shows_one_after_two_cycles():
    dut = RamFifo(width=8, depth=5)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        for count in range(5):
            assert ctx.get(dut.o.valid) == (count >= 2) and ctx.get(dut.i.ready)
            await ctx.tick()
        assert not ctx.get(dut.i.ready)

    simulate(dut, bench)
