"""A FIFO in a block of RAM."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.memory.ram import Ram

__all__ = ["RamFifo"]


class RamFifo(wiring.Component):
    """`depth` entries of `width` bits, at least 3: those in a `Ram`, and the one that was read from it.

    Latency: 2 cycles from `i` to `o`. Throughput: one entry per cycle. Flags are registers, as in `Fifo`.

    Members
    -------
    i, o : In, Out(stream of width bits)
    """

    def __init__(self, *, width: int, depth: int) -> None:
        self._width = width
        self._stored = depth - 1
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Ram(width=self._width, depth=self._stored)
        level = Signal(range(self._stored + 1))  # entries in the memory; one is read in the cycle after it came
        room, some = Signal(init=1), Signal()  # in the memory
        write, read = memory.write_enable, memory.read_enable
        m.d.comb += [
            self.i.ready.eq(room),
            write.eq(self.i.valid & self.i.ready),
            memory.write_data.eq(self.i.payload),
            read.eq(some & (~self.o.valid | self.o.ready)),
            self.o.payload.eq(memory.read_data),
        ]
        with m.If(write ^ read):  # known late: an enable, not a term of the sum
            m.d.sync += [
                level.eq(level + Mux(write, 1, -1)),
                room.eq(~write | (level != self._stored - 1)),
                some.eq(write | (level != 1)),
            ]
        for moved, address in ((write, memory.write_address), (read, memory.read_address)):
            pointer = Signal.like(address)
            m.d.comb += address.eq(pointer)
            with m.If(moved):
                m.d.sync += pointer.eq(Mux(pointer == self._stored - 1, 0, pointer + 1))
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.valid.eq(read)
        return m
