"""Requantizer: accumulators to codes in two multiply-and-shift stages, `lanes` at a time; see `quant.numerics`."""

from amaranth import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.multiplier import Multiplier
from hw.arithmetic.packing import PORT_BITS
from hw.arithmetic.rounding_shift import RoundingShift
from hw.config import AcceleratorConfig, Multipliers
from hw.control.descriptors import OperandMode, RequantMode, record_layout, table_words
from hw.memory.ram import Ram
from hw.shared import place
from quant import numerics

__all__ = ["LATENCY", "RECIPROCAL_LAYOUT", "Requantizer", "RequantizerLane", "TableWrite"]

LATENCY = 15  #: cycles from `valid` to `out_valid`
ROW_BITS = 64  #: one block RAM holds two tables of 2**10 entries in rows of this width; at most a stream word

#: a normalised reciprocal, `quant.numerics.reciprocal`
RECIPROCAL_LAYOUT = data.StructLayout({"r": numerics.RECIPROCAL_BITS + 1, "e": numerics.SHIFT_BITS})

# the lane's pipeline: the stage that reads an operand, counted from the cycle where `valid` is 1
SHIFT_STAGE = 3
INDEX_STAGE = 5
READ_STAGE = 6
ENTRY_STAGE = 7
OPERAND_STAGE = 8
MULTIPLIER2_STAGE = 9
SHIFT2_STAGE = 11
ZERO_STAGE = 13
CLAMP_STAGE = 14

INDEX_BITS = numerics.INDEX_ZERO_BITS + 1  # of a stage that is an index but for the zero: more means the same entry
CODE_BITS = 10  # of an output without zero-point, if codes are unsigned: more is clamped with every zero-point
WIDE_BITS = numerics.OPERAND_BITS + 1  # if outputs have 16 bits
HALF_BITS = 8  # of a factor in logic: each part is multiplied alone, and the sum that follows anyway adds the parts


def saturate(x: Value, bits: int) -> Value:
    """Clamp a signed value to the signed range of `bits` bits."""
    sign, top = x[-1], x[bits - 1 :]
    fits = top.all() | ~top.any()
    return Mux(fits, x[:bits], Cat((~sign).replicate(bits - 1), sign)).as_signed()


def clamp_unsigned(x: Value, bits: int) -> Value:
    """Clamp a signed value to 0 .. 2**bits - 1."""
    return Mux(x[-1], 0, Mux(x[bits:].any(), (1 << bits) - 1, x[:bits]))


def clamp_code(x: Value, limit: Value) -> Value:
    """Clamp a signed value to 0 .. limit, where limit + 1 is a power of two."""
    bits = len(limit)
    over = x[bits:].any() | (x[:bits] & ~limit).any()
    return Mux(x[-1], 0, (x[:bits] | over.replicate(bits)) & limit)


class TableWrite(wiring.Signature):
    """Writes one stream word of an activation table; a word is taken in a cycle where `valid` and `ready` are 1.
    `word` is its index within the table. The writer keeps away from a bank that is in use."""

    def __init__(self, config: AcceleratorConfig, word_bits: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "bank": Out(1),
                "word": Out(range(max(table_words(config, word_bits), 2))),
                "data": Out(word_bits),
            }
        )


