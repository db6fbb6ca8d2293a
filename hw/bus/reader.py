"""AXI4 read engine: commands in, a stream of data out."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import ADDRESS_BITS, MAX_BURST_BEATS, Axi4Read, Response, drive_read_constants
from hw.bus.bursts import BurstSplitter, burst_command
from hw.memory.ram_fifo import RamFifo

__all__ = ["AxiReader"]


class AxiReader(wiring.Component):
    """Read memory into a FIFO, in command order, several bursts ahead.

    A burst is issued only when the FIFO has room for the longest one, so read data is always accepted (`rready` is
    constant 1) and the bus is never blocked by a stalled consumer. Full bandwidth needs `fifo_depth * gather` of at
    least the memory's latency in cycles plus `2 * MAX_BURST_BEATS`.

    Latency: address valid 4 cycles after the command is taken, data 2 cycles after its (last gathered) beat.
    Throughput: one beat per cycle; one burst per 2 cycles.

    Parameters
    ----------
    data_width, address_bits : of the bus.
    fifo_depth : words in the FIFO, at least 3, and at least `MAX_BURST_BEATS / gather`.
    gather : beats per word of `data`, a power of two, first beat in the low bits; commands are whole words.

    Members
    -------
    command : In(stream of burst_command), with aligned addresses
    data : Out(stream of data_width * gather bits)
    bus : Out(Axi4Read)
    halt : In(1), issue no more bursts; those already issued complete
    error : Out(1), pulse per beat that did not answer OKAY
    outstanding : Out(1), a burst is in flight, or was in the cycle before
    """

    def __init__(self, *, data_width: int, fifo_depth: int, gather: int = 1, address_bits: int = ADDRESS_BITS) -> None:
        if gather & (gather - 1) or gather < 1:
            raise ValueError(f"gather = {gather} is not a power of two")
        if fifo_depth < 3 or fifo_depth * gather < MAX_BURST_BEATS:
            raise ValueError(
                f"fifo_depth = {fifo_depth} is too small; use at least {max(3, MAX_BURST_BEATS // gather)}"
            )
        self._data_width = data_width
        self._address_bits = address_bits
        self._fifo_depth = fifo_depth
        self._gather = gather
        super().__init__(
            {
                "command": In(stream.Signature(burst_command(address_bits))),
                "data": Out(stream.Signature(data_width * gather)),
                "bus": Out(Axi4Read(data_width, address_bits)),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        capacity = self._fifo_depth * self._gather
        m.submodules.splitter = splitter = BurstSplitter(self._data_width, self._address_bits)
        m.submodules.fifo = queue = RamFifo(width=self._data_width * self._gather, depth=self._fifo_depth)
        wiring.connect(m, wiring.flipped(self.command), splitter.command)
        wiring.connect(m, queue.o, wiring.flipped(self.data))
        m.d.comb += drive_read_constants(self.bus)

        # AR register: a burst enters when it is empty and there is room, which is known one cycle late. So it takes a
        # burst in every second cycle at most.
        burst = splitter.burst
        free = Signal(range(capacity + 1), init=capacity)  # beats neither in flight nor in the FIFO
        room = Signal()
        arvalid = Signal()
        issue = Signal()
        m.d.comb += [
            issue.eq(burst.valid & burst.ready),
            burst.ready.eq(~arvalid & room & ~self.halt),
            self.bus.arvalid.eq(arvalid),
        ]
        m.d.sync += room.eq(free >= MAX_BURST_BEATS)
        with m.If(self.bus.arready):
            m.d.sync += arvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                arvalid.eq(1),
                self.bus.araddr.eq(burst.payload.address),
                self.bus.arlen.eq(burst.payload.beats - 1),
            ]

        issued_beats = Mux(issue, burst.payload.beats, 0)
        released = Signal()
        m.d.sync += [
            released.eq(self.data.valid & self.data.ready),
            free.eq(free - issued_beats + Mux(released, self._gather, 0)),
        ]

        # R channel
        in_flight = Signal(range(capacity + 1))
        m.d.comb += self.bus.rready.eq(1)
        m.d.sync += [
            self.outstanding.eq(in_flight != 0),
            in_flight.eq(in_flight + issued_beats - self.bus.rvalid),
            self.error.eq(self.bus.rvalid & (self.bus.rresp != Response.OKAY)),
        ]
        self._gather_beats(m, queue)
        return m

    def _gather_beats(self, m: Module, queue: RamFifo) -> None:
        """Write beats into the FIFO, `gather` at a time."""
        bus = self.bus
        if self._gather == 1:
            m.d.comb += [queue.i.payload.eq(bus.rdata), queue.i.valid.eq(bus.rvalid)]
            return
        earlier = Signal(self._data_width * (self._gather - 1), reset_less=True)
        count = Signal(range(self._gather))
        word = Cat(earlier, bus.rdata)
        m.d.comb += [queue.i.payload.eq(word), queue.i.valid.eq(bus.rvalid & (count == self._gather - 1))]
        with m.If(bus.rvalid):
            m.d.sync += [count.eq(count + 1), earlier.eq(word[self._data_width :])]
