"""A register stage for two read requests that come from far and must not be refused later."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.interfaces import PadRead

__all__ = ["ReadPair"]


class ReadPair(wiring.Component):
    """Requests of the matmul engine in registers: from there it is a long way to the memories of a scratchpad.

    Latency: 1 cycle, so that data comes exactly `MATMUL_READ_LATENCY` cycles after its request was taken, if the
    scratchpads refuse neither port. The first port is never refused; the second one is while both ask for one pad.

    Members
    -------
    i : array of two In(PadRead), from the engine
    o : array of two Out(PadRead), to the scratchpads
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__({"i": In(PadRead(config)).array(2), "o": Out(PadRead(config)).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = self.i
        m.d.comb += [first.ready.eq(1), second.ready.eq(~(first.valid & (first.pad == second.pad)))]
        for i, o in zip(self.i, self.o):
            m.d.sync += [o.valid.eq(i.valid & i.ready), o.pad.eq(i.pad), o.address.eq(i.address)]
            m.d.comb += [i.data.eq(o.data), i.data_valid.eq(o.data_valid)]
        return m
