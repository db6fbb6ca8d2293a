"""Performance counters of a run."""

from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.control.descriptors import Engine

__all__ = ["PerformanceCounters"]

CYCLE_BITS = 64
COUNTER_BITS = 32


class PerformanceCounters(wiring.Component):
    """Cycles of a run, and per engine the cycles in which it was busy or stalled. They keep their values after the
    run, until the next one begins.

    Members
    -------
    begin : one cycle: clear; counting starts with the next cycle
    running : count
    busy, stall : one bit per engine
    cycles, busy_cycles, stall_cycles : the counts
    """

    begin: In(1)
    running: In(1)
    busy: In(len(Engine))
    stall: In(len(Engine))
    cycles: Out(CYCLE_BITS)
    busy_cycles: Out(data.ArrayLayout(COUNTER_BITS, len(Engine)))
    stall_cycles: Out(data.ArrayLayout(COUNTER_BITS, len(Engine)))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.begin):
            m.d.sync += [self.cycles.eq(0), self.busy_cycles.eq(0), self.stall_cycles.eq(0)]
        with m.Elif(self.running):
            m.d.sync += self.cycles.eq(self.cycles + 1)
            for flags, counts in ((self.busy, self.busy_cycles), (self.stall, self.stall_cycles)):
                for engine in Engine:
                    with m.If(flags[engine]):
                        m.d.sync += counts[engine].eq(counts[engine] + 1)
        return m
