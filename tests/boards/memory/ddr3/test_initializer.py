"""The start of a DDR3 chip, against pins that need tuning."""

from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator

from boards.memory.ddr3.chip import MODE_REGISTERS, MT41K256M16
from boards.memory.ddr3.initializer import Command, Ddr3Initializer

FREQUENCY = 1e6  #: a slow clock makes the waiting short
DELAYS, SLIPS = 8, 4
READ_LATENCY = 13
LANES = 2


@dataclass
class Pins:
    """Chip and pins: `right` has for each lane the settings, alignment and delay, with which reads are right."""

    right: tuple[set[tuple[int, int]], ...]
    commands: list[tuple[int, Command, int, int]] = field(default_factory=list)  #: cycle, command, bank, address
    levels: list[tuple[int, int, int]] = field(default_factory=list)  #: cycle, reset_n, cke, at every change
    setting: list[list[int]] = field(default_factory=lambda: [[3, 5], [2, 7]])  #: alignment and delay after power-up

    def attach(self, simulator: Simulator, core) -> None:
        async def pins(ctx) -> None:
            stored, due, seen, cycle = 0, {}, 0, 0
            signals = (
                core.reset_n, core.cke, core.ras, core.cas, core.we, core.bank, core.address, core.wdata, core.dly_sel,
                core.rdly_dq_rst, core.rdly_dq_inc, core.rdly_dq_bitslip_rst, core.rdly_dq_bitslip, core.burstdet_clr,
            )  # fmt: skip
            async for _, _, *values in ctx.tick().sample(*signals):
                reset_n, cke, ras, cas, we, bank, address, wdata, selected, *pulses, clear = values
                if not self.levels or self.levels[-1][1:] != (reset_n, cke):
                    self.levels.append((cycle, reset_n, cke))
                command = Command(ras << 2 | cas << 1 | we)
                if command:
                    assert cke and reset_n
                    self.commands.append((cycle, command, bank, address))
                if command == Command.WRITE:
                    stored = wdata
                if command == Command.READ:
                    assert not selected, "a read with paused strobes"
                    due[cycle + READ_LATENCY] = stored
                for lane in range(LANES):
                    if selected >> lane & 1:
                        self._tune(self.setting[lane], *pulses)
                seen = 0 if clear else seen
                ctx.set(core.rdata_valid, cycle in due)
                if cycle in due:
                    data = due.pop(cycle)
                    for lane in range(LANES):
                        if tuple(self.setting[lane]) in self.right[lane]:
                            seen |= 1 << lane
                        else:
                            data ^= 0x10 << 8 * lane
                    ctx.set(core.rdata, data)
                ctx.set(core.burstdet_seen, seen)
                cycle += 1

        simulator.add_testbench(pins, background=True)

    @staticmethod
    def _tune(setting: list[int], reset: int, delay: int, slip_reset: int, slip: int) -> None:
        setting[0] = 0 if slip_reset else (setting[0] + slip) % SLIPS
        setting[1] = 0 if reset else (setting[1] + delay) % DELAYS


def run(pins: Pins, limit: int = 25_000) -> int | None:
    """Cycles until it is done, if it is within the limit."""
    dut = Ddr3Initializer(MT41K256M16, FREQUENCY)
    simulator = Simulator(dut)
    simulator.add_clock(1 / FREQUENCY)
    pins.attach(simulator, dut.core)
    cycles = None

    async def bench(ctx) -> None:
        nonlocal cycles
        for cycle in range(limit):
            await ctx.tick()
            if ctx.get(dut.done):
                cycles = cycle
                assert not ctx.get(dut.core.dly_sel)
                return

    simulator.add_testbench(bench)
    simulator.run()
    return cycles


def window(slip: int, first: int, last: int) -> set[tuple[int, int]]:
    return {(slip, delay) for delay in range(first, last + 1)}


def test_start() -> None:
    """Levels, times, and order of the commands after power-up."""
    pins = Pins((window(0, 2, 6), window(3, 0, 7)))
    cycles = run(pins)
    assert cycles < 20_000
    (_, *off), (released, *clock_off), (on, *clock_on) = pins.levels
    assert (off, clock_off, clock_on) == ([0, 0], [1, 0], [1, 1])
    assert released / FREQUENCY >= 200e-6 and (on - released) / FREQUENCY >= 500e-6
    start = pins.commands[:6]
    assert start[0][1:] == (Command.PRECHARGE, 0, 1 << 10) and start[0][0] - on >= 10
    assert [(bank, address) for _, command, bank, address in start[1:5] if command == Command.MODE] == [
        (number, MODE_REGISTERS[number]) for number in (2, 3, 1, 0)
    ]
    assert start[5][1] == Command.CALIBRATE and start[5][3] == 1 << 10
    times = [time for time, *_ in pins.commands]
    assert min(b - a for a, b in zip(times, times[1:])) >= 6  # 12 cycles of the chip: a change of a mode, and more
    assert times[6] - times[5] >= 256  # 512 cycles of the chip
    assert {command for _, command, *_ in pins.commands[6:]} == {
        Command.ACTIVATE, Command.WRITE, Command.READ, Command.PRECHARGE
    }  # fmt: skip


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ((window(0, 0, 7), window(3, 7, 7)), ([0, 3], [3, 7])),
        ((window(1, 2, 5) | window(2, 1, 5) | window(3, 5, 7), window(0, 0, 0) | window(0, 3, 4)), ([2, 3], [0, 3])),
        ((window(3, 6, 7) | window(0, 0, 0), window(2, 0, 2) | window(2, 4, 7)), ([3, 6], [2, 5])),
    ],
)
def test_middle_of_the_longest_row(right: tuple[set, set], expected: tuple[list, list]) -> None:
    """Rows do not go on from the last delay of an alignment to the first of the next."""
    pins = Pins(right)
    assert run(pins)
    assert tuple(pins.setting) == expected


def test_begins_anew_without_a_right_setting() -> None:
    pins = Pins((window(1, 1, 5), set()))
    assert run(pins) is None
    assert sum(command == Command.CALIBRATE for _, command, *_ in pins.commands) == 2
    assert [level for _, *level in pins.levels] == [[0, 0], [1, 0], [1, 1]] * 2
