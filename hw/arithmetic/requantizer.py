"""Requantizer: accumulators to codes in two multiply-and-shift stages, `lanes` at a time; see `quant.numerics`."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import OperandMode, RequantMode, record_layout, table_words
from hw.shared import place
from quant import numerics

__all__ = ["LATENCY", "RECIPROCAL_LAYOUT", "Requantizer", "RequantizerLane", "TableWrite"]

LATENCY = 14  #: cycles from `valid` to `out_valid`
ROW_BITS = 64  #: one block RAM holds two tables of 2**10 entries in rows of this width
ROW_ENTRIES = ROW_BITS // numerics.OPERAND_BITS

#: a normalised reciprocal, `quant.numerics.reciprocal`
RECIPROCAL_LAYOUT = data.StructLayout({"r": numerics.RECIPROCAL_BITS + 1, "e": numerics.SHIFT_BITS})

# the lane's pipeline: the stage that reads an operand, counted from the cycle where `valid` is 1
INDEX_STAGE = 5
READ_STAGE = 6
OPERAND_STAGE = 7
MULTIPLIER2_STAGE = 8
SHIFT2_STAGE = 10
ZERO_STAGE = 12
CLAMP_STAGE = 13

COARSE = 8  # a variable shift is a multiple of this, then the rest


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

    `round_shift(p, s)` is computed as `(((2 * p) >> s) + 1) >> 1`, which needs no rounding constant. Between the
    coarse and the fine half of a shift, values that will saturate anyway are clamped, which keeps the rest narrow.

    Members: `enables[k]` is 1 when stage k holds data; the registers of stage k + 1 load then and are frozen
    otherwise. All other inputs are read at the stage that is written beside them.
    """

    def __init__(self, *, acc_bits: int, act_bits: int, index_bits: int) -> None:
        self._index_bits = index_bits
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
                "index_zero": In(signed(13)),
                # READ_STAGE
                "index": Out(index_bits),
                # OPERAND_STAGE
                "row": In(ROW_BITS),
                "operand": In(OperandMode),
                "residual": In(act_bits),
                "residual_zero": In(8),
                # later, as the names say
                "multiplier2": In(record["multiplier2"].shape),
                "shift2": In(numerics.SHIFT2_BITS),
                "zero_point": In(record["zero_point"].shape),
                "wide": In(1),
                "limit": In(act_bits),
                "y": Out(signed(numerics.OPERAND_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stage = self._first_stage(m)
        self._second_stage(m, *self._select_operand(m, stage))
        return m

    def _first_stage(self, m: Module) -> Signal:
        """stage = saturate24(round_shift((acc + bias) * multiplier, shift)), stages 0 to 4."""
        x = Signal(signed(max(len(self.acc), numerics.BIAS_BITS) + 1), reset_less=True)
        multiplier = Signal(signed(numerics.MULTIPLIER_BITS), reset_less=True)
        s1 = Signal(numerics.SHIFT_BITS, reset_less=True)
        product = Signal(signed(len(x) + len(multiplier)), reset_less=True)
        s2 = Signal.like(s1)
        with m.If(self.enables[0]):
            m.d.sync += [
                x.eq(self.acc + self.bias.as_signed()),
                multiplier.eq(Mux(self.divide, self.reciprocal.r, self.multiplier.as_signed())),
                s1.eq(self.shift + Mux(self.divide, self.reciprocal.e, 0)),
            ]
        with m.If(self.enables[1]):
            m.d.sync += [product.eq(x * multiplier), s2.eq(s1)]
        stage = Signal(signed(numerics.STAGE_BITS), reset_less=True)
        rounded = self._shift(m, product, s2, 2, numerics.STAGE_BITS)
        with m.If(self.enables[4]):
            m.d.sync += stage.eq(saturate(rounded, numerics.STAGE_BITS))
        return stage

    def _shift(self, m: Module, x: Value, shift: Value, stage: int, bits: int) -> Value:
        """`round_shift(x, shift)` in stages `stage` and `stage + 1`, and the rounding addition (not registered).
        Exact where the result fits `bits` signed bits; beyond, some value that does not fit either or is the limit."""
        coarse = Signal(signed(bits + COARSE), reset_less=True)
        fine = Signal(signed(bits + COARSE), reset_less=True)
        fine_shift = Signal(COARSE.bit_length() - 1, reset_less=True)
        half = len(fine_shift)
        with m.If(self.enables[stage]):
            shifted = Cat(0, x).as_signed() >> (shift[half:] << half)
            m.d.sync += [coarse.eq(saturate(shifted, len(coarse))), fine_shift.eq(shift[:half])]
        with m.If(self.enables[stage + 1]):
            m.d.sync += fine.eq(coarse >> fine_shift)
        return (fine + 1) >> 1

    def _select_operand(self, m: Module, stage: Signal) -> tuple[Signal, Signal]:
        """(operand, addend) of the second stage by mode, stages 5 to 7; the table is read in between."""
        entry = Signal(range(ROW_ENTRIES), reset_less=True)
        stage6, stage7 = Signal.like(stage), Signal.like(stage)
        operand, addend = Signal(signed(numerics.OPERAND_BITS), reset_less=True), Signal.like(stage)
        with m.If(self.enables[INDEX_STAGE]):
            m.d.sync += [self.index.eq(clamp_unsigned(stage + self.index_zero, self._index_bits)), stage6.eq(stage)]
        with m.If(self.enables[READ_STAGE]):
            m.d.sync += [entry.eq(self.index), stage7.eq(stage6)]
        with m.If(self.enables[OPERAND_STAGE]):
            m.d.sync += addend.eq(stage7)
            with m.Switch(self.operand):
                with m.Case(OperandMode.NONE):
                    m.d.sync += operand.eq(0)
                with m.Case(OperandMode.RESIDUAL):
                    m.d.sync += operand.eq(self.residual - self.residual_zero)
                with m.Case(OperandMode.TABLE):
                    m.d.sync += [operand.eq(self.row.word_select(entry, numerics.OPERAND_BITS)), addend.eq(0)]
                with m.Case(OperandMode.STAGE):
                    m.d.sync += [operand.eq(saturate(stage7, numerics.OPERAND_BITS)), addend.eq(0)]
        return operand, addend

    def _second_stage(self, m: Module, operand: Signal, addend: Signal) -> None:
        """y = clamp(zero_point + round_shift(operand * multiplier2 + addend, shift2)), stages 8 to 13."""
        product = Signal(signed(numerics.OPERAND_BITS + numerics.MULTIPLIER2_BITS), reset_less=True)
        addend9 = Signal.like(addend)
        total = Signal(signed(len(product) + 1), reset_less=True)
        code = Signal(signed(numerics.OPERAND_BITS + 3), reset_less=True)
        with m.If(self.enables[MULTIPLIER2_STAGE]):
            m.d.sync += [product.eq(operand * self.multiplier2), addend9.eq(addend)]
        with m.If(self.enables[9]):
            m.d.sync += total.eq(product + addend9)
        # one bit more than the output: the zero-point can bring a value back into range
        value = self._shift(m, total, self.shift2, SHIFT2_STAGE, numerics.OPERAND_BITS + 1)
        with m.If(self.enables[ZERO_STAGE]):
            m.d.sync += code.eq(saturate(value, numerics.OPERAND_BITS + 1) + self.zero_point)
        with m.If(self.enables[CLAMP_STAGE]):
            with m.If(self.wide):
                m.d.sync += self.y.eq(saturate(code, numerics.OPERAND_BITS))
            with m.Else():
                m.d.sync += self.y.eq(clamp_code(code, self.limit))


class Requantizer(wiring.Component):
    """Requantize `pixels` x `channels` accumulators per cycle: exactly `quant.integer_network.Requant`, all modes.

    stage = saturate24(round_shift((acc + bias) * multiplier, shift)), with `divide` multiplier := r and shift += e;
    y = clamp(zero_point + round_shift(operand * multiplier2 + addend, shift2)); see `quant.numerics.Operand`.

    Latency: `latency` cycles, constant. Throughput: one beat per cycle; no back-pressure. Stages without data keep
    their registers, so an idle requantizer does not toggle. Legal input: everything, but shift + e is at most 63.

    Parameters
    ----------
    pixels, channels : lanes; records belong to channels, reciprocals to pixels
    word_bits : width of `table_write.data`, the stream word of the engine around it
    acc_bits : width of the accumulators, `config.acc_bits` unless given

    Members: `acc`, `records`, `reciprocal`, `residual`, `mode` are sampled with `valid`. `y` is wide enough for
    16-bit outputs; activations are its low bits. A word of `table_write` takes one cycle per 64 bits.
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
    ) -> None:
        self._config = config
        self._pixels = pixels
        self._channels = channels
        self._acc_bits = acc_bits or config.acc_bits

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
                "y": Out(lanes(signed(numerics.OPERAND_BITS))),
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
        tables = self._tables(m)
        read_table = Signal()
        m.d.comb += read_table.eq(enables[READ_STAGE] & (modes[READ_STAGE].operand == OperandMode.TABLE))

        shape = {
            "acc_bits": self._acc_bits,
            "act_bits": self._config.act_bits,
            "index_bits": self._config.table_index_bits,
        }
        for p in range(self._pixels):
            for c, record in enumerate(self.records):
                lane = place(m, platform, f"lane_{p}_{c}", RequantizerLane, **shape)
                port = tables[p].read_port()
                m.d.comb += [
                    lane.enables.eq(enables),
                    lane.acc.eq(self.acc[p][c]),
                    lane.bias.eq(record.bias),
                    lane.multiplier.eq(record.multiplier),
                    lane.shift.eq(record.shift),
                    lane.divide.eq(self.mode.divide),
                    lane.reciprocal.eq(self.reciprocal[p]),
                    lane.index_zero.eq(modes[INDEX_STAGE].index_zero),
                    port.en.eq(read_table),
                    port.addr.eq(Cat(lane.index[ROW_ENTRIES.bit_length() - 1 :], modes[READ_STAGE].table_bank)),
                    lane.row.eq(port.data),
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

    def _tables(self, m: Module) -> list[Memory]:
        """The activation tables: 2 banks in rows of ROW_BITS, written row by row from stream words.

        Every lane reads in every cycle, so a device needs copies anyway. There is one for the lanes of each pixel: with
        dozens of read ports on one memory, Yosys runs out of memory.
        """
        table_bits = numerics.OPERAND_BITS << self._config.table_index_bits
        rows_per_bank = table_bits // ROW_BITS
        tables = [Memory(shape=ROW_BITS, depth=2 * rows_per_bank, init=[]) for _ in range(self._pixels)]
        write = self.table_write
        address, entries = Signal(range(2 * rows_per_bank)), Signal(ROW_BITS)
        parts = min(len(write.data), table_bits) // ROW_BITS
        row = write.word[: len(address)]
        if parts == 1:
            m.d.comb += [write.ready.eq(1), entries.eq(write.data)]
        else:
            part = Signal(range(parts))
            m.d.comb += [write.ready.eq(part == parts - 1), entries.eq(write.data.word_select(part, ROW_BITS))]
            with m.If(write.valid):
                m.d.sync += part.eq(Mux(write.ready, 0, part + 1))
            row = Cat(part, write.word)
        m.d.comb += address.eq(Cat(row[: (rows_per_bank - 1).bit_length()], write.bank))
        for p, table in enumerate(tables):
            m.submodules[f"table_{p}"] = table
            port = table.write_port()
            m.d.comb += [port.en.eq(write.valid), port.addr.eq(address), port.data.eq(entries)]
        return tables
