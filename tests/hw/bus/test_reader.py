"""AxiReader, alone: order, bursts, bandwidth behind latency, errors, halt."""

from random import Random

import pytest

from hw.bus.reader import AxiReader
from tests.hw.support import AxiMemory, simulate, stream_get, stream_put

BASE = 0x12_3456_0000


def make_commands(rng: Random, count: int, width: int, gather: int = 1) -> list[dict]:
    return [
        {"address": BASE + rng.randrange(0, 4096, width), "beats": gather * rng.randint(1, 80 // gather)}
        for _ in range(count)
    ]


@pytest.mark.parametrize("data_width, gather", [(64, 1), (128, 1), (256, 2), (64, 4)])
@pytest.mark.parametrize("stall, idle", [(0.0, 0.0), (0.4, 0.5)])
def test_data_in_order(data_width, gather, stall, idle):
    rng = Random(1)
    width = data_width // 8
    memory = AxiMemory(bytearray(rng.randbytes(8192)), base=BASE, latency=7, stall=stall)
    commands = make_commands(rng, 12, width, gather)
    expected = []
    for command in commands:
        start = command["address"] - BASE
        for i in range(start, start + command["beats"] * width, width * gather):
            expected.append(int.from_bytes(memory.contents[i : i + width * gather], "little"))
    dut = AxiReader(data_width=data_width, fifo_depth=64 // gather, gather=gather)

    async def consume(ctx):
        assert await stream_get(ctx, dut.data, len(expected), Random(2), idle) == expected
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.outstanding) and not ctx.get(dut.data.valid)

    async def produce(ctx):
        await stream_put(ctx, dut.command, commands, Random(3), idle)

    simulate(dut, produce, consume, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])


def test_full_bandwidth_behind_latency():
    memory = AxiMemory(bytearray(8192), base=BASE, latency=60)
    dut = AxiReader(data_width=128, fifo_depth=96)
    commands = [{"address": BASE, "beats": 40}, {"address": BASE + 1024, "beats": 32}] * 5
    beats = sum(command["beats"] for command in commands)
    cycles = []

    async def produce(ctx):
        await stream_put(ctx, dut.command, commands)

    async def consume(ctx):
        ctx.set(dut.data.ready, 1)
        while sum(cycles) < beats:
            *_, valid = await ctx.tick().sample(dut.data.valid)
            cycles.append(valid)

    simulate(dut, produce, consume, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])
    first = cycles.index(1)
    assert first == 4 + 60 + 2, "command, address; latency; FIFO"
    assert len(cycles) - first == beats, "no bubbles"


def test_reserved_space_drains_without_consumer():
    memory = AxiMemory(bytearray(8192), base=BASE, latency=5)
    dut = AxiReader(data_width=64, fifo_depth=40)

    async def produce(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE, "beats": 200}])
        await ctx.tick().repeat(200)
        assert not ctx.get(dut.outstanding)
        assert sum(beats for _, beats in memory.read_bursts) == 32

    simulate(dut, produce, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])


def test_error_and_halt():
    memory = AxiMemory(bytearray(8192), base=BASE, latency=5)
    memory.bad_addresses = range(BASE + 256, BASE + 264)
    dut = AxiReader(data_width=64, fifo_depth=64)
    errors = []

    async def watch(ctx):
        while True:
            *_, error = await ctx.tick().sample(dut.error)
            errors.append(error)

    async def produce(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE, "beats": 64}])
        ctx.set(dut.halt, 1)
        await ctx.tick().repeat(60)
        issued = len(memory.read_bursts)
        assert issued < 4 and not ctx.get(dut.outstanding)
        ctx.set(dut.halt, 0)
        await ctx.tick().repeat(120)
        assert len(memory.read_bursts) == 4 and sum(errors) == 1

    simulate(dut, produce, background=[lambda ctx: memory.serve_reads(ctx, dut.bus), watch])


def test_refuses_small_fifo():
    with pytest.raises(ValueError, match="fifo_depth = 8"):
        AxiReader(data_width=64, fifo_depth=8)
