"""What a chip asks of the commands of its controller, as hardware that watches the pins: for proofs."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards.memory.chips import BURST_LENGTH, SdramChip, SdramTiming
from boards.memory.interface import MemoryAccess
from boards.memory.sdram import SdramPins

__all__ = ["SdramRules"]

MOST = 15  #: cycles that are counted since an event; more count as these


class SdramRules(wiring.Component):
    """Watches pins and accesses from power-up on; `holds` stays high as long as no rule is broken.

    Banks are opened only when closed, and read and written only when open; all times of the data sheet are kept; data
    pins are driven for the four columns of a write, and not while a read's may come. Every access becomes one command,
    for its bank, row, and column, before the next one is taken.

    Members
    -------
    open, rows, pending, payload : what is open, and the access that is to be done, after this cycle's command.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming) -> None:
        self._chip, self._timing = chip, timing
        self._banks = 1 << chip.bank_bits
        super().__init__(
            {
                "pins": In(SdramPins(chip)),
                "taken": In(1),
                "taken_payload": In(MemoryAccess),
                "open": Out(self._banks),
                "rows": Out(self._banks * chip.row_bits),
                "pending": Out(1),
                "payload": Out(MemoryAccess),
                "holds": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins, timing, chip = self.pins, self._timing, self._chip
        command = Signal(3)
        m.d.comb += command.eq(Mux(pins.cs & pins.clk_en, Cat(pins.we, pins.cas, pins.ras), 0))
        activate, precharge, read, write, refresh, mode = (
            command == code for code in (0b100, 0b101, 0b010, 0b011, 0b110, 0b111)
        )
        of_bank = [(precharge & pins.a[10]) | (pins.ba == bank) for bank in range(self._banks)]
        was_open, was_row = Signal(self._banks), Signal(self._banks * chip.row_bits)
        m.d.sync += [was_open.eq(self.open), was_row.eq(self.rows)]
        m.d.comb += [self.open.eq(was_open), self.rows.eq(was_row)]
        rules: list[Value] = []
        for bank in range(self._banks):
            row = self.rows.word_select(bank, chip.row_bits)
            here = of_bank[bank]
            with m.If(activate & here):
                m.d.comb += [self.open[bank].eq(1), row.eq(pins.a)]
            with m.If(precharge & here):
                m.d.comb += self.open[bank].eq(0)
            since_activate, since_precharge, since_read, since_write = (
                self._since(m, event & here, f"{name}_{bank}")
                for name, event in zip(("activate", "precharge", "read", "write"), (activate, precharge, read, write))
            )
            access, opened = (read | write) & here, was_open[bank]
            rules += [
                ~(activate & here)
                | (~opened & (since_precharge >= timing.rp) & (since_activate >= timing.ras + timing.rp)),
                ~access | (opened & (since_activate >= timing.rcd)),
                ~(precharge & here & opened) | (since_activate >= timing.ras),
                ~(precharge & here & opened) | (since_read >= BURST_LENGTH),
                ~(precharge & here & opened) | (since_write >= BURST_LENGTH - 1 + timing.wr),
                ~(refresh | mode) | (~opened & (since_precharge >= timing.rp)),
            ]
        since_refresh, since_mode = self._since(m, refresh, "refresh"), self._since(m, mode, "mode")
        rules += [~(activate | refresh | mode) | (since_refresh >= timing.rfc), (command == 0) | (since_mode >= 2)]
        rules += self._data_rules(m, read, write)
        rules += self._access_rules(m, read, write)
        m.d.comb += self.holds.eq(Cat(rules).all())
        return m

    def _since(self, m: Module, event: Value, name: str) -> Signal:
        """Cycles since an event before this cycle."""
        count = Signal(range(MOST + 1), name=f"since_{name}", init=MOST)
        m.d.sync += count.eq(Mux(event, 1, Mux(count == MOST, MOST, count + 1)))
        return count

    def _data_rules(self, m: Module, read: Value, write: Value) -> list[Value]:
        since_read, since_write = self._since(m, read, "any_read"), self._since(m, write, "any_write")
        last_column = self._timing.cas_latency + BURST_LENGTH - 1  # of a read, in cycles after its command
        driven = write | (since_write < BURST_LENGTH)
        return [
            self.pins.dq_oe == driven,
            ~(read | write) | ((since_read >= BURST_LENGTH) & (since_write >= BURST_LENGTH)),
            ~driven | (since_read > last_column + 1),  # a cycle for turning around
        ]

    def _access_rules(self, m: Module, read: Value, write: Value) -> list[Value]:
        pins, chip = self.pins, self._chip
        was_pending, payload = Signal(), Signal(MemoryAccess)
        m.d.comb += [self.pending.eq(was_pending & ~(read | write)), self.payload.eq(payload)]
        m.d.sync += was_pending.eq(self.pending | self.taken)
        with m.If(self.taken):
            m.d.sync += payload.eq(self.taken_payload)
        column_bits = chip.column_bits - (BURST_LENGTH.bit_length() - 1)
        column, bank, row = (
            payload.address[:column_bits],
            payload.address[column_bits : column_bits + chip.bank_bits],
            payload.address[column_bits + chip.bank_bits : chip.address_bits],
        )
        rows = Array(self.rows.word_select(index, chip.row_bits) for index in range(self._banks))
        right = (pins.ba == bank) & (pins.a == column << 2) & (rows[pins.ba] == row) & (write == payload.write)
        return [~(read | write) | (was_pending & right), ~self.taken | ~self.pending]
