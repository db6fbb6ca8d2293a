"""AxiWriter, alone: contents, order, bandwidth, completion, errors, halt."""

from random import Random

import pytest

from hw.bus.writer import AxiWriter
from tests.hw.support import AxiMemory, simulate, stream_put

BASE = 0x12_3456_0000


async def count_pulses(ctx, signal, cycles: list) -> None:
    while True:
        *_, value = await ctx.tick().sample(signal)
        cycles.append(value)


@pytest.mark.parametrize("data_width", [64, 256])
@pytest.mark.parametrize("stall, idle", [(0.0, 0.0), (0.5, 0.1), (0.2, 0.6)])
def test_contents(data_width, stall, idle):
    rng = Random(1)
    width = data_width // 8
    memory = AxiMemory(bytearray(16384), base=BASE, latency=9, stall=stall)
    commands, expected, words = [], bytearray(16384), []
    address = 5 * width
    for beats in (1, 37, 16, 17, 2, 64, 15, 1):
        commands.append({"address": BASE + address, "beats": beats})
        for _ in range(beats):
            word = rng.randbytes(width)
            words.append(int.from_bytes(word, "little"))
            expected[address : address + width] = word
            address += width
        address += rng.randrange(4) * width
    dut = AxiWriter(data_width=data_width)
    done = []

    async def produce_commands(ctx):
        await stream_put(ctx, dut.command, commands, Random(2), idle)

    async def produce_data(ctx):
        await stream_put(ctx, dut.data, words, Random(3), idle)

    async def finish(ctx):
        for n in range(len(commands)):
            await ctx.tick().until(dut.done)
            end = sum(command["beats"] for command in commands[: n + 1])
            assert len(memory.written) >= end, "done before its data is written"
            done.append(n)
        assert not ctx.get(dut.outstanding)
        assert memory.contents == expected

    simulate(dut, produce_commands, produce_data, finish, background=[lambda ctx: memory.serve_writes(ctx, dut.bus)])
    assert len(done) == len(commands)


def test_full_bandwidth_behind_latency():
    memory = AxiMemory(bytearray(8192), base=BASE, latency=60)
    dut = AxiWriter(data_width=128)
    beats = []

    async def produce(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE + 4096 * i, "beats": 128} for i in range(2)])

    async def data(ctx):
        await stream_put(ctx, dut.data, range(256))
        await ctx.tick().until(dut.done)

    simulate(
        dut,
        produce,
        data,
        background=[
            lambda ctx: memory.serve_writes(ctx, dut.bus),
            lambda ctx: count_pulses(ctx, dut.bus.wvalid, beats),
        ],
    )
    first = beats.index(1)
    assert sum(beats[first : first + 256]) == 256, "no bubbles"


def test_error_and_halt():
    memory = AxiMemory(bytearray(8192), base=BASE, latency=5)
    memory.bad_addresses = range(BASE + 128, BASE + 129)
    dut = AxiWriter(data_width=64)
    errors = []

    async def produce(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE, "beats": 48}])
        ctx.set(dut.halt, 1)
        await stream_put(ctx, dut.data, range(32))
        await ctx.tick().repeat(50)
        assert not memory.written and not ctx.get(dut.outstanding), "halted"
        ctx.set(dut.halt, 0)
        await stream_put(ctx, dut.data, range(32, 47))
        await ctx.tick().repeat(50)
        assert len(memory.written) == 32, "an incomplete burst must wait"
        await stream_put(ctx, dut.data, [47])
        await ctx.tick().until(dut.done)
        assert sum(errors) == 1

    simulate(
        dut,
        produce,
        background=[lambda ctx: memory.serve_writes(ctx, dut.bus), lambda ctx: count_pulses(ctx, dut.error, errors)],
    )
