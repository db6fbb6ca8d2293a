"""From the serial line to memory and registers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect

from boards.link.frames import WORD_BITS, AnswerTransmitter, ReceivedRequest, RequestReceiver
from boards.link.protocol import (
    GAP_BYTES,
    MAX_WORDS,
    REQUEST_BUFFER_BYTES,
    WORD_BYTES,
    AnswerHeader,
    Opcode,
    Status,
)
from boards.link.uart import FRAME_BITS, UartReceiver, UartTransmitter
from hw.bus.axi4 import MAX_BURST_BEATS, Axi4, Response
from hw.bus.axi4lite import Axi4Lite
from hw.bus.reader import AxiReader
from hw.bus.writer import AxiWriter
from hw.control.registers import ADDRESS_WIDTH

__all__ = ["Link"]


class Link(wiring.Component):
    """Executes the requests of `boards.link.protocol`, one after the other.

    A request is executed while the answer to the one before it is on the line, unless it reads: the answer's payload
    has one buffer. Memory accesses are bursts, and none of a request remains open when its answer begins.

    Parameters
    ----------
    divider : cycles per bit of the line.

    Members
    -------
    rx, tx : the line, seen from the board
    memory : Out(Axi4)
    registers : Out(Axi4Lite)
    """

    def __init__(self, divider: int) -> None:
        self._divider = divider
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "memory": Out(Axi4(WORD_BITS)),
                "registers": Out(Axi4Lite(ADDRESS_WIDTH)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart_receiver = uart_receiver = UartReceiver(self._divider)
        m.submodules.uart_transmitter = uart_transmitter = UartTransmitter(self._divider)
        m.submodules.queue = queue = fifo.SyncFIFO(width=8, depth=REQUEST_BUFFER_BYTES)
        m.submodules.receiver = receiver = RequestReceiver(GAP_BYTES * FRAME_BITS * self._divider)
        m.submodules.transmitter = transmitter = AnswerTransmitter()
        m.submodules.executor = executor = Executor()
        connect(m, queue.r_stream, receiver.i)
        connect(m, receiver.request, executor.request)
        connect(m, executor.answer, transmitter.answer)
        connect(m, transmitter.o, uart_transmitter.i)
        connect(m, executor.memory, wiring.flipped(self.memory))
        connect(m, executor.registers, wiring.flipped(self.registers))
        m.d.comb += [
            uart_receiver.line.eq(self.rx),
            self.tx.eq(uart_transmitter.line),
            queue.w_data.eq(uart_receiver.data),
            queue.w_en.eq(uart_receiver.strobe),
            receiver.index.eq(executor.request_index),
            executor.request_word.eq(receiver.word),
            executor.answer_index.eq(transmitter.index),
            transmitter.word.eq(executor.answer_word),
        ]
        return m


class Executor(wiring.Component):
    """Executes checked requests.

    Members
    -------
    request : In(stream of ReceivedRequest)
    request_index, request_word : read port of the request's payload, latency 1
    answer : Out(stream of AnswerHeader)
    answer_index, answer_word : read port of the answer's payload, latency 1
    memory : Out(Axi4)
    registers : Out(Axi4Lite)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": In(stream.Signature(ReceivedRequest)),
                "request_index": Out(range(MAX_WORDS)),
                "request_word": In(WORD_BITS),
                "answer": Out(stream.Signature(AnswerHeader)),
                "answer_index": In(range(MAX_WORDS)),
                "answer_word": Out(WORD_BITS),
                "memory": Out(Axi4(WORD_BITS)),
                "registers": Out(Axi4Lite(ADDRESS_WIDTH)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = AxiReader(data_width=WORD_BITS, fifo_depth=MAX_BURST_BEATS)
        m.submodules.writer = writer = AxiWriter(data_width=WORD_BITS, fifo_depth=MAX_BURST_BEATS)
        connect(m, reader.bus, wiring.flipped(self.memory.read))
        connect(m, writer.bus, wiring.flipped(self.memory.write))
        m.submodules.buffer = buffer = Memory(shape=WORD_BITS, depth=MAX_WORDS, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        m.d.comb += [read.addr.eq(self.answer_index), self.answer_word.eq(read.data)]

        m.submodules.register_master = register_master = RegisterMaster()
        connect(m, register_master.bus, wiring.flipped(self.registers))

        header, status = self.request.payload.header, Signal(Status)
        moved = Signal(range(MAX_WORDS + 1))  # words of the payload so far
        last = moved == header.words - 1
        m.d.comb += [
            self.answer.payload.status.eq(status),
            self.answer.payload.sequence.eq(header.sequence),
            self.answer.payload.words.eq(moved),
            self.answer.payload.address.eq(header.address),
            self.request_index.eq(moved),
            write.addr.eq(moved),
            writer.data.payload.eq(self.request_word),
            register_master.write.eq(header.opcode == Opcode.WRITE_REGISTER),
            register_master.address.eq(header.address),
            register_master.write_data.eq(self.request_word),
        ]
        for engine in (reader, writer):
            m.d.comb += [
                engine.command.payload.address.eq(header.address & -WORD_BYTES),
                engine.command.payload.beats.eq(header.words),
            ]
        with m.If(reader.error | writer.error | register_master.error):
            m.d.sync += status.eq(Status.BUS_ERROR)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [status.eq(self.request.payload.status), moved.eq(0)]
                with m.If(self.request.valid & (self.request.payload.status != Status.OK)):
                    m.next = "ANSWER"
                with m.Elif(self.request.valid):
                    with m.Switch(header.opcode):
                        with m.Case(Opcode.WRITE_MEMORY):
                            m.next = "COMMAND_WRITE"
                        with m.Case(Opcode.READ_MEMORY):
                            m.next = "COMMAND_READ"
                        with m.Default():
                            m.next = "REGISTER"
            with m.State("COMMAND_WRITE"):
                m.d.comb += writer.command.valid.eq(1)
                with m.If(writer.command.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += writer.data.valid.eq(1)
                with m.If(writer.data.ready):
                    m.d.sync += moved.eq(moved + 1)
                    m.next = "FETCH"
                    with m.If(last):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.sync += moved.eq(0)
                with m.If(writer.done):
                    m.next = "ANSWER"
            with m.State("COMMAND_READ"):  # the answer's buffer is free when the transmitter is
                m.d.comb += reader.command.valid.eq(self.answer.ready)
                with m.If(self.answer.ready & reader.command.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += [reader.data.ready.eq(1), write.data.eq(reader.data.payload)]
                with m.If(reader.data.valid):
                    m.d.comb += write.en.eq(1)
                    m.d.sync += moved.eq(moved + 1)
                    with m.If(last):
                        m.next = "ANSWER"
            with m.State("REGISTER"):
                m.d.comb += [register_master.start.eq(self.answer.ready), write.data.eq(register_master.read_data)]
                with m.If(register_master.done):
                    m.d.comb += write.en.eq(~register_master.write)
                    m.d.sync += moved.eq(~register_master.write)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answer.valid.eq(1)
                with m.If(self.answer.ready):
                    m.d.comb += self.request.ready.eq(1)
                    m.next = "IDLE"
        return m


class RegisterMaster(wiring.Component):
    """One AXI4-Lite access at a time.

    Members
    -------
    start : begin, unless an access is open; stays until `done`
    write, address, write_data : of the access; stable until `done`
    done : one cycle; `read_data` is valid, and `error` if the answer was not OKAY
    bus : Out(Axi4Lite)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "write": In(1),
                "address": In(ADDRESS_WIDTH),
                "write_data": In(32),
                "read_data": Out(32),
                "done": Out(1),
                "error": Out(1),
                "bus": Out(Axi4Lite(ADDRESS_WIDTH)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        open_access = Signal()
        m.d.comb += [
            bus.awaddr.eq(self.address),
            bus.araddr.eq(self.address),
            bus.wdata.eq(self.write_data),
            bus.wstrb.eq(-1),
            bus.bready.eq(1),
            bus.rready.eq(1),
            self.read_data.eq(bus.rdata),
            self.done.eq(open_access & (bus.bvalid | bus.rvalid)),
            self.error.eq(self.done & (Mux(bus.bvalid, bus.bresp, bus.rresp) != Response.OKAY)),
        ]
        for valid, ready in ((bus.awvalid, bus.awready), (bus.wvalid, bus.wready), (bus.arvalid, bus.arready)):
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(self.done):
            m.d.sync += open_access.eq(0)
        with m.Elif(self.start & ~open_access):
            m.d.sync += [
                open_access.eq(1),
                bus.awvalid.eq(self.write),
                bus.wvalid.eq(self.write),
                bus.arvalid.eq(~self.write),
            ]
        return m
