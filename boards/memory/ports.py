"""AXI4 ports to a memory controller."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from boards.memory.interface import WORD_BITS, MemoryAccess
from hw.bus.axi4 import ADDRESS_BITS, Axi4, Response

__all__ = ["MemoryPorts"]

WORD_SIZE_BITS = 3  #: of an address within a word


class ReadTag(data.Struct):
    """Where the data of a read go."""

    port: 4
    last: 1
    outside: 1  #: of the memory


class MemoryPorts(wiring.Component):
    """Give AXI4 initiators turns on a memory, burst by burst, round robin among all reads and writes of all ports.

    Bursts are executed in the order of their grants. Accesses beyond the end of the memory are answered with DECERR;
    nothing is written there. A read is begun only when there is room for its data, so an initiator may refuse data; it
    then blocks the others. A write that was granted waits for its data, and blocks the others meanwhile.

    Throughput: an access per cycle, and a cycle for each grant.

    Parameters
    ----------
    ports : number of initiators.
    words : size of the memory, a power of two.
    address_bits : of the initiators.
    read_depth : words of read data that can be held; at least the memory's latency in accesses.

    Members
    -------
    ports : array of In(Axi4)
    access : Out(stream of MemoryAccess)
    read_data, read_valid : answers of the memory, in order
    """

    def __init__(self, *, ports: int, words: int, read_depth: int = 16, address_bits: int = ADDRESS_BITS) -> None:
        self._words = words
        self._address_bits = address_bits
        self._read_depth = read_depth
        super().__init__(
            {
                "ports": In(Axi4(WORD_BITS, address_bits)).array(ports),
                "access": Out(stream.Signature(MemoryAccess)),
                "read_data": In(WORD_BITS),
                "read_valid": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports = list(self.ports)
        tag, tagged = Signal(ReadTag), Signal()
        room = self._answer_reads(m, tag, tagged)

        # sources: the read and the write channel of each port
        requests = Cat(Cat(port.read.arvalid, port.write.awvalid & ~port.write.bvalid) for port in ports)
        granted = Signal(range(len(requests)))
        choice = self._choose(m, requests, granted)
        address = Signal(self._address_bits - WORD_SIZE_BITS)
        beats = Signal(8)  # to come after this one
        port = Signal(range(len(ports)))
        outside = address[self._words.bit_length() - 1 :].any()
        done = self.access.valid & self.access.ready
        m.d.comb += [
            port.eq(granted >> 1),
            self.access.payload.address.eq(address),
            tag.port.eq(port),
            tag.last.eq(beats == 0),
            tag.outside.eq(outside),
        ]
        with m.If(done):
            m.d.sync += [address.eq(address + 1), beats.eq(beats - 1)]
        for initiator in ports:
            with m.If(initiator.write.bready):
                m.d.sync += initiator.write.bvalid.eq(0)

        accept = Signal()  # the cycle after a grant: requests come from far
        m.d.sync += accept.eq(0)
        for index, initiator in enumerate(ports):
            m.d.comb += [
                initiator.read.arready.eq(accept & (granted == 2 * index)),
                initiator.write.awready.eq(accept & (granted == 2 * index + 1)),
            ]
        with m.FSM():
            with m.State("GRANT"):
                m.d.sync += [granted.eq(choice), accept.eq(requests.any())]
                with m.Switch(choice):
                    for index, initiator in enumerate(ports):
                        for write, channel, prefix in ((0, initiator.read, "ar"), (1, initiator.write, "aw")):
                            with m.Case(2 * index + write):
                                m.d.sync += [
                                    address.eq(getattr(channel, f"{prefix}addr") >> WORD_SIZE_BITS),
                                    beats.eq(getattr(channel, f"{prefix}len")),
                                ]
                with m.If(requests.any()):
                    m.next = "READ"
                    with m.If(choice[0]):
                        m.next = "WRITE"
            with m.State("READ"):
                m.d.comb += [self.access.valid.eq(room), tagged.eq(done)]
                with m.If(done & (beats == 0)):
                    m.next = "GRANT"
            with m.State("WRITE"):
                m.d.comb += self.access.payload.write.eq(1)
                with m.Switch(port):
                    for index, initiator in enumerate(ports):
                        with m.Case(index):
                            self._write(m, initiator.write, outside, done & (beats == 0))
                with m.If(done & (beats == 0)):
                    m.next = "GRANT"
        return m

    def _choose(self, m: Module, requests: Cat, granted: Signal) -> Signal:
        """The next source after the last granted one that asks."""
        count = len(requests)
        choice = Signal(range(count))
        m.d.comb += choice.eq(granted)
        with m.Switch(granted):
            for last in range(count):
                with m.Case(last):
                    for step in range(count - 1, 0, -1):
                        candidate = (last + step) % count
                        with m.If(requests[candidate]):
                            m.d.comb += choice.eq(candidate)
        return choice

    def _write(self, m: Module, write: wiring.PureInterface, outside: Signal, end: Signal) -> None:
        """Data of the granted write, and its response."""
        m.d.comb += [
            self.access.valid.eq(write.wvalid),
            write.wready.eq(self.access.ready),
            self.access.payload.data.eq(write.wdata),
            self.access.payload.mask.eq(Mux(outside, 0, write.wstrb)),
        ]
        with m.If(end):
            m.d.sync += [write.bvalid.eq(1), write.bresp.eq(Mux(outside, Response.DECERR, Response.OKAY))]

    def _answer_reads(self, m: Module, new_tag: Signal, tagged: Signal) -> Signal:
        """Bring read data to where `new_tag` said when the read began; returns whether there is room for another."""
        depth = self._read_depth
        m.submodules.tags = tags = fifo.SyncFIFO(width=ReadTag.as_shape().size, depth=depth)
        m.submodules.words = words = fifo.SyncFIFO(width=WORD_BITS, depth=depth)
        m.d.comb += [
            tags.w_data.eq(new_tag),
            tags.w_en.eq(tagged),
            words.w_data.eq(self.read_data),
            words.w_en.eq(self.read_valid),
        ]
        tag = data.View(ReadTag, tags.r_data)
        taken = Array(initiator.read.rready for initiator in self.ports)[tag.port] & words.r_rdy
        m.d.comb += [words.r_en.eq(taken), tags.r_en.eq(taken)]
        for index, initiator in enumerate(self.ports):
            m.d.comb += [
                initiator.read.rvalid.eq(words.r_rdy & (tag.port == index)),
                initiator.read.rdata.eq(words.r_data),
                initiator.read.rlast.eq(tag.last),
                initiator.read.rresp.eq(Mux(tag.outside, Response.DECERR, Response.OKAY)),
            ]
        # a tag is kept until its data are taken, so the tags count what needs room
        return tags.w_rdy
