"""Controller of an SDR SDRAM of 16 data bits."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from boards.memory.chips import BURST_LENGTH, SdramChip, SdramTiming
from boards.memory.interface import WORD_BITS, MemoryAccess
from compiler.rehearsal import MemoryTiming

__all__ = ["MODE_BURST_4", "SdramController", "SdramMemory", "SdramPins"]

DATA_BITS = 16
#: what the controller leaves of the chip's peak rate, and the cycles from a request to its data; both measured on the
#: simulated board (`tests/boards/test_board.py`), whose runs they predict within 3 %
EFFICIENCY, LATENCY = 0.975, 14
ALL_BANKS = 1 << 10  #: address bit 10 of PRECHARGE: all banks
MODE_BURST_4 = 0b010  #: burst length 4, sequential
CAS_POSITION = 4  #: of the CAS latency in the mode register
INIT_REFRESHES = 8
MODE_CYCLES = 2  #: from MODE REGISTER SET to the next command


class SdramPins(wiring.Signature):
    """Pins of the chip but its clock; all active high."""

    def __init__(self, chip: SdramChip) -> None:
        super().__init__(
            {
                "clk_en": Out(1),
                "cs": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out(chip.bank_bits),
                "a": Out(chip.row_bits),
                "dqm": Out(DATA_BITS // 8),
                "dq_o": Out(DATA_BITS),
                "dq_oe": Out(1),
                "dq_i": In(DATA_BITS),
            }
        )


class SdramController(wiring.Component):
    """Words of 64 bits, in bursts of four columns; rows stay open until another row of their bank, or a refresh.

    An address is [row][bank][column], so that consecutive rows lie in different banks. Accesses are executed in order.
    Writes are done when a later access would see them, which is at once. One counter per constraint serves all
    banks; that costs a few cycles where banks alternate, and nothing in streams.

    Throughput: in a row, an access per 4 cycles, which is all that the chip can do. Opening a row takes `rcd` cycles,
    after closing another `rp` more. Latency of a read in an open row: 2 cycles to its command, then CAS latency + 5,
    and 2 with `pin_registers`.

    Parameters
    ----------
    chip, timing : sizes, and cycles of the controller's clock.
    pin_registers : there is a register in each direction between the controller's `pins` and the chip.

    Members
    -------
    access : In(stream of MemoryAccess)
    read_data, read_valid : answers to reads, which cannot be refused
    pins : driven from registers. The chip's clock rises between the controller's clock edges.
    """

    def __init__(self, chip: SdramChip, timing: SdramTiming, *, pin_registers: bool) -> None:
        if chip.data_bits != DATA_BITS:
            raise ValueError(f"{chip.name} has {chip.data_bits} data bits; use a chip with {DATA_BITS}")
        self._chip = chip
        self._timing = timing
        self._read_latency = timing.cas_latency + 2 * pin_registers  # from decision to the first column at `dq_i`
        super().__init__(
            {
                "access": In(stream.Signature(MemoryAccess)),
                "read_data": Out(WORD_BITS),
                "read_valid": Out(1),
                "pins": Out(SdramPins(chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins, timing = self.pins, self._timing
        m.d.sync += [pins.clk_en.eq(1), pins.cs.eq(1)]
        m.d.sync += [pins.ras.eq(0), pins.cas.eq(0), pins.we.eq(0)]
        access = self._next_access(m)
        wait = Signal(range(max(timing.init, timing.rfc) + 1), init=timing.init)  # cycles without any command
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        refresh_due, refreshed = self._refresh_timer(m)
        can_precharge, can_read, can_write = self._spacing(m, access)
        open_banks = Signal(1 << self._chip.bank_bits)
        rows = Array(Signal(self._chip.row_bits, name=f"row_{i}") for i in range(1 << self._chip.bank_bits))
        # as of the cycle before; every change of a row is followed by a cycle of waiting
        hit = Signal()
        m.d.sync += hit.eq(open_banks.bit_select(access.bank, 1) & (rows[access.bank] == access.row))

        ready = self._initialize(m, wait)
        with m.If(ready & refresh_due):
            with m.If(open_banks.any()):
                with m.If(can_precharge):
                    self._command(m, ras=1, we=1, address=ALL_BANKS)
                    self._wait(m, wait, timing.rp)
                    m.d.sync += open_banks.eq(0)
            with m.Else():
                self._command(m, ras=1, cas=1)
                self._wait(m, wait, timing.rfc)
                m.d.comb += refreshed.eq(1)
        with m.Elif(ready & access.settled & hit):
            with m.If(Mux(access.payload.write, can_write, can_read)):
                m.d.comb += access.issue.eq(1)
                self._command(m, cas=1, we=access.payload.write, bank=access.bank, address=access.column << 2)
        with m.Elif(ready & access.settled & ~open_banks.bit_select(access.bank, 1)):
            self._command(m, ras=1, bank=access.bank, address=access.row)
            self._wait(m, wait, timing.rcd)
            m.d.comb += access.activate.eq(1)
            m.d.sync += [open_banks.bit_select(access.bank, 1).eq(1), rows[access.bank].eq(access.row)]
        with m.Elif(ready & access.settled & can_precharge):
            self._command(m, ras=1, we=1, bank=access.bank)
            self._wait(m, wait, timing.rp)
            m.d.sync += open_banks.bit_select(access.bank, 1).eq(0)
        self._data(m, access)
        return m

    def _initialize(self, m: Module, wait: Signal) -> Signal:
        """The sequence of commands after power-up; returns whether it is over and no waiting is in progress."""
        timing = self._timing
        ready = Signal()
        with m.FSM():
            with m.State("PRECHARGE"):
                with m.If(wait == 0):
                    self._command(m, ras=1, we=1, address=ALL_BANKS)
                    self._wait(m, wait, timing.rp)
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                count = Signal(range(INIT_REFRESHES))
                with m.If(wait == 0):
                    self._command(m, ras=1, cas=1)
                    self._wait(m, wait, timing.rfc)
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == INIT_REFRESHES - 1):
                        m.next = "MODE"
            with m.State("MODE"):
                with m.If(wait == 0):
                    self._command(m, ras=1, cas=1, we=1, address=timing.cas_latency << CAS_POSITION | MODE_BURST_4)
                    self._wait(m, wait, MODE_CYCLES)
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += ready.eq(wait == 0)
        return ready

    def _next_access(self, m: Module) -> "_Access":
        """The access that is served next, from a register."""
        access = _Access(self._chip)
        m.d.comb += self.access.ready.eq(~access.valid)  # a cycle late: data take four
        m.d.sync += access.settled.eq(access.valid & ~access.issue)
        with m.If(self.access.ready):
            m.d.sync += [access.valid.eq(self.access.valid), access.payload.eq(self.access.payload)]
        with m.Elif(access.issue):
            m.d.sync += access.valid.eq(0)
        return access

    def _refresh_timer(self, m: Module) -> tuple[Signal, Signal]:
        """A refresh is due; and the signal that says that it was done."""
        timer = Signal(range(self._timing.refresh), init=self._timing.refresh - 1)
        due, done = Signal(), Signal()
        m.d.sync += timer.eq(timer - 1)
        with m.If(done):
            m.d.sync += due.eq(0)
        with m.If(timer == 0):
            m.d.sync += [timer.eq(self._timing.refresh - 1), due.eq(1)]
        return due, done

    def _spacing(self, m: Module, access: "_Access") -> tuple[Signal, Signal, Signal]:
        """When a bank may be closed, and when a read and a write may follow what came before."""
        timing = self._timing
        # A write drives the data pins in the cycle of its command, a read's data leave the chip up to CAS latency + 4
        # cycles later, and a cycle between them is for turning around.
        turnaround = timing.cas_latency + BURST_LENGTH + 1
        recovery = max(timing.ras, BURST_LENGTH + timing.wr - 1)
        precharge, read, write = (Signal(range(n)) for n in (recovery, BURST_LENGTH, turnaround))
        for counter in (precharge, read, write):
            with m.If(counter != 0):
                m.d.sync += counter.eq(counter - 1)
        with m.If(access.activate & (precharge < timing.ras)):
            m.d.sync += precharge.eq(timing.ras - 1)
        with m.If(access.issue):
            closing = Mux(access.payload.write, BURST_LENGTH + timing.wr - 2, BURST_LENGTH - 1)
            with m.If(precharge <= closing):
                m.d.sync += precharge.eq(closing)
            m.d.sync += [
                read.eq(BURST_LENGTH - 1),
                write.eq(Mux(access.payload.write, BURST_LENGTH, turnaround) - 1),
            ]
        return precharge == 0, read == 0, write == 0

    def _data(self, m: Module, access: "_Access") -> None:
        """Data pins: four columns of a write from its command on, four columns of a read after its latency."""
        pins = self.pins
        later = Signal(WORD_BITS - DATA_BITS)
        later_masked = Signal(len(later) // 8)
        driving = Signal(BURST_LENGTH - 1)
        m.d.sync += [
            later.eq(later >> DATA_BITS),
            later_masked.eq(later_masked >> len(pins.dqm)),
            driving.eq(driving >> 1),
            Cat(pins.dq_o, pins.dqm).eq(Cat(later[:DATA_BITS], later_masked[: len(pins.dqm)])),
            pins.dq_oe.eq(driving[0]),
        ]
        with m.If(access.issue & access.payload.write):
            m.d.sync += [
                Cat(pins.dq_o, later).eq(access.payload.data),
                Cat(pins.dqm, later_masked).eq(~access.payload.mask),
                Cat(pins.dq_oe, driving).eq(-1),
            ]

        stages = Signal(self._read_latency + BURST_LENGTH)
        m.d.sync += [
            stages.eq(Cat(access.issue & ~access.payload.write, stages)),
            self.read_data.eq(Cat(self.read_data[DATA_BITS:], pins.dq_i)),
        ]
        m.d.comb += self.read_valid.eq(stages[-1])

    def _command(
        self, m: Module, *, ras: int = 0, cas: int = 0, we: object = 0, bank: object = 0, address: object = 0
    ) -> None:
        pins = self.pins
        m.d.sync += [pins.ras.eq(ras), pins.cas.eq(cas), pins.we.eq(we), pins.ba.eq(bank), pins.a.eq(address)]

    def _wait(self, m: Module, wait: Signal, cycles: int) -> None:
        """No command for `cycles` cycles from this one on; at least one in between, so that `hit` is up to date."""
        m.d.sync += wait.eq(max(cycles, 2) - 1)


class _Access:
    """The access being served, its parts, and what is done about it in this cycle."""

    def __init__(self, chip: SdramChip) -> None:
        self.valid = Signal()
        self.settled = Signal()  #: valid, for at least a cycle
        self.payload = Signal(MemoryAccess)
        self.issue = Signal()  #: it is read or written
        self.activate = Signal()  #: its row is opened
        column_bits = chip.column_bits - (BURST_LENGTH.bit_length() - 1)
        self.column = self.payload.address[:column_bits]
        self.bank = self.payload.address[column_bits : column_bits + chip.bank_bits]
        self.row = self.payload.address[column_bits + chip.bank_bits : chip.address_bits]


@dataclass(frozen=True, kw_only=True)
class SdramMemory:
    """A chip behind `SdramController`; see `BoardMemory`."""

    chip: SdramChip
    pin_registers: bool = True  #: in each direction between the controller and the chip
    read_depth: int = 16

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.size >> 20} MiB SDRAM"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.chip.size

    def pins(self) -> SdramPins:
        """Pins of the chip."""
        return SdramPins(self.chip)

    def controller(self, frequency: float) -> SdramController:
        """For a clock in Hz. Raises ValueError if the chip is too slow for it."""
        return SdramController(self.chip, self.chip.timing(frequency), pin_registers=self.pin_registers)

    def timing(self, frequency: float) -> MemoryTiming:
        """As the accelerator sees it, in cycles."""
        return MemoryTiming(latency=LATENCY, bytes_per_cycle=EFFICIENCY * self.chip.data_bits / 8)
