"""Storer: contents and order in memory, completion, the bounds of the result area."""

from collections import deque
from random import Random

import pytest

from hw.config import AcceleratorConfig
from hw.control.descriptors import StoreBody, pack
from hw.engines.store import Storer
from hw.interfaces import PAD_READ_LATENCY
from tests.hw.support import AxiMemory, simulate

BASE = 0x7_0000_1000
GUARD = 4096  # bytes after the result area that must stay as they are


def configuration(pixels: int, in_lanes: int, act_bits: int, bus_bits: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        pixels=pixels, in_lanes=in_lanes, out_lanes=4, dw_pixels=1, requant_channels=2, act_bits=act_bits,
        bus_bits=bus_bits, bus_ports=1, stream_bits=256,
    )  # fmt: skip


CONFIGS = [
    configuration(pixels=7, in_lanes=16, act_bits=8, bus_bits=128),
    configuration(pixels=1, in_lanes=2, act_bits=5, bus_bits=256),
    configuration(pixels=3, in_lanes=8, act_bits=4, bus_bits=64),
    configuration(pixels=1, in_lanes=2, act_bits=8, bus_bits=32),
]


class Pads:
    """Scratchpads for one reader, with refusals."""

    def __init__(self, config: AcceleratorConfig, refuse: float) -> None:
        self.rng = Random(3)
        self.refuse = refuse
        self.words = [[self.rng.getrandbits(config.pad_word_bits) for _ in range(512)] for _ in range(4)]

    async def serve(self, ctx, port) -> None:
        due = deque([None] * (PAD_READ_LATENCY - 1))
        while True:
            ctx.set(port.ready, self.rng.random() >= self.refuse)
            *_, valid, ready, pad, address = await ctx.tick().sample(port.valid, port.ready, port.pad, port.address)
            due.append(self.words[pad][address] if valid and ready else None)
            word = due.popleft()
            ctx.set(port.data_valid, word is not None)
            ctx.set(port.data.as_value(), self.rng.getrandbits(len(port.data.as_value())) if word is None else word)


def expected_bytes(config: AcceleratorConfig, pads: Pads, body: dict) -> bytes:
    view = body["source"]
    result, row = b"", view["start"]
    for _ in range(body["rows"]):
        for word in range(body["words_per_row"]):
            content = pads.words[view["pad"]][row + word]
            result += content.to_bytes(config.pad_word_beats * config.bus_bytes, "little")
        row = row + view["row_stride"]
        if row == view["limit"]:
            row = view["base"]
    return result


def store(config: AcceleratorConfig, rows: int, words_per_row: int, address: int) -> dict:
    view = {"pad": 2, "base": 7, "limit": 7 + 3 * 40, "start": 7 + 40, "row_stride": 40}
    return {"source": view, "rows": rows, "words_per_row": words_per_row, "address": address}


async def instruct(ctx, dut: Storer, body: dict, result_bytes: int) -> None:
    ctx.set(dut.result_base, BASE)
    ctx.set(dut.result_bytes, result_bytes)
    ctx.set(dut.instruction.body.payload.as_value(), pack(StoreBody, **body))
    ctx.set(dut.instruction.body.valid, 1)
    await ctx.tick().until(dut.instruction.body.ready)
    ctx.set(dut.instruction.body.valid, 0)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stall, refuse", [(0.0, 0.0), (0.4, 0.5)])
def test_contents(config, stall, refuse):
    word_bytes = config.pad_word_beats * config.bus_bytes
    pads = Pads(config, refuse)
    bodies = [
        store(config, 1, 1, 0),
        store(config, 5, 9, word_bytes),
        store(config, 2, 17, 46 * word_bytes),
        store(config, 1, 1, 80 * word_bytes),
    ]
    size = 81 * word_bytes
    memory = AxiMemory(bytearray(size + GUARD), base=BASE, stall=stall)
    expected = b"".join(expected_bytes(config, pads, body) for body in bodies)
    assert len(expected) == size
    dut = Storer(config)

    async def run(ctx):
        end = 0
        for body in bodies:
            await instruct(ctx, dut, body, size)
            end += body["rows"] * body["words_per_row"] * word_bytes
            await ctx.tick().until(dut.instruction.done)
            assert memory.contents[:end] == expected[:end] and not ctx.get(dut.outstanding)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.status.busy)
        assert memory.contents == expected + bytes(GUARD)

    simulate(
        dut,
        run,
        background=[lambda ctx: memory.serve_writes(ctx, dut.bus), lambda ctx: pads.serve(ctx, dut.source)],
    )


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[-1].replace(address_bits=24)])
@pytest.mark.parametrize(
    "rows, words_per_row, address",
    [
        (3, 5, 16),
        (1, 1, 0xFFFF_FFF0),
        (65535, 65535, 0),
        (32768, 32768, 0),
        (4096, 4096, 0),
        (2048, 2048, 0),
        (0, 4, 0),
    ],
)
def test_out_of_range(config, rows, words_per_row, address):
    pads = Pads(config, 0)
    memory = AxiMemory(bytearray(8192), base=BASE)
    dut = Storer(config)
    size = 15 * config.pad_word_beats * config.bus_bytes
    errors = []

    async def run(ctx):
        await instruct(ctx, dut, store(config, rows, words_per_row, address), size)
        for _ in range(200):
            *_, error, done = await ctx.tick().sample(dut.range_error, dut.instruction.done)
            errors.append(error)
            assert not done
        assert sum(errors) == 1 and not memory.written and ctx.get(dut.status.busy)

    simulate(
        dut,
        run,
        background=[lambda ctx: memory.serve_writes(ctx, dut.bus), lambda ctx: pads.serve(ctx, dut.source)],
    )
