"""The load engine: image rows from external memory, unrolled for the 3x3 stride-2 stem, into a scratchpad.

`RowFetcher` walks the image rows of an instruction and asks for them ahead of their use; `Unroller` turns their bytes
into overlapping windows and writes them; `Loader` is both and an AXI reader between them. The fetcher may be one
instruction ahead of the unroller.
"""

from math import gcd

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.constant_product import constant_product
from hw.bus.axi4 import Axi4Read
from hw.bus.bursts import burst_command
from hw.bus.reader import AxiReader
from hw.config import KERNEL_ROWS, STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import LoadBody
from hw.interfaces import EngineStatus, InstructionPort, PadWrite, pad_address_bits
from hw.memory.fifo import Fifo
from hw.memory.map_rows import last_row, next_row
from hw.memory.stream_register import StreamRegister

__all__ = ["Loader", "RowFetcher", "Unroller"]

CHANNELS = 3
WINDOW_STEP = 2 * CHANNELS  #: bytes from one output pixel's window to the next
LEFT_PADDING = CHANNELS  #: bytes before the row that the first window sees
ROWS_AHEAD = 8
FIFO_BEATS = 128


class RowFetcher(wiring.Component):
    """Walk the image rows of load instructions: a DMA command for every row that exists.

    Image row r = first_row + 2i + ky for output row i and kernel row ky. The first command is offered
    bit_length(max(first_row, 0)) + 2 cycles after the instruction is taken (a serial product finds its address), then
    one row per cycle. Whether a row exists is found one cycle ahead.

    Members
    -------
    instruction : In(stream of LoadBody)
    input_base : In(address_bits)
    command : Out(stream of burst_command)
    rows : Out(stream of 1 bit), for every image row: whether it exists
    body : Out(stream of LoadBody), the instruction, for the unroller; the next one is taken after this one has gone
    busy : Out(1)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._beat_bits = (config.bus_bytes - 1).bit_length()
        super().__init__(
            {
                "instruction": In(stream.Signature(LoadBody)),
                "input_base": In(config.address_bits),
                "command": Out(stream.Signature(burst_command(config.address_bits))),
                "rows": Out(stream.Signature(1)),
                "body": Out(stream.Signature(LoadBody)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = self.body.payload
        handed_over = Signal(init=1)
        m.d.comb += self.body.valid.eq(~handed_over)
        with m.If(self.body.ready):
            m.d.sync += handed_over.eq(1)

        address = Signal.like(self.input_base)  # of image row max(image_row, 0)
        image_row = Signal(signed(18))
        skipped_rows = Signal(16)  # multiplier of the serial product, low bit first
        skipped_bytes = Signal(32)
        row = Signal(8)
        kernel_row = Signal(range(KERNEL_ROWS))
        exists = Signal()  # image_row
        last_image_row = Signal(signed(18))

        incoming = self.instruction.payload
        first_row = incoming.first_row.as_signed()
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.instruction.ready.eq(handed_over)
                with m.If(self.instruction.valid & self.instruction.ready):
                    m.d.sync += [
                        body.eq(incoming),
                        handed_over.eq(0),
                        address.eq(self.input_base + incoming.address),
                        image_row.eq(first_row),
                        skipped_rows.eq(Mux(first_row < 0, 0, first_row)),
                        skipped_bytes.eq(incoming.row_bytes),
                        last_image_row.eq(incoming.image_rows - 1),
                        row.eq(0),
                        kernel_row.eq(0),
                    ]
                    m.next = "locate"
            with m.State("locate"):
                # address += first_row * row_bytes
                m.d.comb += self.busy.eq(1)
                m.d.sync += [
                    skipped_rows.eq(skipped_rows >> 1),
                    skipped_bytes.eq(skipped_bytes << 1),
                    exists.eq((image_row >= 0) & (image_row <= last_image_row)),
                ]
                with m.If(skipped_rows[0]):
                    m.d.sync += address.eq(address + skipped_bytes)
                with m.If(skipped_rows == 0):
                    m.next = "fetch"
            with m.State("fetch"):
                m.d.comb += self.busy.eq(1)
                taken = Signal()
                m.d.comb += [
                    self.rows.payload.eq(exists),
                    self.rows.valid.eq(self.command.ready | ~exists),
                    taken.eq(self.rows.valid & self.rows.ready),
                    self.command.payload.address.eq(address),
                    self.command.payload.beats.eq(body.row_bytes >> self._beat_bits),
                    self.command.valid.eq(exists & self.rows.ready),
                ]
                # the last kernel row of an output row is the first one of the next
                with m.If(taken & (kernel_row == KERNEL_ROWS - 1)):
                    m.d.sync += [kernel_row.eq(0), row.eq(row + 1)]
                    with m.If(row == body.rows - 1):
                        m.next = "idle"
                with m.Elif(taken):
                    m.d.sync += [
                        kernel_row.eq(kernel_row + 1),
                        image_row.eq(image_row + 1),
                        exists.eq((image_row >= -1) & (image_row < last_image_row)),
                    ]
                    with m.If(image_row >= 0):
                        m.d.sync += address.eq(address + body.row_bytes)
        return m


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
    pixels : In(stream of bus_bits), the bytes of those that do
    destination : Out(PadWrite)
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
                "destination": Out(PadWrite(config)),
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
        # the scratchpad's answer ends here
        m.submodules.writes = writes = Fifo(width=pad_address_bits(config) + config.pad_word_bits, depth=2)

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
        m.d.comb += [writes.i.valid.eq(available), pop.eq(self._write_words(m, body, codes, writes))]

        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += [rows_to_begin.eq(rows_to_begin - 1), more_rows.eq(rows_to_begin != 1)]
        finished = Signal()
        m.d.comb += finished.eq(active & ~more_rows & ~in_row & ~writes.o.valid)
        with m.If(finished):
            m.d.sync += active.eq(0)
        m.d.sync += self.done.eq(finished)

        missing_row = ~in_row & more_rows
        refused = self.destination.valid & ~self.destination.ready
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

    def _write_words(self, m: Module, body: data.View, codes: Signal, writes: Fifo) -> Value:
        """Write the blocks of each word, [output row][kernel row][pixel group][block]. Returns when a word is done."""
        config = self._config
        destination = self.destination
        row = Signal(pad_address_bits(config))  # address of the output row
        kernel_row_start, column, address = Signal.like(row), Signal.like(row), Signal.like(row)  # column: first block
        kernel_row = Signal(range(KERNEL_ROWS))
        group = Signal(8)
        block = Signal(range(max(config.stem_blocks, 2)))

        written = Signal()
        last_block = block == config.stem_blocks - 1
        m.d.comb += [
            written.eq(writes.i.valid & writes.i.ready),
            writes.i.payload.eq(Cat(address, self._lanes(codes, block))),
            destination.valid.eq(writes.o.valid),
            writes.o.ready.eq(destination.ready),
            destination.pad.eq(body.destination.pad),
            destination.address.eq(writes.o.payload[: len(address)]),
            destination.data.eq(writes.o.payload[len(address) :]),
            destination.mask.eq(~0),
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


class Loader(wiring.Component):
    """Load engine: executes `LoadBody` instructions.

    Members
    -------
    instruction : In(InstructionPort(LoadBody))
    input_base : In(address_bits), of the image; constant while busy
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
        wiring.connect(m, wiring.flipped(self.instruction.body), fetcher.instruction)
        wiring.connect(m, fetcher.command, reader.command)
        wiring.connect(m, fetcher.rows, rows.w_stream)
        wiring.connect(m, fetcher.body, unroller.body)
        wiring.connect(m, rows.r_stream, unroller.rows)
        m.submodules.pixels = pixels = StreamRegister(config.bus_bits)
        wiring.connect(m, reader.data, pixels.i)
        wiring.connect(m, pixels.o, unroller.pixels)
        wiring.connect(m, reader.bus, wiring.flipped(self.bus))
        wiring.connect(m, unroller.destination, wiring.flipped(self.destination))
        m.d.comb += [
            fetcher.input_base.eq(self.input_base),
            self.instruction.done.eq(unroller.done),
            self.status.busy.eq(fetcher.busy | fetcher.body.valid | unroller.status.busy),
            self.status.stall.eq(self.status.busy & (unroller.status.stall | ~unroller.status.busy)),
            reader.halt.eq(self.halt),
            self.error.eq(reader.error),
            self.outstanding.eq(reader.outstanding),
        ]
        return m
