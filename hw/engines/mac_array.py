"""The MAC array: every pixel of a word times a Ti x To weight tile."""

from functools import cache
from math import ceil

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.cascade import CascadeFormat, Cascades
from hw.arithmetic.dot_product import DotProductFormat, DotProducts
from hw.config import AcceleratorConfig, Multipliers
from hw.interfaces import pad_word_layout
from hw.shared import place

__all__ = ["MacArray", "TileWrite", "mac_format"]


class TileWrite(wiring.Signature):
    """Writes stream word `word` of the shadow weight tile in a cycle where `valid` is 1."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "word": Out(range(max(config.tile_words, 2))),
                "data": Out(config.stream_bits),
            }
        )


@cache
def mac_format(config: AcceleratorConfig) -> DotProductFormat | CascadeFormat:
    """What a lane of the array computes: output channels that share multipliers, of pixels that do."""
    weight, code = signed(config.factor_bits), unsigned(config.act_bits)
    outputs = config.out_lanes
    if config.multiplier is Multipliers.DSP48E2:
        if outputs * config.operand_bits > config.stream_bits:
            outputs = 2  # more than two of a row might come in two words of the stream
        return CascadeFormat(config.in_lanes, weight, code, (outputs, config.pixels))
    return DotProductFormat(config.in_lanes, weight, code, (outputs, config.pixels), config.multiplier)


class MacArray(wiring.Component):
    """P x To dot products of Ti terms per cycle, with a double-buffered weight tile:

        psum[pixel][o] = sum over i of max(word[pixel][i] - zero, 0) * weights[i * To + o]

    A `zero` of 0 passes codes unchanged. `tile` writes the shadow tile; `swap` makes it current for the word of the
    same cycle and all that follow (a `tile` write of that cycle belongs to the next tile already).

    Latency: `latency` cycles from `valid` to `psum`; one word per cycle; registers without data are frozen.

    With DSP48E2 blocks, they hold both tiles. Blocks of a chain work one cycle after the other, so that codes, and the
    moments of loading and swapping, are delayed by the place of their input in the chain: once for all lanes.

    Members
    -------
    psum : Out
        Lanes in the order [channel group][pixel][channel of the group], in groups of `requant_channels` channels.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._lane = mac_format(config)
        self.psum_bits = self._lane.psum_shape.width
        #: cycles from a word to its partial sums: the operand register and the lane
        self.latency = 1 + self._lane.latency
        super().__init__(
            {
                "valid": In(1),
                "word": In(pad_word_layout(config)),
                "zero": In(config.act_bits),
                "swap": In(1),
                "tile": In(TileWrite(config)),
                "psum": Out(data.ArrayLayout(signed(self.psum_bits), config.pixels * config.out_lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operands = self._operands(m)
        enable = Signal(self._lane.latency)
        m.d.sync += enable.eq(Cat(self.valid, enable))
        cascaded = isinstance(self._lane, CascadeFormat)
        if cascaded:
            operands = [[self._later(m, code, self._lane.position(x)) for x, code in enumerate(o)] for o in operands]
        weights = self._held_weights(m) if cascaded else self._weights(m)
        kind = Cascades if cascaded else DotProducts

        (i_count, j_count), pack = self._lane.packing.counts, self._lane.packing.pack_b
        operands += [[Const(0, self._lane.b)] * self._config.in_lanes] * (-len(operands) % j_count)
        for p in range(0, self._config.pixels, j_count):
            codes = [pack(factors) for factors in zip(*operands[p : p + j_count])]
            for o in range(0, self._config.out_lanes, i_count):
                lane = place(m, platform, f"lane_{p}_{o}", kind, self._lane)
                m.d.comb += [lane.enable.eq(enable), lane.b.eq(Cat(codes))]
                m.d.comb += [getattr(lane, port).eq(value) for port, value in weights[o // i_count].items()]
                self._place_sums(m, lane, p, o)
        return m

    def _place_sums(self, m: Module, lane: DotProducts | Cascades, first_pixel: int, first_channel: int) -> None:
        """Connect the sums of a lane that stand for pixels and channels."""
        config = self._config
        for i, row in enumerate(lane.psum):
            for j, psum in enumerate(row):
                o, p = first_channel + i, first_pixel + j
                if o < config.out_lanes and p < config.pixels:
                    group, channel = divmod(o, config.requant_channels)
                    m.d.comb += self.psum[(group * config.pixels + p) * config.requant_channels + channel].eq(psum)

    def _operands(self, m: Module) -> list[data.View]:
        """The activation registers of all pixels, behind the ReLU."""
        config = self._config
        operands = []
        for p in range(config.pixels):
            layout = data.ArrayLayout(unsigned(config.act_bits), config.in_lanes)
            operands.append(register := Signal(layout, name=f"operand_{p}", reset_less=True))
            with m.If(self.valid):
                for i in range(config.in_lanes):
                    code = self.word[p][i]
                    m.d.sync += register[i].eq(Mux(code > self.zero, code - self.zero, 0))
        return operands

    def _later(self, m: Module, value: Value, cycles: int) -> Value:
        """The value, so many cycles later."""
        for _ in range(cycles):
            register = Signal(value.shape(), name="later", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        return value

    def _packed(self, elements: Value, group: int) -> Value:
        """The operand of a group of output channels, whose weights of one input `elements` begins with."""
        bits, (count, _), none = self._config.operand_bits, self._lane.packing.counts, Const(0, self._lane.a)
        real = min(count, self._config.out_lanes - group * count)
        factors = [elements[n * bits :][: len(none)].as_signed() for n in range(real)]
        return self._lane.packing.pack_a(factors + [none] * (count - real))

    def _weights(self, m: Module) -> list[dict[str, Value]]:
        """The shadow tile in the order of the stream, and the current one by groups of outputs. They exist once for all
        pixels. Returns what goes to the ports of the lanes of each group."""
        config, lane = self._config, self._lane
        row_bits = config.operand_bits * config.out_lanes
        shadow = []
        for w in range(config.tile_words):
            width = min(config.stream_bits, config.in_lanes * row_bits - w * config.stream_bits)
            shadow.append(word := Signal(width, name=f"shadow_{w}", reset_less=True))
            with m.If(self.tile.valid & (self.tile.word == w)):
                m.d.sync += word.eq(self.tile.data)
        elements, ports = Cat(shadow), []
        for group in range(ceil(config.out_lanes / lane.packing.counts[0])):
            layout = data.ArrayLayout(lane.packing.a_shape, config.in_lanes)
            current = Signal(layout, name=f"weights_{group}", reset_less=True)
            first = group * lane.packing.counts[0] * config.operand_bits
            with m.If(self.swap):
                for x in range(config.in_lanes):
                    m.d.sync += current[x].eq(self._packed(elements[x * row_bits + first :], group))
            ports.append({"a": current})
        return ports

    def _held_weights(self, m: Module) -> list[dict[str, Value]]:
        """Like `_weights`, for blocks that hold both tiles: what is loaded from the stream, and when it is swapped.

        Place k swaps 1 + k cycles after `swap`. Until then, word w must not replace what is loaded; it comes w cycles
        after `swap` at the earliest.
        """
        config, lane = self._config, self._lane
        row_bits = config.operand_bits * config.out_lanes
        words, swap = [self.tile.data], Signal(lane.length)
        strobes = [[self.tile.valid & (self.tile.word == w) for w in range(config.tile_words)]]
        m.d.sync += swap.eq(Cat(self.swap, swap))
        for delay in range(lane.length):
            words.append(self._later(m, words[-1], 1))
            strobes.append(later := [Signal(name=f"strobe{delay}_{w}") for w in range(config.tile_words)])
            m.d.sync += [after.eq(before) for after, before in zip(later, strobes[delay])]

        ports = []
        for group in range(ceil(config.out_lanes / lane.packing.counts[0])):
            factors, loads = [], []
            for x in range(config.in_lanes):
                first = x * row_bits + group * lane.packing.counts[0] * config.operand_bits
                w, first = divmod(first, config.stream_bits)
                delay = max(0, 1 + lane.position(x) - w)
                factors.append(self._packed(words[delay][first:], group))
                loads.append(strobes[delay][w])
            ports.append({"a": Cat(factors), "load": Cat(loads), "swap": swap})
        return ports
