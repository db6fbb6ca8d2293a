"""The MAC array: every pixel of a word times a Ti x To weight tile."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.dot_product import DotProductFormat, DotProducts
from hw.config import AcceleratorConfig
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


def mac_format(config: AcceleratorConfig) -> DotProductFormat:
    """What a lane of the array computes: two output channels of one pixel."""
    return DotProductFormat(config.in_lanes, unsigned(config.act_bits), signed(config.operand_bits), config.multiplier)


class MacArray(wiring.Component):
    """P x To dot products of Ti terms per cycle, with a double-buffered weight tile:

        psum[pixel][o] = sum over i of max(word[pixel][i] - zero, 0) * weights[i * To + o]

    A `zero` of 0 passes codes unchanged. `tile` writes the shadow tile; `swap` makes it current for the word of the
    same cycle and all that follow (a `tile` write of that cycle belongs to the next tile already).

    Latency: `latency` cycles from `valid` to `psum`; one word per cycle; registers without data are frozen.

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
        config = self._config
        weights = self._weights(m)
        operands = self._operands(m)
        enable = Signal(self._lane.latency)
        m.d.sync += enable.eq(Cat(self.valid, enable))

        for p in range(config.pixels):
            for j, tile in enumerate(weights):
                lane = place(m, platform, f"lane_{p}_{j}", DotProducts, self._lane)
                m.d.comb += [
                    lane.enable.eq(enable),
                    lane.shared.eq(operands[p]),
                    lane.pairs.eq(tile),
                ]
                for o in range(2):
                    group, channel = divmod(2 * j + o, config.requant_channels)
                    index = (group * config.pixels + p) * config.requant_channels + channel
                    m.d.comb += self.psum[index].eq(lane.psum[o])
        return m

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

    def _weights(self, m: Module) -> list[data.View]:
        """The shadow tile in the order of the stream, and the current one as [pair of outputs][input].
        They exist once for all pixels."""
        config = self._config
        bits, lanes = config.operand_bits, config.in_lanes * config.out_lanes
        shadow = []
        for w in range(config.tile_words):
            width = min(config.stream_bits, lanes * bits - w * config.stream_bits)
            shadow.append(word := Signal(width, name=f"shadow_{w}", reset_less=True))
            with m.If(self.tile.valid & (self.tile.word == w)):
                m.d.sync += word.eq(self.tile.data)
        elements = Cat(shadow)

        weights = []
        for j in range(config.out_lanes // 2):
            layout = data.ArrayLayout(self._lane.pair_shape, config.in_lanes)
            weights.append(current := Signal(layout, name=f"weights_{j}", reset_less=True))
            with m.If(self.swap):
                for i in range(config.in_lanes):
                    first = i * config.out_lanes + 2 * j
                    pair = [elements.word_select(e, bits).as_signed() for e in (first, first + 1)]
                    m.d.sync += current[i].eq(self._lane.pair(*pair))
        return weights
