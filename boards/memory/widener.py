"""AXI4 initiators of a bus half as wide as the memory's words."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from boards.memory.interface import WORD_BITS
from hw.bus.axi4 import ADDRESS_BITS, Axi4, drive_read_constants

__all__ = ["HALF_BITS", "BusWidener"]

HALF_BITS = WORD_BITS // 2
HALF_SIZE_BITS = 2  #: of an address within a half
BURSTS_IN_FLIGHT = 16  #: reads; as many as the accelerator's arbiter


class BusWidener(wiring.Component):
    """Let an initiator of 32 data bits use a port of 64: a burst becomes one of the words that its beats lie in.

    Throughput: a beat per cycle, and a cycle for each burst. A write is taken when the data of the one before have
    left.

    Members
    -------
    i, o : In, Out(Axi4)
    """

    def __init__(self, address_bits: int = ADDRESS_BITS) -> None:
        super().__init__({"i": In(Axi4(HALF_BITS, address_bits)), "o": Out(Axi4(WORD_BITS, address_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._read(m)
        self._write(m)
        return m

    def _read(self, m: Module) -> None:
        i, o = self.i.read, self.o.read
        half = i.araddr[HALF_SIZE_BITS]
        burst = data.StructLayout({"upper": 1, "left": len(i.arlen)})
        m.submodules.bursts = bursts = fifo.SyncFIFO(width=burst.size, depth=BURSTS_IN_FLIGHT)
        m.d.comb += [
            *drive_read_constants(o),
            o.araddr.eq(word_address(i.araddr)),
            o.arlen.eq((i.arlen + half) >> 1),
            o.arvalid.eq(i.arvalid & bursts.w_rdy),
            i.arready.eq(o.arready & bursts.w_rdy),
            bursts.w_data.eq(Cat(half, i.arlen)),
            bursts.w_en.eq(i.arvalid & o.arready),
        ]
        active, upper, left = Signal(), Signal(), Signal(len(i.arlen))  # left: beats after this one
        m.d.comb += [
            i.rvalid.eq(active & o.rvalid),
            i.rdata.eq(o.rdata.word_select(upper, HALF_BITS)),
            i.rresp.eq(o.rresp),
            i.rlast.eq(left == 0),
            o.rready.eq(active & i.rready & (upper | i.rlast)),
            bursts.r_en.eq(~active),
        ]
        with m.If(bursts.r_en):
            m.d.sync += [active.eq(bursts.r_rdy), Cat(upper, left).eq(bursts.r_data)]
        with m.Elif(i.rvalid & i.rready):
            m.d.sync += [active.eq(~i.rlast), upper.eq(~upper), left.eq(left - 1)]

    def _write(self, m: Module) -> None:
        i, o = self.i.write, self.o.write
        half = i.awaddr[HALF_SIZE_BITS]
        active, upper = Signal(), Signal()
        lower, lower_strobes = Signal(HALF_BITS), Signal(HALF_BITS // 8)
        keep = ~upper & ~i.wlast  # the beat waits for the other half
        m.d.comb += [
            o.awaddr.eq(word_address(i.awaddr)),
            o.awsize.eq(HALF_SIZE_BITS + 1),
            o.awburst.eq(i.awburst),
            o.awcache.eq(i.awcache),
            o.awprot.eq(i.awprot),
            o.awlen.eq((i.awlen + half) >> 1),
            o.awvalid.eq(i.awvalid & ~active),
            i.awready.eq(o.awready & ~active),
            o.wdata.eq(Cat(Mux(upper, lower, i.wdata), i.wdata)),
            o.wstrb.eq(Mux(upper, Cat(lower_strobes, i.wstrb), i.wstrb)),
            o.wlast.eq(i.wlast),
            o.wvalid.eq(active & i.wvalid & ~keep),
            i.wready.eq(active & (keep | o.wready)),
            i.bvalid.eq(o.bvalid),
            i.bresp.eq(o.bresp),
            o.bready.eq(i.bready),
        ]
        with m.If(~active):
            m.d.sync += [active.eq(i.awvalid & o.awready), upper.eq(half), lower_strobes.eq(0)]
        with m.Elif(i.wvalid & i.wready):
            m.d.sync += [active.eq(~i.wlast), upper.eq(~upper), lower.eq(i.wdata), lower_strobes.eq(i.wstrb)]


def word_address(address: Signal) -> Cat:
    """Of the word that holds a byte."""
    return Cat(Const(0, HALF_SIZE_BITS + 1), address[HALF_SIZE_BITS + 1 :])
