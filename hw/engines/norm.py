"""LayerNorm engine (`quant.numerics.normalise`, then `Requant`) over the channels of a pixel.

    scratchpad --words--> channel groups --twice--> multipliers --> sums, then elements --> Requantizer --> scratchpad
                                                                          records ------------^

With n channels: sum1 = sum(x), sum2 = sum(x * x), variance * n * n = n * sum2 - sum1**2 + epsilon;
element = (n * x - sum1) * rsqrt(variance * n * n), 12 fractional bits.
"""

from collections.abc import Sequence

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.arithmetic.leading_one import LeadingOne, leading_one_latency
from hw.arithmetic.product import product
from hw.arithmetic.requantizer import Requantizer, TableWrite
from hw.arithmetic.scaler import Scaler
from hw.config import AcceleratorConfig
from hw.control.descriptors import NormBody, RequantMode, record_layout, record_words, table_words
from hw.interfaces import EngineStatus, InstructionPort, PadRead, PadWrite, pad_address_bits, write_mask
from hw.memory.fifo import Fifo
from quant import numerics

__all__ = ["GROUPS_AHEAD", "MAX_CHANNELS", "NormEngine", "RecordReader", "ReciprocalStd", "VectorReader", "VectorUnit"]

CHANNEL_BITS = 12
MAX_CHANNELS = (1 << CHANNEL_BITS) - 1  #: keeps the variance below 2**VARIANCE_BITS
VARIANCE_BITS = 41
ELEMENT_BITS = 20  #: an element is at most sqrt(n), with 12 fractional bits, and the error of the table
RSQRT_BITS = numerics.RECIPROCAL_BITS + 1
WORDS_AHEAD = 8  #: scratchpad words requested ahead, to read one per cycle
GROUPS_AHEAD = 8  #: channel groups between the multipliers and the scratchpad


