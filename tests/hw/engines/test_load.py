"""Loader against the definitions of the unrolled stem input and of stored maps, with rows in an AXI4 memory."""

from random import Random

import pytest

from hw.config import KERNEL_ROWS, STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import LoadBody, pack
from hw.engines.load import Loader
from tests.hw.support import AxiMemory, random_bit, simulate

BASE = 0x7_0000_1000
RESULTS = BASE + 0x4000


def configuration(pixels: int, in_lanes: int, act_bits: int, bus_bits: int) -> AcceleratorConfig:
    return AcceleratorConfig(
        pixels=pixels, in_lanes=in_lanes, out_lanes=4, dw_pixels=1, requant_channels=2, act_bits=act_bits,
        bus_bits=bus_bits, bus_ports=1, stream_bits=256, pad_words=(4096,) * 4,
    )  # fmt: skip


CONFIGS = [
    configuration(pixels=7, in_lanes=16, act_bits=8, bus_bits=128),
    configuration(pixels=2, in_lanes=8, act_bits=4, bus_bits=64),
    configuration(pixels=1, in_lanes=2, act_bits=5, bus_bits=256),
    configuration(pixels=3, in_lanes=4, act_bits=8, bus_bits=256),
    configuration(pixels=1, in_lanes=16, act_bits=8, bus_bits=64),
    configuration(pixels=1, in_lanes=2, act_bits=8, bus_bits=32),
]


