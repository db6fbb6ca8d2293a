"""ParameterStream and WeightStream: word order, striping over ports, prefetch, bandwidth."""

from random import Random

import pytest

from hw.config import AcceleratorConfig
from hw.memory.parameter_stream import ParameterStream
from hw.memory.weight_stream import WeightStream
from tests.hw.support import AxiMemory, simulate, stream_get, stream_put

BASE = 0x3_0000_0000


@pytest.mark.parametrize("stall, idle", [(0.0, 0.0), (0.3, 0.4)])
def test_parameter_stream(stall, idle):
    config = AcceleratorConfig(bus_bits=128, parameter_buffer_words=32)
    rng = Random(1)
    memory = AxiMemory(bytearray(rng.randbytes(4096)), base=BASE, stall=stall)
    fetches = [{"address": BASE + rng.randrange(0, 2048, 16), "words": rng.randint(1, 60)} for _ in range(8)]
    expected = [
        int.from_bytes(memory.contents[a - BASE : a - BASE + 16], "little")
        for fetch in fetches
        for a in range(fetch["address"], fetch["address"] + 16 * fetch["words"], 16)
    ]
    dut = ParameterStream(config)

    async def produce(ctx):
        await stream_put(ctx, dut.fetch, fetches)

    async def consume(ctx):
        assert await stream_get(ctx, dut.words, len(expected), Random(2), idle) == expected

    simulate(dut, produce, consume, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])


def striped_word(memory: AxiMemory, config: AcceleratorConfig, address: int, stride: int, word: int) -> int:
    """The contract of the striped stream, beat by beat."""
    beats_per_word = config.stream_bits // config.bus_bits
    result = 0
    for k in range(beats_per_word):
        beat = word * beats_per_word + k
        port, index = beat % config.bus_ports, beat // config.bus_ports
        start = address + port * stride + index * config.bus_bytes - memory.base
        content = int.from_bytes(memory.contents[start : start + config.bus_bytes], "little")
        result |= content << (k * config.bus_bits)
    return result


@pytest.mark.parametrize(
    "bus_bits, bus_ports, stream_bits",
    [(32, 1, 32), (64, 1, 64), (128, 1, 512), (64, 2, 512), (64, 4, 256), (256, 2, 512)],
)
@pytest.mark.parametrize("stall, idle", [(0.0, 0.0), (0.3, 0.3)])
def test_weight_stream(bus_bits, bus_ports, stream_bits, stall, idle):
    config = AcceleratorConfig(bus_bits=bus_bits, bus_ports=bus_ports, stream_bits=stream_bits, weight_buffer_words=16)
    rng = Random(1)
    stride = 8192
    memory = AxiMemory(bytearray(rng.randbytes(stride * bus_ports)), base=BASE, stall=stall)
    fetches = [
        {"address": BASE + rng.randrange(0, 4096, config.bus_bytes), "words": rng.randint(1, 12)} for _ in range(8)
    ]
    expected = [
        striped_word(memory, config, fetch["address"], stride, word)
        for fetch in fetches
        for word in range(fetch["words"])
    ]
    dut = WeightStream(config)

    async def produce(ctx):
        ctx.set(dut.port_stride, stride)
        await ctx.tick().repeat(2)
        await stream_put(ctx, dut.fetch, fetches)

    async def consume(ctx):
        assert await stream_get(ctx, dut.words, len(expected), Random(2), idle) == expected
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.outstanding) and not ctx.get(dut.words.valid)

    ports = [lambda ctx, bus=bus: memory.serve_reads(ctx, bus) for bus in dut.buses]
    simulate(dut, produce, consume, background=ports)


def test_weight_stream_fills_its_buffer_at_full_bandwidth():
    config = AcceleratorConfig(bus_bits=64, bus_ports=2, stream_bits=256, weight_buffer_words=64)
    memory = AxiMemory(bytearray(8192), latency=60)
    dut = WeightStream(config)
    beats = []

    async def produce(ctx):
        ctx.set(dut.port_stride, 4096)
        await ctx.tick().repeat(2)
        await stream_put(ctx, dut.fetch, [{"address": 0, "words": 100}])
        await ctx.tick().repeat(260)
        assert sum(beats) == 128, "buffer full without a consumer"
        first = beats.index(1)
        assert sum(beats[first : first + 128]) == 128, "no bubbles"
        ctx.set(dut.words.ready, 1)
        for _ in range(64):
            *_, valid = await ctx.tick().sample(dut.words.valid)
            assert valid, "a buffered word per cycle"

    async def count(ctx):
        while True:
            *_, valid = await ctx.tick().sample(dut.buses[1].rvalid)
            beats.append(valid)

    simulate(
        dut,
        produce,
        background=[*(lambda ctx, bus=bus: memory.serve_reads(ctx, bus) for bus in dut.buses), count],
    )
