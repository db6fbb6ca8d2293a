"""Reciprocals of the attention divisors."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.reciprocal import Reciprocal
from hw.arithmetic.requantizer import RECIPROCAL_LAYOUT
from hw.config import AcceleratorConfig
from hw.memory.ram import Ram

__all__ = ["Divisors"]


class Divisors(wiring.Component):
    """The reciprocals of P divisors for each pixel group.

    Members
    -------
    issue : In(1)
        Divisors of the next pixel group are on their way; from group 0 on again after all were `ready`.
    valid, divisor : In
        The divisors of an issued group.
    ready : Out(1)
        All issued groups were in the memory one cycle ago, and none is issued since then.
    read, address : In
        Shows a group's reciprocals on `reciprocal` 2 cycles later, until the next `read`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        reciprocals = data.ArrayLayout(RECIPROCAL_LAYOUT, config.pixels)
        super().__init__(
            {
                "issue": In(1),
                "valid": In(1),
                "divisor": In(data.ArrayLayout(config.acc_bits, config.pixels)),
                "ready": Out(1),
                "read": In(1),
                "address": In(range(config.acc_depth)),
                "reciprocal": Out(reciprocals),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = self.reciprocal.shape()
        m.submodules.memory = memory = Ram(width=layout.size, depth=self._config.acc_depth)
        written = data.View(layout, memory.write_data)
        write, address = memory.write_enable, memory.write_address
        next_address = Signal.like(address)
        reading = Signal()
        m.d.comb += [memory.read_enable.eq(self.read), memory.read_address.eq(self.address), address.eq(next_address)]
        m.d.sync += reading.eq(self.read)
        with m.If(reading):
            m.d.sync += self.reciprocal.eq(memory.read_data)

        for p in range(self._config.pixels):
            m.submodules[f"reciprocal_{p}"] = unit = Reciprocal(self._config)
            m.d.comb += [
                unit.valid.eq(self.valid),
                unit.divisor.eq(self.divisor[p]),
                written[p].r.eq(unit.r),
                written[p].e.eq(unit.e),
                write.eq(unit.out_valid),
            ]

        pending = Signal(range(self._config.acc_depth + 1))
        m.d.sync += [self.ready.eq((pending == 0) & ~self.issue), pending.eq(pending + self.issue - write)]
        with m.If(write):
            m.d.sync += next_address.eq(next_address + 1)
        with m.Elif(self.ready):
            m.d.sync += next_address.eq(0)
        return m