class RequantizerLane(wiring.Component):
    """Datapath of one lane of the `Requantizer`, without the table.

    Saturation, rounding, and the addition of a zero-point share a carry chain: with the t of `RoundingShift`,
    ((t + 1) >> 1) + z = (t + 2 * z + 1) >> 1.

    Parameters
    ----------
    matmul : the modes of the matmul engine: residuals, quotients, and wide outputs; else the operand is NONE or TABLE
    styles : how to make the first and the second product

    Members: `enables[k]` is 1 when stage k holds data; the registers of stage k + 1 load then and are frozen
    otherwise. All other inputs are read at the stage that is written beside them.
    """

    def __init__(
        self,
        *,
        acc_bits: int,
        act_bits: int,
        index_bits: int,
        row_bits: int,
        matmul: bool,
        styles: tuple[Multipliers, Multipliers],
    ) -> None:
        self._index_bits = index_bits
        self._matmul = matmul
        self._styles = styles
        record = record_layout()
        super().__init__(
            {
                "enables": In(LATENCY),
                # stage 0
                "acc": In(signed(acc_bits)),
                "bias": In(record["bias"].shape),
                "multiplier": In(record["multiplier"].shape),
                "shift": In(record["shift"].shape),
                "divide": In(1),
                "reciprocal": In(RECIPROCAL_LAYOUT),
                # INDEX_STAGE
                "index_zero": In(signed(numerics.INDEX_ZERO_BITS)),
                # READ_STAGE
                "index": Out(index_bits),
                # ENTRY_STAGE
                "row": In(row_bits),
                # OPERAND_STAGE
                "operand": In(OperandMode),
                "residual": In(act_bits),
                "residual_zero": In(8),
                # later, as the names say
                "multiplier2": In(record["multiplier2"].shape),
                "shift2": In(numerics.SHIFT2_BITS),
                "zero_point": In(record["zero_point"].shape),
                "wide": In(1),
                "limit": In(act_bits),
                "y": Out(output_shape(act_bits, matmul)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stage = self._first_stage(m)
        code = self._second_stage(m, *self._select_operand(m, stage))
        with m.If(self.enables[CLAMP_STAGE]):
            m.d.sync += self.y.eq(self._clamp(code) if self._matmul else clamp_code(code, self.limit))
        return m

    def _first_stage(self, m: Module) -> Signal:
        """stage = saturate24(round_shift((acc + bias) * multiplier, shift)), stages 0 to 5; and the index."""
        x = Signal(signed(max(len(self.acc), numerics.BIAS_BITS) + 1), reset_less=True)
        multiplier = Signal(signed(numerics.MULTIPLIER_BITS), reset_less=True)
        s1, s2, s3 = (Signal(numerics.SHIFT_BITS, reset_less=True) for _ in range(SHIFT_STAGE))
        with m.If(self.enables[0]):
            m.d.sync += [x.eq(self.acc + self.bias.as_signed()), multiplier.eq(self.multiplier), s1.eq(self.shift)]
            if self._matmul:
                with m.If(self.divide):
                    m.d.sync += [multiplier.eq(self.reciprocal.r), s1.eq(self.shift + self.reciprocal.e)]
        with m.If(self.enables[1]):
            m.d.sync += s2.eq(s1)
        with m.If(self.enables[2]):
            m.d.sync += s3.eq(s2)
        style = self._styles[0] if len(x) <= PORT_BITS[0] else Multipliers.PLAIN
        product = self._multiply(m, "product", 1, x, multiplier, style, latency=SHIFT_STAGE - 1)
        shift = self._shift(m, "shift", product, s3, SHIFT_STAGE, numerics.STAGE_BITS)
        stage = Signal(signed(numerics.STAGE_BITS), reset_less=True)
        index = Signal(signed(INDEX_BITS + 1), reset_less=True)
        with m.If(self.enables[INDEX_STAGE]):
            m.d.sync += [stage.eq(shift.y), index.eq(self._add_index_zero(shift))]
        m.d.comb += self.index.eq(clamp_unsigned(index, self._index_bits))
        return stage

    def _multiply(
        self, m: Module, name: str, stage: int, a: Signal, b: Value, style: Multipliers, latency: int = 1
    ) -> Signal:
        """a * b, registered at the end of `stage` and, if `latency` is 2, of the one after it."""
        m.submodules[name] = multiplier = Multiplier(a.shape(), b.shape(), style, latency)
        m.d.comb += [
            multiplier.enables.eq(self.enables[stage : stage + latency]),
            multiplier.a.eq(a),
            multiplier.b.eq(b),
        ]
        return multiplier.product

    def _shift(self, m: Module, name: str, x: Value, amount: Value, stage: int, bits: int) -> RoundingShift:
        """x shifted, in `stage` and the one after it."""
        m.submodules[name] = shift = RoundingShift(len(x), bits)
        m.d.comb += [shift.enables.eq(self.enables[stage : stage + 2]), shift.x.eq(x), shift.shift.eq(amount)]
        return shift

    def _add_index_zero(self, shift: RoundingShift) -> Value:
        """stage + index_zero, from the t of the stage; of a large stage only the sign is right."""
        top = shift.t[INDEX_BITS:]
        over = shift.over | (top ^ shift.sign.replicate(len(top))).any()
        t = Mux(over, Cat((~shift.sign).replicate(INDEX_BITS), shift.sign), shift.t[: INDEX_BITS + 1]).as_signed()
        return (t + Cat(Const(1, 1), self.index_zero).as_signed()) >> 1

    def _select_operand(self, m: Module, stage: Signal) -> tuple[Signal, Signal]:
        """(operand, addend) of the second stage by mode, stages 6 to 8; the table is read behind the first, and its
        entry chosen in the next: a block of RAM is slow."""
        entry = Signal(range(len(self.row) // numerics.OPERAND_BITS), reset_less=True)
        stage7, stage8 = Signal.like(stage), Signal.like(stage)
        value = Signal(numerics.OPERAND_BITS, reset_less=True)
        operand, addend = Signal(signed(numerics.OPERAND_BITS), reset_less=True), Signal.like(stage)
        with m.If(self.enables[READ_STAGE]):
            m.d.sync += [entry.eq(self.index), stage7.eq(stage)]
        with m.If(self.enables[ENTRY_STAGE]):
            m.d.sync += [value.eq(self.row.word_select(entry, numerics.OPERAND_BITS)), stage8.eq(stage7)]
        with m.If(self.enables[OPERAND_STAGE]):
            m.d.sync += addend.eq(stage8)
            if self._matmul:
                m.d.sync += operand.eq(self._any_operand(m, value, stage8))
                with m.If((self.operand == OperandMode.TABLE) | (self.operand == OperandMode.STAGE)):
                    m.d.sync += addend.eq(0)
            else:
                m.d.sync += operand.eq(0)
                with m.If(self.operand == OperandMode.TABLE):
                    m.d.sync += [operand.eq(value), addend.eq(0)]
        return operand, addend

    def _any_operand(self, m: Module, entry: Value, stage: Signal) -> Value:
        """The operand of any mode: one 6-input LUT per bit. A stage that does not fit is a constant, like none."""
        bits, sign = numerics.OPERAND_BITS, stage[-1]
        fits = (stage[bits - 1 : -1] ^ sign.replicate(len(stage) - bits)).any() == 0
        is_stage, source, high, low = Signal(), Signal(2), Signal(), Signal()
        m.d.comb += [
            is_stage.eq(self.operand == OperandMode.STAGE),
            source.eq(Mux(is_stage & ~fits, OperandMode.NONE, self.operand)),
            high.eq(is_stage & sign),
            low.eq(is_stage & ~sign),
        ]
        residual = self.residual - self.residual_zero
        constant = Cat(low.replicate(bits - 1), high)
        choices = {mode.value: x for mode, x in zip(OperandMode, (constant, extended(residual, bits), entry, stage))}
        return Mux(source[1], Mux(source[0], choices[3], choices[2]), Mux(source[0], choices[1], choices[0]))[:bits]

    def _second_stage(self, m: Module, operand: Signal, addend: Signal) -> Signal:
        """code = zero_point + round_shift(operand * multiplier2 + addend, shift2), stages 9 to 13."""
        product = self._second_product(m, operand)
        addend10 = Signal.like(addend)
        total = Signal(signed(len(operand) + len(self.multiplier2) + 1), reset_less=True)
        with m.If(self.enables[MULTIPLIER2_STAGE]):
            m.d.sync += addend10.eq(addend)
        with m.If(self.enables[MULTIPLIER2_STAGE + 1]):
            m.d.sync += total.eq(product + addend10)
        bits = WIDE_BITS if self._matmul else CODE_BITS
        shift = self._shift(m, "shift2", total, self.shift2, SHIFT2_STAGE, bits)
        t = Mux(shift.over, Cat((~shift.sign).replicate(bits), shift.sign), shift.t[:]).as_signed()
        code = Signal(signed(bits + 1), reset_less=True)
        with m.If(self.enables[ZERO_STAGE]):
            m.d.sync += code.eq((t + Cat(Const(1, 1), self.zero_point)) >> 1)
        return code

    def _second_product(self, m: Module, operand: Signal) -> Value:
        """operand * multiplier2, from registers at the end of MULTIPLIER2_STAGE; in logic, the sum of two products."""
        style = self._styles[1]
        if style is not Multipliers.LOGIC:
            return self._multiply(m, "product2", MULTIPLIER2_STAGE, operand, self.multiplier2, style)
        low, high = self.multiplier2[:HALF_BITS], self.multiplier2[HALF_BITS:]
        parts = [
            self._multiply(m, f"product2_{name}", MULTIPLIER2_STAGE, operand, half, style)
            for name, half in (("low", low), ("high", high))
        ]
        return parts[0] + (parts[1] << HALF_BITS)

    def _clamp(self, code: Signal) -> Value:
        """Clamp to the limit, or, if `wide`, to 16 bits with a sign."""
        bits = numerics.OPERAND_BITS
        sign, value = code[-1], code[: bits - 1]
        limit = Cat(self.limit | self.wide.replicate(len(self.limit)), self.wide.replicate(bits - 1 - len(self.limit)))
        over = ~sign & (code[bits - 1 : -1].any() | (value & ~limit).any())
        under = sign & (~self.wide | ~code[bits - 1 : -1].all())
        magnitude = Mux(under, 0, (value | over.replicate(bits - 1)) & limit)
        return Cat(magnitude, sign & self.wide).as_signed()


def output_shape(act_bits: int, matmul: bool) -> Shape:
    """Of a lane's result; activations are the low bits of the matmul engine's."""
    return signed(numerics.OPERAND_BITS) if matmul else unsigned(act_bits)


def extended(x: Value, bits: int) -> Value:
    """The signed number in `bits` bits."""
    return Cat(x, x[-1].replicate(bits - len(x)))


class Requantizer(wiring.Component):
    """Requantize `pixels` x `channels` accumulators per cycle: exactly `quant.integer_network.Requant`, all modes.

    stage = saturate24(round_shift((acc + bias) * multiplier, shift)), with `divide` multiplier := r and shift += e;
    y = clamp(zero_point + round_shift(operand * multiplier2 + addend, shift2)); see `quant.numerics.Operand`.

    Latency: `latency` cycles, constant. Throughput: one beat per cycle; no back-pressure. Stages without data keep
    their registers, so an idle requantizer does not toggle. Legal input: everything, but shift + e is at most 31.

    Parameters
    ----------
    pixels, channels : lanes; records belong to channels, reciprocals to pixels
    word_bits : width of `table_write.data`, the stream word of the engine around it
    acc_bits : width of the accumulators, `config.acc_bits` unless given
    matmul : the modes of the matmul engine, see `RequantizerLane`

    Members: `acc`, `records`, `reciprocal`, `residual`, `mode` are sampled with `valid`. `y` is wide enough for
    16-bit outputs if `matmul`; activations are its low bits. A word of `table_write` takes a cycle per 64 bits or less.
    """

    latency = LATENCY

    def __init__(
        self,
        config: AcceleratorConfig,
        *,
        pixels: int,
        channels: int,
        word_bits: int,
        acc_bits: int | None = None,
        matmul: bool = False,
    ) -> None:
        self._config = config
        self._pixels = pixels
        self._channels = channels
        self._acc_bits = acc_bits or config.acc_bits
        self._matmul = matmul
        self._row_bits = min(ROW_BITS, word_bits)
        self._rows_per_bank = (numerics.OPERAND_BITS << config.table_index_bits) // self._row_bits

        def lanes(shape: object) -> data.ArrayLayout:
            return data.ArrayLayout(data.ArrayLayout(shape, channels), pixels)

        super().__init__(
            {
                "valid": In(1),
                "acc": In(lanes(signed(self._acc_bits))),
                "records": In(data.ArrayLayout(record_layout(), channels)),
                "reciprocal": In(data.ArrayLayout(RECIPROCAL_LAYOUT, pixels)),
                "residual": In(lanes(config.act_bits)),
                "mode": In(RequantMode),
                "table_write": In(TableWrite(config, word_bits)),
                "out_valid": Out(1),
                "y": Out(lanes(output_shape(config.act_bits, matmul))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enables = Signal(LATENCY)  # bit k: stage k holds data
        valids = Signal(LATENCY)  # stages 1 ..
        m.d.comb += [enables.eq(Cat(self.valid, valids)), self.out_valid.eq(valids[-1])]
        m.d.sync += valids.eq(enables)

        modes = self._delay(m, enables, self.mode, CLAMP_STAGE)
        residuals = self._delay(m, enables, self.residual, OPERAND_STAGE)
        # of all channels in one signal, which simulates faster
        multipliers2 = self._delay(m, enables, Cat(r.multiplier2 for r in self.records), MULTIPLIER2_STAGE)
        zero_points = self._delay(m, enables, Cat(r.zero_point for r in self.records), ZERO_STAGE)
        read_table = Signal()
        m.d.comb += read_table.eq(enables[READ_STAGE] & (modes[READ_STAGE].operand == OperandMode.TABLE))

        shape = {
            "acc_bits": self._acc_bits,
            "act_bits": self._config.act_bits,
            "index_bits": self._config.table_index_bits,
            "row_bits": self._row_bits,
            "matmul": self._matmul,
            "styles": self._config.requantizer_multipliers,
        }
        tables, entry_bits = [], (self._row_bits // numerics.OPERAND_BITS).bit_length() - 1
        for p in range(self._pixels):
            for c, record in enumerate(self.records):
                lane = place(m, platform, f"lane_{p}_{c}", RequantizerLane, **shape)
                m.submodules[f"table_{p}_{c}"] = table = Ram(width=self._row_bits, depth=2 * self._rows_per_bank)
                tables.append(table)
                m.d.comb += [
                    lane.enables.eq(enables),
                    lane.acc.eq(self.acc[p][c]),
                    lane.bias.eq(record.bias),
                    lane.multiplier.eq(record.multiplier),
                    lane.shift.eq(record.shift),
                    lane.divide.eq(self.mode.divide),
                    lane.reciprocal.eq(self.reciprocal[p]),
                    lane.index_zero.eq(modes[INDEX_STAGE].index_zero),
                    table.read_enable.eq(read_table),
                    table.read_address.eq(Cat(lane.index[entry_bits:], modes[READ_STAGE].table_bank)),
                    lane.row.eq(table.read_data),
                    lane.operand.eq(modes[OPERAND_STAGE].operand),
                    lane.residual.eq(residuals[OPERAND_STAGE][p][c]),
                    lane.residual_zero.eq(modes[OPERAND_STAGE].residual_zero),
                    lane.multiplier2.eq(multipliers2[MULTIPLIER2_STAGE].word_select(c, len(lane.multiplier2))),
                    lane.shift2.eq(modes[SHIFT2_STAGE].shift2),
                    lane.zero_point.eq(zero_points[ZERO_STAGE].word_select(c, len(lane.zero_point))),
                    lane.wide.eq(modes[CLAMP_STAGE].wide),
                    lane.limit.eq(modes[CLAMP_STAGE].limit),
                    self.y[p][c].eq(lane.y),
                ]
        self._write_tables(m, tables)
        return m

    def _delay(self, m: Module, enables: Signal, value: Value, last: int) -> list[Value]:
        """`value`, as it accompanies the data: element k belongs to the data in stage k, up to stage `last`."""
        stages = [value]
        for k in range(last):
            register = Signal.like(value, name=f"stage{k + 1}", reset_less=True)
            with m.If(enables[k]):
                m.d.sync += register.eq(stages[-1])
            stages.append(register)
        return stages

    def _write_tables(self, m: Module, tables: list[Ram]) -> None:
        """The activation tables: 2 banks in rows, written row by row from stream words.

        Each lane has a copy: it reads an address of its own in every cycle, and a memory has one port for that.
        """
        write, row_bits = self.table_write, self._row_bits
        address, entries = Signal(range(2 * self._rows_per_bank)), Signal(row_bits)
        parts = min(len(write.data), self._rows_per_bank * row_bits) // row_bits
        row = write.word[: len(address)]
        if parts == 1:
            m.d.comb += [write.ready.eq(1), entries.eq(write.data)]
        else:
            part = Signal(range(parts))
            m.d.comb += [write.ready.eq(part == parts - 1), entries.eq(write.data.word_select(part, row_bits))]
            with m.If(write.valid):
                m.d.sync += part.eq(Mux(write.ready, 0, part + 1))
            row = Cat(part, write.word)
        m.d.comb += address.eq(Cat(row[: (self._rows_per_bank - 1).bit_length()], write.bank))
        for table in tables:
            m.d.comb += [
                table.write_enable.eq(write.valid),
                table.write_address.eq(address),
                table.write_data.eq(entries),
            ]
