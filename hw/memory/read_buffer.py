"""A register stage for the read requests of an engine."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.interfaces import PadRead

__all__ = ["ReadBuffer"]


class ReadBuffer(wiring.Component):
    """Keeps the way from an engine's state to the grant of a scratchpad short: requests and `ready` are registers.

    Latency: 1 cycle, so that data comes `PAD_READ_LATENCY + 1` cycles after its request was taken, or later: not for
    engines that count the cycles. Throughput: one request per cycle. Holds two requests.

    Members
    -------
    i : In(PadRead), from the engine
    o : Out(PadRead), to the scratchpads
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__({"i": In(PadRead(config)), "o": Out(PadRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o = self.i, self.o
        free = Signal(init=1)  # no second request waits
        held_pad, held_address = Signal.like(i.pad), Signal.like(i.address)
        m.d.comb += [i.ready.eq(free), i.data.eq(o.data), i.data_valid.eq(o.data_valid)]
        with m.If(i.ready):
            m.d.sync += [held_pad.eq(i.pad), held_address.eq(i.address)]
        with m.If(~o.valid | o.ready):
            m.d.sync += [
                o.valid.eq(i.valid | ~free),
                o.pad.eq(Mux(free, i.pad, held_pad)),
                o.address.eq(Mux(free, i.address, held_address)),
                free.eq(1),
            ]
        with m.Elif(i.valid):
            m.d.sync += free.eq(0)
        return m
