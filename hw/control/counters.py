"""Performance counters of a run."""

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.control.descriptors import Engine

__all__ = ["COUNTERS", "COUNTER_BITS", "PerformanceCounters"]

COUNTER_BITS = 32
CARRY = "CYCLES_HI"  #: counts the overflows of the counter before it
#: registers that count, in the order of their turns
COUNTERS = ("CYCLES_LO", CARRY, *(f"{what}_{engine.name}" for what in ("BUSY", "STALL") for engine in Engine))


class PerformanceCounters(wiring.Component):
    """Cycles of a run, and per engine the cycles in which it was busy or stalled. They keep their values after the
    run, until the next one begins.

    The counters lie in a memory and take turns: one per cycle is brought up to date with what has happened since its
    last turn, and shown. So there is one adder, and the host reads one value, not a choice of all of them.

    Members
    -------
    begin : one cycle: clear; counting starts with the next cycle
    running : count
    busy, stall : one bit per engine
    turn : which of `COUNTERS` is shown
    count : its value, of all cycles before this one
    """

    begin: In(1)
    running: In(1)
    busy: In(len(Engine))
    stall: In(len(Engine))
    turn: Out(range(len(COUNTERS)))
    count: Out(COUNTER_BITS)

    def __init__(self) -> None:
        self.memory = Memory(shape=COUNTER_BITS, depth=len(COUNTERS), init=[])
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = self.memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        carry, next_carry = Signal(), Signal()
        first_turns = Signal(init=1)  # of a run; what the memory holds does not count
        last = self.turn == len(COUNTERS) - 1
        with m.If(self.begin):
            m.d.sync += [self.turn.eq(0), first_turns.eq(1)]
        with m.Else():
            m.d.sync += [self.turn.eq(Mux(last, 0, self.turn + 1)), first_turns.eq(first_turns & ~last)]

        recent = self._count_recent(m)
        recent[COUNTERS.index(CARRY)] = carry
        m.d.comb += [
            read.addr.eq(self.turn),
            Cat(self.count, next_carry).eq(Mux(first_turns, 0, read.data) + Array(recent)[self.turn]),
            write.addr.eq(self.turn),
            write.data.eq(self.count),
            write.en.eq(1),
        ]
        m.d.sync += carry.eq(next_carry)
        return m

    def _count_recent(self, m: Module) -> list[Signal]:
        """Per counter, what it has not counted since its last turn."""
        flags = Cat(Const(1), Const(0), self.busy, self.stall)
        counts = [Signal(range(len(COUNTERS) + 1), name=f"recent_{name.lower()}") for name in COUNTERS]
        for index, count in enumerate(counts):
            with m.If(self.begin):
                m.d.sync += count.eq(0)
            with m.Else():
                m.d.sync += count.eq(Mux(self.turn == index, 0, count) + (flags[index] & self.running))
        return counts
