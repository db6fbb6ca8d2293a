"""Sequencer: dispatch in order, END, and every way in which a program can be refused."""

from random import Random

import pytest

from hw.config import CONFIGS
from hw.control.descriptors import BODIES, BODY_BITS, PACKET_BYTES, Engine, Opcode, Packet, pack
from hw.control.registers import ErrorCode
from hw.control.sequencer import Sequencer
from tests.hw.control.support import change_header, packet, program
from tests.hw.support import AxiMemory, simulate, stream_get

BASE = 0x12_3456_7000
CONFIG = CONFIGS["nano"]


def random_packets(count: int, rng: Random) -> list[dict]:
    """Instructions with random waits and bodies, as values of `Packet`."""
    return [
        {
            "opcode": rng.choice(list(BODIES)),
            "waits": [rng.getrandbits(16) for _ in Engine],
            "body": rng.getrandbits(BODY_BITS),
        }
        for _ in range(count)
    ]


async def begin(ctx, dut) -> None:
    ctx.set(dut.base, BASE)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 256])
@pytest.mark.parametrize("idle", [0.0, 0.7])
def test_dispatch_in_order(bus_bits, idle):
    """Two programs in a row: every instruction reaches its engine's queue, in order, and END waits."""
    config = CONFIG.replace(bus_bits=bus_bits, stream_bits=256)
    dut = Sequencer(config)
    rng = Random(1)
    instructions = random_packets(40, rng)
    packets = [pack(Packet, **instruction) for instruction in instructions]
    image = program([*packets, packet(Opcode.END, [3, 0, 0, 0, 0, 0])], config.hash, port_stride=0x1234000)
    memory = AxiMemory(image, base=BASE, latency=9, stall=idle / 2)
    order = []

    async def bench(ctx):
        for _ in range(2):
            order.clear()
            ctx.set(dut.events[0], 2)
            ctx.set(dut.idle, 1)
            await begin(ctx, dut)
            while len(order) < len(instructions):
                await ctx.tick()
            assert order == [instruction["opcode"].value for instruction in instructions]
            assert ctx.get(dut.port_stride) == 0x1234000
            await ctx.tick().repeat(100)
            ctx.set(dut.idle, 0)
            ctx.set(dut.events[0], 3)
            for _ in range(100):
                await ctx.tick()
                assert not ctx.get(dut.ended) and not ctx.get(dut.fault)
            ctx.set(dut.idle, 1)
            assert ctx.get(dut.ended)
            await ctx.tick()
            assert not ctx.get(dut.ended)
            assert ctx.get(dut.packet) == len(instructions) + 2
            await ctx.tick().repeat(20)
            assert not ctx.get(dut.outstanding)

    def queue(engine: Engine):
        async def receive(ctx):
            mine = [i for i in instructions if i["opcode"].value == engine]
            for instruction in 2 * mine:
                (got,) = await stream_get(ctx, dut.queues[engine], 1, Random(engine), idle)
                order.append(engine)
                assert list(got.waits) == instruction["waits"]
                assert got.body == instruction["body"]

        return receive

    simulate(dut, bench, *map(queue, Engine), background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])


