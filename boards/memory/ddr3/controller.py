"""A DDR3 memory behind the board's stream of accesses."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from boards.memory.ddr3.chip import Ddr3Chip
from boards.memory.ddr3.core import Ddr3Core
from boards.memory.ddr3.initializer import Ddr3Initializer
from boards.memory.interface import WORD_BITS, MemoryAccess
from compiler.rehearsal import MemoryTiming

__all__ = ["Ddr3Controller", "Ddr3Memory"]

READ_DEPTH = 32  #: words; the core answers about 20 cycles after it was asked
WRITE_DEPTH = 16  #: bursts whose commands were given; more would wait
#: bytes per cycle, and cycles from a request to its data, as the accelerator sees them; both fitted to the simulated
#: board (`tests/boards/test_board.py`), whose runs they predict within 3 %
RATE, LATENCY = 6.6, 22


class Ddr3Controller(wiring.Component):
    """Words of 64 bits, two of them in a burst of the core; the second of two words that are read comes from the first
    one's burst.

    Accesses are executed in order. Nothing is accepted before the chip is ready, 1.1 ms after a reset at 50 MHz.

    Throughput: reads of consecutive words, a word per cycle but for rows, refreshes, and the core; writes, a word per
    two cycles, as each takes a burst.

    Parameters
    ----------
    chip : sizes and timings.
    frequency : of the clock, in Hz.

    Members
    -------
    access : In(stream of MemoryAccess)
    read_data, read_valid : answers to reads, which cannot be refused
    pins : Out(Ddr3Core)
    """

    def __init__(self, chip: Ddr3Chip, frequency: float) -> None:
        self._chip = chip
        self._frequency = frequency
        super().__init__(
            {
                "access": In(stream.Signature(MemoryAccess)),
                "read_data": Out(WORD_BITS),
                "read_valid": Out(1),
                "pins": Out(Ddr3Core(chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.initializer = initializer = Ddr3Initializer(self._chip, self._frequency)
        m.submodules.tags = tags = fifo.SyncFIFO(width=2, depth=READ_DEPTH)
        m.submodules.writes = writes = fifo.SyncFIFO(width=WORD_BITS + 1 + WORD_BITS // 8, depth=WRITE_DEPTH)
        connect(m, initializer.core, flipped(self.pins.init))
        port, access = self.pins.port, self.access.payload
        second = access.address[0]
        burst = Signal.like(port.cmd_addr)
        m.d.comb += burst.eq(access.address >> 1)

        # the second word of a burst whose first word was read just before needs no command
        follows, last_burst = Signal(), Signal.like(burst)
        here = Signal()
        m.d.comb += here.eq(follows & second & ~access.write & (burst == last_burst))
        done = self.access.valid & self.access.ready
        with m.If(done):
            m.d.sync += [follows.eq(~access.write & ~second), last_burst.eq(burst)]
        room = initializer.done & Mux(access.write, writes.w_rdy, tags.w_rdy)
        m.d.comb += [
            port.cmd_valid.eq(self.access.valid & room & ~here),
            port.cmd_we.eq(access.write),
            port.cmd_addr.eq(burst),
            self.access.ready.eq(room & (here | port.cmd_ready)),
        ]

        m.d.comb += [
            writes.w_en.eq(done & access.write),
            writes.w_data.eq(Cat(access.data, second, access.mask)),
            writes.r_en.eq(port.wdata_ready),
        ]
        data, upper, mask = writes.r_data[:WORD_BITS], writes.r_data[WORD_BITS], writes.r_data[WORD_BITS + 1 :]
        m.d.comb += [
            port.wdata_data.eq(data.replicate(2)),
            port.wdata_mask.eq(Mux(upper, mask << len(mask), mask)),
        ]

        # the core's data come in bursts, at most every second cycle, so that there is time for a second word
        tag_second, tag_here = tags.r_data
        kept = Signal(WORD_BITS)
        with m.If(port.rdata_valid):
            m.d.sync += kept.eq(port.rdata_data[WORD_BITS:])
        m.d.comb += [
            tags.w_en.eq(done & ~access.write),
            tags.w_data.eq(Cat(second, here)),
            tags.r_en.eq(tags.r_rdy & (tag_here | port.rdata_valid)),
            self.read_valid.eq(tags.r_en),
            self.read_data.eq(
                Mux(tag_here, kept, Mux(tag_second, port.rdata_data[WORD_BITS:], port.rdata_data[:WORD_BITS]))
            ),
        ]
        return m


@dataclass(frozen=True)
class Ddr3Memory:
    """A chip behind `Ddr3Controller`; see `BoardMemory`."""

    chip: Ddr3Chip
    read_depth: int = READ_DEPTH

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.size >> 20} MiB DDR3"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.chip.size

    def pins(self) -> Ddr3Core:
        """What the controller drives: the core that `core_verilog` writes."""
        return Ddr3Core(self.chip)

    def controller(self, frequency: float) -> Ddr3Controller:
        """For a clock in Hz, half of the chip's."""
        return Ddr3Controller(self.chip, frequency)

    def timing(self, frequency: float) -> MemoryTiming:
        """As the accelerator sees it, in cycles."""
        return MemoryTiming(latency=LATENCY, bytes_per_cycle=RATE)
