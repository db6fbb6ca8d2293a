"""Walks over feature maps: passes over rows of pixel groups, and the addresses of the words in a ring of rows."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.engines.countdown import Countdown
from hw.interfaces import PAD_BITS
from hw.memory.map_rows import last_row, next_row

__all__ = ["PassCounter", "RowRing", "prepare_ring", "ring_layout"]


def ring_layout(address_bits: int) -> data.StructLayout:
    """A `MapView`, prepared so that the next row takes one addition: see `hw.memory.map_rows`."""
    return data.StructLayout(
        {
            "pad": PAD_BITS,
            "start": address_bits,
            "second": address_bits,  # the row after `start`
            "row_stride": address_bits,
            "base": address_bits,
            "last": address_bits,  # the row before `base`
        }
    )


def prepare_ring(m: Module, view: data.View, ring: data.View) -> None:
    """Registers that turn `view`, a `MapView` that holds still, into `ring`; right from the second cycle on."""
    m.d.comb += [
        ring.pad.eq(view.pad),
        ring.start.eq(view.start),
        ring.row_stride.eq(view.row_stride),
        ring.base.eq(view.base),
        ring.last.eq(last_row(m, view, len(ring.last))),
    ]
    m.d.sync += ring.second.eq(next_row(ring, ring.start, ring.last))


class PassCounter(wiring.Component):
    """Counts the words of a pass of `rows` rows of `groups` words; a new pass follows without a gap.

    Members: `load` takes `rows` and `groups`, and begins a pass in the next cycle; `step` goes on to the next word. Of
    the current word: `index` within the pass; `row_end`, `pass_end`: the last of its row, of its pass. `row_end` says
    nothing of the last row.
    """

    def __init__(self, depth: int) -> None:
        super().__init__(
            {
                "load": In(1),
                "rows": In(8),
                "groups": In(8),
                "step": In(1),
                "index": Out(range(depth)),
                "row_end": Out(1),
                "pass_end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = Countdown(8)
        groups = Countdown(8)
        m.d.comb += [self.row_end.eq(groups.last), self.pass_end.eq(groups.last & rows.last)]
        with m.If(self.step):
            m.d.sync += [self.index.eq(Mux(self.pass_end, 0, self.index + 1)), *groups.step()]
            with m.If(self.row_end):
                m.d.sync += rows.step()
        with m.If(self.load):
            m.d.sync += [self.index.eq(0), *rows.load(self.rows - 1, self.rows == 1)]
            m.d.sync += groups.load(self.groups - 1, self.groups == 1)
        return m


class RowRing(wiring.Component):
    """Address of the current word of a pass: beginning of its row + offset + group.

    Members: `load` takes `ring` and begins a pass with offset 0; `step`, `row_end`, `pass_end` as at the `PassCounter`
    that belongs to it; `offset` is that of the current pass, `next_offset` that of the next one.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "load": In(1),
                "ring": In(ring_layout(address_bits)),
                "step": In(1),
                "row_end": In(1),
                "pass_end": In(1),
                "offset": In(address_bits),
                "next_offset": In(address_bits),
                "pad": Out(PAD_BITS),
                "address": Out(address_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ring = Signal.like(self.ring)
        following = Signal.like(self.address)  # the next row
        m.d.comb += self.pad.eq(ring.pad)
        with m.If(self.step):
            with m.If(self.pass_end):
                m.d.sync += [self.address.eq(ring.start + self.next_offset), following.eq(ring.second)]
            with m.Elif(self.row_end):
                m.d.sync += [
                    self.address.eq(following + self.offset),
                    following.eq(next_row(ring, following, ring.last)),
                ]
            with m.Else():
                m.d.sync += self.address.eq(self.address + 1)
        with m.If(self.load):
            m.d.sync += [ring.eq(self.ring), self.address.eq(self.ring.start), following.eq(self.ring.second)]
        return m
