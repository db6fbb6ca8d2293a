"""Linear attention unit: states K^T V and row sums of ReLU linear attention, and average pooling.

    scratchpad --words--> TokenReader --tokens--> OuterProducts --rows--> StateWriter --> state buffer, scratchpad

A pass is one block of Ti channels of k against one block of Ti channels of v, over all tokens.
"""

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.arithmetic.multiplier import Multiplier
from hw.arithmetic.packing import Packing
from hw.arithmetic.product import product
from hw.arithmetic.requantizer import clamp_code
from hw.arithmetic.scaler import Scaler
from hw.config import AcceleratorConfig, Multipliers
from hw.control.descriptors import AttentionBody
from hw.engines.token_reader import TokenReader
from hw.interfaces import EngineStatus, InstructionPort, PadRead, PadWrite, StateWrite, pad_address_bits
from hw.shared import place
from quant import numerics

__all__ = ["LinearAttentionUnit", "OuterProducts", "PassLayout", "StateWriter"]

CODE_BITS = 10  #: a scaled value, saturated: wide enough that adding a zero-point and clamping is exact


def log2(power: int) -> int:
    """Exponent of a power of two."""
    return power.bit_length() - 1


def outer_format(config: AcceleratorConfig) -> Packing:
    """How products of values v' and keys k' share multipliers."""
    values, keys = signed(config.act_bits + 1), unsigned(config.act_bits)
    if config.engine_multiplier in (Multipliers.PLAIN, Multipliers.LOGIC):
        return Packing(values, keys, (1, 1), 1)
    return Packing.densest(values, keys, (config.in_lanes, config.key_group), (1,))


