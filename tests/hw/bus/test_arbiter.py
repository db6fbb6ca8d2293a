"""ReadArbiter with AxiReaders: every reader gets its own data, in order, and its share."""

from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from hw.bus.arbiter import ReadArbiter
from hw.bus.reader import AxiReader
from tests.hw.support import AxiMemory, simulate, stream_get, stream_put


def build(readers: int) -> tuple[Module, ReadArbiter, list[AxiReader]]:
    m = Module()
    m.submodules.arbiter = arbiter = ReadArbiter(data_width=64, readers=readers)
    units = [AxiReader(data_width=64, fifo_depth=32) for _ in range(readers)]
    m.submodules += units
    for unit, port in zip(units, arbiter.readers):
        wiring.connect(m, unit.bus, port)
    return m, arbiter, units


@pytest.mark.parametrize("readers", [1, 2, 5])
@pytest.mark.parametrize("stall, idle", [(0.0, 0.0), (0.3, 0.6)])
def test_routing(readers, stall, idle):
    rng = Random(1)
    memory = AxiMemory(bytearray(rng.randbytes(8192)), latency=6, stall=stall)
    m, arbiter, units = build(readers)
    benches = []
    for index, unit in enumerate(units):
        commands = [{"address": rng.randrange(0, 4096, 8), "beats": rng.randint(1, 40)} for _ in range(6)]
        expected = [
            int.from_bytes(memory.contents[a : a + 8], "little")
            for command in commands
            for a in range(command["address"], command["address"] + 8 * command["beats"], 8)
        ]

        async def produce(ctx, unit=unit, commands=commands, index=index):
            await stream_put(ctx, unit.command, commands, Random(index), idle)

        async def consume(ctx, unit=unit, expected=expected, index=index):
            assert await stream_get(ctx, unit.data, len(expected), Random(~index), idle) == expected

        benches += [produce, consume]
    simulate(m, *benches, background=[lambda ctx: memory.serve_reads(ctx, arbiter.bus)])


def test_fair_and_without_bubbles():
    memory = AxiMemory(bytearray(4096 * 4), latency=8)
    m, arbiter, units = build(3)
    valid = []

    async def run(ctx):
        for index, unit in enumerate(units):
            ctx.set(unit.data.ready, 1)
            ctx.set(unit.command.payload, {"address": 4096 * index, "beats": 4096 // 8})
            ctx.set(unit.command.valid, 1)
        for _ in range(3 * 512 + 20):
            *_, rvalid = await ctx.tick().sample(arbiter.bus.rvalid)
            valid.append(rvalid)
        owners = [address // 4096 for address, _ in memory.read_bursts[:60]]
        assert owners == [owners[0], owners[1], owners[2]] * 20 and set(owners) == {0, 1, 2}
        first = valid.index(1)
        assert sum(valid[first : first + 1400]) == 1400

    simulate(m, run, background=[lambda ctx: memory.serve_reads(ctx, arbiter.bus)])
