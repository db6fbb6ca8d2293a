"""Frames from bytes, and bytes from frames."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards.link.crc import SerialCrc
from boards.link.protocol import (
    ANSWER_SYNC,
    CRC_BYTES,
    HEADER_BYTES,
    MAX_WORDS,
    REQUEST_SYNC,
    WORD_BYTES,
    AnswerHeader,
    Opcode,
    RequestHeader,
    Status,
)

__all__ = ["AnswerTransmitter", "ReceivedRequest", "RequestReceiver"]

WORD_BITS = 8 * WORD_BYTES


class ReceivedRequest(data.Struct):
    """A request that was recognized; `status` other than OK: it must not be executed."""

    header: RequestHeader
    status: Status


class RequestReceiver(wiring.Component):
    """Find requests in a stream of bytes, and check them.

    The payload stays in a buffer until the request is taken. Bytes are not taken while a request is offered. A frame
    with an unknown opcode or length is offered as soon as its header is complete, any other after its checksum; one
    that pauses for `gap_cycles` cycles is forgotten.

    Members
    -------
    i : In(stream of bytes)
    request : Out(stream of ReceivedRequest)
    index, word : read port of the payload's buffer, latency 1
    """

    def __init__(self, gap_cycles: int) -> None:
        self._gap_cycles = gap_cycles
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "request": Out(stream.Signature(ReceivedRequest)),
                "index": In(range(MAX_WORDS)),
                "word": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = SerialCrc()
        m.submodules.buffer = buffer = Memory(shape=WORD_BITS, depth=MAX_WORDS, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        bits = Signal(WORD_BITS, reset_less=True)  # the last bytes, newest on top
        byte = Signal(range(WORD_BYTES))
        index = Signal(range(MAX_WORDS))
        header = self.request.payload.header
        taken = self.i.valid & self.i.ready
        shifted = Cat(bits[8:], self.i.payload)
        m.d.comb += [
            crc.i.payload.eq(self.i.payload),
            crc.i.valid.eq(taken),
            read.addr.eq(self.index),
            self.word.eq(read.data),
            write.addr.eq(index),
            write.data.eq(shifted),
        ]
        with m.If(taken):
            m.d.sync += bits.eq(shifted)
        forget = self._pause(m, taken)

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += [self.i.ready.eq(crc.i.ready), crc.start.eq(1)]
                m.d.sync += byte.eq(1)
                with m.If(taken & (self.i.payload == REQUEST_SYNC)):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += self.i.ready.eq(crc.i.ready)
                with m.If(taken):
                    m.d.sync += byte.eq(byte + 1)
                    with m.If(byte == HEADER_BYTES - 1):
                        m.d.sync += [header.eq(shifted), index.eq(0)]
                        m.next = "DECIDE"
                with m.Elif(forget):
                    m.next = "HUNT"
            with m.State("DECIDE"):
                self._decide(m)
            with m.State("PAYLOAD"):
                m.d.comb += self.i.ready.eq(crc.i.ready)
                with m.If(taken):
                    m.d.sync += byte.eq(byte + 1)
                    with m.If(byte == WORD_BYTES - 1):
                        m.d.comb += write.en.eq(1)
                        m.d.sync += index.eq(index + 1)
                        with m.If(index == header.words - 1):
                            m.next = "CHECKSUM"
                with m.Elif(forget):
                    m.next = "HUNT"
            with m.State("CHECKSUM"):
                m.d.comb += self.i.ready.eq(crc.i.ready)
                with m.If(taken):
                    m.d.sync += byte.eq(byte + 1)
                    with m.If(byte == CRC_BYTES - 1):
                        m.next = "CHECK"
                with m.Elif(forget):
                    m.next = "HUNT"
            with m.State("CHECK"):
                m.d.sync += self.request.payload.status.eq(Mux(crc.intact, Status.OK, Status.BAD_CHECKSUM))
                with m.If(crc.i.ready):
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.next = "HUNT"
        return m

    def _decide(self, m: Module) -> None:
        """What follows the header."""
        header, status = self.request.payload.header, self.request.payload.status
        is_register = (header.opcode == Opcode.READ_REGISTER) | (header.opcode == Opcode.WRITE_REGISTER)
        has_payload = (header.opcode == Opcode.WRITE_MEMORY) | (header.opcode == Opcode.WRITE_REGISTER)
        known = has_payload | is_register | (header.opcode == Opcode.READ_MEMORY)
        fits = (header.words != 0) & (header.words <= Mux(is_register, 1, MAX_WORDS))
        m.next = "CHECKSUM"
        with m.If(has_payload):
            m.next = "PAYLOAD"
        with m.If(~known | ~fits):
            m.d.sync += status.eq(Mux(known, Status.BAD_LENGTH, Status.BAD_OPCODE))
            m.next = "OFFER"

    def _pause(self, m: Module, taken: object) -> Signal:
        """High when no byte has come for `gap_cycles` cycles."""
        quiet = Signal(range(self._gap_cycles + 1))
        over = Signal()
        m.d.comb += over.eq(quiet == self._gap_cycles)
        with m.If(taken):
            m.d.sync += quiet.eq(0)
        with m.Elif(~over):
            m.d.sync += quiet.eq(quiet + 1)
        return over


class AnswerTransmitter(wiring.Component):
    """Send answers as bytes.

    Members
    -------
    answer : In(stream of AnswerHeader); taken when the frame before it has been handed over
    index, word : read port of the payload's buffer, latency 1; the payload must not change until `answer` is ready
    o : Out(stream of bytes)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "answer": In(stream.Signature(AnswerHeader)),
                "index": Out(range(MAX_WORDS)),
                "word": In(WORD_BITS),
                "o": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = SerialCrc()
        bits = Signal(WORD_BITS, reset_less=True)
        byte = Signal(range(WORD_BYTES))
        left = Signal(range(MAX_WORDS + 1))  # words of the payload
        sent = self.o.valid & self.o.ready
        m.d.comb += [self.o.payload.eq(bits[:8]), crc.i.payload.eq(self.o.payload)]
        with m.If(sent):
            m.d.sync += [bits.eq(bits >> 8), byte.eq(byte + 1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.answer.ready.eq(1), crc.start.eq(1)]
                m.d.sync += [
                    bits.eq(Cat(Const(ANSWER_SYNC, 8), self.answer.payload.as_value()[8:])),
                    left.eq(self.answer.payload.words),
                    byte.eq(0),
                    self.index.eq(0),
                ]
                with m.If(self.answer.valid):
                    m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [self.o.valid.eq(crc.i.ready), crc.i.valid.eq(sent)]
                with m.If(sent & (byte == WORD_BYTES - 1)):
                    m.next = "NEXT"
            with m.State("NEXT"):  # the buffer has had time to read
                m.d.sync += [bits.eq(self.word), left.eq(left - 1), self.index.eq(self.index + 1)]
                m.next = "WORD"
                with m.If(left == 0):
                    m.next = "LAST_BYTE"
            with m.State("LAST_BYTE"):  # of the frame goes through the CRC
                m.d.sync += bits.eq(crc.crc)
                with m.If(crc.i.ready):
                    m.next = "CHECKSUM"
            with m.State("CHECKSUM"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(sent & (byte == CRC_BYTES - 1)):
                    m.next = "IDLE"
        return m