class OuterProducts(wiring.Component):
    """Ti x Ti accumulators of k' v', and Ti of k', with k' = max(k - zero, 0) and v' = v - zero.

    Per cycle, `key_group` channels of k meet all channels of v: a token takes Ti / key_group cycles, or one without
    `products`. It is taken when `valid` and `ready` are 1. `busy` falls one cycle before the accumulators have it. The
    first token after `clear` begins new sums. The accumulators have `acc_bits` bits: sums of products and of k' must
    stay below 2**(acc_bits - 1).

    Members
    -------
    products, sums : which accumulators take part; they hold still during a pass
    key : while not `busy`, the k channel whose accumulators are in `row` and `sum`
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._steps = config.in_lanes // config.key_group
        token = data.ArrayLayout(config.act_bits, config.in_lanes)
        super().__init__(
            {
                "clear": In(1),
                "valid": In(1),
                "ready": Out(1),
                "k": In(token),
                "v": In(token),
                "zero": In(8),
                "products": In(1),
                "sums": In(1),
                "busy": Out(1),
                "key": In(range(config.in_lanes)),
                "row": Out(data.ArrayLayout(signed(config.acc_bits), config.in_lanes)),
                "sum": Out(signed(config.acc_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        form = outer_format(self._config)
        step, multiply = Signal(range(self._steps)), Signal()
        centred, k, v = self._centre(m, form, multiply)
        m.d.comb += self.busy.eq(centred | multiply)
        with m.If(centred & self.products):
            m.d.sync += [multiply.eq(1), step.eq(0)]
        with m.Elif(multiply):
            m.d.sync += [multiply.eq(step != self._steps - 1), step.eq(step + 1)]
        self._add_products(m, step, multiply, self._multiply(m, platform, form, k, v, multiply))
        self._add_keys(m, centred, k)
        return m

    def _centre(self, m: Module, form: Packing, multiply: Signal) -> tuple[Signal, list[Signal], list[Signal]]:
        """Take a token. Returns when it is centred, and then the registers of k', those of the next step first, and of
        packed v'."""
        config, lanes, group = self._config, range(self._config.in_lanes), form.counts[0]
        left, centred = Signal(range(self._steps)), Signal()
        taken = self.valid & self.ready
        m.d.comb += self.ready.eq(left == 0)
        m.d.sync += centred.eq(taken)
        raw_k, raw_v = Signal.like(self.k, reset_less=True), Signal.like(self.v, reset_less=True)
        with m.If(taken):
            m.d.sync += [raw_k.eq(self.k), left.eq(Mux(self.products, self._steps - 1, 0))]
            with m.If(self.products):
                m.d.sync += raw_v.eq(self.v)
        with m.Elif(~self.ready):
            m.d.sync += left.eq(left - 1)

        k = [Signal(config.act_bits, name=f"k{i}", reset_less=True) for i in lanes]
        v = [Signal(form.a_shape, name=f"v{i}", reset_less=True) for i in lanes[::group]]
        difference = [Signal(form.a, name=f"difference{i}") for i in range(len(v) * group)]  # beyond Ti: 0
        m.d.comb += [difference[i].eq(raw_v[i] - self.zero) for i in lanes]
        with m.If(multiply):
            m.d.sync += [this.eq(following) for this, following in zip(k, k[self._config.key_group :])]
        with m.If(centred):
            m.d.sync += [k[i].eq(Mux(raw_k[i] > self.zero, raw_k[i] - self.zero, 0)) for i in lanes]
            with m.If(self.products):
                m.d.sync += [v[i].eq(form.pack_a(difference[i * group : (i + 1) * group])) for i in range(len(v))]
        return centred, k, v

    def _multiply(
        self,
        m: Module,
        platform: object,
        form: Packing,
        k: list[Signal],
        v: list[Signal],
        enable: Value,
    ) -> list[list[Value]]:
        """The products of the keys of a step, by key and value, one cycle later."""
        keys, j_count = self._config.key_group, form.counts[1]
        selected = [*k[:keys], *[Const(0, form.b)] * (-keys % j_count)]
        products: list[list[Value]] = [[] for _ in selected]
        for first in range(0, keys, j_count):
            factor = Signal(form.b_shape, name=f"factor{first}")
            m.d.comb += factor.eq(form.pack_b(selected[first : first + j_count]))
            for i, value in enumerate(v):
                style = self._config.engine_multiplier
                block = place(m, platform, f"multiplier{first}_{i}", Multiplier, form.a_shape, form.b_shape, style)
                m.d.comb += [block.enables.eq(enable), block.a.eq(value), block.b.eq(factor)]
                for of_value in form.split(block.product):
                    for j, total in enumerate(of_value):
                        products[first + j].append(total)
        return products[:keys]

    def _add_products(self, m: Module, step: Signal, multiply: Signal, products: list[list[Value]]) -> None:
        """Accumulators in memories, one per key of a step, addressed by steps."""
        config, keys = self._config, len(products)
        add, add_step, empty, rows = Signal(), Signal.like(step), Signal(), []
        m.d.sync += add.eq(multiply)
        with m.If(multiply):
            m.d.sync += add_step.eq(step)
        with m.If(self.clear):
            m.d.sync += empty.eq(1)
        with m.Elif(add & (add_step == self._steps - 1)):
            m.d.sync += empty.eq(0)
        for key, factors in enumerate(products):
            m.submodules[f"accumulators{key}"] = memory = Memory(shape=self.row.shape(), depth=self._steps, init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(Mux(add, add_step, self.key >> log2(keys))),
                write.addr.eq(add_step),
                write.en.eq(add),
            ]
            for j, total in zip(range(config.in_lanes), factors):
                m.d.comb += write.data[j].eq(Mux(empty, 0, read.data[j]) + total)
            rows.append(read.data.as_value())
        m.d.comb += self.row.eq(Array(rows)[self.key[: log2(keys)]])

    def _add_keys(self, m: Module, centred: Signal, k: list[Signal]) -> None:
        """Row sums."""
        add, empty = Signal(name="add_keys"), Signal(name="no_keys")
        sums = [Signal(signed(self._config.acc_bits), name=f"sum{i}") for i in range(len(k))]
        m.d.sync += add.eq(centred & self.sums)
        with m.If(self.clear):
            m.d.sync += empty.eq(1)
        with m.If(add):
            m.d.sync += [empty.eq(0), *(total.eq(Mux(empty, 0, total) + key) for total, key in zip(sums, k))]
        m.d.comb += self.sum.eq(Array(sums)[self.key])


