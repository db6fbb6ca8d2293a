"""BusWidener: reads and writes of a narrow bus reach a wide memory as they are."""

from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from boards.memory.widener import HALF_BITS, BusWidener
from hw.bus.reader import AxiReader
from hw.bus.writer import AxiWriter
from tests.hw.support import AxiMemory, simulate, stream_get, stream_put

SIZE = 1 << 12
ADDRESS_BITS = 24


class Bench:
    def __init__(self, stall: float) -> None:
        self.contents = bytearray(Random(1).randbytes(SIZE))
        self.memory = AxiMemory(self.contents, stall=stall, partial=True)
        self.module = m = Module()
        m.submodules.reader = self.reader = AxiReader(data_width=HALF_BITS, fifo_depth=64, address_bits=ADDRESS_BITS)
        m.submodules.writer = self.writer = AxiWriter(data_width=HALF_BITS, address_bits=ADDRESS_BITS)
        m.submodules.widener = self.widener = BusWidener(ADDRESS_BITS)
        connect(m, self.reader.bus, self.widener.i.read)
        connect(m, self.writer.bus, self.widener.i.write)

    def run(self, *benches) -> None:
        async def reads(ctx) -> None:
            await self.memory.serve_reads(ctx, self.widener.o.read)

        async def writes(ctx) -> None:
            await self.memory.serve_writes(ctx, self.widener.o.write)

        simulate(self.module, *benches, background=[reads, writes])


def commands(rng: Random, count: int) -> list[dict]:
    """Anywhere in the memory, of one beat and more."""
    beats = [rng.choice([1, 2, 3, 15, 16, 17, 40]) for _ in range(count)]
    return [{"address": 4 * rng.randrange(SIZE // 4 - n), "beats": n} for n in beats]


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_reads(stall: float) -> None:
    bench = Bench(stall)
    asked = commands(Random(2), 40)
    expected = [
        int.from_bytes(bench.contents[c["address"] + 4 * i :][:4], "little") for c in asked for i in range(c["beats"])
    ]

    async def put(ctx) -> None:
        await stream_put(ctx, bench.reader.command, asked)

    async def get(ctx) -> None:
        assert await stream_get(ctx, bench.reader.data, len(expected), Random(3), stall) == expected

    bench.run(put, get)


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_writes(stall: float) -> None:
    bench = Bench(stall)
    rng = Random(2)
    asked = commands(rng, 40)
    expected = bytearray(bench.contents)
    words = []
    for command in asked:
        content = rng.randbytes(4 * command["beats"])
        expected[command["address"] : command["address"] + len(content)] = content
        words += [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]

    async def put(ctx) -> None:
        await stream_put(ctx, bench.writer.command, asked)

    async def data(ctx) -> None:
        await stream_put(ctx, bench.writer.data, words, Random(3), stall)

    async def wait(ctx) -> None:
        for _ in asked:
            await ctx.tick().until(bench.writer.done)

    bench.run(put, data, wait)
    assert bench.contents == expected
