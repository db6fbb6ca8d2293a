"""Dot products that share factors: the multipliers and adder trees of the engines."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.multiplier import Multiplier
from hw.arithmetic.packing import Packing
from hw.config import Multipliers
from hw.shared import place

__all__ = ["DotProductFormat", "DotProducts", "adder_levels", "adder_tree"]

TREE_RADIX = 4  #: operands that are added between two registers of the adder tree


@dataclass(frozen=True)
class DotProductFormat:
    """What the dot products of a lane are made of.

    Parameters
    ----------
    inputs : products of each sum, at least 2
    a, b : shapes of the factors; at least one of them is signed, and narrow
    counts : factors a and b of which an engine wants all products; a lane takes as many as share a multiplier
    """

    inputs: int
    a: Shape
    b: Shape
    counts: tuple[int, int]
    style: Multipliers

    @cached_property
    def packing(self) -> Packing:
        """How factors share multipliers, in sums of as many terms as the first level of the tree adds."""
        terms = [self.inputs] if self.inputs <= TREE_RADIX else [1, 2, TREE_RADIX]
        if self.style in (Multipliers.PLAIN, Multipliers.LOGIC):
            return Packing(self.a, self.b, (1, 1), terms[-1])
        return Packing.densest(self.a, self.b, self.counts, terms)

    @property
    def psum_shape(self) -> Shape:
        """Of each sum."""
        return Packing(self.a, self.b, (1, 1), self.inputs).sum_shape

    @property
    def latency(self) -> int:
        """Cycles from the operands to their dot products."""
        return 2 + adder_levels(ceil(self.inputs / self.packing.terms))


class DotProducts(wiring.Component):
    """All dot products of I vectors a with J vectors b, (I, J) = `packing.counts`:

        psum[i][j] = sum over x of a[x][i] * b[x][j]

    `a[x]` and `b[x]` are packed operands. All operands come from registers; products and every level of the adder tree
    (`TREE_RADIX` operands) are registered. Packed products are split after the first level.

    Latency: `latency` cycles of the format; one result per cycle. Stage s keeps its registers unless `enable[s]`; the
    array delays one valid bit for all its lanes: operands that are valid in cycle t want `enable[s]` in cycle t + s.
    """

    def __init__(self, form: DotProductFormat) -> None:
        self._form = form
        i_count, j_count = form.packing.counts
        super().__init__(
            {
                "enable": In(form.latency),
                "a": In(data.ArrayLayout(form.packing.a_shape, form.inputs)),
                "b": In(data.ArrayLayout(form.packing.b_shape, form.inputs)),
                "psum": Out(data.ArrayLayout(data.ArrayLayout(form.psum_shape, j_count), i_count)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing = self._form.packing
        products = self._products(m, platform)
        totals = [packing.split(total) for total in _level(products, packing.terms)]
        for i, row in enumerate(self.psum):
            for j, psum in enumerate(row):
                terms = [total[i][j] for total in totals]
                m.d.comb += psum.eq(adder_tree(m, f"sum{i}_{j}", terms, self.enable[1:]))
        return m

    def _products(self, m: Module, platform: object) -> list[Value]:
        """The registered products of all terms."""
        packing, products = self._form.packing, []
        for x in range(self._form.inputs):
            style = self._form.style
            multiplier = place(m, platform, f"multiplier{x}", Multiplier, packing.a_shape, packing.b_shape, style)
            m.d.comb += [
                multiplier.enables.eq(self.enable[0]),
                multiplier.a.eq(self.a[x]),
                multiplier.b.eq(self.b[x]),
            ]
            products.append(multiplier.product)
        return products


def adder_levels(terms: int) -> int:
    """Additions between the registers of an adder tree."""
    levels = 0
    while terms > 1:
        levels, terms = levels + 1, ceil(terms / TREE_RADIX)
    return levels


def adder_tree(m: Module, name: str, terms: list[Value], enable: Value) -> Value:
    """The sum of terms, `adder_levels` + 1 cycles later: terms and all sums are registered, stage s if `enable[s]`."""
    for stage in range(adder_levels(len(terms)) + 1):
        terms = terms if stage == 0 else _level(terms, TREE_RADIX)
        registers = [Signal(term.shape(), name=f"{name}_{stage}_{n}", reset_less=True) for n, term in enumerate(terms)]
        with m.If(enable[stage]):
            m.d.sync += [register.eq(term) for register, term in zip(registers, terms)]
        terms = registers
    (total,) = terms
    return total


def _level(terms: list[Value], radix: int) -> list[Value]:
    """One level of an adder tree."""
    return [sum(terms[n + 1 : n + radix], terms[n]) for n in range(0, len(terms), radix)]
