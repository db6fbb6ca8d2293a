"""Registers for the source of the matmul engine, whose port has the highest priority."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.interfaces import PadRead

__all__ = ["ReadRegister"]


class ReadRegister(wiring.Component):
    """Keeps the way from an engine's state to the grants of all other ports short, and that from a scratchpad's word to
    the engine: requests and data pass a register each.

    Latency: data comes exactly `PAD_READ_LATENCY + 2` cycles after its request was taken. Throughput: one request per
    cycle. `ready` is always 1: the port of the scratchpads must never refuse.

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
        m.d.comb += i.ready.eq(1)
        m.d.sync += [o.valid.eq(i.valid), o.pad.eq(i.pad), o.address.eq(i.address), i.data_valid.eq(o.data_valid)]
        with m.If(o.data_valid):
            m.d.sync += i.data.eq(o.data)
        return m
