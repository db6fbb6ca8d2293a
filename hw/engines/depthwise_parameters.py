"""Parameters of the depthwise engine: cuts its stream into tables, records, pad codes, and kernel weights."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arithmetic.requantizer import TableWrite
from hw.config import DW_TAPS, AcceleratorConfig
from hw.control.descriptors import DepthwiseBody, OperandMode, record_layout, record_words, table_words, words_for

__all__ = ["PASSES_3X3", "PASSES_5X5", "RECORD_SLOTS", "DepthwiseParameters"]

PASSES_3X3 = 3  #: one per kernel row; kernel rows 0 and 2 may share one, see `DepthwiseReader`
PASSES_5X5 = 10  #: two per kernel row: taps 0..2, then taps 3, 4 and a zero
BANKS = 2  # blocks whose pad codes and weights are held
PASS_SLOTS = 16  # of one block in the weight memory
RECORD_SLOTS = 4  #: blocks whose records are held: two that wait or are computed, two that are drained
PAD_CODE_BITS = 8
IN_FLIGHT_BITS = 7  # of a count of instructions between the parameter stream and the last write


class RowMemory(wiring.Component):
    """`depth` rows of `words` stream words: written word by word, read a whole row at once.

    `read_data` shows the row one cycle after `read`, and keeps it until the next one.
    """

    def __init__(self, *, depth: int, words: int, word_bits: int) -> None:
        self._words = words
        self._word_bits = word_bits
        self._depth = depth
        super().__init__(
            {
                "write": In(1),
                "write_row": In(range(depth)),
                "write_word": In(range(max(words, 2))),
                "write_data": In(word_bits),
                "read": In(1),
                "read_row": In(range(depth)),
                "read_data": Out(words * word_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = data.ArrayLayout(self._word_bits, self._words)
        m.submodules.memory = memory = Memory(shape=layout, depth=self._depth, init=[])
        write, read = memory.write_port(granularity=1), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write << self.write_word),
            write.addr.eq(self.write_row),
            write.data.eq(self.write_data.replicate(self._words)),
            read.en.eq(self.read),
            read.addr.eq(self.read_row),
            self.read_data.eq(read.data),
        ]
        return m


class DepthwiseParameters(wiring.Component):
    """Loads the parameters of one channel block while another one is computed.

    One stream word per cycle. A block is loaded as soon as no more than one other block is loaded and not yet
    computed. A table waits until all earlier instructions that use its bank have completed.

    Members
    -------
    body : instructions; one is taken when the last one's parameters are loaded and it was passed on
    next_body : the same instructions, offered from the moment that they are taken
    parameters : the stream, see docs/architecture/contracts.md
    table_write : to the requantizer
    block_loaded : pulse; everything that belongs to one more block can be read
    block_computed : pulse; pad codes and weights of one more block are no longer needed
    completed : pulse; an instruction is done. With it, `completed_table`: it used table `completed_bank`
    pads_read, pads_bank, pads : pad codes of a block, one cycle after `pads_read`, held until the next read
    weights_read, weights_bank, weights_pass, weights : weights [tap][channel] of one pass, in the same way
    records_read, records_slot, records : records of all Ti channels, in the same way

    Blocks are numbered from reset on: block n lies in bank n % 2 and in record slot n % RECORD_SLOTS.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        lanes, word_bits = config.in_lanes, config.bus_bits
        self._table_words = table_words(config, word_bits)
        self._section_words = (
            record_words(lanes, word_bits),
            words_for(lanes * PAD_CODE_BITS, word_bits),
            words_for(DW_TAPS * lanes * config.dw_weight_bits, word_bits),  # of one pass
        )
        super().__init__(
            {
                "body": In(stream.Signature(DepthwiseBody)),
                "next_body": Out(stream.Signature(DepthwiseBody)),
                "parameters": In(stream.Signature(config.bus_bits)),
                "table_write": Out(TableWrite(config, config.bus_bits)),
                "block_loaded": Out(1),
                "block_computed": In(1),
                "completed": In(1),
                "completed_table": In(1),
                "completed_bank": In(1),
                "pads_read": In(1),
                "pads_bank": In(1),
                "pads": Out(data.ArrayLayout(config.act_bits, lanes)),
                "weights_read": In(1),
                "weights_bank": In(1),
                "weights_pass": In(range(PASS_SLOTS)),
                "weights": Out(data.ArrayLayout(data.ArrayLayout(signed(config.weight_bits), lanes), DW_TAPS)),
                "records_read": In(1),
                "records_slot": In(range(RECORD_SLOTS)),
                "records": Out(data.ArrayLayout(record_layout(), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = Signal(DepthwiseBody)
        loading, word = Signal(), Signal(range(max(self._table_words, *self._section_words, 2)))
        self._sections(m, loading, word, body.kernel5)
        self._sequence(m, body, loading, word)
        m.d.comb += [
            self.next_body.payload.eq(body),
            self.table_write.bank.eq(body.requant.table_bank),
            self.table_write.word.eq(word),
            self.table_write.data.eq(self.parameters.payload),
        ]
        return m

    def _sequence(self, m: Module, body: data.View, loading: Signal, word: Signal) -> None:
        """Take instructions; for each, load the table, then the blocks."""
        started = Signal()  # the instruction counts as a user of its table from now on
        table_free = self._table_free(m, body, started)
        waiting = Signal(range(BANKS + 1))  # blocks that are loaded and not yet computed
        m.d.sync += waiting.eq(waiting + self.block_loaded - self.block_computed)
        blocks_left = Signal.like(body.blocks)
        passed_on = Signal(init=1)
        m.d.comb += self.next_body.valid.eq(~passed_on)
        with m.If(self.next_body.ready):
            m.d.sync += passed_on.eq(1)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.body.ready.eq(passed_on)
                with m.If(self.body.valid & passed_on):
                    m.d.sync += [body.eq(self.body.payload), passed_on.eq(0), blocks_left.eq(self.body.payload.blocks)]
                    m.next = "begin"
            with m.State("begin"):
                with m.If(~body.requant.table_load):
                    m.d.comb += started.eq(1)
                    m.next = "wait"
                with m.Elif(table_free):
                    m.next = "table"
            with m.State("table"):
                m.d.comb += [
                    self.table_write.valid.eq(self.parameters.valid),
                    self.parameters.ready.eq(self.table_write.ready),
                ]
                with m.If(self.parameters.valid & self.table_write.ready):
                    m.d.sync += word.eq(word + 1)
                    with m.If(word == self._table_words - 1):
                        m.d.sync += word.eq(0)
                        m.d.comb += started.eq(1)
                        m.next = "wait"
            with m.State("wait"):
                with m.If(waiting != BANKS):
                    m.next = "load"
            with m.State("load"):
                m.d.comb += [loading.eq(1), self.parameters.ready.eq(1)]
                with m.If(self.block_loaded):
                    m.d.sync += blocks_left.eq(blocks_left - 1)
                    with m.If(blocks_left == 1):
                        m.next = "idle"
                    with m.Elif((waiting != 0) & ~self.block_computed):
                        m.next = "wait"

    def _table_free(self, m: Module, body: data.View, started: Value) -> Value:
        """Whether no earlier instruction can still read the table bank of `body`."""
        users = [Signal(IN_FLIGHT_BITS, name=f"users_{bank}") for bank in range(2)]
        uses_table = body.requant.operand == OperandMode.TABLE
        for bank, count in enumerate(users):
            more = started & uses_table & (body.requant.table_bank == bank)
            fewer = self.completed & self.completed_table & (self.completed_bank == bank)
            m.d.sync += count.eq(count + more - fewer)
        return Mux(body.requant.table_bank, users[1] == 0, users[0] == 0)

    def _sections(self, m: Module, loading: Signal, word: Signal, kernel5: Value) -> None:
        """Take the stream words of a block: records, pad codes, then the weights of each pass."""
        slot, bank, kernel_pass = Signal(range(RECORD_SLOTS)), Signal(), Signal(range(PASS_SLOTS))
        section = Signal(range(3))
        rows = (slot, bank, Cat(kernel_pass, bank))
        names = ("records_memory", "pads_memory", "weights_memory")
        memories = []
        take = Signal()
        m.d.comb += take.eq(loading & self.parameters.valid)
        for i, (name, row, words) in enumerate(zip(names, rows, self._section_words)):
            m.submodules[name] = memory = RowMemory(depth=1 << len(row), words=words, word_bits=self._config.bus_bits)
            m.d.comb += [
                memory.write.eq(take & (section == i)),
                memory.write_row.eq(row),
                memory.write_word.eq(word),
                memory.write_data.eq(self.parameters.payload),
            ]
            memories.append(memory)
        self._read(m, *memories)

        section_ends = Signal()
        last_pass = Mux(kernel5, PASSES_5X5 - 1, PASSES_3X3 - 1)
        with m.Switch(section):
            for i, words in enumerate(self._section_words):
                with m.Case(i):
                    m.d.comb += section_ends.eq(word == words - 1)
        with m.If(take):
            m.d.sync += word.eq(Mux(section_ends, 0, word + 1))
        with m.If(take & section_ends):
            with m.If(section != 2):
                m.d.sync += section.eq(section + 1)
            with m.Elif(kernel_pass != last_pass):
                m.d.sync += kernel_pass.eq(kernel_pass + 1)
            with m.Else():
                m.d.comb += self.block_loaded.eq(1)
                m.d.sync += [section.eq(0), kernel_pass.eq(0), bank.eq(~bank), slot.eq(slot + 1)]

    def _read(self, m: Module, records: RowMemory, pads: RowMemory, weights: RowMemory) -> None:
        """Connect the read ports, and cut the rows into elements."""
        config = self._config
        m.d.comb += [
            records.read.eq(self.records_read),
            records.read_row.eq(self.records_slot),
            self.records.eq(records.read_data),
            pads.read.eq(self.pads_read),
            pads.read_row.eq(self.pads_bank),
            weights.read.eq(self.weights_read),
            weights.read_row.eq(Cat(self.weights_pass, self.weights_bank)),
        ]
        for c in range(config.in_lanes):
            m.d.comb += self.pads[c].eq(pads.read_data.word_select(c, PAD_CODE_BITS))
            for tap in range(DW_TAPS):
                element = weights.read_data.word_select(tap * config.in_lanes + c, config.dw_weight_bits)
                m.d.comb += self.weights[tap][c].eq(element[: config.weight_bits].as_signed())
