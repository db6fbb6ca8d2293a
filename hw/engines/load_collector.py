"""Rows of stored maps: bus beats, put together to scratchpad words."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import LoadBody
from hw.interfaces import EngineStatus, placed_word_layout
from hw.memory.map_rows import last_row, next_row

__all__ = ["WordCollector"]


class WordCollector(wiring.Component):
    """Take the beats of `rows` rows of `words_per_row` words, low bits first, each padded to whole beats.

    Throughput: one beat per cycle.

    Members
    -------
    body : In(stream of LoadBody)
    beats : In(stream of bus_bits)
    words : Out(stream of placed_word_layout)
    written : In(1), no word of `words` is on its way to the scratchpads
    done : Out(1)
    status : Out(EngineStatus)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "body": In(stream.Signature(LoadBody)),
                "beats": In(stream.Signature(config.bus_bits)),
                "words": Out(stream.Signature(placed_word_layout(config))),
                "written": In(1),
                "done": Out(1),
                "status": Out(EngineStatus()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body, active, more = Signal(LoadBody), Signal(), Signal()  # more: words to come
        m.d.comb += self.body.ready.eq(~active)
        with m.If(self.body.valid & self.body.ready):
            m.d.sync += [body.eq(self.body.payload), active.eq(1), more.eq(1)]

        word_taken = self.words.valid & self.words.ready
        self._collect(m, more)
        with m.If(self._walk(m, body, word_taken)):
            m.d.sync += more.eq(0)
        finished = Signal()
        m.d.comb += finished.eq(active & ~more & self.written)
        with m.If(finished):
            m.d.sync += active.eq(0)
        m.d.sync += self.done.eq(finished)
        m.d.comb += [self.status.busy.eq(active), self.status.stall.eq(more & ~(self.beats.valid & self.beats.ready))]
        return m

    def _collect(self, m: Module, more: Value) -> None:
        """The last beat of a word goes on with those before it."""
        config = self._config
        earlier = Signal(config.bus_bits * (config.pad_word_beats - 1), reset_less=True)
        beat = Signal(range(max(config.pad_word_beats, 2)))
        word, last = Cat(earlier, self.beats.payload), beat == config.pad_word_beats - 1
        m.d.comb += [
            self.words.payload.data.eq(word),
            self.words.valid.eq(more & last & self.beats.valid),
            self.beats.ready.eq(more & (self.words.ready | ~last)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [beat.eq(Mux(last, 0, beat + 1)), earlier.eq(word[config.bus_bits :])]

    def _walk(self, m: Module, body: data.View, word_taken: Value) -> Value:
        """Addresses of the words, in order. Returns whether the last one is taken."""
        address = self.words.payload.address
        row_start, row, word = Signal.like(address), Signal.like(body.rows), Signal.like(body.words_per_row)
        following_row = next_row(body.destination, row_start, last_row(m, body.destination, len(row_start)))
        row_ends = word_taken & (word == body.words_per_row - 1)
        with m.If(word_taken):
            m.d.sync += [address.eq(address + 1), word.eq(word + 1)]
        with m.If(row_ends):
            m.d.sync += [address.eq(following_row), row_start.eq(following_row), word.eq(0), row.eq(row + 1)]
        with m.If(self.body.valid & self.body.ready):
            start = self.body.payload.destination.start
            m.d.sync += [address.eq(start), row_start.eq(start), word.eq(0), row.eq(0)]
        return row_ends & (row == body.rows - 1)
