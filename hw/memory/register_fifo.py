"""A FIFO of registers, for entries that are wide, few, and seldom."""

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterFifo"]


class RegisterFifo(wiring.Component):
    """`depth` entries of `width` bits that move on from register to register. No multiplexers, and no memories: LUT RAM
    of an ECP5 takes three LUTs for two bits.

    Latency: `depth` cycles. Throughput: an entry in every second cycle.

    Members
    -------
    i, o : In, Out(stream of width bits)
    """

    def __init__(self, *, width: int, depth: int) -> None:
        self._width = width
        self._depth = depth
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry = self.i
        for index in range(self._depth):
            register = stream.Signature(self._width).create(path=(f"entry{index}",))
            m.d.comb += entry.ready.eq(~register.valid)
            with m.If(register.valid & register.ready):
                m.d.sync += register.valid.eq(0)
            with m.If(entry.valid & entry.ready):
                m.d.sync += [register.valid.eq(1), register.payload.eq(entry.payload)]
            entry = register
        m.d.comb += [self.o.payload.eq(entry.payload), self.o.valid.eq(entry.valid), entry.ready.eq(self.o.ready)]
        return m
