"""The link's hardware, driven through its serial line by the frames of the protocol."""

import zlib
from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from boards.link.bridge import Link
from boards.link.frames import RequestReceiver
from boards.link.protocol import (
    REQUEST_SYNC,
    Opcode,
    Request,
    Status,
    find_answer,
    request_frame,
)
from boards.link.uart import FRAME_BITS, UartReceiver, UartTransmitter
from hw.control.register_bank import RegisterBank
from hw.control.registers import BY_NAME, IDENTITY
from tests.configs import SMALL
from tests.hw.support import AxiMemory, simulate, stream_put

DIVIDER = 4
BYTE_CYCLES = FRAME_BITS * DIVIDER


class Bench:
    """A link with a host's line, a memory, and the accelerator's registers."""

    def __init__(self, size: int = 1 << 12, stall: float = 0.2) -> None:
        self.link = Link(DIVIDER)
        self.sender, self.receiver = UartTransmitter(DIVIDER), UartReceiver(DIVIDER)
        self.contents = bytearray(Random(1).randbytes(size))
        self.memory = AxiMemory(self.contents, stall=stall)
        self.module = m = Module()
        m.submodules.link, m.submodules.sender, m.submodules.receiver = self.link, self.sender, self.receiver
        m.submodules.registers = registers = RegisterBank(SMALL)
        m.d.comb += [self.link.rx.eq(self.sender.line), self.receiver.line.eq(self.link.tx)]
        connect(m, self.link.registers, registers.bus)
        self.received = bytearray()

    def run(self, bench) -> None:
        async def receive(ctx) -> None:
            async for _, _, strobe, value in ctx.tick().sample(self.receiver.strobe, self.receiver.data):
                if strobe:
                    self.received.append(value)

        async def reads(ctx) -> None:
            await self.memory.serve_reads(ctx, self.link.memory.read)

        async def writes(ctx) -> None:
            await self.memory.serve_writes(ctx, self.link.memory.write)

        simulate(self.module, bench, background=[receive, reads, writes])

    async def send(self, ctx, data: bytes) -> None:
        await stream_put(ctx, self.sender.i, data)

    async def answer(self, ctx, byte_times: int = 200):
        for _ in range(byte_times * BYTE_CYCLES):
            answer, _ = find_answer(self.received)
            if answer:
                return answer
            await ctx.tick()
        return None

    async def ask(self, ctx, request: Request, sequence: int = 0):
        await self.send(ctx, request_frame(request, sequence))
        return await self.answer(ctx)


def test_memory_and_registers() -> None:
    bench = Bench()

    async def run(ctx) -> None:
        rng = Random(2)
        for sequence in range(2):
            address, words = 8 * rng.randrange(400), (1, 18)[sequence]
            data = rng.randbytes(8 * words)
            answer = await bench.ask(ctx, Request(Opcode.WRITE_MEMORY, address, payload=data), sequence)
            assert (answer.status, answer.sequence, answer.address) == (0, sequence, address)
            assert answer.payload == b""
            assert bench.contents[address : address + len(data)] == data
            address, words = 8 * rng.randrange(400), (18, 1)[sequence]
            answer = await bench.ask(ctx, Request(Opcode.READ_MEMORY, address, words=words), sequence + 100)
            assert (answer.status, answer.sequence, answer.address) == (0, sequence + 100, address)
            assert answer.payload == bench.contents[address : address + 8 * words]
        answer = await bench.ask(ctx, Request(Opcode.READ_REGISTER, BY_NAME["IDENTITY"].offset))
        assert answer.payload == IDENTITY.to_bytes(8, "little")
        register = Request(Opcode.WRITE_REGISTER, BY_NAME["RESULT_BYTES"].offset, payload=bytes(range(8)))
        assert (await bench.ask(ctx, register)).payload == b""
        answer = await bench.ask(ctx, Request(Opcode.READ_REGISTER, BY_NAME["RESULT_BYTES"].offset))
        assert answer.payload == bytes([0, 1, 2, 3, 0, 0, 0, 0])

    bench.run(run)


