"""The store engine: scratchpad words to external memory."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.constant_product import constant_product
from hw.bus.axi4 import Axi4Write
from hw.bus.writer import AxiWriter
from hw.config import AcceleratorConfig
from hw.control.descriptors import StoreBody
from hw.interfaces import EngineStatus, InstructionPort, PadRead, pad_address_bits
from hw.memory.map_rows import last_row, next_row

__all__ = ["Storer", "WordReader"]

WORDS_AHEAD = 8  #: enough to read a word per cycle through a `ReadBuffer` and `PAD_READ_LATENCY`


class WordReader(wiring.Component):
    """Read the words of a map in order and cut them into bus beats, low bits first.

    Throughput: one beat per cycle.

    Members
    -------
    body : In(StoreBody), held from the cycle before `start` until the last beat
    start : In(1), pulse: read the map of `body`
    source : Out(PadRead)
    beats : Out(stream of bus_bits)
    waiting : Out(1), a read request is refused
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "body": In(StoreBody),
                "start": In(1),
                "source": Out(PadRead(config)),
                "beats": Out(stream.Signature(config.bus_bits)),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.words = words = fifo.SyncFIFO(width=config.pad_word_bits, depth=WORDS_AHEAD)

        # beats of the oldest word
        beat = Signal(range(max(config.pad_word_beats, 2)))
        last_beat = beat == config.pad_word_beats - 1
        beat_taken = self.beats.valid & self.beats.ready
        word_taken = beat_taken & last_beat
        m.d.comb += [
            words.w_data.eq(self.source.data),
            words.w_en.eq(self.source.data_valid),
            words.r_en.eq(word_taken),
            self.beats.valid.eq(words.r_rdy),
            self.beats.payload.eq(words.r_data.word_select(beat, config.bus_bits)),
        ]
        with m.If(beat_taken):
            m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))

        requested = self._request_words(m, word_taken)
        m.d.comb += self.waiting.eq(self.source.valid & ~requested)
        return m

    def _request_words(self, m: Module, word_taken: Value) -> Value:
        """Walk the map while there is room for the words. Returns whether a request is granted."""
        body = self.body
        active = Signal()
        room = Signal(range(WORDS_AHEAD + 1), init=WORDS_AHEAD)  # words neither requested nor in the FIFO
        row_start = Signal(pad_address_bits(self._config))
        address = Signal.like(row_start)
        row = Signal(16)
        word = Signal(16)

        granted = self.source.valid & self.source.ready
        m.d.comb += [
            self.source.valid.eq(active & (room != 0)),
            self.source.pad.eq(body.source.pad),
            self.source.address.eq(address),
        ]
        m.d.sync += room.eq(room - granted + word_taken)
        following_row = next_row(body.source, row_start, last_row(m, body.source, len(row_start)))
        with m.If(granted):
            m.d.sync += [address.eq(address + 1), word.eq(word + 1)]
            with m.If(word == body.words_per_row - 1):
                m.d.sync += [address.eq(following_row), row_start.eq(following_row), word.eq(0), row.eq(row + 1)]
                with m.If(row == body.rows - 1):
                    m.d.sync += active.eq(0)
        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                address.eq(body.source.start),
                row_start.eq(body.source.start),
                row.eq(0),
                word.eq(0),
            ]
        return granted


class Storer(wiring.Component):
    """Store engine: executes `StoreBody` instructions, one at a time.

    A serial product finds the size; if that is 0 or ends beyond `result_bytes`, nothing is written, `range_error`
    pulses, and the engine stays in that instruction until reset.

    Members
    -------
    instruction : In(InstructionPort(StoreBody))
    result_base : In(address_bits), result_bytes : In(32), where and how large the result area is; constant while busy
    bus : Out(Axi4Write)
    source : Out(PadRead)
    status : Out(EngineStatus)
    range_error : Out(1)
    halt, error, outstanding : as `AxiWriter`
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(StoreBody)),
                "result_base": In(config.address_bits),
                "result_bytes": In(32),
                "bus": Out(Axi4Write(config.bus_bits, config.address_bits)),
                "source": Out(PadRead(config)),
                "status": Out(EngineStatus()),
                "range_error": Out(1),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reader = reader = WordReader(config)
        m.submodules.writer = writer = AxiWriter(data_width=config.bus_bits, address_bits=config.address_bits)
        wiring.connect(m, reader.beats, writer.data)
        wiring.connect(m, reader.source, wiring.flipped(self.source))
        wiring.connect(m, writer.bus, wiring.flipped(self.bus))

        body = Signal(StoreBody)
        m.d.comb += [
            reader.body.eq(body),
            writer.halt.eq(self.halt),
            self.error.eq(writer.error),
            self.outstanding.eq(writer.outstanding),
            self.instruction.done.eq(writer.done),
            self.status.stall.eq(self.status.busy & (reader.waiting | (self.bus.wvalid & ~self.bus.wready))),
        ]
        self._sequence(m, body, reader, writer)
        return m

    def _sequence(self, m: Module, body: data.View, reader: WordReader, writer: AxiWriter) -> None:
        """Take an instruction, check its size, start both sides, and wait for the last response."""
        config = self._config
        # as many bits as beats in a result area, but those of a row at least; and one that stays when it was set
        beats_bits = max(
            min(config.address_bits, len(self.result_bytes)) - (config.bus_bytes.bit_length() - 1),
            len(body.words_per_row) + config.pad_word_beats.bit_length(),
        )
        total_beats = Signal(beats_bits + 1)
        rows = Signal(len(body.rows))  # multiplier of the serial product, low bit first
        row_beats = Signal(beats_bits + 1)
        doubled, total = row_beats << 1, total_beats[:-1] + row_beats[:-1]
        end = Signal(max(len(body.address), beats_bits + config.bus_bytes.bit_length()) + 1)

        m.d.comb += [
            writer.command.payload.address.eq(self.result_base + body.address),
            writer.command.payload.beats.eq(total_beats[:-1]),
        ]
        with m.FSM() as fsm:
            m.d.comb += self.status.busy.eq(~fsm.ongoing("idle"))
            with m.State("idle"):
                m.d.comb += self.instruction.body.ready.eq(1)
                with m.If(self.instruction.body.valid):
                    incoming = self.instruction.body.payload
                    m.d.sync += [
                        body.eq(incoming),
                        total_beats.eq(0),
                        rows.eq(incoming.rows),
                        row_beats.eq(constant_product(incoming.words_per_row, config.pad_word_beats)),
                    ]
                    m.next = "measure"
            with m.State("measure"):
                # total_beats = rows * row_beats
                m.d.sync += [rows.eq(rows >> 1), row_beats.eq(doubled | row_beats & 1 << beats_bits)]
                with m.If(rows[0]):
                    m.d.sync += total_beats.eq(total | (total_beats | row_beats) & 1 << beats_bits)
                with m.If(rows == 0):
                    m.next = "end"
            with m.State("end"):
                m.d.sync += end.eq(body.address + total_beats[:-1] * config.bus_bytes)
                m.next = "check"
            with m.State("check"):
                m.d.sync += self.range_error.eq((total_beats == 0) | total_beats[-1] | (end > self.result_bytes))
                m.next = "decide"
            with m.State("decide"):
                m.d.sync += self.range_error.eq(0)
                with m.If(self.range_error):
                    m.next = "failed"
                with m.Else():
                    m.d.comb += [writer.command.valid.eq(1), reader.start.eq(1)]
                    m.next = "write"
            with m.State("write"):
                with m.If(writer.done):
                    m.next = "idle"
            with m.State("failed"):
                pass
