"""Reader of the depthwise engine: walks the input map once per kernel row and prefetches its words."""

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import DepthwiseBody
from hw.engines.countdown import Countdown
from hw.engines.depthwise_parameters import PASS_SLOTS, PASSES_3X3, PASSES_5X5
from hw.interfaces import PadRead, pad_address_bits, pad_word_layout
from hw.memory.fifo import Fifo
from hw.memory.map_rows import last_row, next_row

__all__ = ["DepthwiseReader", "Offset", "slot_layout"]

PREFETCH_WORDS = 16  # covers the read latency several times, so that some refusals cost nothing
ROW_BITS = 11  # of a signed input row


class Offset(enum.Enum, shape=2):
    """Input column of a pass's first tap, relative to that of the output pixel."""

    MINUS_1 = 0  #: 3x3
    MINUS_2 = 1  #: 5x5, taps 0 to 2
    PLUS_1 = 2  #: 5x5, taps 3 and 4


def slot_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One slot: a place for a word in an input row, real or not, and what the word means for the outputs.

    The last slot of an output word completes its operands, but for the neighbour pixels in the next slots. All fields
    from `left1` on describe that output word; pixel 0 is the first pixel of its first slot.
    """
    return data.StructLayout(
        {
            "real": 1,  # a word comes with it
            "completes": 1,  # an output word
            "row_end": 1,  # last slot of its row
            "block_begin": 1,  # first slot of its block
            "left1": 1,  # pixel -1 is real
            "left2": 1,  # pixel -2 is real
            "remaining": range(2 * config.pixels + 2),  # real pixels from pixel 0 on
            "stride2": 1,
            "offset": Offset,
            "pass_index": range(PASS_SLOTS),  # of its weights
            "shared": 1,  # the row is kernel row 0 of its output row, and kernel row 2 of the output row above
            "here": 1,  # its output row exists; so do all, but behind the last one of a pass over shared rows
            "above": 1,  # the row is shared, and the output row above exists
            "pass_end": 1,  # last output word of its pass
            "first": 1,  # first pass of the block
            "last": 1,  # last pass of the block
        }
    )


class RowWalk(wiring.Component):
    """Walks the rows of a ring for all passes of a block: output row i of kernel row ky needs row i * stride + ky - top
    of the view. Rows above the view have no address. One command per cycle.

    Members
    -------
    source, stride2, top, source_rows : fields of the instruction; constant from the cycle before a command on. There is
        at least one source row
    go : go on, to the next output row or what the following say; known late
    block : to output row 0 of kernel row 0
    kernel_row : to output row 0 of the next kernel row
    same_kernel_row : back to output row 0
    address : of the current row
    real : the current row exists
    """

    def __init__(self, address_bits: int) -> None:
        body = data.Layout.cast(DepthwiseBody)
        super().__init__(
            {name: In(body[name].shape) for name in ("source", "stride2", "top", "source_rows")}
            | {name: In(1) for name in ("go", "block", "kernel_row", "same_kernel_row")}
            | {"address": Out(address_bits), "real": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        view = self.source
        step, wrapped_step, threshold = Signal(17), Signal(signed(18)), Signal(signed(18))
        last_real = [Signal(signed(ROW_BITS), name=f"last_real_{i}") for i in range(3)]  # less i
        m.d.sync += [
            step.eq(view.row_stride << self.stride2),
            wrapped_step.eq((view.row_stride << self.stride2) - (view.limit - view.base)),
            threshold.eq(view.limit - (view.row_stride << self.stride2)),
            *(row.eq(self.source_rows - 1 - i) for i, row in enumerate(last_real)),
        ]
        # the current row, and output row 0 of the current kernel row
        j, first_j = Signal(signed(ROW_BITS)), Signal(signed(ROW_BITS))
        first_address, first_real = Signal.like(self.address), Signal()

        # One row further than the first one; that is row 1 as long as the walk begins above the view or at row 0.
        row_after_first = Signal.like(self.address)
        m.d.comb += row_after_first.eq(next_row(view, first_address, last_row(m, view, len(self.address))))
        next_first = Mux(first_j >= 0, row_after_first, view.start)
        next_first_real = (first_j >= -1) & (first_j <= last_real[1])
        entry = Mux(self.stride2 & (j == -1), row_after_first, view.start)
        # sums beside comparisons, not behind them
        next_address = Mux(self.address >= threshold, self.address + wrapped_step, self.address + step)
        next_real = Mux(self.stride2, (j >= -2) & (j <= last_real[2]), (j >= -1) & (j <= last_real[1]))

        with m.If(self.go):
            with m.If(self.block):
                m.d.sync += [j.eq(-self.top), first_j.eq(-self.top)]
                m.d.sync += [self.address.eq(view.start), first_address.eq(view.start)]
                m.d.sync += [self.real.eq(self.top == 0), first_real.eq(self.top == 0)]
            with m.Elif(self.kernel_row):
                m.d.sync += [j.eq(first_j + 1), first_j.eq(first_j + 1)]
                m.d.sync += [self.address.eq(next_first), first_address.eq(next_first)]
                m.d.sync += [self.real.eq(next_first_real), first_real.eq(next_first_real)]
            with m.Elif(self.same_kernel_row):
                m.d.sync += [j.eq(first_j), self.address.eq(first_address), self.real.eq(first_real)]
            with m.Else():
                m.d.sync += [j.eq(j + Mux(self.stride2, 2, 1)), self.address.eq(Mux(j < 0, entry, next_address))]
                m.d.sync += self.real.eq(next_real)
        return m


class DepthwiseReader(wiring.Component):
    """Reads the words of all passes of an instruction, and says what they are good for.

    Per block, pass, and output row, there are `groups_per_row` slots (twice as many for stride 2), one per cycle. A
    slot is real if it lies on the map; then its word is read. Two idle cycles between instructions.

    There is a pass per kernel row, in order, or two for 5x5. At stride 2, kernel row 2 of an output row lies where
    kernel row 0 of the next one does: with `dw_shares_rows`, a 3x3 kernel has one pass for both, which has one row more
    than the output, and then that of kernel row 1.

    Members
    -------
    body : instructions
    source : scratchpad port
    slots, words : the slots, and the words of the real ones; words come later than their slots
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "body": In(stream.Signature(DepthwiseBody)),
                "source": Out(PadRead(config)),
                "slots": Out(stream.Signature(slot_layout(config))),
                "words": Out(stream.Signature(pad_word_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slots = slots = Fifo(width=slot_layout(self._config).size, depth=PREFETCH_WORDS)
        # There is a slot for every word that is on its way, so words always find room.
        m.submodules.words = words = Fifo(width=self._config.pad_word_bits, depth=PREFETCH_WORDS)
        wiring.connect(m, wiring.flipped(self.slots), slots.o)
        wiring.connect(m, wiring.flipped(self.words), words.o)
        slot = Signal(slot_layout(self._config))
        body, running, advance, end = Signal(DepthwiseBody), Signal(), Signal(), Signal()
        m.d.comb += [
            # slots that are not real wait for the port, too: what is real is known late, and `advance` moves a lot
            advance.eq(running & slots.i.ready & self.source.ready),
            self.source.valid.eq(running & slots.i.ready & slot.real),
            self.source.pad.eq(body.source.pad),
            slots.i.valid.eq(advance),
            slots.i.payload.eq(slot),
            words.i.valid.eq(self.source.data_valid),
            words.i.payload.eq(self.source.data),
        ]

        begin = Signal()
        m.d.comb += self.body.ready.eq(~(begin | running))
        m.d.sync += begin.eq(self.body.valid & self.body.ready)
        with m.If(self.body.valid & self.body.ready):
            m.d.sync += body.eq(self.body.payload)
        with m.If(begin):
            m.d.sync += running.eq(1)
        with m.Elif(advance & end):
            m.d.sync += running.eq(0)
        self._walk(m, body, begin, advance, slot, end)
        return m

    def _walk(self, m: Module, body: data.View, begin: Signal, advance: Signal, slot: data.View, end: Signal) -> None:
        """Counters of the nest [block][kernel row][tap group][output row][slot]."""
        m.submodules.rows = rows = RowWalk(pad_address_bits(self._config))
        m.d.comb += [getattr(rows, name).eq(getattr(body, name)) for name in ("stride2", "top", "source_rows")]
        m.d.comb += rows.source.eq(body.source)

        slots, output_rows, blocks = Countdown(9), Countdown(8), Countdown(12)
        words_left, second = Signal(9), Signal()  # `words_left` has one more for a stride of 2
        word_left, block_begin = Signal(), Signal()
        # of the block, and of the word, from the row's address
        block_offset, offset = Signal.like(rows.address), Signal.like(rows.address)
        row_end, pass_end, block_end, row_begin = Signal(), Signal(), Signal(), Signal()
        # beyond the last output row; below one that shares the row
        behind, above = Signal(), Signal()
        m.d.comb += [
            row_begin.eq(begin | (advance & row_end)),
            row_end.eq(slots.last),
            pass_end.eq(row_end & Mux(slot.shared, behind, output_rows.last)),
            slot.here.eq(~behind),
            slot.above.eq(above),
            block_end.eq(pass_end & slot.last),
            end.eq(block_end & blocks.last),
            self.source.address.eq(rows.address + offset),
            slot.real.eq(rows.real & word_left),
            slot.completes.eq(~body.stride2 | second),
            slot.row_end.eq(row_end),
            slot.pass_end.eq(pass_end),
            slot.block_begin.eq(block_begin),
            rows.go.eq(row_begin),
            rows.block.eq(begin | block_end),
        ]
        self._passes(m, body, begin, advance, pass_end, slot, rows)
        self._columns(m, body, row_begin, advance, words_left, rows.real, slot)

        next_offset = Mux(begin, 0, Mux(block_end, block_offset + body.source_groups, block_offset))
        with m.If(advance):
            m.d.sync += [*slots.step(), second.eq(~second), block_begin.eq(block_end)]
            with m.If(word_left):
                m.d.sync += [words_left.eq(words_left - 1), word_left.eq(words_left != 1 + body.stride2)]
        with m.If(begin | (advance & (slot.real | row_end))):
            m.d.sync += offset.eq(Mux(begin | row_end, next_offset, offset + 1))
        with m.If(begin):
            m.d.sync += [behind.eq(0), above.eq(0)]
        with m.Elif(advance & row_end):
            m.d.sync += [behind.eq(slot.shared & output_rows.last & ~behind), above.eq(slot.shared & ~behind)]
            with m.If(~behind):
                m.d.sync += output_rows.step()
        with m.If(row_begin):
            m.d.sync += [
                words_left.eq(body.source_groups + body.stride2),
                word_left.eq(1),
                block_offset.eq(next_offset),
            ]
        with m.If(begin):
            slots_per_row = body.groups_per_row << body.stride2
            m.d.sync += [
                *slots.load(slots_per_row - 1, slots_per_row == 1),
                *output_rows.load(body.rows - 1, body.rows == 1),
                *blocks.load(body.blocks - 1, body.blocks == 1),
                second.eq(0),
                block_begin.eq(1),
            ]
        with m.Elif(advance & block_end):
            m.d.sync += blocks.step()

    def _passes(
        self, m: Module, body: data.View, begin: Value, advance: Value, pass_end: Value, slot: data.View, rows: RowWalk
    ) -> None:
        """Pass index, and the tap offset: 5x5 kernels take two passes per kernel row."""
        index, shared, last = Signal(range(PASS_SLOTS)), Signal(), Signal()
        shares = body.stride2 & ~body.kernel5 & self._config.dw_shares_rows
        m.d.comb += [
            slot.pass_index.eq(index),
            slot.shared.eq(shared),
            slot.first.eq(index == 0),
            slot.last.eq(last),
            slot.stride2.eq(body.stride2),
            slot.offset.eq(Mux(body.kernel5, Mux(index[0], Offset.PLUS_1, Offset.MINUS_2), Offset.MINUS_1)),
            rows.same_kernel_row.eq(pass_end & body.kernel5 & ~index[0]),
            rows.kernel_row.eq(pass_end & ~(body.kernel5 & ~index[0])),
        ]
        with m.If(begin):
            m.d.sync += [index.eq(0), shared.eq(shares), last.eq(0)]
        with m.Elif(advance & pass_end):
            m.d.sync += [index.eq(Mux(last, 0, index + 1)), shared.eq(last & shares)]
            m.d.sync += last.eq(index == Mux(body.kernel5, PASSES_5X5 - 2, Mux(shares, 0, PASSES_3X3 - 2)))

    def _columns(
        self,
        m: Module,
        body: data.View,
        row_begin: Value,
        advance: Value,
        words_left: Value,
        real: Value,
        slot: data.View,
    ) -> None:
        """Which pixels around a slot's output word are on the map; none in a row that does not exist."""
        p = self._config.pixels
        left1, left2 = Signal(), Signal()  # an output word is to the left; two are, as far as that matters
        with m.If(row_begin):
            m.d.sync += [left1.eq(0), left2.eq(0)]
        with m.Elif(advance & slot.completes):
            m.d.sync += [left1.eq(1), left2.eq((left1 | body.stride2) if p == 1 else 1)]
        m.d.comb += [slot.left1.eq(left1 & real), slot.left2.eq(left2 & real)]
        # Words from the output word's first slot on; a stride of 2 comes to its second slot with one word less.
        with m.If(real):
            with m.Switch(words_left):
                with m.Case(0):
                    m.d.comb += slot.remaining.eq(0)
                with m.Case(1):
                    m.d.comb += slot.remaining.eq(body.last_pixels)
                with m.Case(2):
                    m.d.comb += slot.remaining.eq(body.last_pixels + p)
                with m.Default():
                    m.d.comb += slot.remaining.eq(2 * p + 1)
