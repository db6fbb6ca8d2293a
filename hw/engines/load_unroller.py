"""Image rows, unrolled for the 3x3 stride-2 stem: overlapping windows as scratchpad words."""

from math import gcd

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.constant_product import constant_product
from hw.config import KERNEL_ROWS, STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import LoadBody
from hw.interfaces import EngineStatus, pad_address_bits, placed_word_layout
from hw.memory.map_rows import last_row, next_row

__all__ = ["Unroller"]

CHANNELS = 3
WINDOW_STEP = 2 * CHANNELS  #: bytes from one output pixel's window to the next
LEFT_PADDING = CHANNELS  #: bytes before the row that the first window sees


class Unroller(wiring.Component):
    """Cut image rows into windows of 9 bytes at every 6th byte, and write them as scratchpad words.

    A shift register of codes is filled by bus beats (or beats of padding, after the row and for rows that do not
    exist) and gives a word, P windows, whenever `6P + 3` codes are there; it then moves on by 6P.
    Every row begins with 3 codes of padding.

    Throughput: one beat per cycle in, one scratchpad word per cycle out.

    Members
    -------
    body : In(stream of LoadBody)
    rows : In(stream of 1 bit), whether the next image row exists
    pixels : In(stream of bus_bits), the bytes of those that do; what is left of the last row goes after `done`
    words : Out(stream of placed_word_layout)
    written : In(1), no word of `words` is on its way to the scratchpads
    done : Out(1)
    status : Out(EngineStatus)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        # fill levels are counted in units that divide beats and word steps
        self._unit = gcd(config.bus_bytes, WINDOW_STEP * config.pixels)  # codes
        self._beat = config.bus_bytes // self._unit  # units
        self._step = WINDOW_STEP * config.pixels // self._unit
        # a beat can still enter while a whole word waits, so that neither side ever waits for the other
        self._highest_push = self._step + min(self._step, self._beat) - 1
        self._capacity = LEFT_PADDING + self._unit * (self._highest_push + self._beat)  # codes
        super().__init__(
            {
                "body": In(stream.Signature(LoadBody)),
                "rows": In(stream.Signature(1)),
                "pixels": In(stream.Signature(config.bus_bits)),
                "words": Out(stream.Signature(placed_word_layout(config))),
                "written": In(1),
                "done": Out(1),
                "status": Out(EngineStatus()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        body = Signal(LoadBody)
        active = Signal()
        rows_to_begin, more_rows = Signal(10), Signal()  # whether there are some

        m.d.comb += self.body.ready.eq(~active)
        with m.If(self.body.valid & self.body.ready):
            m.d.sync += [
                body.eq(self.body.payload),
                rows_to_begin.eq(constant_product(self.body.payload.rows, KERNEL_ROWS)),
                more_rows.eq(self.body.payload.rows != 0),
                active.eq(1),
            ]

        codes, available, pop = Signal(self._capacity * config.act_bits), Signal(), Signal()
        in_row, starved = self._shift_register(m, body, active & more_rows, codes, available, pop)
        m.d.comb += [self.words.valid.eq(available), pop.eq(self._place_words(m, body, codes))]

        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += [rows_to_begin.eq(rows_to_begin - 1), more_rows.eq(rows_to_begin != 1)]
        finished = Signal()
        m.d.comb += finished.eq(active & ~more_rows & ~in_row & self.written)
        with m.If(finished):
            m.d.sync += active.eq(0)
        m.d.sync += self.done.eq(finished)

        missing_row = ~in_row & more_rows
        refused = self.words.valid & ~self.words.ready
        m.d.comb += [
            self.status.busy.eq(active),
            self.status.stall.eq(active & (starved | missing_row | refused)),
        ]
        return m

    def _shift_register(
        self, m: Module, body: data.View, more_rows: Value, codes: Signal, available: Signal, pop: Signal
    ) -> tuple[Value, Value]:
        """Rows and beats in; with `available`, a word is in the low bits of `codes`, which are 0 beyond the fill level.
        Returns whether a row is in progress, and whether it waits for memory."""
        config = self._config
        fill = Signal(range(self._highest_push + self._beat + 1))  # units after the left padding
        in_row = Signal()
        beats_left, from_memory = Signal(16), Signal()  # of the row; whether there are some
        words_left = Signal(8)  # of the row

        room = in_row & (fill <= self._highest_push)
        push = Signal()
        row_ends = Signal()
        m.d.comb += [
            push.eq(room & (self.pixels.valid | ~from_memory)),
            available.eq(in_row & (fill >= self._step)),
            row_ends.eq(pop & (words_left == 1)),
            # bytes that no window needs are dropped between rows
            self.pixels.ready.eq(from_memory & (room | ~in_row)),
            self.rows.ready.eq(more_rows & ~from_memory & ~in_row),  # not with the last word: the way is long enough
        ]

        pushed = Signal.like(codes)
        m.d.comb += pushed.eq(
            codes | Mux(push, self._aligned(m, self._beat_codes(m, body, push, from_memory), fill), 0)
        )
        with m.If(push | pop):
            m.d.sync += [
                codes.eq(Mux(pop, pushed >> (WINDOW_STEP * config.pixels * config.act_bits), pushed)),
                fill.eq(fill + Mux(push, self._beat, 0) - Mux(pop, self._step, 0)),
            ]
        with m.If(self.pixels.valid & self.pixels.ready):
            m.d.sync += [beats_left.eq(beats_left - 1), from_memory.eq(beats_left != 1)]
        with m.If(pop):
            m.d.sync += words_left.eq(words_left - 1)
        with m.If(row_ends):
            m.d.sync += in_row.eq(0)
        row_beats = body.row_bytes // config.bus_bytes
        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += [
                in_row.eq(1),
                codes.eq(Cat(self._padding(body))),
                fill.eq(0),
                beats_left.eq(row_beats),
                from_memory.eq(self.rows.payload & (row_beats != 0)),
                words_left.eq(body.groups_per_row),
            ]
        return in_row, room & from_memory & ~self.pixels.valid

    def _padding(self, body: data.View) -> list[Value]:
        """Codes of padding of the three channels."""
        return [code[: self._config.act_bits] for code in (body.pad_code0, body.pad_code1, body.pad_code2)]

    def _beat_codes(self, m: Module, body: data.View, push: Value, from_memory: Value) -> Value:
        """The next beat: codes of image bytes, or of padding, beginning with the channel that is due."""
        config = self._config
        bytes_per_beat = config.bus_bytes
        channel = Signal(range(CHANNELS))
        padding = self._padding(body)
        padding_beat = Signal(bytes_per_beat * config.act_bits)
        with m.Switch(channel):
            for first in range(CHANNELS):
                with m.Case(first):
                    beat = [padding[(first + i) % CHANNELS] for i in range(bytes_per_beat)]
                    m.d.comb += padding_beat.eq(Cat(beat))
                    with m.If(push):
                        m.d.sync += channel.eq((first + bytes_per_beat) % CHANNELS)
        with m.If(self.rows.ready):
            m.d.sync += channel.eq(0)
        image = self.pixels.payload
        image_beat = Cat(image.word_select(i, 8)[8 - config.act_bits :] for i in range(bytes_per_beat))
        return Mux(from_memory, image_beat, padding_beat)

    def _aligned(self, m: Module, beat: Value, fill: Signal) -> Signal:
        """`beat`, moved behind the codes that are there: left padding and `fill` units."""
        config = self._config
        aligned = Signal(self._capacity * config.act_bits)
        m.d.comb += aligned.eq(beat << (LEFT_PADDING * config.act_bits))
        for stage in range(len(fill)):
            shifted = Signal.like(aligned, name=f"aligned{stage}")
            distance = (self._unit << stage) * config.act_bits
            m.d.comb += shifted.eq(Mux(fill[stage], aligned << distance, aligned))
            aligned = shifted
        return aligned

    def _place_words(self, m: Module, body: data.View, codes: Signal) -> Value:
        """The blocks of each word, [output row][kernel row][pixel group][block]. Returns when a word is done."""
        config = self._config
        address = self.words.payload.address
        row = Signal(pad_address_bits(config))  # address of the output row
        kernel_row_start, column = Signal.like(row), Signal.like(row)  # column: first block
        kernel_row = Signal(range(KERNEL_ROWS))
        group = Signal(8)
        block = Signal(range(max(config.stem_blocks, 2)))

        written = Signal()
        last_block = block == config.stem_blocks - 1
        m.d.comb += [
            written.eq(self.words.valid & self.words.ready),
            self.words.payload.data.eq(self._lanes(codes, block)),
        ]

        following_row = next_row(body.destination, row, last_row(m, body.destination, len(row)))
        following_kernel_row = kernel_row_start + constant_product(body.groups_per_row, config.stem_blocks)
        with m.If(written & ~last_block):
            m.d.sync += [block.eq(block + 1), address.eq(address + body.groups_per_row)]
        with m.Elif(written):
            m.d.sync += [block.eq(0), group.eq(group + 1), column.eq(column + 1), address.eq(column + 1)]
            with m.If(group == body.groups_per_row - 1):
                start = Mux(kernel_row == KERNEL_ROWS - 1, following_row, following_kernel_row)
                m.d.sync += [
                    group.eq(0),
                    kernel_row.eq(kernel_row + 1),
                    kernel_row_start.eq(start),
                    column.eq(start),
                    address.eq(start),
                ]
                with m.If(kernel_row == KERNEL_ROWS - 1):
                    m.d.sync += [kernel_row.eq(0), row.eq(following_row)]
        with m.If(self.body.valid & self.body.ready):
            start = self.body.payload.destination.start
            m.d.sync += [row.eq(start), kernel_row_start.eq(start), column.eq(start), address.eq(start)]
        return written & last_block

    def _lanes(self, word: Signal, block: Signal) -> Value:
        """Scratchpad word of channel block `block`: windows of all pixels, lanes beyond the 9 taps 0."""
        config = self._config

        def lane(pixel: int, tap: int) -> Value:
            if tap >= STEM_TAPS:
                return Const(0, config.act_bits)
            return word.word_select(WINDOW_STEP * pixel + tap, config.act_bits)

        words = []
        for b in range(config.stem_blocks):
            taps = range(b * config.in_lanes, (b + 1) * config.in_lanes)
            words.append(Cat(lane(pixel, tap) for pixel in range(config.pixels) for tap in taps))
        result = words[0]
        for b, lanes in enumerate(words[1:], start=1):
            result = Mux(block == b, lanes, result)
        return result
