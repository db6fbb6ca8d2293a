"""RegisterFifo: order, room, and latency."""

from random import Random

import pytest

from hw.memory.register_fifo import RegisterFifo
from tests.hw.support import simulate, stream_get, stream_put


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("source_idle", "sink_idle"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.7), (0.5, 0.5)])
def test_order(depth: int, source_idle: float, sink_idle: float) -> None:
    dut = RegisterFifo(width=16, depth=depth)
    entries = [Random(1).getrandbits(16) for _ in range(100)]

    async def source(ctx):
        await stream_put(ctx, dut.i, entries, Random(2), source_idle)

    async def sink(ctx):
        assert await stream_get(ctx, dut.o, len(entries), Random(3), sink_idle) == entries

    simulate(dut, source, sink)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_room_and_latency(depth: int) -> None:
    dut = RegisterFifo(width=4, depth=depth)

    async def bench(ctx):
        await stream_put(ctx, dut.i, [1])
        for _ in range(depth - 1):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()
        assert ctx.get(dut.o.valid)
        await stream_put(ctx, dut.i, range(2, depth + 1))
        await ctx.tick().repeat(depth)
        assert not ctx.get(dut.i.ready)

    simulate(dut, bench)
