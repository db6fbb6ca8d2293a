"""The load engine: rows of images or of stored maps, from external memory into a scratchpad.

`RowFetcher` asks for the rows of an instruction ahead of their use, through an AXI reader. `Unroller` makes the stem's
windows of image rows; `WordCollector` takes rows of stored maps as they are. The fetcher may be one instruction ahead.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import Axi4Read
from hw.bus.reader import AxiReader
from hw.config import AcceleratorConfig
from hw.control.descriptors import LoadBody
from hw.engines.load_collector import WordCollector
from hw.engines.load_fetcher import RowFetcher
from hw.engines.load_unroller import Unroller
from hw.interfaces import EngineStatus, InstructionPort, PadWrite
from hw.memory.fifo import Fifo
from hw.memory.stream_register import StreamRegister

__all__ = ["FIFO_BEATS", "ROWS_AHEAD", "Loader"]

ROWS_AHEAD = 8
FIFO_BEATS = 128


class Loader(wiring.Component):
    """Load engine: executes `LoadBody` instructions.

    Members
    -------
    instruction : In(InstructionPort(LoadBody))
    input_base, result_base : In(address_bits), of images and of stored maps; constant while busy
    bus : Out(Axi4Read)
    destination : Out(PadWrite)
    status : Out(EngineStatus)
    halt, error, outstanding : as `AxiReader`
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(LoadBody)),
                "input_base": In(config.address_bits),
                "result_base": In(config.address_bits),
                "bus": Out(Axi4Read(config.bus_bits, config.address_bits)),
                "destination": Out(PadWrite(config)),
                "status": Out(EngineStatus()),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.fetcher = fetcher = RowFetcher(config)
        m.submodules.reader = reader = AxiReader(
            data_width=config.bus_bits, fifo_depth=FIFO_BEATS, address_bits=config.address_bits
        )
        m.submodules.rows = rows = fifo.SyncFIFOBuffered(width=1, depth=ROWS_AHEAD)
        m.submodules.unroller = unroller = Unroller(config)
        m.submodules.collector = collector = WordCollector(config)
        wiring.connect(m, wiring.flipped(self.instruction.body), fetcher.instruction)
        wiring.connect(m, fetcher.command, reader.command)
        wiring.connect(m, fetcher.rows, rows.w_stream)
        wiring.connect(m, rows.r_stream, unroller.rows)
        wiring.connect(m, reader.bus, wiring.flipped(self.bus))
        m.submodules.beats = beats = StreamRegister(config.bus_bits)
        wiring.connect(m, reader.data, beats.i)
        self._hand_over(m, fetcher, unroller, collector)
        self._distribute(m, beats, unroller, collector)
        self._write(m, fetcher, unroller, collector)
        busy = unroller.status.busy | collector.status.busy
        m.d.comb += [
            fetcher.input_base.eq(self.input_base),
            fetcher.result_base.eq(self.result_base),
            self.instruction.done.eq(unroller.done | collector.done),
            self.status.busy.eq(fetcher.busy | fetcher.body.valid | busy),
            self.status.stall.eq(self.status.busy & (unroller.status.stall | collector.status.stall | ~busy)),
            reader.halt.eq(self.halt),
            self.error.eq(reader.error),
            self.outstanding.eq(reader.outstanding),
        ]
        return m

    def _hand_over(self, m: Module, fetcher: RowFetcher, unroller: Unroller, collector: WordCollector) -> None:
        """An instruction goes to the one that is meant when both are free."""
        free = unroller.body.ready & collector.body.ready
        stored = fetcher.body.payload.stored
        m.d.comb += [
            unroller.body.payload.eq(fetcher.body.payload),
            collector.body.payload.eq(fetcher.body.payload),
            unroller.body.valid.eq(fetcher.body.valid & free & ~stored),
            collector.body.valid.eq(fetcher.body.valid & free & stored),
            fetcher.body.ready.eq(free),
        ]

    def _distribute(self, m: Module, beats: StreamRegister, unroller: Unroller, collector: WordCollector) -> None:
        """Beats go to whom they are for; what the unroller drops of its last row stands before a stored map's."""
        for_images = unroller.pixels.ready
        m.d.comb += [
            unroller.pixels.payload.eq(beats.o.payload),
            collector.beats.payload.eq(beats.o.payload),
            unroller.pixels.valid.eq(beats.o.valid),
            collector.beats.valid.eq(beats.o.valid & ~for_images),
            beats.o.ready.eq(for_images | collector.beats.ready),
        ]

    def _write(self, m: Module, fetcher: RowFetcher, unroller: Unroller, collector: WordCollector) -> None:
        """Words of whoever is busy to the scratchpads, whose answer ends at a FIFO."""
        m.submodules.writes = writes = Fifo(width=len(unroller.words.payload.as_value()), depth=2)
        word = unroller.words.payload.shape()(writes.o.payload)
        pad = Signal.like(self.destination.pad)
        with m.If(fetcher.body.valid & fetcher.body.ready):
            m.d.sync += pad.eq(fetcher.body.payload.destination.pad)
        stored = collector.status.busy
        m.d.comb += [
            writes.i.payload.eq(Mux(stored, collector.words.payload.as_value(), unroller.words.payload.as_value())),
            writes.i.valid.eq(Mux(stored, collector.words.valid, unroller.words.valid)),
            unroller.words.ready.eq(writes.i.ready & ~stored),
            collector.words.ready.eq(writes.i.ready),
            unroller.written.eq(~writes.o.valid),
            collector.written.eq(~writes.o.valid),
            writes.o.ready.eq(self.destination.ready),
            self.destination.valid.eq(writes.o.valid),
            self.destination.pad.eq(pad),
            self.destination.address.eq(word.address),
            self.destination.data.eq(word.data),
            self.destination.mask.eq(~0),
        ]
