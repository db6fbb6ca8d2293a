"""A behavioural SDRAM for Amaranth's simulator, which checks the timing of every command."""

from amaranth.sim import Simulator

from boards.memory.chips import BURST_LENGTH, SdramChip

NEVER = -(10**9)


class SdramModel:
    """Chip on the pins of a controller without pin registers, clocked a quarter of a cycle after it.

    `period` is the clock period in nanoseconds that the timing checks assume. Contents are 16-bit columns.
    """

    def __init__(self, chip: SdramChip, period: float) -> None:
        self.chip, self.period = chip, period
        self.columns: dict[tuple[int, int, int], int] = {}  # by bank, row, column
        self.open: dict[int, int] = {}  # row by bank
        self.activated = [NEVER] * 4  # cycles of the last commands
        self.precharged = [NEVER] * 4
        self.written = [NEVER] * 4  # last data
        self.last_activation = NEVER
        self.refreshed = NEVER
        self.mode = None
        self.refreshes: list[int] = []
        self.column_commands: list[int] = []
        self.cycle = 0
        self.reading: list[tuple[int, int]] = []  # (cycle, value) of data on the pins
        self.burst = None  # of a write: (bank, row, column, next)

    def attach(self, simulator: Simulator, pins, clock: float) -> None:
        """Add the chip's clock domain, and the chip."""
        simulator.add_clock(clock, phase=clock * 3 / 4, domain="sdram")

        async def chip(ctx) -> None:
            signals = (
                pins.clk_en, pins.cs, pins.ras, pins.cas, pins.we, pins.ba, pins.a, pins.dqm, pins.dq_o, pins.dq_oe,
            )  # fmt: skip
            async for _, _, *values in ctx.tick("sdram").sample(*signals):
                self._clock(*values)
                due = [value for cycle, value in self.reading if cycle == self.cycle]
                assert not (due and values[-1]), "both sides drive the data pins"
                ctx.set(pins.dq_i, due[0] if due else 0xDEAD)
                self.reading = [(cycle, value) for cycle, value in self.reading if cycle > self.cycle]
                self.cycle += 1

        simulator.add_testbench(chip, background=True)

    def _apart(self, since: int, time: float, what: str) -> None:
        assert (self.cycle - since) * self.period >= time - 1e-6, f"{what} in cycle {self.cycle}"

    def _clock(self, clk_en, cs, ras, cas, we, ba, a, dqm, dq_o, dq_oe) -> None:
        chip = self.chip
        command = (ras, cas, we) if cs else (0, 0, 0)
        if command != (0, 0, 0):
            assert clk_en
            self._apart(0, chip.t_init, "a command during power-up")
            self._apart(self.refreshed, chip.t_rfc, "t_rfc")
        if command == (1, 0, 0):
            self._activate(ba, a)
        elif command in ((0, 1, 0), (0, 1, 1)):
            self._column(ba, a, we)
        elif command == (1, 0, 1):
            self._precharge(range(4) if a >> 10 & 1 else [ba])
        elif command == (1, 1, 0):
            assert not self.open, "refresh with open rows"
            for bank in range(4):
                self._apart(self.precharged[bank], chip.t_rp, "t_rp")
            self.refreshed = self.cycle
            self.refreshes.append(self.cycle)
        elif command == (1, 1, 1):
            assert not self.open and len(self.refreshes) >= 8
            assert a & 0xF == 0b010, "burst length"
            self.mode = a >> 4 & 7
        if self.burst:
            assert dq_oe, "a write without data"
            bank, row, column, index = self.burst
            key = (bank, row, column & -BURST_LENGTH | index)
            old = self.columns.get(key, 0)
            for byte in range(2):
                if not dqm >> byte & 1:
                    old = old & ~(0xFF << 8 * byte) | dq_o & 0xFF << 8 * byte
            self.columns[key] = old
            self.written[bank] = self.cycle
            self.burst = (bank, row, column, index + 1) if index + 1 < BURST_LENGTH else None

    def _activate(self, bank: int, row: int) -> None:
        chip = self.chip
        assert self.mode is not None and bank not in self.open
        self._apart(self.precharged[bank], chip.t_rp, "t_rp")
        self._apart(self.activated[bank], chip.t_rc, "t_rc")
        self._apart(self.last_activation, chip.t_rrd, "t_rrd")
        self.open[bank] = row
        self.activated[bank] = self.last_activation = self.cycle

    def _column(self, bank: int, address: int, write: int) -> None:
        assert bank in self.open, "read or write of a closed row"
        assert not address >> 10 & 1, "auto-precharge is not expected"
        assert not self.burst, "a write was interrupted"
        self._apart(self.activated[bank], self.chip.t_rcd, "t_rcd")
        self.column_commands.append(self.cycle)
        if write:
            assert all(cycle < self.cycle - 1 for cycle, _ in self.reading), "no cycle for turning around"
            self.burst = (bank, self.open[bank], address, 0)
            return
        for index in range(BURST_LENGTH):
            key = (bank, self.open[bank], address & -BURST_LENGTH | index)
            cycle = self.cycle + self.mode - 1 + index
            assert all(cycle != other for other, _ in self.reading), "a read was interrupted"
            self.reading.append((cycle, self.columns.get(key, 0)))

    def _precharge(self, banks) -> None:
        for bank in banks:
            if bank in self.open:
                self._apart(self.activated[bank], self.chip.t_ras, "t_ras")
                self._apart(self.written[bank], self.chip.t_wr, "t_wr")
                del self.open[bank]
                self.precharged[bank] = self.cycle
        assert not (self.burst and self.burst[0] in banks), "a write was cut off"