def instruction(config: AcceleratorConfig, rng: Random, *, row_bytes: int, rows: int, first_row: int) -> dict:
    groups = -(-row_bytes // (6 * config.pixels))
    row_words = KERNEL_ROWS * config.stem_blocks * groups
    base = rng.randrange(100)
    return {
        "destination": {
            "pad": rng.randrange(4),
            "base": base,
            "limit": base + 3 * row_words,
            "start": base + rng.randrange(3) * row_words,
            "row_stride": row_words,
        },
        "address": rng.randrange(8) * 32,
        "row_bytes": row_bytes,
        "image_rows": rng.randint(3, 6),
        "first_row": first_row,
        "rows": rows,
        "groups_per_row": groups,
        **{f"pad_code{i}": rng.randrange(1 << config.act_bits) for i in range(3)},
    }


def stored(config: AcceleratorConfig, rng: Random, *, words_per_row: int, rows: int) -> dict:
    base, stride = rng.randrange(100), words_per_row + rng.randrange(3)
    return {
        "destination": {
            "pad": rng.randrange(4),
            "base": base,
            "limit": base + 3 * stride,
            "start": base + rng.randrange(3) * stride,
            "row_stride": stride,
        },
        "stored": 1,
        "address": rng.randrange(8) * 32,
        "row_bytes": words_per_row * config.pad_word_beats * config.bus_bytes,
        "words_per_row": words_per_row,
        "rows": rows,
    }


def expected_writes(config: AcceleratorConfig, body: dict, memory: bytes) -> list[tuple[int, int, int]]:
    """(pad, address, word) in order, straight from the definition; images lie at `BASE`, stored maps at `RESULTS`."""
    if body.get("stored"):
        return stored_words(config, body, memory[RESULTS - BASE :])
    return unrolled_words(config, body, memory)


def stored_words(config: AcceleratorConfig, body: dict, area: bytes) -> list[tuple[int, int, int]]:
    view, size = body["destination"], config.pad_word_beats * config.bus_bytes
    row, writes = view["start"], []
    for i in range(body["rows"]):
        for word in range(body["words_per_row"]):
            offset = body["address"] + (i * body["words_per_row"] + word) * size
            content = int.from_bytes(area[offset : offset + size], "little")
            writes.append((view["pad"], row + word, content & ((1 << config.pad_word_bits) - 1)))
        row += view["row_stride"]
        if row == view["limit"]:
            row = view["base"]
    return writes


def unrolled_words(config: AcceleratorConfig, body: dict, image: bytes) -> list[tuple[int, int, int]]:
    view, groups, row_bytes = body["destination"], body["groups_per_row"], body["row_bytes"]
    pads = [body[f"pad_code{i}"] for i in range(3)]
    writes = []
    row = view["start"]
    for i in range(body["rows"]):
        for ky in range(KERNEL_ROWS):
            image_row = body["first_row"] + 2 * i + ky
            exists = 0 <= image_row < body["image_rows"]
            for group in range(groups):
                for block in range(config.stem_blocks):
                    word = 0
                    for pixel in range(config.pixels):
                        for lane in range(config.in_lanes):
                            tap = block * config.in_lanes + lane
                            if tap >= STEM_TAPS:
                                continue
                            byte = 6 * (group * config.pixels + pixel) - 3 + tap
                            code = pads[tap % 3]
                            if exists and 0 <= byte < row_bytes:
                                content = image[body["address"] + image_row * row_bytes + byte]
                                code = content >> (8 - config.act_bits)
                            word |= code << ((pixel * config.in_lanes + lane) * config.act_bits)
                    address = row + (ky * config.stem_blocks + block) * groups + group
                    writes.append((view["pad"], address, word))
        row += view["row_stride"]
        if row == view["limit"]:
            row = view["base"]
    return writes


def run(config: AcceleratorConfig, bodies: list[dict], *, stall: float, refuse: float, latency: int = 6) -> list[int]:
    """Execute `bodies`, compare all writes; returns the cycles of `done`, from the first cycle on."""
    rng = Random(5)
    memory = AxiMemory(bytearray(rng.randbytes(65536)), base=BASE, latency=latency, stall=stall)
    expected = [write for body in bodies for write in expected_writes(config, body, memory.contents)]
    dut = Loader(config)
    writes, done = [], []

    async def observe(ctx):
        port, cycle = dut.destination, 0
        while len(done) < len(bodies):
            *_, valid, ready, pad, address, word, mask, pulse = await ctx.tick().sample(
                port.valid, port.ready, port.pad, port.address, port.data.as_value(), port.mask.as_value(),
                dut.instruction.done,
            )  # fmt: skip
            cycle += 1
            if valid and ready:
                assert mask == (1 << config.pixels * config.write_groups) - 1
                assert (pad, address, word) == expected[len(writes)], f"write {len(writes)}"
                writes.append(word)
            if pulse:
                done.append(cycle)
                assert len(writes) == sum(len(expected_writes(config, b, memory.contents)) for b in bodies[: len(done)])
        assert not ctx.get(dut.status.busy) and not ctx.get(dut.outstanding)

    async def instruct(ctx):
        ctx.set(dut.input_base, BASE)
        ctx.set(dut.result_base, RESULTS)
        for body in bodies:
            ctx.set(dut.instruction.body.payload.as_value(), pack(LoadBody, **body))
            ctx.set(dut.instruction.body.valid, 1)
            await ctx.tick().until(dut.instruction.body.ready)
            ctx.set(dut.instruction.body.valid, 0)
            while refuse and rng.random() < 0.8:
                await ctx.tick()

    simulate(
        dut,
        instruct,
        observe,
        background=[
            lambda ctx: memory.serve_reads(ctx, dut.bus),
            lambda ctx: random_bit(ctx, dut.destination.ready, Random(6), 1 - refuse),
        ],
    )
    return done


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stall, refuse", [(0.0, 0.0), (0.3, 0.4)])
def test_unrolled_rows(config, stall, refuse):
    rng = Random(2)
    bodies = [
        instruction(config, rng, row_bytes=96, rows=3, first_row=-1),
        instruction(config, rng, row_bytes=192, rows=1, first_row=2),
        instruction(config, rng, row_bytes=32, rows=4, first_row=-3),
        instruction(config, rng, row_bytes=288, rows=1, first_row=1),
    ]
    run(config, bodies, stall=stall, refuse=refuse)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stall, refuse", [(0.0, 0.0), (0.3, 0.4)])
def test_stored_maps_between_images(config, stall, refuse):
    """Each after each, in both orders, with bytes at the end of image rows that nobody needs."""
    rng = Random(4)
    image = instruction(config, rng, row_bytes=192, rows=2, first_row=0) | {"image_rows": 5}
    image["groups_per_row"] = max(1, image["groups_per_row"] // 2)
    bodies = [
        stored(config, rng, words_per_row=1, rows=1),
        image,
        stored(config, rng, words_per_row=7, rows=5),
        stored(config, rng, words_per_row=33, rows=2),
        image,
        image,
        stored(config, rng, words_per_row=2, rows=9),
    ]
    run(config, bodies, stall=stall, refuse=refuse)


def test_pace_of_stored_maps():
    """One beat per cycle, row after row."""
    config = CONFIGS[0]
    cycles = run(config, [stored(config, Random(6), words_per_row=40, rows=6)], stall=0, refuse=0)[-1]
    assert cycles <= 6 * 40 * config.pad_word_beats + 40


def test_unused_end_of_rows_is_dropped():
    config = CONFIGS[1]
    body = instruction(config, Random(3), row_bytes=192, rows=2, first_row=0)
    run(config, [body | {"groups_per_row": 3}] * 2, stall=0, refuse=0)
