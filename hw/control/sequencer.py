"""Reads a program, checks it, and hands its instructions to the queues of the engines."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import Axi4Read
from hw.bus.reader import AxiReader
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.descriptors import (
    BODY_BITS,
    MAGIC,
    PACKET_BYTES,
    Engine,
    Opcode,
    Packet,
    ProgramHeader,
)
from hw.control.instruction_queue import event_counts, reached
from hw.control.packets import PacketAssembler
from hw.control.registers import ErrorCode

__all__ = ["PREFETCHED_PACKETS", "Sequencer"]

PREFETCHED_PACKETS = 4  #: room in the read FIFO


class Sequencer(wiring.Component):
    """Executes the packets of a program in order: header, instructions, END.

    The header is read alone; once it is accepted, all other packets are read as one command, ahead as far as the FIFO
    room. A packet is checked in the cycle after it is complete, and then goes to its engine's queue when that has
    room. At END, `ended` comes when its waits are over and nothing is queued, executed, or on the bus.

    A faulty packet is shown on `fault` and never leaves; only a reset gets past it.

    Members
    -------
    start : one cycle: run the program at `base`
    halt : dispatch and read nothing more
    base : address of the program, a multiple of `BASE_ALIGNMENT`
    events : event counts of the engines
    idle : nothing is queued, executed, or on the bus
    queues : per engine, its instructions
    reached : engines whose counts, as the packet awaits them, are reached in this cycle
    port_stride : from the header, for the weight streams
    packet : index of the packet being looked at
    fault : `ErrorCode` of that packet
    ended : one cycle at the end of the program
    bus, outstanding, read_error : of the reader
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        instruction = data.StructLayout({"waits": event_counts(), "body": BODY_BITS})
        super().__init__(
            {
                "start": In(1),
                "halt": In(1),
                "base": In(config.address_bits),
                "events": In(event_counts()),
                "idle": In(1),
                "queues": Out(stream.Signature(instruction)).array(len(Engine)),
                "reached": Out(len(Engine)),
                "port_stride": Out(32),
                "packet": Out(32),
                "fault": Out(range(max(ErrorCode) + 1)),
                "ended": Out(1),
                "bus": Out(Axi4Read(config.bus_bits, config.address_bits)),
                "outstanding": Out(1),
                "read_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reader = reader = AxiReader(
            data_width=config.bus_bits,
            fifo_depth=PREFETCHED_PACKETS * PACKET_BYTES // config.bus_bytes,
            address_bits=config.address_bits,
        )
        m.submodules.packets = packets = PacketAssembler(config)
        wiring.connect(m, wiring.flipped(self.bus), reader.bus)
        wiring.connect(m, reader.data, packets.i)
        m.d.comb += [
            reader.halt.eq(self.halt),
            self.outstanding.eq(reader.outstanding),
            self.read_error.eq(reader.error),
        ]
        header = data.View(ProgramHeader, packets.o.payload.bits)
        descriptors = Signal.like(header.descriptors)
        in_header, request_rest = Signal(), Signal()
        sound = self._check(m, packets.o, in_header, self.packet == descriptors)
        self._request(m, reader, request_rest, descriptors)
        # outside of the states: these are a thousand wires
        packet = data.View(Packet, packets.o.payload.bits)
        for queue in self.queues:
            m.d.comb += [queue.payload.waits.eq(packet.waits), queue.payload.body.eq(packet.body)]
        m.d.comb += self.reached.eq(reached(self.events, packet.waits))

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += self.packet.eq(0)
                    m.next = "READ_HEADER"
            with m.State("READ_HEADER"):
                m.d.comb += reader.command.valid.eq(1)
                with m.If(reader.command.ready):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += in_header.eq(1)
                with m.If(sound):
                    m.d.comb += packets.o.ready.eq(1)
                    m.d.sync += [descriptors.eq(header.descriptors), self.port_stride.eq(header.port_stride)]
                    m.next = "READ_PROGRAM"
            with m.State("READ_PROGRAM"):
                m.d.comb += [reader.command.valid.eq(1), request_rest.eq(1)]
                with m.If(reader.command.ready):
                    m.next = "PROGRAM"
            with m.State("PROGRAM"):
                self._dispatch(m, packets.o, sound)
                with m.If(self.ended):
                    m.next = "IDLE"

        with m.If(packets.o.valid & packets.o.ready):
            m.d.sync += self.packet.eq(self.packet + 1)
        return m

    def _request(self, m: Module, reader: AxiReader, rest: Value, descriptors: Value) -> None:
        """The command that reads the header, or the rest of the program."""
        packets = Mux(rest, descriptors, 1)
        m.d.comb += [
            reader.command.payload.address.eq(self.base | Mux(rest, PACKET_BYTES, 0)),
            reader.command.payload.beats.eq(packets * (PACKET_BYTES // self._config.bus_bytes)),
        ]

    def _check(self, m: Module, packets: stream.Interface, in_header: Signal, last: Value) -> Value:
        """Find the fault of the packet that is offered. Returns whether it has none and may be used."""
        checked = Signal()
        fault = Signal.like(self.fault)
        with m.If(in_header):
            self._check_header(m, packets.payload, fault)
        with m.Else():
            self._check_descriptor(m, packets.payload, last, fault)
        m.d.sync += checked.eq(packets.valid & ~packets.ready)
        with m.If(packets.valid & ~packets.ready):
            m.d.sync += self.fault.eq(fault)
        return checked & (self.fault == ErrorCode.NONE) & ~self.halt

    def _check_header(self, m: Module, payload: data.View, fault: Signal) -> None:
        """An intact header of another kind is told from a damaged one."""
        header = data.View(ProgramHeader, payload.bits)
        with m.If(header.magic != MAGIC):
            m.d.comb += fault.eq(ErrorCode.BAD_MAGIC)
        with m.Elif(~payload.intact):
            m.d.comb += fault.eq(ErrorCode.BAD_CRC)
        with m.Elif(header.abi != ABI_VERSION):
            m.d.comb += fault.eq(ErrorCode.BAD_ABI)
        with m.Elif(header.config_hash != self._config.hash):
            m.d.comb += fault.eq(ErrorCode.BAD_CONFIG)
        with m.Elif(header.descriptors == 0):
            m.d.comb += fault.eq(ErrorCode.BAD_LENGTH)

    def _check_descriptor(self, m: Module, payload: data.View, last: Value, fault: Signal) -> None:
        opcode = Value.cast(data.View(Packet, payload.bits).opcode)
        is_end = opcode == Opcode.END.value
        with m.If(~payload.intact):
            m.d.comb += fault.eq(ErrorCode.BAD_CRC)
        with m.Elif(~is_end & (opcode >= len(Engine))):
            m.d.comb += fault.eq(ErrorCode.BAD_OPCODE)
        with m.Elif(is_end != last):
            m.d.comb += fault.eq(ErrorCode.BAD_LENGTH)

    def _dispatch(self, m: Module, packets: stream.Interface, sound: Value) -> None:
        """Offer a sound packet to its engine's queue, or end the program."""
        packet = data.View(Packet, packets.payload.bits)
        opcode = Value.cast(packet.opcode)
        is_end = Signal()
        over = Signal(len(Engine))
        m.d.sync += is_end.eq(opcode == Opcode.END.value)
        with m.If(packets.valid & packets.ready):
            m.d.sync += over.eq(0)
        with m.Elif(packets.valid):
            m.d.sync += over.eq(over | self.reached)

        for engine in Engine:
            queue = self.queues[engine]
            target = Signal(name=f"to_{engine.name.lower()}")
            m.d.sync += target.eq(opcode == engine)
            with m.If(sound & target):
                m.d.comb += [queue.valid.eq(1), packets.ready.eq(queue.ready)]
        with m.If(sound & is_end):
            m.d.comb += [self.ended.eq(over.all() & self.idle), packets.ready.eq(self.ended)]
