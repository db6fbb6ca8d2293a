"""Activation tables between the parameter stream and the requantizer of the matmul engine."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.requantizer import TableWrite
from hw.config import AcceleratorConfig
from hw.control.descriptors import table_words
from hw.memory.ram_fifo import RamFifo

__all__ = ["TableLoader", "TableTask"]

IN_FLIGHT_BITS = 4  #: of a count of instructions between the stream and the last write


class TableTask(data.Struct):
    """How one instruction treats the tables."""

    load: 1  #: loads `bank`
    use: 1  #: looks up in `bank`
    bank: 1


class TableLoader(wiring.Component):
    """Buffers one table, so that the stream can go on, and writes it when no earlier instruction uses its bank.

    Members
    -------
    task : In
        Every instruction, in order. `ready`: the table before is written. Only an instruction that loads a table has to
        wait for that.
    words : In
        The stream words of the tables.
    write : Out
        To the requantizer.
    release : In(2)
        Bit b: an instruction that uses bank b has made its last look-up.
    loaded : Out(1), use_loaded : In(1)
        A written table that its instruction does not know of yet; `use_loaded` acknowledges it.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._words = table_words(config, config.stream_bits)
        super().__init__(
            {
                "task": In(stream.Signature(TableTask)),
                "words": In(stream.Signature(config.stream_bits)),
                "write": Out(TableWrite(config, config.stream_bits)),
                "release": In(2),
                "loaded": Out(1),
                "use_loaded": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = RamFifo(width=len(self.words.payload), depth=max(self._words, 3))
        wiring.connect(m, wiring.flipped(self.words), fifo.i)
        busy = Signal()
        bank = Signal()
        word = Signal.like(self.write.word)
        waiting = Signal(IN_FLIGHT_BITS)  # earlier instructions that still use the bank
        task = self.task.payload
        taken = Signal()
        m.d.comb += [
            self.task.ready.eq(~busy),
            taken.eq(self.task.valid & (self.task.ready | ~task.load)),
            self.write.valid.eq(busy & (waiting == 0) & fifo.o.valid),
            self.write.bank.eq(bank),
            self.write.word.eq(word),
            self.write.data.eq(fifo.o.payload),
            fifo.o.ready.eq(self.write.valid & self.write.ready),
        ]
        users = self._count_users(m, taken)
        with m.If(busy & self.release.bit_select(bank, 1)):
            m.d.sync += waiting.eq(waiting - 1)
        with m.If(taken & task.load):
            m.d.sync += [
                busy.eq(1),
                bank.eq(task.bank),
                waiting.eq(users[task.bank] - self.release.bit_select(task.bank, 1)),
            ]

        pending = Signal(IN_FLIGHT_BITS)  # written tables that the drain has not acknowledged
        written = Signal()
        m.d.comb += [written.eq(fifo.o.ready & (word == self._words - 1)), self.loaded.eq(pending != 0)]
        m.d.sync += pending.eq(pending + written - self.use_loaded)
        with m.If(fifo.o.ready):
            m.d.sync += word.eq(word + 1)
        with m.If(written):
            m.d.sync += [word.eq(0), busy.eq(0)]
        return m

    def _count_users(self, m: Module, taken: Signal) -> Array:
        """Instructions that use each bank, from `task` to `release`."""
        users = Array(Signal(IN_FLIGHT_BITS, name=f"users_{bank}") for bank in range(2))
        for bank, count in enumerate(users):
            comes = taken & self.task.payload.use & (self.task.payload.bank == bank)
            m.d.sync += count.eq(count + comes - self.release[bank])
        return users
