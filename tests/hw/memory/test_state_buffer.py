"""The state buffer against an array of elements: random writes and reads of all tile and word sizes."""

import random

import pytest
from amaranth.sim import Simulator

from hw.config import AcceleratorConfig
from hw.memory.state_buffer import StateBuffer

CONFIGS = [
    dict(in_lanes=4, out_lanes=4, state_tiles=4, stream_bits=64),  # two words per tile
    dict(in_lanes=8, out_lanes=2, state_tiles=2, stream_bits=64),  # short rows
    dict(in_lanes=2, out_lanes=8, state_tiles=4, stream_bits=128),  # one word per tile
    dict(in_lanes=2, out_lanes=2, state_tiles=8, stream_bits=256),  # tiles smaller than a word
    dict(in_lanes=64, out_lanes=64, state_tiles=2, stream_bits=64),  # rows longer than a word
    dict(in_lanes=4, out_lanes=4, state_tiles=4, stream_bits=64, weight_bits=3, state_bits=4),
]


@pytest.mark.parametrize("changes", CONFIGS)
def test_random_writes_and_reads(changes: dict[str, int]) -> None:
    config = AcceleratorConfig(requant_channels=2, state_lanes=64, bus_bits=64, bus_ports=1, **changes)
    dut = StateBuffer(config)
    lanes, bits = len(dut.write.data), config.operand_bits
    assert lanes == min(config.in_lanes, config.out_lanes, config.stream_bits // bits)
    elements, per_word = config.in_lanes * config.out_lanes, config.stream_bits // bits
    tiles = [[0] * max(elements, per_word) for _ in range(config.state_tiles)]
    rng = random.Random(0)

    async def bench(ctx):
        expected = 0
        for _ in range(400):
            assert expected is None or ctx.get(dut.read.data) == expected
            write, enable = rng.random() < 0.7, rng.random() < 0.7
            tile, first = rng.randrange(config.state_tiles), rng.randrange(0, elements, lanes)
            values = [rng.getrandbits(bits) for _ in range(lanes)]
            ctx.set(dut.write.valid, write)
            ctx.set(dut.write.tile, tile)
            ctx.set(dut.write.element, first)
            ctx.set(dut.write.data, values)
            read_tile, word = rng.choice([tile, rng.randrange(config.state_tiles)]), rng.randrange(config.tile_words)
            ctx.set(dut.read.enable, enable)
            ctx.set(dut.read.tile, read_tile)
            ctx.set(dut.read.word, word)
            await ctx.tick()
            if enable:
                row = tiles[read_tile][word * per_word : (word + 1) * per_word]
                clash = write and (tile, first // per_word) == (read_tile, word)
                expected = None if clash else sum(value << (i * bits) for i, value in enumerate(row))
            if write:
                tiles[tile][first : first + lanes] = values

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
