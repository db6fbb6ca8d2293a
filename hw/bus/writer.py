"""AXI4 write engine: commands and a stream of data in."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import ADDRESS_BITS, MAX_BURST_BEATS, Axi4Write, Response, drive_write_constants
from hw.bus.bursts import BurstSplitter, burst_command
from hw.memory.ram_fifo import RamFifo

__all__ = ["AxiWriter"]

BURSTS_IN_FLIGHT = 16


class AxiWriter(wiring.Component):
    """Write a stream to memory, in command order.

    A burst is issued only when all of its data is in the FIFO, so that it never occupies the bus while data is missing,
    and so that everything issued completes after `halt`. Its first data beat is offered from the cycle after its
    address on, when the data of the burst before has left.

    Throughput: one beat per cycle, while the FIFO has the next burst's data; one burst per 3 cycles.

    Parameters
    ----------
    data_width, address_bits : of the bus.
    fifo_depth : beats in the FIFO, at least `MAX_BURST_BEATS`; twice that for full bandwidth.

    Members
    -------
    command : In(stream of burst_command), with aligned addresses
    data : In(stream of data_width bits)
    bus : Out(Axi4Write)
    done : Out(1), pulse per command, after its last write response
    halt : In(1), issue no more bursts; those already issued complete
    error : Out(1), pulse per response that is not OKAY
    outstanding : Out(1), a burst is in flight, or was in the cycle before
    """

    def __init__(
        self, *, data_width: int, fifo_depth: int = 2 * MAX_BURST_BEATS, address_bits: int = ADDRESS_BITS
    ) -> None:
        if fifo_depth < MAX_BURST_BEATS:
            raise ValueError(f"fifo_depth = {fifo_depth} is too small; use at least {MAX_BURST_BEATS}")
        self._data_width = data_width
        self._address_bits = address_bits
        self._fifo_depth = fifo_depth
        super().__init__(
            {
                "command": In(stream.Signature(burst_command(address_bits))),
                "data": In(stream.Signature(data_width)),
                "bus": Out(Axi4Write(data_width, address_bits)),
                "done": Out(1),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(self._data_width, self._address_bits)
        m.submodules.fifo = queue = RamFifo(width=self._data_width, depth=self._fifo_depth)
        m.submodules.order = order = fifo.SyncFIFO(width=1, depth=BURSTS_IN_FLIGHT)  # bursts in flight: last of theirs?
        wiring.connect(m, wiring.flipped(self.command), splitter.command)
        wiring.connect(m, wiring.flipped(self.data), queue.i)
        m.d.comb += drive_write_constants(self.bus)

        # A burst starts when its data is known to be there, the address before has left, and no other burst waits for
        # the W channel.
        burst = splitter.burst
        available = Signal(range(self._fifo_depth + 1))  # beats in the FIFO that belong to no burst yet
        complete = Signal()
        awvalid = Signal()
        next_beats = Signal(range(MAX_BURST_BEATS + 1))  # of the burst that waits for the W channel; 0 if there is none
        beats_left = Signal(range(MAX_BURST_BEATS + 1))  # of the burst on the W channel
        beat_taken = self.bus.wvalid & self.bus.wready
        issue = Signal()
        m.d.comb += [
            issue.eq(burst.valid & burst.ready),
            burst.ready.eq(complete & ~awvalid & (next_beats == 0) & order.w_rdy & ~self.halt),
            self.bus.awvalid.eq(awvalid),
        ]
        m.d.sync += complete.eq(burst.valid & ~issue & (available >= burst.payload.beats))
        with m.If(self.bus.awready):
            m.d.sync += awvalid.eq(0)
        with m.If((beats_left == 0) | (self.bus.wlast & beat_taken)):
            m.d.sync += [beats_left.eq(next_beats), next_beats.eq(0)]
        with m.Elif(beat_taken):
            m.d.sync += beats_left.eq(beats_left - 1)
        with m.If(issue):
            m.d.sync += [
                awvalid.eq(1),
                self.bus.awaddr.eq(burst.payload.address),
                self.bus.awlen.eq(burst.payload.beats - 1),
                next_beats.eq(burst.payload.beats),
            ]
        m.d.sync += available.eq(available + (self.data.valid & self.data.ready) - Mux(issue, burst.payload.beats, 0))

        # W channel: `available` counts a beat before the FIFO's output shows it, hence `valid`
        m.d.comb += [
            self.bus.wdata.eq(queue.o.payload),
            self.bus.wvalid.eq(queue.o.valid & (beats_left != 0)),
            self.bus.wlast.eq(beats_left == 1),
            queue.o.ready.eq(beat_taken),
        ]

        # B channel
        m.d.comb += [
            order.w_data.eq(burst.payload.last),
            order.w_en.eq(issue),
            order.r_en.eq(self.bus.bvalid),
            self.bus.bready.eq(1),
        ]
        m.d.sync += [
            self.outstanding.eq(order.r_rdy),
            self.done.eq(self.bus.bvalid & order.r_data),
            self.error.eq(self.bus.bvalid & (self.bus.bresp != Response.OKAY)),
        ]
        return m