def flip_bit(position: int):
    def damage(image: bytearray) -> None:
        image[position // 8] ^= 1 << position % 8

    return damage


def header(position: int, content: bytes):
    return lambda image: change_header(image, position, content)


FAULTS = {
    "no program": (lambda image: image.__setitem__(slice(None), bytes(len(image))), ErrorCode.BAD_MAGIC, 0),
    "magic": (header(0, b"WSTH"), ErrorCode.BAD_MAGIC, 0),
    "magic byte": (flip_bit(0), ErrorCode.BAD_MAGIC, 0),
    "header bit": (flip_bit(100), ErrorCode.BAD_CRC, 0),
    "header checksum": (flip_bit(8 * PACKET_BYTES - 1), ErrorCode.BAD_CRC, 0),
    "ABI": (header(4, b"\x63"), ErrorCode.BAD_ABI, 0),
    "configuration": (header(15, b"\x63"), ErrorCode.BAD_CONFIG, 0),
    "nothing but a header": (header(16, bytes(4)), ErrorCode.BAD_LENGTH, 0),
    "first packet": (flip_bit(8 * PACKET_BYTES), ErrorCode.BAD_CRC, 1),
    "body": (flip_bit(8 * PACKET_BYTES * 3 + 500), ErrorCode.BAD_CRC, 3),
    "END": (flip_bit(8 * PACKET_BYTES * 7 - 1), ErrorCode.BAD_CRC, 6),
    "END too early": (header(16, b"\x07"), ErrorCode.BAD_LENGTH, 6),
    "END too late": (header(16, b"\x04"), ErrorCode.BAD_LENGTH, 4),
}


def run_until_fault(image: bytearray, config=CONFIG) -> tuple[ErrorCode, int, int]:
    """Fault, packet, and number of dispatched instructions."""
    dut = Sequencer(config)
    image.extend(bytes(8 * PACKET_BYTES))
    memory = AxiMemory(image, base=BASE)
    result = []

    async def bench(ctx):
        ctx.set(dut.idle, 1)
        for engine in Engine:
            ctx.set(dut.queues[engine].ready, 1)
        await begin(ctx, dut)
        dispatched = 0
        while not ctx.get(dut.fault):
            dispatched += sum(ctx.get(dut.queues[engine].valid) for engine in Engine)
            assert not ctx.get(dut.ended)
            await ctx.tick()
        fault = ctx.get(dut.fault), ctx.get(dut.packet)
        for _ in range(50):  # nothing gets past a fault
            await ctx.tick()
            assert (ctx.get(dut.fault), ctx.get(dut.packet)) == fault
            assert not any(ctx.get(dut.queues[engine].valid) for engine in Engine)
        result.extend([*fault, dispatched])

    simulate(dut, bench, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])
    return ErrorCode(result[0]), result[1], result[2]


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case):
    damage, code, index = FAULTS[case]
    packets = [pack(Packet, **instruction) for instruction in random_packets(5, Random(2))]
    image = program([*packets, packet(Opcode.END)], CONFIG.hash)
    damage(image)
    assert run_until_fault(image) == (code, index, max(0, index - 1))


@pytest.mark.parametrize("opcode", [6, 14, 16, 255])
def test_unknown_opcode(opcode):
    packets = [packet(Opcode.STORE), packet(Opcode.END) & ~0xFF | opcode, packet(Opcode.END)]
    assert run_until_fault(program(packets, CONFIG.hash)) == (ErrorCode.BAD_OPCODE, 2, 1)


def test_program_of_another_configuration():
    image = program([packet(Opcode.END)], CONFIG.replace(act_bits=4).hash)
    assert run_until_fault(image) == (ErrorCode.BAD_CONFIG, 0, 0)


def test_halt_stops_dispatch_and_reads():
    packets = [pack(Packet, **instruction) for instruction in random_packets(30, Random(2))]
    memory = AxiMemory(program([*packets, packet(Opcode.END)], CONFIG.hash), base=BASE)
    dut = Sequencer(CONFIG)

    async def bench(ctx):
        for engine in Engine:
            ctx.set(dut.queues[engine].ready, 1)
        await begin(ctx, dut)
        while ctx.get(dut.packet) < 5:
            await ctx.tick()
        ctx.set(dut.halt, 1)
        packet = ctx.get(dut.packet)
        await ctx.tick().repeat(200)
        assert not ctx.get(dut.outstanding)
        bursts = len(memory.read_bursts)
        await ctx.tick().repeat(100)
        assert ctx.get(dut.packet) == packet
        assert len(memory.read_bursts) == bursts
        assert not any(ctx.get(dut.queues[engine].valid) for engine in Engine)

    simulate(dut, bench, background=[lambda ctx: memory.serve_reads(ctx, dut.bus)])
