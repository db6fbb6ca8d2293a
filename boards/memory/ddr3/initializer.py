"""What a DDR3 chip and its pins need before the first access: commands, and the tuning of reads."""

from dataclasses import dataclass
from enum import IntFlag
from math import ceil

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from boards.memory.ddr3.chip import MODE_REGISTERS, Ddr3Chip
from boards.memory.ddr3.core import BURST_BITS, LANES, Ddr3Init

__all__ = ["Command", "Ddr3Initializer"]

DELAYS, SLIPS = 8, 4  #: settings of a lane: delay of its strobe, alignment to columns
ADDRESS_10 = 1 << 10  #: PRECHARGE: of all banks; CALIBRATE: the long one
#: seconds in these states (JESD79-3F, 3.3; 10 us as it may have slept)
RESET, CLOCK_OFF, CLOCK_ON = 200e-6, 500e-6, 10e-6
STEP_CYCLES = 16  #: from a command to the next: 32 of the chip's; no other command needs more
LOCK_CYCLES = 512  #: after the long calibration: twice what it and the chip's clock circuit need
SETTLE_CYCLES = 16  #: for each of the steps of a change
PATTERN = 0x243F6A8885A308D313198A2E03707344  #: written and read back: digits of pi
LANE_0 = sum(0xFF << 16 * column for column in range(BURST_BITS // 16))  #: its bits of a burst


class Command(IntFlag):
    """A command to the chip, as the pins RAS, CAS, and WE that are active in it."""

    NOTHING = 0
    CALIBRATE = 1
    READ = 2
    WRITE = 3
    ACTIVATE = 4
    PRECHARGE = 5
    MODE = 7


@dataclass(frozen=True)
class _Step:
    """A command, and cycles until the next."""

    command: Command
    cycles: int = STEP_CYCLES
    bank: int = 0
    address: int = 0
    reset_n: int = 1
    cke: int = 1
    clear: int = 0  #: forget the strobes of reads


TEST = (
    _Step(Command.ACTIVATE),
    _Step(Command.WRITE),
    _Step(Command.NOTHING, clear=1),
    _Step(Command.READ),
    _Step(Command.PRECHARGE, address=ADDRESS_10),
)


class Ddr3Initializer(wiring.Component):
    """Starts the chip, then finds for each byte lane the middle of the longest row of delays with right reads.

    A setting is right if a burst and its complement come back as they were written, and the strobe was seen with both.
    At the end, all lanes are read together. If that fails, or no setting of a lane is right, everything begins anew.
    A reset at any time begins anew, too: the chip keeps nothing that the commands of the start do not change.

    Takes 0.71 ms, the chip's times, and 15,000 cycles.

    Parameters
    ----------
    chip : sizes.
    frequency : of the clock, in Hz.

    Members
    -------
    core : Out(Ddr3Init)
    done : accesses may begin
    """

    def __init__(self, chip: Ddr3Chip, frequency: float) -> None:
        self._frequency = frequency
        super().__init__({"core": Out(Ddr3Init(chip)), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        core, player = self.core, _Player(self.core)
        lane, slip, delay = Signal(range(LANES)), Signal(range(SLIPS)), Signal(range(DELAYS))
        best_slip, best_delay = Signal.like(slip), Signal.like(delay)  # the end of the longest row
        row, best = Signal(range(DELAYS + 1)), Signal(range(DELAYS + 1))  # lengths of rows
        complement, failed = Signal(), Signal()
        scanning, checking = Signal(), Signal()
        change = _Change(lane)
        m.d.comb += [self.done.eq(~core.select), core.wdata.eq(PATTERN ^ complement.replicate(BURST_BITS))]
        m.d.sync += Cat(core.ras, core.cas, core.we, core.burstdet_clr).eq(0)

        read = Signal(BURST_BITS)
        with m.If(core.rdata_valid):
            m.d.sync += read.eq(core.rdata)
        wrong = Cat(((read ^ core.wdata) & LANE_0 << 8 * index).any() for index in range(LANES)) | ~core.burstdet_seen
        bad, length = Signal(), Signal.like(row)
        m.d.comb += [
            bad.eq(failed | Mux(checking, wrong.any(), wrong.bit_select(lane, 1))),
            length.eq(Mux(bad, 0, row + 1)),
        ]

        with m.FSM():
            with m.State("START"):
                m.d.sync += [lane.eq(0), checking.eq(0)]
                player.play(m, self._start(), "LANE")
            with m.State("LANE"):
                m.d.sync += [Cat(slip, delay, row, best).eq(0), scanning.eq(1), change.reset.eq(1)]
                m.next = "CHANGE"
            with m.State("CHANGE"):
                with m.If(change.apply(m, core)):
                    m.next = "CHOOSE"
                    with m.If(scanning):
                        m.next = "TEST"
            with m.State("TEST"):
                player.play(m, TEST, "JUDGE")
            with m.State("JUDGE"):
                m.d.sync += [complement.eq(~complement), failed.eq(bad & ~complement)]
                m.next = "TEST"
                with m.If(complement & checking):
                    m.next = "START"
                    with m.If(~bad):
                        m.next = "READY"
                with m.Elif(complement):
                    m.next = "CHANGE"
                    # after the last setting, the counters of the pins are at 0 again
                    m.d.sync += [delay.eq(delay + 1), row.eq(length), change.delay.eq(1)]
                    with m.If(delay == DELAYS - 1):
                        m.d.sync += [slip.eq(slip + 1), row.eq(0), change.slip.eq(1), scanning.eq(slip != SLIPS - 1)]
                    with m.If(length > best):
                        m.d.sync += [best.eq(length), best_slip.eq(slip), best_delay.eq(delay)]
            with m.State("CHOOSE"):
                m.next = "CHANGE"
                with m.If(best == 0):
                    m.next = "START"
                with m.Elif(slip != best_slip):
                    m.d.sync += [slip.eq(slip + 1), change.slip.eq(1)]
                with m.Elif(delay != best_delay - (best >> 1)):
                    m.d.sync += [delay.eq(delay + 1), change.delay.eq(1)]
                with m.Elif(lane != LANES - 1):
                    m.d.sync += lane.eq(lane + 1)
                    m.next = "LANE"
                with m.Else():
                    m.d.sync += checking.eq(1)
                    m.next = "TEST"
            with m.State("READY"):
                m.d.sync += core.select.eq(0)
        return m

    def _start(self) -> tuple[_Step, ...]:
        """The commands after power-up; the first PRECHARGE closes what a run before has left open."""

        def cycles(seconds: float) -> int:
            return ceil(seconds * self._frequency)

        return (
            _Step(Command.NOTHING, cycles(RESET), reset_n=0, cke=0),
            _Step(Command.NOTHING, cycles(CLOCK_OFF), cke=0),
            _Step(Command.NOTHING, cycles(CLOCK_ON)),
            _Step(Command.PRECHARGE, address=ADDRESS_10),
            *(_Step(Command.MODE, bank=number, address=value) for number, value in MODE_REGISTERS.items()),
            _Step(Command.CALIBRATE, LOCK_CYCLES, address=ADDRESS_10),
        )


class _Player:
    """Issues commands."""

    def __init__(self, core: wiring.PureInterface) -> None:
        self._core = core
        self._next = Signal(4)  #: step
        self._wait = Signal(20)  #: cycles

    def play(self, m: Module, steps: tuple[_Step, ...], then: str) -> None:
        """In a state: issue the steps, then go to another state."""
        core = self._core
        with m.If(self._wait != 0):
            m.d.sync += self._wait.eq(self._wait - 1)
        with m.Elif(self._next == len(steps)):
            m.d.sync += self._next.eq(0)
            m.next = then
        with m.Else():
            m.d.sync += self._next.eq(self._next + 1)
            with m.Switch(self._next):
                for index, step in enumerate(steps):
                    with m.Case(index):
                        m.d.sync += [
                            Cat(core.we, core.cas, core.ras).eq(Const(step.command, 3)),
                            core.bank.eq(step.bank),
                            core.address.eq(step.address),
                            core.reset_n.eq(step.reset_n),
                            core.cke.eq(step.cke),
                            core.burstdet_clr.eq(step.clear),
                            self._wait.eq(step.cycles - 1),
                        ]


class _Change:
    """A change of a lane's setting: its strobe is paused, then all are, so that they stay in step."""

    def __init__(self, lane: Signal) -> None:
        self.reset, self.delay, self.slip = Signal(), Signal(), Signal()  #: what is to be done
        self._lane = lane
        self._cycle = Signal(range(3 * SETTLE_CYCLES))

    def apply(self, m: Module, core: wiring.PureInterface) -> Signal:
        """In a state: do it; returns whether it is done in this cycle."""
        cycle, pulse, done = self._cycle, Signal(), Signal()
        m.d.comb += [
            pulse.eq(cycle == SETTLE_CYCLES // 2),
            done.eq(cycle == 3 * SETTLE_CYCLES - 1),
            core.rdly_dq_rst.eq(pulse & self.reset),
            core.rdly_dq_bitslip_rst.eq(pulse & self.reset),
            core.rdly_dq_inc.eq(pulse & self.delay),
            core.rdly_dq_bitslip.eq(pulse & self.slip),
        ]
        with m.If(cycle < SETTLE_CYCLES):
            m.d.sync += core.dly_sel.eq(1 << self._lane)
        with m.Elif(cycle < 2 * SETTLE_CYCLES):
            m.d.sync += core.dly_sel.eq(-1)
        with m.Else():
            m.d.sync += core.dly_sel.eq(0)
        m.d.sync += cycle.eq(cycle + 1)
        with m.If(done):
            m.d.sync += [cycle.eq(0), Cat(self.reset, self.delay, self.slip).eq(0)]
        return done
