"""Requantization records between the parameter stream and the drain of the matmul engine."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import record_layout, record_words

__all__ = ["RecordQueue"]


class RecordQueue(wiring.Component):
    """Cuts the records of output tiles into groups of `requant_channels`.

    Holds the records of two tiles as stream words, and those of the tile that is being drained in a register. A tile's
    groups stand ready `record_words` cycles after the last group of the one before was taken.

    Members
    -------
    words : In
        `record_words` stream words per tile.
    groups : Out
        The records of one group of channels after the other. They are still there in the cycle after they were taken;
        groups are taken in every second cycle at most.
    drop : In(1)
        Forget the other groups of this tile. The group that is taken in the same cycle is still good.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._words = record_words(config.out_lanes, config.stream_bits)
        self._groups = config.out_lanes // config.requant_channels
        self._group = data.ArrayLayout(record_layout(), config.requant_channels)
        self._stream_bits = config.stream_bits
        super().__init__(
            {
                "words": In(stream.Signature(config.stream_bits)),
                "groups": Out(stream.Signature(self._group)),
                "drop": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFO(width=self._stream_bits, depth=2 * self._words)
        wiring.connect(m, wiring.flipped(self.words), fifo.w_stream)

        records = Signal(data.ArrayLayout(self._group, self._groups), reset_less=True)
        words = [records.as_value()[w * self._stream_bits : (w + 1) * self._stream_bits] for w in range(self._words)]
        word = Signal(range(self._words))
        group = Signal(range(max(self._groups, 2)))
        last_group, taken, load = Signal(), Signal(), Signal()
        m.d.comb += [load.eq(fifo.r_en & fifo.r_rdy), last_group.eq(group == self._groups - 1)]
        with m.Switch(group):
            for g in range(self._groups):
                with m.Case(g):
                    m.d.comb += self.groups.payload.eq(records[g])
        m.d.comb += fifo.r_en.eq(~self.groups.valid)
        m.d.sync += taken.eq(self.groups.valid & self.groups.ready)
        with m.If(taken):
            m.d.sync += group.eq(group + 1)
        for w, part in enumerate(words):
            with m.If(load & (word == w)):
                m.d.sync += part.eq(fifo.r_data)
        with m.If(load):
            m.d.sync += word.eq(word + 1)
            with m.If(word == self._words - 1):
                m.d.sync += [word.eq(0), group.eq(0), self.groups.valid.eq(1)]
        with m.If(self.groups.valid & self.groups.ready & last_group):
            m.d.sync += self.groups.valid.eq(0)
        with m.If(self.drop):
            m.d.sync += self.groups.valid.eq(0)
        return m
