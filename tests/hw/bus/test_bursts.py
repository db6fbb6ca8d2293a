"""BurstSplitter: the bursts of commands of all sizes at all alignments, their latency, and no bubbles."""

from random import Random

import pytest

from hw.bus.axi4 import MAX_BURST_BEATS
from hw.bus.bursts import BurstSplitter
from tests.hw.support import simulate, stream_get, stream_put

BASE = 0x12_3456_0000


def expected_bursts(command: dict, width: int) -> list[tuple[int, int, int]]:
    """Address, beats, and `last` of each burst."""
    address, left = command["address"], command["beats"]
    bursts = []
    while left:
        beats = min(left, MAX_BURST_BEATS - address // width % MAX_BURST_BEATS)
        left -= beats
        bursts.append((address, beats, left == 0))
        address += beats * width
    return bursts


@pytest.mark.parametrize("data_width", [32, 128, 256])
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_bursts(data_width, idle):
    rng = Random(1)
    width = data_width // 8
    sizes = [*range(36), *(rng.randrange(200) for _ in range(60)), 0, 1, 0, 0, 16]
    commands = [{"address": BASE + width * rng.randrange(64), "beats": beats} for beats in sizes]
    expected = [burst for command in commands for burst in expected_bursts(command, width)]
    dut = BurstSplitter(data_width)

    async def put(ctx):
        await stream_put(ctx, dut.command, commands, Random(2), idle)

    async def get(ctx):
        bursts = await stream_get(ctx, dut.burst, len(expected), Random(3), idle)
        assert [(burst.address, burst.beats, burst.last) for burst in bursts] == expected

    simulate(dut, put, get)


def test_largest_command():
    dut = BurstSplitter(64)

    async def bench(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE + 8, "beats": (1 << 32) - 1}])
        first, second = await stream_get(ctx, dut.burst, 2)
        assert (first.beats, first.last, second.beats, second.last) == (15, 0, 16, 0)

    simulate(dut, bench)


def test_small_memory():
    dut = BurstSplitter(32, address_bits=24)

    async def bench(ctx):
        end = 1 << 24
        await stream_put(ctx, dut.command, [{"address": end - 68, "beats": 17}, {"address": 0, "beats": end // 4}])
        bursts = await stream_get(ctx, dut.burst, 4)
        expected = [(end - 68, 0), (end - 64, 1), (0, 0), (64, 0)]
        assert [(burst.address, burst.last) for burst in bursts] == expected

    simulate(dut, bench)


def test_latency_and_no_bubbles():
    dut = BurstSplitter(64)
    valid = []

    async def put(ctx):
        await stream_put(ctx, dut.command, [{"address": BASE, "beats": 32}] * 8)

    async def get(ctx):
        ctx.set(dut.burst.ready, 1)
        for _ in range(30):
            *_, v = await ctx.tick().sample(dut.burst.valid)
            valid.append(v)

    simulate(dut, put, get)
    assert valid == [0] * 3 + [1] * 16 + [0] * 11