def tree_sum(terms: Sequence[Value]) -> Value:
    """Sum as a balanced tree of adders."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return tree_sum(terms[:half]) + tree_sum(terms[half:])


class VectorReader(wiring.Component):
    """Read `channels` codes of a pixel, twice, in groups of `norm_group`, one per cycle.

    Absent channels of the last group are 0. The first group is offered 5 cycles after `start`.

    Members: `start`: begin; not before the last group has been taken. `pad`, `address`, `stride`, `pixel`, `channels`
    hold still from then on; words are `stride` apart. `valid`, `take`: a group is offered, and goes on with `take`;
    `last`: it is the last one of its pass.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "pad": In(2),
                "address": In(pad_address_bits(config)),
                "stride": In(pad_address_bits(config)),
                "pixel": In(range(max(config.pixels, 2))),
                "channels": In(CHANNEL_BITS),
                "source": Out(PadRead(config)),
                "valid": Out(1),
                "take": In(1),
                "last": Out(1),
                "codes": Out(data.ArrayLayout(config.act_bits, config.norm_group)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        config, lanes, group_size = self._config, self._config.in_lanes, self._config.norm_group
        last_word = Signal(CHANNEL_BITS, reset_less=True)  # known before the first request is granted
        m.d.sync += last_word.eq((self.channels - 1) >> (lanes - 1).bit_length())
        m.submodules.words = words = Fifo(width=lanes * config.act_bits, depth=WORDS_AHEAD)

        # Requests run ahead as far as the FIFO has room for their data.
        active, second, word, ahead = Signal(), Signal(), Signal(CHANNEL_BITS), Signal(range(WORDS_AHEAD + 1))
        address = Signal.like(self.address, reset_less=True)
        requested = self.source.valid & self.source.ready
        m.d.comb += [
            self.source.valid.eq(active & (ahead != WORDS_AHEAD)),
            self.source.pad.eq(self.pad),
            self.source.address.eq(address),
            words.i.valid.eq(self.source.data_valid),
            words.i.payload.eq(self.source.data[self.pixel]),
        ]
        m.d.sync += ahead.eq(ahead + requested - words.o.ready)
        with m.If(self.start):
            m.d.sync += [active.eq(1), second.eq(0), word.eq(0), address.eq(self.address)]
        with m.Elif(requested):
            m.d.sync += [word.eq(word + 1), address.eq(address + self.stride)]
            with m.If(word == last_word):
                m.d.sync += [word.eq(0), address.eq(self.address), second.eq(1), active.eq(~second)]

        # Groups of the first word in the FIFO; `remaining` channels of this pass have not been taken.
        subblock, remaining = Signal(range(config.norm_subblocks)), Signal(CHANNEL_BITS)
        last_subblock = subblock == config.norm_subblocks - 1
        group = words.o.payload.word_select(subblock, group_size * config.act_bits)
        m.d.comb += [
            self.valid.eq(words.o.valid),
            self.last.eq(remaining <= group_size),
            words.o.ready.eq(self.take & (last_subblock | self.last)),
            *(
                code.eq(Mux(remaining > i, group.word_select(i, config.act_bits), 0))
                for i, code in enumerate(self.codes)
            ),
        ]
        with m.If(self.start | (self.take & self.last)):
            m.d.sync += [subblock.eq(0), remaining.eq(self.channels)]
        with m.Elif(self.take):
            m.d.sync += [subblock.eq(Mux(last_subblock, 0, subblock + 1)), remaining.eq(remaining - group_size)]
        return m


class VectorUnit(wiring.Component):
    """Arithmetic on one channel group per cycle: sums of x and x * x, or elements, with the same multipliers.

    Members
    -------
    valid, elements, codes : a group x; `elements` : compute (n * x - sum1) * r, else add it to the sums
    clear : set the sums to 0
    channels, r, shift : n, and the reciprocal standard deviation of `ReciprocalStd`
    settled : the sums are complete
    out_valid, y : elements, `latency` cycles after `valid`
    """

    latency = 3 + Scaler.latency

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "elements": In(1),
                "codes": In(data.ArrayLayout(config.act_bits, config.norm_group)),
                "clear": In(1),
                "channels": In(CHANNEL_BITS),
                "r": In(RSQRT_BITS),
                "shift": In(numerics.SHIFT_BITS),
                "sum1": Out(CHANNEL_BITS + config.act_bits),
                "sum2": Out(CHANNEL_BITS + 2 * config.act_bits),
                "settled": Out(1),
                "out_valid": Out(1),
                "y": Out(data.ArrayLayout(signed(ELEMENT_BITS), config.norm_group)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        valids = Signal(self.latency)  # bit i: i + 1 cycles after `valid`
        m.d.sync += valids.eq(Cat(self.valid, valids))
        m.d.comb += [self.settled.eq(~valids[:3].any()), self.out_valid.eq(valids[-1] & self.elements)]

        codes = Signal.like(self.codes, reset_less=True)
        partial1, partial2 = Signal.like(self.sum1, reset_less=True), Signal.like(self.sum2, reset_less=True)
        with m.If(self.valid):
            m.d.sync += codes.eq(self.codes)
        products = []
        for i, code in enumerate(codes):
            factor = Signal(CHANNEL_BITS, name=f"factor{i}", reset_less=True)
            multiple = Signal(len(code) + CHANNEL_BITS, name=f"product{i}", reset_less=True)
            with m.If(self.valid):
                m.d.sync += factor.eq(Mux(self.elements, self.channels, self.codes[i]))
            with m.If(valids[0]):
                m.d.sync += multiple.eq(product(code, factor, self._config.engine_multiplier))
            products.append(multiple)
            scaler = Scaler(len(multiple) + 1, RSQRT_BITS, ELEMENT_BITS, self._config.scaler_multiplier)
            m.submodules[f"scaler{i}"] = scaler
            m.d.comb += [
                scaler.valid.eq(valids[2] & self.elements),
                scaler.multiplier.eq(self.r),
                scaler.shift.eq(self.shift),
                self.y[i].eq(scaler.y),
            ]
            difference = Signal(signed(len(multiple) + 1), name=f"difference{i}", reset_less=True)
            m.d.comb += scaler.x.eq(difference)
            with m.If(valids[1] & self.elements):
                m.d.sync += difference.eq(multiple - self.sum1)

        with m.If(self.clear):
            m.d.sync += [self.sum1.eq(0), self.sum2.eq(0)]
        with m.If(~self.elements):
            with m.If(valids[0]):
                m.d.sync += partial1.eq(tree_sum(codes))
            with m.If(valids[1]):
                m.d.sync += [partial2.eq(tree_sum(products)), self.sum1.eq(self.sum1 + partial1)]
            with m.If(valids[2]):
                m.d.sync += self.sum2.eq(self.sum2 + partial2)
        return m


class ReciprocalStd(wiring.Component):
    """r * 2**-(15 + exponent / 2), about 1 / sqrt(n * sum2 - sum1**2 + epsilon), by the table of `quant.numerics`.

    The products are made by shifting and adding, one bit per cycle: there are two per instruction. `shift` is the
    shift of an element's product with r. Inputs hold still from `start`; shift holds from `done` to `start`, and r from
    the cycle after `done`: a multiplier follows it, which has no time left behind a block RAM.
    """

    @staticmethod
    def latency(config: AcceleratorConfig) -> int:
        """Cycles from `start` to `done`."""
        return 2 * CHANNEL_BITS + config.act_bits + leading_one_latency(VARIANCE_BITS) + 2

    def __init__(self, config: AcceleratorConfig) -> None:
        self._sum1_bits = CHANNEL_BITS + config.act_bits
        super().__init__(
            {
                "start": In(1),
                "channels": In(CHANNEL_BITS),
                "sum1": In(self._sum1_bits),
                "sum2": In(CHANNEL_BITS + 2 * config.act_bits),
                "epsilon": In(40),
                "done": Out(1),
                "r": Out(RSQRT_BITS),
                "shift": Out(numerics.SHIFT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.leading_one = leading_one = LeadingOne(VARIANCE_BITS, numerics.NORM_INDEX_BITS - 1)
        variance = Signal(VARIANCE_BITS, reset_less=True)
        factor, bits = Signal(VARIANCE_BITS, reset_less=True), Signal(self._sum1_bits, reset_less=True)
        count = Signal(range(self._sum1_bits))
        m.d.comb += leading_one.x.eq(variance)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [variance.eq(self.epsilon), factor.eq(self.sum2), bits.eq(self.channels), count.eq(0)]
                    m.next = "ADD"
            with m.State("ADD"):
                m.d.sync += [factor.eq(factor << 1), bits.eq(bits >> 1), count.eq(count + 1)]
                with m.If(bits[0]):
                    m.d.sync += variance.eq(variance + factor)
                with m.If(count == CHANNEL_BITS - 1):
                    m.d.sync += [factor.eq(self.sum1), bits.eq(self.sum1), count.eq(0)]
                    m.next = "SUBTRACT"
            with m.State("SUBTRACT"):
                m.d.sync += [factor.eq(factor << 1), bits.eq(bits >> 1), count.eq(count + 1)]
                with m.If(bits[0]):
                    m.d.sync += variance.eq(variance - factor)
                with m.If(count == self._sum1_bits - 1):
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.d.comb += leading_one.valid.eq(1)
                m.next = "IDLE"

        m.submodules.table = table = Memory(
            shape=RSQRT_BITS, depth=1 << numerics.NORM_INDEX_BITS, init=numerics.rsqrt_table()
        )
        port = table.read_port()
        m.d.comb += [
            port.en.eq(leading_one.out_valid),
            port.addr.eq(Cat(leading_one.mantissa, leading_one.exponent[0])),
        ]
        m.d.sync += [self.done.eq(leading_one.out_valid), self.r.eq(port.data)]
        with m.If(leading_one.out_valid):
            fraction = numerics.RECIPROCAL_BITS - numerics.NORM_FRACTION_BITS
            m.d.sync += self.shift.eq(fraction + (leading_one.exponent >> 1))
        return m


class RecordReader(wiring.Component):
    """Take the parameters of an instruction: the table, if it has one, then records, one channel group at a time.

    Members: `start`: begin; `mode` and `channels` hold still from then on. `valid`, `take`: the records of the next
    group are complete, and give way to those of the next.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "mode": In(RequantMode),
                "channels": In(CHANNEL_BITS),
                "parameters": In(stream.Signature(config.bus_bits)),
                "table_write": Out(TableWrite(config, config.bus_bits)),
                "records": Out(data.ArrayLayout(record_layout(), config.norm_group)),
                "valid": Out(1),
                "take": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        config, parameters = self._config, self.parameters
        words_per_table, words_per_group = (
            table_words(config, config.bus_bits),
            record_words(config.norm_group, config.bus_bits),
        )
        word = Signal(range(max(words_per_table, words_per_group, 2)))
        words = Signal(words_per_group * config.bus_bits, reset_less=True)
        remaining = Signal(CHANNEL_BITS)
        taken = parameters.valid & parameters.ready
        m.d.comb += [
            self.table_write.bank.eq(self.mode.table_bank),
            self.table_write.word.eq(word),
            self.table_write.data.eq(parameters.payload),
            self.records.eq(words),
        ]
        with m.If(taken):
            m.d.sync += word.eq(word + 1)
        with m.If(self.take):
            m.d.sync += self.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += remaining.eq(self.channels)
                    m.next = "RECORDS"
                    with m.If(self.mode.table_load):
                        m.next = "TABLE"
            with m.State("TABLE"):
                m.d.comb += [
                    self.table_write.valid.eq(parameters.valid),
                    parameters.ready.eq(self.table_write.ready),
                ]
                with m.If(taken & (word == words_per_table - 1)):
                    m.d.sync += word.eq(0)
                    m.next = "RECORDS"
            with m.State("RECORDS"):
                m.d.comb += parameters.ready.eq(~self.valid | self.take)
                with m.If(taken):
                    m.d.sync += words.eq(Cat(words, parameters.payload)[config.bus_bits :])
                with m.If(taken & (word == words_per_group - 1)):
                    m.d.sync += [word.eq(0), self.valid.eq(1), remaining.eq(remaining - config.norm_group)]
                    with m.If(remaining <= config.norm_group):
                        m.next = "IDLE"
        return m


class GroupWriter(wiring.Component):
    """Write channel groups of results to a pixel of words that are `stride` apart, one group per cycle.

    Members: `start`: begin with these `channels` at this `pad` and `address`; they, `stride`, and `pixel` hold still.
    `valid`, `ready`, `codes`: results. `last`: the last group is written in this cycle.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "pad": In(2),
                "address": In(pad_address_bits(config)),
                "stride": In(pad_address_bits(config)),
                "pixel": In(range(max(config.pixels, 2))),
                "channels": In(CHANNEL_BITS),
                "valid": In(1),
                "ready": Out(1),
                "codes": In(data.ArrayLayout(config.act_bits, config.norm_group)),
                "last": Out(1),
                "destination": Out(PadWrite(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        config, destination = self._config, self.destination
        address = Signal.like(self.address, reset_less=True)
        subblock, remaining = Signal(range(config.norm_subblocks)), Signal(CHANNEL_BITS)
        written, chosen = self.valid & self.ready, write_mask(config, subblock, config.norm_group)
        m.d.comb += [
            destination.valid.eq(self.valid),
            self.ready.eq(destination.ready),
            destination.pad.eq(self.pad),
            destination.address.eq(address),
            destination.data.eq(self.codes.as_value().replicate(config.pixels * config.norm_subblocks)),
            *(mask.eq(Mux(self.pixel == p, chosen, 0)) for p, mask in enumerate(destination.mask)),
            self.last.eq(written & (remaining <= config.norm_group)),
        ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), subblock.eq(0), remaining.eq(self.channels)]
        with m.Elif(written):
            m.d.sync += [subblock.eq(subblock + 1), remaining.eq(remaining - config.norm_group)]
            with m.If(subblock == config.norm_subblocks - 1):
                m.d.sync += [subblock.eq(0), address.eq(address + self.stride)]
        return m


class NormEngine(wiring.Component):
    """Engine of `NormBody`: exactly `quant.integer_network.LayerNorm`, `norm_group` channels per cycle.

    First all codes for the sums, then the reciprocal standard deviation, then all codes again; the records come
    meanwhile and limit the second pass. One instruction at a time. Legal: up to `MAX_CHANNELS` channels, an epsilon
    of at least 1, no `wide` or `divide`, operands NONE or TABLE.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(NormBody)),
                "source": Out(PadRead(config)),
                "destination": Out(PadWrite(config)),
                "parameters": In(stream.Signature(config.bus_bits)),
                "status": Out(EngineStatus()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        config, body = self._config, Signal(NormBody, reset_less=True)
        m.submodules.vector = vector = VectorReader(config)
        m.submodules.unit = unit = VectorUnit(config)
        m.submodules.std = std = ReciprocalStd(config)
        m.submodules.writer = writer = GroupWriter(config)
        connect(m, vector.source, flipped(self.source))
        connect(m, writer.destination, flipped(self.destination))

        start, elements, room = Signal(), Signal(), Signal()
        m.d.comb += [
            vector.start.eq(start),
            vector.pad.eq(body.source.pad),
            vector.address.eq(body.source.start),
            vector.stride.eq(body.source.row_stride),
            vector.pixel.eq(body.pixel),
            vector.channels.eq(body.channels),
            unit.valid.eq(vector.take),
            unit.elements.eq(elements),
            unit.codes.eq(vector.codes),
            unit.clear.eq(start),
            unit.channels.eq(body.channels),
            unit.r.eq(std.r),
            unit.shift.eq(std.shift),
            std.channels.eq(body.channels),
            std.sum1.eq(unit.sum1),
            std.sum2.eq(unit.sum2),
            std.epsilon.eq(body.epsilon),
            writer.start.eq(start),
            writer.pad.eq(body.destination.pad),
            writer.address.eq(body.destination.start),
            writer.stride.eq(body.destination.row_stride),
            writer.pixel.eq(body.pixel),
            writer.channels.eq(body.channels),
        ]
        self._requantize(m, body, start, unit, writer)
        self._count_groups(m, elements & vector.take, writer.valid & writer.ready, room)
        self._control(m, body, start, elements, room, vector, unit, std, writer)
        return m

    def _requantize(self, m: Module, body: data.View, start: Value, unit: VectorUnit, writer: GroupWriter) -> None:
        """Elements wait for their records; results wait for the scratchpad."""
        config = self._config
        m.submodules.records = records = RecordReader(config)
        m.submodules.requantizer = requantizer = Requantizer(
            config, pixels=1, channels=config.norm_group, word_bits=config.bus_bits, acc_bits=ELEMENT_BITS
        )
        m.submodules.waiting = waiting = Fifo(width=len(unit.y.as_value()), depth=GROUPS_AHEAD)
        m.submodules.results = results = SyncFIFOBuffered(width=len(writer.codes.as_value()), depth=GROUPS_AHEAD)
        connect(m, flipped(self.parameters), records.parameters)
        connect(m, records.table_write, requantizer.table_write)
        go = waiting.o.valid & records.valid
        m.d.comb += [
            records.start.eq(start),
            records.mode.eq(body.requant),
            records.channels.eq(body.channels),
            records.take.eq(go),
            waiting.i.valid.eq(unit.out_valid),
            waiting.i.payload.eq(unit.y),
            waiting.o.ready.eq(go),
            requantizer.valid.eq(go),
            requantizer.acc.eq(waiting.o.payload),
            requantizer.records.eq(records.records),
            requantizer.mode.eq(body.requant),
            results.w_en.eq(requantizer.out_valid),
            results.w_data.eq(Cat(y[: config.act_bits] for y in requantizer.y[0])),
            results.r_en.eq(writer.ready),
            writer.valid.eq(results.r_rdy),
            writer.codes.eq(results.r_data),
        ]

    def _count_groups(self, m: Module, taken: Value, written: Value, room: Signal) -> None:
        """There is `room` for a group if both FIFOs could hold all that are on their way."""
        groups = Signal(range(GROUPS_AHEAD + 1))
        m.d.sync += groups.eq(groups + taken - written)
        m.d.comb += room.eq(groups != GROUPS_AHEAD)

    def _control(
        self,
        m: Module,
        body: data.View,
        start: Signal,
        elements: Signal,
        room: Value,
        vector: VectorReader,
        unit: VectorUnit,
        std: ReciprocalStd,
        writer: GroupWriter,
    ) -> None:
        """The steps of an instruction."""
        instruction = self.instruction
        m.d.sync += instruction.done.eq(writer.last)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [instruction.body.ready.eq(1), self.status.busy.eq(instruction.done)]
                with m.If(instruction.body.valid):
                    m.d.sync += body.eq(instruction.body.payload)
                    m.next = "START"
            with m.State("START"):
                m.d.comb += [start.eq(1), self.status.busy.eq(1)]
                m.next = "SUMS"
            with m.State("SUMS"):
                m.d.comb += [vector.take.eq(vector.valid), self.status.busy.eq(1), self.status.stall.eq(~vector.valid)]
                with m.If(vector.take & vector.last):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.comb += [std.start.eq(unit.settled), self.status.busy.eq(1)]
                with m.If(unit.settled):
                    m.next = "DEVIATION"
            with m.State("DEVIATION"):
                m.d.comb += self.status.busy.eq(1)
                with m.If(std.done):
                    m.next = "ELEMENTS"
            with m.State("ELEMENTS"):
                m.d.comb += [elements.eq(1), vector.take.eq(vector.valid & room), self.status.busy.eq(1)]
                # The first records and results take a while, too; they count as waiting.
                m.d.comb += self.status.stall.eq(~vector.take & ~(writer.valid & writer.ready))
                with m.If(writer.last):
                    m.next = "IDLE"
