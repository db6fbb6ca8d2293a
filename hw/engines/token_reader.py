"""Reads the tokens (pixels) of one pass of the linear attention unit from a scratchpad."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import MapView
from hw.interfaces import PadRead, pad_address_bits
from hw.memory.map_rows import last_row, next_row

__all__ = ["TokenReader"]

SLOTS = 4  #: word pairs requested ahead: covers the read latency from 2 pixels per word on


class TokenReader(wiring.Component):
    """Walk one channel block of k and one of v over all rows and pixels, one token per cycle.

    For each pixel group of each row, the k word and then the v word are requested (only k with `single`), up to
    `SLOTS` groups ahead of the token that is offered. Pixels beyond `last_pixels` in the last group of a row are
    skipped. The first token is offered 6 cycles after `start` (5 with `single`) if no request is refused.

    Members
    -------
    start : begin a pass; the previous one has been read to its end. The fields below it hold still during a pass;
        the view, from 2 cycles before on
    k_offset, v_offset : words from the beginning of a row to the blocks
    valid, take : a token is offered, and goes on with `take`; `last` marks the last one of the pass
    k, v : its codes
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        token = data.ArrayLayout(config.act_bits, config.in_lanes)
        super().__init__(
            {
                "start": In(1),
                "view": In(MapView),
                "rows": In(8),
                "groups_per_row": In(8),
                "last_pixels": In(6),
                "k_offset": In(pad_address_bits(config)),
                "v_offset": In(pad_address_bits(config)),
                "single": In(1),
                "source": Out(PadRead(config)),
                "valid": Out(1),
                "take": In(1),
                "last": Out(1),
                "k": Out(token),
                "v": Out(token),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Positions of the word pairs in the slots, modulo 2 * SLOTS.
        requested, arrived, consumed = (Signal(range(2 * SLOTS), name=n) for n in ("requested", "arrived", "consumed"))
        full = (requested - consumed)[: len(requested)] == SLOTS
        pair_requested, ends_row, ends_pass = self._request_words(m, full)
        words_k, words_v = self._receive_words(m, arrived, consumed)
        pixel = Signal(range(self._config.pixels))
        shape = data.StructLayout({"last_pixel": pixel.shape(), "ends_pass": 1})
        m.submodules.groups = groups = Memory(shape=shape, depth=SLOTS, init=[])
        mark, group = groups.write_port(), groups.read_port(domain="comb")
        m.d.comb += [
            mark.en.eq(pair_requested),
            mark.addr.eq(requested),
            mark.data.last_pixel.eq(Mux(ends_row, self.last_pixels, self._config.pixels) - 1),
            mark.data.ends_pass.eq(ends_pass),
            group.addr.eq(consumed),
        ]
        with m.If(pair_requested):
            m.d.sync += requested.eq(requested + 1)

        last_pixel = pixel == group.data.last_pixel
        token_bits = len(self.k.as_value())
        m.d.comb += [
            self.valid.eq(arrived != consumed),
            self.last.eq(last_pixel & group.data.ends_pass),
            self.k.eq(words_k.word_select(pixel, token_bits)),
            self.v.eq(words_v.word_select(pixel, token_bits)),
        ]
        with m.If(self.take):
            m.d.sync += pixel.eq(Mux(last_pixel, 0, pixel + 1))
            with m.If(last_pixel):
                m.d.sync += consumed.eq(consumed + 1)
        return m

    def _request_words(self, m: Module, full: Value) -> tuple[Signal, Signal, Signal]:
        """Walk over groups and rows. Returns strobes: a pair is requested; it is the last of its row, of the pass."""
        active, second = Signal(), Signal()
        k_address, v_address, row_after, row_start, second_row = (
            Signal.like(self.k_offset, name=n)
            for n in ("k_address", "v_address", "row_after", "row_start", "second_row")
        )
        group, row = Signal(8), Signal(8)
        source, view = self.source, self.view

        m.d.comb += [
            source.valid.eq(active & ~full),
            source.pad.eq(view.pad),
            source.address.eq(Mux(second, v_address, k_address)),
        ]
        pair, ends_row, ends_pass = Signal(), Signal(), Signal()
        granted = source.valid & source.ready
        m.d.comb += [
            pair.eq(granted & (second | self.single)),
            ends_row.eq(group == self.groups_per_row - 1),
            ends_pass.eq(ends_row & (row == self.rows - 1)),
        ]
        with m.If(granted):
            m.d.sync += second.eq(~pair)
        last = last_row(m, view, len(row_after))
        m.d.sync += second_row.eq(next_row(view, view.start, last))
        m.d.comb += row_start.eq(Mux(self.start, view.start, row_after))
        with m.If(self.start | (pair & ends_row)):
            m.d.sync += [
                k_address.eq(row_start + self.k_offset),
                v_address.eq(row_start + self.v_offset),
                row_after.eq(Mux(self.start, second_row, next_row(view, row_after, last))),
                group.eq(0),
                row.eq(Mux(self.start, 0, row + 1)),
                active.eq(self.start | ~ends_pass),
            ]
        with m.Elif(pair):
            m.d.sync += [k_address.eq(k_address + 1), v_address.eq(v_address + 1), group.eq(group + 1)]
        return pair, ends_row, ends_pass

    def _receive_words(self, m: Module, arrived: Signal, consumed: Signal) -> tuple[Signal, Signal]:
        """Store words as they come, k and v in turn. Returns the pair of words that is being consumed."""
        second, words = Signal(name="second_arrives"), []
        for name, selected in (("k", ~second), ("v", second)):
            m.submodules[name] = memory = Memory(shape=len(self.source.data.as_value()), depth=SLOTS, init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(self.source.data_valid & selected),
                write.addr.eq(arrived),
                write.data.eq(self.source.data),
                read.addr.eq(consumed),
            ]
            words.append(read.data)
        with m.If(self.source.data_valid):
            m.d.sync += second.eq(~second & ~self.single)
            with m.If(second | self.single):
                m.d.sync += arrived.eq(arrived + 1)
        return words[0], words[1]
