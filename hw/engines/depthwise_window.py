"""Window of the depthwise engine: turns the words of input rows into the operands of output pixels."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.config import DW_TAPS, AcceleratorConfig
from hw.engines.depthwise_parameters import BANKS, PASS_SLOTS, PASSES_3X3
from hw.engines.depthwise_reader import Offset, slot_layout
from hw.interfaces import pad_word_layout

__all__ = ["DepthwiseWindow", "accumulator_depth"]

REACH = 2  # pixels to the left and to the right of an output word's pixels that a 5x5 kernel sees


def chunks(config: AcceleratorConfig) -> int:
    """Cycles that the multipliers need for one output word."""
    return -(-config.pixels // config.dw_pixels)


def accumulator_depth(config: AcceleratorConfig) -> int:
    """Addresses of the accumulators: a power of two that is enough for `acc_depth` output words."""
    return 1 << (config.acc_depth * chunks(config) - 1).bit_length()


class DepthwiseWindow(wiring.Component):
    """Slides over the words of input rows, and gives the multipliers `dw_pixels` output pixels per cycle.

    Words shift through a window that holds, beside those of the current output word, the neighbours to both sides. Rows
    follow each other without a gap: what belongs to another row is marked as not real. When an output word's
    neighbours are there, its pixels are copied to the `pixels` register, which then moves on by `dw_pixels` output
    pixels per cycle: `chunk` is 1 in ceil(P / dw_pixels) cycles per output word. So an output word takes as many
    cycles, or as many as its slots, whatever is more; the window never stalls for a row's end.

    A word of a row that two output rows share (see `DepthwiseReader`) is held for two cycles, one for each of them,
    this one's first; in one of them the multipliers idle if that output row does not exist. So an accumulator is
    visited again 3 cycles later at the earliest, also where a row has one word only.

    Before a pass visits an accumulator again, `Accumulators.MIN_REVISIT` cycles have to pass, and the last pass of a
    block begins only when one of the two output banks is free.

    Members
    -------
    slots, words : from `DepthwiseReader`
    block_loaded, block_computed : pulses; the parameters of one more block are there, or no longer needed
    block_drained : pulse; one more bank of results is free
    pads_read, pads_bank : fetch the pad codes, valid a cycle later until the next fetch
    weights_read, weights_bank, weights_pass : likewise, the weights; for the chunk of the cycle after
    chunk : the operands of `dw_pixels` output pixels are there; with it:
    pixels, real : window from the first tap of the chunk's first pixel on
    stride2 : pixels of the window from one output pixel to the next, less 1
    address, first, last, bank : what the accumulators shall do with the chunk
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._span = 2 * (config.dw_pixels - 1) + DW_TAPS  # window of a chunk
        pixel = data.ArrayLayout(config.act_bits, config.in_lanes)
        super().__init__(
            {
                "slots": In(stream.Signature(slot_layout(config))),
                "words": In(stream.Signature(pad_word_layout(config))),
                "block_loaded": In(1),
                "block_computed": Out(1),
                "block_drained": In(1),
                "pads_read": Out(1),
                "pads_bank": Out(1),
                "weights_read": Out(1),
                "weights_bank": Out(1),
                "weights_pass": Out(range(PASS_SLOTS)),
                "chunk": Out(1),
                "pixels": Out(data.ArrayLayout(pixel, self._span)),
                "real": Out(self._span),
                "stride2": Out(1),
                "address": Out(range(accumulator_depth(config))),
                "first": Out(1),
                "last": Out(1),
                "bank": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        current, complete, fire = Signal(slot_layout(self._config)), Signal(), Signal()
        window, origin = self._slide(m, current, complete, fire)
        picked, picked_real = self._pick(m, window, origin, current)
        held, step_ends, gap = Signal(), Signal(), Signal()
        pass_begins, bank = Signal(init=1), Signal()

        # An output word moves on when the last one's last chunk leaves.
        banks_used, full = Signal(range(BANKS + 1)), Signal()
        take_bank = pass_begins & current.last
        m.d.comb += fire.eq(complete & (~held | step_ends) & ~gap & ~(take_bank & full))
        with m.If((fire & take_bank) ^ self.block_drained):  # `fire` is late: an enable, not a term of the sum
            m.d.sync += banks_used.eq(Mux(self.block_drained, banks_used - 1, banks_used + 1))
            m.d.sync += full.eq(~self.block_drained & (banks_used == BANKS - 1))
        m.d.comb += [self.pads_read.eq(fire & pass_begins & current.first), self.pads_bank.eq(bank)]
        with m.If(fire):
            m.d.sync += [pass_begins.eq(current.pass_end), bank.eq(bank ^ (current.pass_end & current.last))]
        self._chunks(m, fire, pass_begins, bank, current, picked, picked_real, held, step_ends, gap)
        return m

    def _slide(self, m: Module, current: data.View, complete: Signal, fire: Signal) -> tuple[Value, int]:
        """Shift slots and words into the window. Returns its pixels, and the index of a pixel in it: the first pixel
        of the current slot. `complete`: the current slot completes an output word that has not yet been taken."""
        config = self._config
        reach = -(-REACH // config.pixels)  # in words
        slots = [Signal.like(current, name=f"slot_{i}") for i in range(reach)] + [current]  # newest first
        words = [Signal(pad_word_layout(config), name=f"word_{i}", reset_less=True) for i in range(2 * reach + 2)]

        # Between rows, empty slots help the last output words along when the next row is not there yet.
        block_ready, between_rows = Signal(), Signal(init=1)
        here, empty, shift = Signal(), Signal(), Signal()
        incoming = self.slots.payload
        m.d.comb += [
            here.eq(self.slots.valid & (~incoming.real | self.words.valid) & (~incoming.block_begin | block_ready)),
            empty.eq(~here & between_rows & Cat(slot.completes for slot in slots[:-1]).any()),
            complete.eq(current.completes),
            shift.eq((here | empty) & (~complete | fire)),
            self.slots.ready.eq(shift & here),
            self.words.ready.eq(shift & here & incoming.real),
        ]
        waiting = Signal(range(BANKS + 1))  # blocks that are loaded and not begun
        m.d.comb += block_ready.eq(waiting != 0)
        m.d.sync += waiting.eq(waiting + self.block_loaded - (self.slots.ready & incoming.block_begin))

        with m.If(fire):
            m.d.sync += current.completes.eq(0)
        with m.If(shift):
            m.d.sync += [slots[0].eq(incoming), slots[0].completes.eq(incoming.completes & here)]
            m.d.sync += [newer.eq(older) for newer, older in zip(slots[1:], slots)]
            m.d.sync += [words[i + 1].eq(words[i]) for i in range(len(words) - 1)]
            with m.If(self.words.ready):
                m.d.sync += words[0].eq(self.words.payload)
            with m.If(here):
                m.d.sync += between_rows.eq(incoming.row_end)
        return Cat(reversed([Value.cast(word) for word in words])), (reach + 1) * config.pixels

    def _pick(self, m: Module, window: Value, origin: int, current: data.View) -> tuple[Value, Value]:
        """The window from the first tap of the output word's first pixel on: pixels, and whether they are real."""
        config = self._config
        pixel_bits = config.in_lanes * config.act_bits
        length = 2 * (config.pixels - 1) + DW_TAPS
        picked, picked_real = Signal(length * pixel_bits), Signal(length)
        real = Cat(current.left2, current.left1, (current.remaining > i for i in range(2 * config.pixels + 1)))
        with m.Switch(Cat(current.stride2, current.offset)):
            for offset, pixels in ((Offset.MINUS_1, -1), (Offset.MINUS_2, -2), (Offset.PLUS_1, 1)):
                for stride in (1, 2):
                    with m.Case((offset.value << 1) | (stride - 1)):
                        first = origin - (stride - 1) * config.pixels + pixels
                        m.d.comb += [
                            picked.eq(window[first * pixel_bits : (first + length) * pixel_bits]),
                            picked_real.eq(real[REACH + pixels : REACH + pixels + length]),
                        ]
        return picked, picked_real

    def _chunks(
        self,
        m: Module,
        fire: Signal,
        pass_begins: Signal,
        bank: Signal,
        current: data.View,
        picked: Value,
        picked_real: Value,
        held: Signal,
        step_ends: Signal,
        gap: Signal,
    ) -> None:
        """Hold the pixels of one output word, and shift them until all its chunks have left."""
        config = self._config
        count = chunks(config)
        pixel_bits = config.in_lanes * config.act_bits
        pixels = Signal(len(picked), reset_less=True)
        real = Signal(len(picked_real), reset_less=True)
        chunk, begins, pass_end = Signal(range(max(count, 2))), Signal(), Signal()
        early = Signal(init=1)  # the address is below MIN_REVISIT - 1
        pass_leaves = Signal()  # the last chunk of a pass
        shared, above, row_above = Signal(), Signal(), Signal()
        addresses = [Signal.like(self.address, name=f"address_{name}") for name in ("here", "above")]
        m.d.comb += [
            step_ends.eq(chunk == (shared if config.dw_shares_rows else count - 1)),
            self.pixels.eq(pixels),
            self.real.eq(real),
            self.address.eq(Mux(row_above, addresses[1], addresses[0])),
            self.weights_read.eq(self.chunk & begins),
            self.weights_bank.eq(self.bank),
            self.block_computed.eq(pass_leaves & self.last),
        ]
        for i, address in enumerate(addresses):
            with m.If(self.chunk & (row_above == i)):
                m.d.sync += address.eq(address + 1)
        with m.If(self.chunk):
            m.d.sync += early.eq(early & (self.address != Accumulators.MIN_REVISIT - 2))
        with m.If(held):
            m.d.sync += [chunk.eq(chunk + 1), begins.eq(0)]
            m.d.sync += pass_leaves.eq(pass_end & (chunk == count - 2) if count > 1 else 0)
            for stride in (1, 2) if count > 1 else ():
                with m.If(self.stride2 == stride - 1):
                    pixels_on = stride * config.dw_pixels
                    m.d.sync += [pixels.eq(pixels >> (pixels_on * pixel_bits)), real.eq(real >> pixels_on)]
            if config.dw_shares_rows:  # the same pixels again, for the row above
                m.d.sync += [row_above.eq(1), self.chunk.eq(above), begins.eq(1), pass_leaves.eq(pass_end)]
                m.d.sync += [self.first.eq(0), self.weights_pass.eq(PASSES_3X3 - 1)]
            with m.If(step_ends):
                m.d.sync += [held.eq(0), self.chunk.eq(0), chunk.eq(0), row_above.eq(0), pass_leaves.eq(0)]
                with m.If(pass_end):
                    m.d.sync += [*(address.eq(0) for address in addresses), early.eq(1)]
        with m.If(fire):
            m.d.sync += [
                held.eq(1),
                self.chunk.eq(current.here),
                pixels.eq(picked),
                real.eq(picked_real),
                shared.eq(current.shared),
                above.eq(current.above),
                begins.eq(pass_begins | current.shared),
                pass_end.eq(current.pass_end),
                pass_leaves.eq(current.pass_end & ~current.shared if count == 1 else 0),
                self.bank.eq(bank),
                self.stride2.eq(current.stride2),
                self.first.eq(current.first),
                self.last.eq(current.last),
                self.weights_pass.eq(current.pass_index),
            ]

        # A pass of few chunks waits before the next one.
        idle, waits = Signal(range(Accumulators.MIN_REVISIT)), Signal()
        m.d.comb += gap.eq((pass_leaves & early) | waits)
        with m.If(pass_leaves & early):
            m.d.sync += idle.eq(Accumulators.MIN_REVISIT - 2 - self.address)
            m.d.sync += waits.eq(self.address != Accumulators.MIN_REVISIT - 2)
        with m.Elif(waits):
            m.d.sync += [idle.eq(idle - 1), waits.eq(idle != 1)]
