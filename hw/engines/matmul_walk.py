"""Walks over feature maps: passes over rows of pixel groups, and the addresses of the words in a ring of rows."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.control.descriptors import MapView
from hw.engines.countdown import Countdown
from hw.interfaces import ADDRESS_BITS, PAD_BITS

__all__ = ["PassCounter", "Ring", "RowRing", "prepare_ring"]


class Ring(data.Struct):
    """A `MapView`, prepared so that the next row takes one addition: the row after `row` begins at
    `row + (wrap if row >= threshold else stride)`."""

    pad: PAD_BITS
    start: ADDRESS_BITS
    second: ADDRESS_BITS  #: the row after `start`
    stride: ADDRESS_BITS
    wrap: ADDRESS_BITS  #: stride, less the size of the ring; modulo 2**16
    threshold: signed(ADDRESS_BITS + 2)


def prepare_ring(m: Module, view: data.View, ring: data.View) -> None:
    """Registers that turn `view`, a `MapView` that holds still, into `ring`; right from the second cycle on."""
    layout = data.Layout.cast(MapView)
    size = Signal(layout["limit"].width, name="ring_size")
    m.d.sync += [
        size.eq(view.limit - view.base),
        ring.threshold.eq(view.limit - view.row_stride),
        ring.wrap.eq(view.row_stride - size),
        ring.second.eq(view.start + view.row_stride - Mux(view.start >= ring.threshold, size, 0)),
    ]
    m.d.comb += [ring.pad.eq(view.pad), ring.start.eq(view.start), ring.stride.eq(view.row_stride)]


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

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(1),
                "ring": In(Ring),
                "step": In(1),
                "row_end": In(1),
                "pass_end": In(1),
                "offset": In(ADDRESS_BITS),
                "next_offset": In(ADDRESS_BITS),
                "pad": Out(PAD_BITS),
                "address": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ring = Signal(Ring)
        next_row = Signal(ADDRESS_BITS)
        m.d.comb += self.pad.eq(ring.pad)
        with m.If(self.step):
            with m.If(self.pass_end):
                m.d.sync += [self.address.eq(ring.start + self.next_offset), next_row.eq(ring.second)]
            with m.Elif(self.row_end):
                m.d.sync += [
                    self.address.eq(next_row + self.offset),
                    # sums beside the comparison, not behind it
                    next_row.eq(Mux(next_row >= ring.threshold, next_row + ring.wrap, next_row + ring.stride)),
                ]
            with m.Else():
                m.d.sync += self.address.eq(self.address + 1)
        with m.If(self.load):
            m.d.sync += [ring.eq(self.ring), self.address.eq(self.ring.start), next_row.eq(self.ring.second)]
        return m