class PassLayout(data.StructLayout):
    """What the `StateWriter` needs to know about a pass."""

    def __init__(self, config: AcceleratorConfig) -> None:
        tile = (config.state_tiles - 1).bit_length()
        super().__init__(
            {
                "pool": 1,
                "last": 1,  # of its instruction
                "sums": 1,  # row sums are wanted
                "blocks": tile,  # tiles from one value column to the next
                "sum_tile": tile,
                "tile": tile,  # of the first elements of a row
                "column": log2(config.out_lanes),  # of the first element of a row, within its tile
                "state_multiplier": 16,
                "state_shift": numerics.SHIFT_BITS,
                "sum_multiplier": 16,
                "sum_shift": numerics.SHIFT_BITS,
                "sum_bias": numerics.BIAS_BITS,
                "out_zero": 8,
                "out_limit": config.act_bits,
                "pad": 2,
                "address": pad_address_bits(config),
                "pixel": 5,
            }
        )


class StateWriter(wiring.Component):
    """Requantize the accumulators of a pass and write them.

    Attention: for each k channel, Ti / lanes groups of states, then (with `sums`) the row sum into column 0 of the
    divisor tile; one group per cycle. Further columns of a divisor tile get 0 in the first group and are not written
    in the others. Pooling: one sum per cycle, then the word.

    Members
    -------
    start : begin with pass `info`; not while `busy` or `pending`
    busy : accumulators are being read; `pending` : a pooled word is not written yet
    key, row, sum : see `OuterProducts`
    done : 1 for one cycle when the last result of an instruction has been written
    """

    latency = 3 + Scaler.latency  #: cycles from reading an accumulator to the write port

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "info": In(PassLayout(config)),
                "busy": Out(1),
                "pending": Out(1),
                "row": In(data.ArrayLayout(signed(config.acc_bits), config.in_lanes)),
                "sum": In(signed(config.acc_bits)),
                "key": Out(range(config.in_lanes)),
                "state": Out(StateWrite(config)),
                "destination": Out(PadWrite(config)),
                "done": Out(1),
            }
        )
        state = self.state
        self._tag_layout = data.StructLayout(
            {"valid": 1, "pool": 1, "last": 1, "last_row": 1, "tile": len(state.tile), "element": len(state.element)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        info = Signal(PassLayout(self._config), reset_less=True)
        with m.If(self.start):
            m.d.sync += info.eq(self.info)
        group, is_sum, tag = self._walk(m, info)
        codes, tag = self._scale(m, info, group, is_sum, tag)
        self._write_state(m, codes, tag)
        self._write_pool(m, info, codes[0], tag)
        m.d.sync += self.done.eq(
            (self.state.valid & self._state_last) | (self.destination.valid & self.destination.ready & info.last)
        )
        return m

    def _walk(self, m: Module, info: data.View) -> tuple[Value, Value, data.View]:
        """Step through rows and groups. Returns the group, whether it is the row sum, and where it goes."""
        config, lanes = self._config, len(self.state.data)
        groups, groups_per_tile = config.in_lanes // lanes, config.out_lanes // lanes
        row, group, tile = Signal(range(config.in_lanes)), Signal(range(groups + 1)), Signal.like(info.tile)
        is_sum, last_group, last_row = Signal(), Signal(), Signal()
        m.d.comb += [
            is_sum.eq(group == groups),
            last_group.eq(group == Mux(info.sums, groups, groups - 1)),
            last_row.eq(row == config.in_lanes - 1),
            self.key.eq(row),
        ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), row.eq(0), group.eq(Mux(self.info.pool, groups, 0)), tile.eq(self.info.tile)]
        with m.Elif(self.busy):
            with m.If(last_group):
                m.d.sync += [row.eq(row + 1), group.eq(Mux(info.pool, groups, 0)), tile.eq(info.tile)]
                m.d.sync += self.busy.eq(~last_row)
            with m.Else():
                m.d.sync += group.eq(group + 1)
                if groups > groups_per_tile:
                    with m.If((group + 1)[: log2(groups_per_tile)] == 0):
                        m.d.sync += tile.eq(tile + info.blocks)

        tag = Signal(self._tag_layout)
        column = info.column + (group[: log2(groups_per_tile)] << log2(lanes))
        m.d.comb += [
            tag.valid.eq(self.busy),
            tag.pool.eq(info.pool),
            tag.last_row.eq(last_row),
            tag.last.eq(info.last & last_row & last_group),
            tag.tile.eq(Mux(is_sum, info.sum_tile, tile)),
            tag.element.eq(Cat(Mux(is_sum, 0, column)[: log2(config.out_lanes)], row)),
        ]
        return group, is_sum, tag

    def _scale(
        self, m: Module, info: data.View, group: Value, is_sum: Value, tag: data.View
    ) -> tuple[list[Value], data.View]:
        """Scale one group: lane 0 also takes the row sums, with the bias of pooling, which is added in a stage of its
        own."""
        lanes, acc_bits = len(self.state.data), self._config.acc_bits
        scaled = self.row.as_value().word_select(group[: log2(len(self.row) // lanes)], lanes * acc_bits)
        bias = Mux(info.pool, info.sum_bias, 0).as_signed()  # pooling has sums only
        multiplier, shift, codes = Signal(16, reset_less=True), Signal.like(info.state_shift, reset_less=True), []
        was_sum = Signal(reset_less=True)
        tags = [tag, *(Signal(self._tag_layout, name=f"tag{i}") for i in range(2 + Scaler.latency))]
        for earlier, later in zip(tags, tags[1:]):
            m.d.sync += later.valid.eq(earlier.valid)
            with m.If(earlier.valid):
                m.d.sync += later.eq(earlier)
        with m.If(tag.valid):
            m.d.sync += was_sum.eq(is_sum)
        with m.If(tags[1].valid):
            m.d.sync += [
                multiplier.eq(Mux(was_sum, info.sum_multiplier, info.state_multiplier)),
                shift.eq(Mux(was_sum, info.sum_shift, info.state_shift)),
            ]
        for i in range(lanes):
            x_bits = max(acc_bits, numerics.BIAS_BITS) + 1 if i == 0 else acc_bits
            m.submodules[f"scaler{i}"] = scaler = Scaler(x_bits, 16, CODE_BITS, self._config.scaler_multiplier)
            chosen = Signal(signed(acc_bits), name=f"chosen{i}", reset_less=True)
            x = Signal(signed(x_bits), name=f"x{i}", reset_less=True)
            with m.If(tag.valid):
                m.d.sync += chosen.eq(
                    Mux(is_sum, self.sum if i == 0 else 0, scaled.word_select(i, acc_bits).as_signed())
                )
            with m.If(tags[1].valid):
                m.d.sync += x.eq(chosen + bias if i == 0 else chosen)
            m.d.comb += [
                scaler.valid.eq(tags[2].valid),
                scaler.x.eq(x),
                scaler.multiplier.eq(multiplier),
                scaler.shift.eq(shift),
            ]
            codes.append(scaler.y)
        return codes, tags[-1]

    def _write_state(self, m: Module, codes: list[Value], tag: data.View) -> None:
        low, high = numerics.weight_range(self._config.state_bits)
        self._state_last = Signal()
        m.d.sync += self.state.valid.eq(tag.valid & ~tag.pool)
        with m.If(tag.valid & ~tag.pool):
            m.d.sync += [
                self.state.tile.eq(tag.tile),
                self.state.element.eq(tag.element),
                self._state_last.eq(tag.last),
            ]
            for element, code in zip(self.state.data, codes):
                m.d.sync += element.eq(Mux(code < low, low, Mux(code > high, high, code)))

    def _write_pool(self, m: Module, info: data.View, code: Value, tag: data.View) -> None:
        """Collect the codes of one pixel of a word and write them."""
        config, destination = self._config, self.destination
        word = Signal(config.in_lanes * config.act_bits, reset_less=True)
        m.d.comb += [
            destination.pad.eq(info.pad),
            destination.address.eq(info.address),
            destination.data.eq(word.replicate(config.pixels)),
            *(mask.eq((info.pixel == p).replicate(len(mask))) for p, mask in enumerate(destination.mask)),
        ]
        with m.If(destination.valid & destination.ready):
            m.d.sync += [destination.valid.eq(0), self.pending.eq(0)]
        with m.If(self.start & self.info.pool):
            m.d.sync += self.pending.eq(1)
        with m.If(tag.valid & tag.pool):
            m.d.sync += [
                word.eq(Cat(word[config.act_bits :], clamp_code(code + info.out_zero, info.out_limit))),
                destination.valid.eq(tag.last_row),
            ]


class LinearAttentionUnit(wiring.Component):
    """Engine of `AttentionBody`: exactly the states of `quant.integer_network.LinearAttention`, and `AveragePool`.

    Per pass: a token in Ti / key_group cycles (pooling: one per cycle, from 2 pixels per word on), then the
    accumulators are read, while the next pass or instruction prefetches its tokens. Attention runs (d / Ti)**2 passes,
    keys outermost; pooling one per block.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(AttentionBody)),
                "source": Out(PadRead(config)),
                "destination": Out(PadWrite(config)),
                "state": Out(StateWrite(config)),
                "status": Out(EngineStatus()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.reader = reader = TokenReader(self._config)
        m.submodules.products = products = OuterProducts(self._config)
        m.submodules.writer = writer = StateWriter(self._config)
        connect(m, reader.source, flipped(self.source))
        connect(m, writer.state, flipped(self.state))
        connect(m, writer.destination, flipped(self.destination))

        body = Signal(AttentionBody, reset_less=True)
        set_up, accumulate = Signal(), Signal()
        info = self._number_passes(m, body, reader, set_up, writer.start)
        m.d.comb += [
            reader.view.eq(body.source),
            reader.rows.eq(body.rows),
            reader.groups_per_row.eq(body.groups_per_row),
            reader.last_pixels.eq(body.last_pixels),
            reader.single.eq(body.pool),
            products.clear.eq(reader.start),
            products.valid.eq(reader.valid & accumulate & ~writer.busy),
            products.k.eq(reader.k),
            products.v.eq(reader.v),
            products.zero.eq(body.input_zero),
            products.products.eq(~body.pool),
            products.sums.eq(info.sums),
            products.key.eq(writer.key),
            writer.row.eq(products.row),
            writer.sum.eq(products.sum),
            writer.info.eq(info),
            self.instruction.done.eq(writer.done),
        ]
        accepted, in_progress = Signal(), Signal(2)  # the next one begins while results of up to two are on their way
        m.d.comb += [
            accepted.eq(self.instruction.body.valid & self.instruction.body.ready),
            self.status.busy.eq(in_progress != 0),
        ]
        m.d.sync += in_progress.eq(in_progress + accepted - writer.done)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.instruction.body.ready.eq(1)
                with m.If(accepted):
                    m.d.sync += body.eq(self.instruction.body.payload)
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.next = "SET_UP"
            with m.State("SET_UP"):
                m.d.comb += set_up.eq(1)
                m.next = "START"
            with m.State("START"):
                m.d.comb += reader.start.eq(1)
                m.next = "ACCUMULATE"
            with m.State("ACCUMULATE"):
                # The accumulators are emptied before the first token of the next pass comes.
                m.d.comb += [
                    accumulate.eq(1),
                    reader.take.eq(products.valid & products.ready),
                    self.status.stall.eq(~reader.valid & ~writer.busy),
                ]
                with m.If(reader.take & reader.last):
                    m.next = "LAUNCH"
            with m.State("LAUNCH"):
                m.d.comb += self.status.stall.eq(writer.pending)
                with m.If(~products.busy & ~writer.pending):
                    m.d.comb += writer.start.eq(1)
                    m.next = "START"
                    with m.If(info.last):
                        m.next = "IDLE"
        return m

    def _number_passes(
        self, m: Module, body: data.View, reader: TokenReader, set_up: Value, next_pass: Value
    ) -> data.View:
        """Count key and value blocks, and place their tokens and results. Returns the pass of the current tokens."""
        config, info = self._config, Signal(PassLayout(self._config))
        style, words = config.engine_multiplier, body.groups_per_row
        k_start, v_start = (Signal.like(reader.k_offset, name=n, reset_less=True) for n in ("k_start", "v_start"))
        m.d.sync += [  # right in the cycle of `set_up`
            k_start.eq(product(words, body.key_block, style)),
            v_start.eq(product(words, body.value_block, style)),
        ]
        key, value, k_offset, v_offset, address = (
            Signal(bits, name=name, reset_less=True)
            for name, bits in (
                ("key", 12),
                ("value", 12),
                *((offset, len(info.address)) for offset in ("k_offset", "v_offset", "address")),
            )
        )
        sum_tile, tile, column = Signal.like(info.sum_tile), Signal.like(info.tile), Signal.like(info.column)
        last_value = Signal()
        m.d.comb += last_value.eq(body.pool | (value == body.blocks - 1))

        next_sum_tile = Signal.like(sum_tile)
        m.d.comb += next_sum_tile.eq(Mux(set_up, body.state_tile, sum_tile + 1))
        with m.If(set_up | (next_pass & last_value)):
            m.d.sync += [
                key.eq(Mux(set_up, 0, key + 1)),
                value.eq(0),
                k_offset.eq(Mux(set_up, k_start, k_offset + body.groups_per_row)),
                v_offset.eq(v_start),
                address.eq(Mux(set_up, body.destination.start, address + body.destination.row_stride)),
                sum_tile.eq(next_sum_tile),
                tile.eq(next_sum_tile + body.blocks),
                column.eq(0),
            ]
        with m.Elif(next_pass):
            # Ti more columns of v: within the tile, or in the tiles that follow those of the other key blocks.
            next_column = (column + config.in_lanes)[: len(column)]
            m.d.sync += [value.eq(value + 1), v_offset.eq(v_offset + body.groups_per_row), column.eq(next_column)]
            with m.If(next_column == 0):
                m.d.sync += tile.eq(tile + max(config.in_lanes // config.out_lanes, 1) * body.blocks)

        m.d.comb += [
            reader.k_offset.eq(k_offset),
            reader.v_offset.eq(v_offset),
            info.pool.eq(body.pool),
            info.last.eq(last_value & (key == body.blocks - 1)),
            info.sums.eq(body.pool | (value == 0)),
            info.blocks.eq(body.blocks),
            info.sum_tile.eq(sum_tile),
            info.tile.eq(tile),
            info.column.eq(column),
            info.pad.eq(body.destination.pad),
            info.address.eq(address),
            *(
                info[name].eq(body[name])
                for name in (
                    "state_multiplier", "state_shift", "sum_multiplier", "sum_shift", "sum_bias", "out_zero",
                    "out_limit", "pixel",
                )
            ),
        ]  # fmt: skip
        return info
