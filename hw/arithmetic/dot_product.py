"""Pairs of dot products that share a factor: the multipliers and adder trees of the engines."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.multiplier import Multiplier
from hw.arithmetic.packing import Packing
from hw.config import Multipliers
from hw.shared import place

__all__ = ["DotProductFormat", "DotProducts"]

TREE_RADIX = 4  #: operands that are added between two registers of the adder tree


@dataclass(frozen=True)
class DotProductFormat:
    """What two dot products are made of.

    Parameters
    ----------
    inputs : products of each sum, at least 2.
    shared, other : shapes of the factors; at least one of them is signed.
    """

    inputs: int
    shared: Shape
    other: Shape
    style: Multipliers

    @property
    def packing(self) -> Packing | None:
        """How the two factors of a pair share a multiplier, if they do; of as many terms as the first level adds."""
        if self.style in (Multipliers.PLAIN, Multipliers.LOGIC):
            return None
        return Packing(self.other, self.shared, (2, 1), min(self.inputs, TREE_RADIX))

    @property
    def pair_shape(self) -> Shape:
        """Of two factors: side by side, or packed."""
        return self.packing.a_shape if self.packing else unsigned(2 * self.other.width)

    @property
    def psum_shape(self) -> Shape:
        """Of each sum."""
        return signed(self.shared.width + self.other.width + (self.inputs - 1).bit_length())

    @property
    def latency(self) -> int:
        """Cycles from the operands to their dot products."""
        stages, terms = 1, self.inputs
        while terms > 1:
            stages, terms = stages + 1, -(-terms // TREE_RADIX)
        return stages

    def pair(self, first: Value, second: Value) -> Value:
        """Two factors as an element of `DotProducts.pairs`."""
        return self.packing.pack_a([first, second]) if self.packing else Cat(first, second)


class DotProducts(wiring.Component):
    """Two dot products that share their first factors:

        psum[o] = sum over i of shared[i] * other[i][o],   o = 0, 1

    `pairs[i]` is `pair(other[i][0], other[i][1])` of the format. All operands come from registers; products and every
    level of the adder tree (`TREE_RADIX` operands) are registered. Packed products are split after the first level.

    Latency: `latency` cycles of the format; one result per cycle. Stage s keeps its registers unless `enable[s]`; the
    array delays one valid bit for all its lanes: operands that are valid in cycle t want `enable[s]` in cycle t + s.
    """

    def __init__(self, form: DotProductFormat) -> None:
        self._form = form
        super().__init__(
            {
                "enable": In(form.latency),
                "shared": In(data.ArrayLayout(form.shared, form.inputs)),
                "pairs": In(data.ArrayLayout(form.pair_shape, form.inputs)),
                "psum": Out(data.ArrayLayout(form.psum_shape, 2)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = [_sums(products) for products in self._products(m, platform)]
        if self._form.packing:
            sums = list(zip(*([low, high] for [low], [high] in map(self._form.packing.split, sums[0]))))
        for stage in range(1, self._form.latency):
            registers = [self._register(m, f"sum_{o}_{stage}", stage, values) for o, values in enumerate(sums)]
            sums = [_sums(terms) for terms in registers]
        m.d.comb += [psum.eq(total) for psum, (total,) in zip(self.psum, sums)]
        return m

    def _products(self, m: Module, platform: object) -> list[list[Value]]:
        """The registered products of all terms: of both sums at once if packed, or of each sum."""
        form = self._form
        shape, factors = form.pair_shape, [list(self.pairs)]
        if not form.packing:
            shape, width = form.other, form.other.width
            factors = [[pair[:width] for pair in self.pairs], [pair[width:] for pair in self.pairs]]
        products = []
        for o, values in enumerate(factors):
            products.append([])
            for i, value in enumerate(values):
                multiplier = place(m, platform, f"multiplier_{o}_{i}", Multiplier, shape, form.shared, form.style)
                m.d.comb += [
                    multiplier.enable.eq(self.enable[0]),
                    multiplier.a.eq(value),
                    multiplier.b.eq(self.shared[i]),
                ]
                products[o].append(multiplier.product)
        return products

    def _register(self, m: Module, name: str, stage: int, values: list[Value]) -> list[Signal]:
        registers = [Signal(value.shape(), name=f"{name}_{i}", reset_less=True) for i, value in enumerate(values)]
        with m.If(self.enable[stage]):
            m.d.sync += [register.eq(value) for register, value in zip(registers, values)]
        return registers


def _sums(terms: list[Value]) -> list[Value]:
    """One level of the adder tree."""
    return [sum(terms[i + 1 : i + TREE_RADIX], terms[i]) for i in range(0, len(terms), TREE_RADIX)]