def test_requests_back_to_back() -> None:
    """Writes without waiting for answers, and reads as many as fit."""
    bench = Bench()

    async def run(ctx) -> None:
        data = Random(3).randbytes(64)
        writes = [Request(Opcode.WRITE_MEMORY, 16 * i, payload=data[16 * i : 16 * i + 16]) for i in range(4)]
        reads = [Request(Opcode.READ_MEMORY, 16 * i, words=2) for i in range(4)]
        await bench.send(ctx, b"".join(request_frame(r, i) for i, r in enumerate([*writes, *reads])))
        for i in range(8):
            answer = await bench.answer(ctx)
            assert (answer.status, answer.sequence) == (0, i)
            if i >= 4:
                assert answer.payload == data[16 * (i - 4) : 16 * (i - 3)]

    bench.run(run)


def test_damaged_requests_do_nothing() -> None:
    bench = Bench()
    before = bytes(bench.contents)
    frame = request_frame(Request(Opcode.WRITE_MEMORY, 0, payload=bytes(32)), 7)

    async def run(ctx) -> None:
        for position in range(12, len(frame)):
            if position % 8 == 5:
                damaged = bytearray(frame)
                damaged[position] ^= 1 << position % 8
                await bench.send(ctx, damaged)
                answer = await bench.answer(ctx)
                assert (answer.status, answer.sequence) == (Status.BAD_CHECKSUM.value, 7)
        assert bytes(bench.contents) == before
        answer = await bench.ask(ctx, Request(Opcode.WRITE_MEMORY, 0, payload=bytes(32)), 8)
        assert (answer.status, answer.sequence) == (0, 8)

    bench.run(run)
    assert bench.contents == bytes(32) + before[32:]


@pytest.mark.parametrize(
    ("opcode", "words", "status"),
    [
        (9, 1, Status.BAD_OPCODE),
        (0, 1, Status.BAD_OPCODE),
        (Opcode.READ_MEMORY.value, 0, Status.BAD_LENGTH),
        (Opcode.WRITE_MEMORY.value, 129, Status.BAD_LENGTH),
        (Opcode.READ_REGISTER.value, 2, Status.BAD_LENGTH),
    ],
)
def test_malformed_requests_are_refused(opcode: int, words: int, status: Status) -> None:
    bench = Bench()

    async def run(ctx) -> None:
        content = bytes([REQUEST_SYNC, opcode, 3, words, 0, 0, 0, 0])
        await bench.send(ctx, content + zlib.crc32(content).to_bytes(4, "little"))
        answer = await bench.answer(ctx)
        assert (answer.status, answer.sequence, answer.payload) == (status.value, 3, b"")
        assert (await bench.ask(ctx, Request(Opcode.READ_MEMORY, 8), 4)).status == 0

    bench.run(run)


def test_bus_errors_are_reported() -> None:
    bench = Bench()
    bench.memory.bad_addresses = range(128, 256)

    async def run(ctx) -> None:
        assert (await bench.ask(ctx, Request(Opcode.READ_MEMORY, 256))).status == Status.OK.value
        for request in (Request(Opcode.READ_MEMORY, 120, words=3), Request(Opcode.WRITE_MEMORY, 128, payload=bytes(8))):
            assert (await bench.ask(ctx, request)).status == Status.BUS_ERROR.value
        assert (await bench.ask(ctx, Request(Opcode.READ_MEMORY, 256))).status == Status.OK.value

    bench.run(run)


def test_torn_frames_are_forgotten() -> None:
    """After a piece of a frame, a pause makes the receiver listen again; shorter pauses do no harm."""
    gap, receiver = 50, RequestReceiver(50)
    whole = request_frame(Request(Opcode.WRITE_MEMORY, 40, payload=bytes(range(16))), 1)

    async def run(ctx) -> None:
        for length in (1, 3, 12, len(whole) - 2):
            await stream_put(ctx, receiver.i, whole[:length])
            await ctx.tick().repeat(gap + 5)
            await stream_put(ctx, receiver.i, whole[:20])
            await ctx.tick().repeat(gap - 5)
            await stream_put(ctx, receiver.i, whole[20:])
            ctx.set(receiver.request.ready, 1)
            *_, request = await ctx.tick().sample(receiver.request.payload).until(receiver.request.valid)
            ctx.set(receiver.request.ready, 0)
            assert (request.status, request.header.sequence, request.header.address) == (Status.OK, 1, 40)
            ctx.set(receiver.index, 1)
            await ctx.tick()
            assert ctx.get(receiver.word).to_bytes(8, "little") == bytes(range(8, 16))

    simulate(receiver, run)
