"""A small FIFO in LUT RAM, whose flags are registers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Fifo"]


class Fifo(wiring.Component):
    """`depth` entries of `width` bits, at least 2. An entry can be taken in the cycle after it came.

    Amaranth's `SyncFIFO` compares its level before either side is ready, and counts it behind that: too long a way
    where the other side answers late. Here a late answer only enables registers.

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
        m.submodules.memory = memory = Memory(shape=self._width, depth=self._depth, init=[])
        write_port, read_port = memory.write_port(), memory.read_port(domain="comb")
        room, level = Signal(init=1), Signal(range(self._depth + 1))
        write, read = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        m.d.comb += [
            self.i.ready.eq(room),
            write_port.en.eq(write),
            write_port.data.eq(self.i.payload),
            self.o.payload.eq(read_port.data),
        ]
        with m.If(write ^ read):
            m.d.sync += [
                level.eq(Mux(write, level + 1, level - 1)),
                room.eq(~write | (level != self._depth - 1)),
                self.o.valid.eq(write | (level != 1)),
            ]
        for moved, address in ((write, write_port.addr), (read, read_port.addr)):
            with m.If(moved):
                m.d.sync += address.eq(Mux(address == self._depth - 1, 0, address + 1))
        return m
