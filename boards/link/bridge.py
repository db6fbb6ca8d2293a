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
from hw.bus.axi4 import ADDRESS_BITS, Axi4, Response, drive_read_constants, drive_write_constants
from hw.bus.axi4lite import Axi4Lite
from hw.control.registers import ADDRESS_WIDTH

__all__ = ["Link", "LinkSignature"]


class LinkSignature(wiring.Signature):
    """Ports of `Link`.

    Members
    -------
    rx, tx : the line, seen from the board
    memory : Out(Axi4)
    registers : Out(Axi4Lite)
    """

    def __init__(self, address_bits: int = ADDRESS_BITS) -> None:
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "memory": Out(Axi4(WORD_BITS, address_bits)),
                "registers": Out(Axi4Lite(ADDRESS_WIDTH)),
            }
        )


class Link(wiring.Component):
    """Executes the requests of `boards.link.protocol`, one after the other.

    A request is executed while the answer to the one before it is on the line, unless it reads: the answer's payload
    has one buffer. No memory access of a request remains open when its answer begins.

    Parameters
    ----------
    divider : cycles per bit of the line.
    address_bits : of `memory`, at least those of a request.
    """

    def __init__(self, divider: int, address_bits: int = ADDRESS_BITS) -> None:
        self._divider = divider
        super().__init__(LinkSignature(address_bits))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart_receiver = uart_receiver = UartReceiver(self._divider)
        m.submodules.uart_transmitter = uart_transmitter = UartTransmitter(self._divider)
        m.submodules.queue = queue = fifo.SyncFIFO(width=8, depth=REQUEST_BUFFER_BYTES)
        m.submodules.receiver = receiver = RequestReceiver(GAP_BYTES * FRAME_BITS * self._divider)
        m.submodules.transmitter = transmitter = AnswerTransmitter()
        m.submodules.executor = executor = Executor(self.memory.signature)
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

    def __init__(self, memory: Axi4) -> None:
        self._memory = memory
        super().__init__(
            {
                "request": In(stream.Signature(ReceivedRequest)),
                "request_index": Out(range(MAX_WORDS)),
                "request_word": In(WORD_BITS),
                "answer": Out(stream.Signature(AnswerHeader)),
                "answer_index": In(range(MAX_WORDS)),
                "answer_word": Out(WORD_BITS),
                "memory": Out(memory),
                "registers": Out(Axi4Lite(ADDRESS_WIDTH)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory_master = memory_master = WordMaster(self._memory)
        connect(m, memory_master.bus, wiring.flipped(self.memory))
        m.submodules.buffer = buffer = Memory(shape=WORD_BITS, depth=MAX_WORDS, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        m.d.comb += [read.addr.eq(self.answer_index), self.answer_word.eq(read.data)]

        m.submodules.register_master = register_master = WordMaster(Axi4Lite(ADDRESS_WIDTH))
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
            memory_master.write.eq(header.opcode == Opcode.WRITE_MEMORY),
            memory_master.address.eq((header.address & -WORD_BYTES) + moved * WORD_BYTES),
            memory_master.write_data.eq(self.request_word),
            register_master.write.eq(header.opcode == Opcode.WRITE_REGISTER),
            register_master.address.eq(header.address),
            register_master.write_data.eq(self.request_word),
        ]
        with m.If(memory_master.error | register_master.error):
            m.d.sync += status.eq(Status.BUS_ERROR)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [status.eq(self.request.payload.status), moved.eq(0)]
                with m.If(self.request.valid & (self.request.payload.status != Status.OK)):
                    m.next = "ANSWER"
                with m.Elif(self.request.valid):
                    with m.Switch(header.opcode):
                        with m.Case(Opcode.WRITE_MEMORY, Opcode.READ_MEMORY):
                            m.next = "FETCH"
                        with m.Default():
                            m.next = "REGISTER"
            with m.State("FETCH"):  # of the request's payload, which a read has not
                m.next = "MEMORY"
            with m.State("MEMORY"):
                # the answer's buffer is free when the transmitter is
                m.d.comb += [
                    memory_master.start.eq(memory_master.write | self.answer.ready),
                    write.data.eq(memory_master.read_data),
                ]
                with m.If(memory_master.done):
                    m.d.comb += write.en.eq(~memory_master.write)
                    m.d.sync += moved.eq(moved + 1)
                    m.next = "FETCH"
                    with m.If(last):
                        m.next = "ANSWER"
                        with m.If(memory_master.write):
                            m.d.sync += moved.eq(0)  # the answer to a write has no payload
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


class WordMaster(wiring.Component):
    """One access of one word at a time: the line is so slow that bursts would gain nothing.

    Parameters
    ----------
    bus : signature of the port, of AXI4 or AXI4-Lite

    Members
    -------
    start : begin, unless an access is open; stays until `done`
    write, address, write_data : of the access; stable until `done`
    done : one cycle; `read_data` is valid, and `error` if the answer was not OKAY
    bus : the port
    """

    def __init__(self, bus: Axi4 | Axi4Lite) -> None:
        self._has_bursts = isinstance(bus, Axi4)
        read, _ = halves(bus.create())
        super().__init__(
            {
                "start": In(1),
                "write": In(1),
                "address": In(len(read.araddr)),
                "write_data": In(len(read.rdata)),
                "read_data": Out(len(read.rdata)),
                "done": Out(1),
                "error": Out(1),
                "bus": Out(bus),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read, write = halves(self.bus)
        open_access = Signal()
        m.d.comb += [
            write.awaddr.eq(self.address),
            read.araddr.eq(self.address),
            write.wdata.eq(self.write_data),
            write.wstrb.eq(-1),
            write.bready.eq(1),
            read.rready.eq(1),
            self.read_data.eq(read.rdata),
            self.done.eq(open_access & (write.bvalid | read.rvalid)),
            self.error.eq(self.done & (Mux(write.bvalid, write.bresp, read.rresp) != Response.OKAY)),
        ]
        if self._has_bursts:
            m.d.comb += [*drive_read_constants(read), *drive_write_constants(write), write.wlast.eq(1)]
        for valid, ready in (
            (write.awvalid, write.awready),
            (write.wvalid, write.wready),
            (read.arvalid, read.arready),
        ):
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(self.done):
            m.d.sync += open_access.eq(0)
        with m.Elif(self.start & ~open_access):
            m.d.sync += [
                open_access.eq(1),
                write.awvalid.eq(self.write),
                write.wvalid.eq(self.write),
                read.arvalid.eq(~self.write),
            ]
        return m


def halves(bus: wiring.PureInterface) -> tuple[wiring.PureInterface, wiring.PureInterface]:
    """Read and write half of a port; one of AXI4-Lite has both in one."""
    return (bus.read, bus.write) if isinstance(bus.signature, Axi4) else (bus, bus)
