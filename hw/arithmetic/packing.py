"""Several products in one multiplication: every factor of one group times every factor of another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

from amaranth.hdl import Cat, Const, Shape, Value, signed, unsigned

__all__ = ["PORT_BITS", "Packing"]

PORT_BITS = (27, 18)  #: signed operands of the multipliers that factors are packed for (DSP48E2)
TOTAL_BITS = 48  #: of the sums that these multipliers make


@dataclass(frozen=True)
class Packing:
    """Sums of up to `terms` products a[i] * b[j] for all i and j, from one multiplication per term:

        A = sum over i of a[i] * 2**(i * J * field),   B = sum over j of b[j] * 2**(j * field)
        sum of A * B = sum over i, j of 2**((i * J + j) * field) * (sum of a[i] * b[j])

    `field` bits hold any sum of `terms` products, so that `split` gets all of them back exactly: a sum is its field
    read as a signed number, and the borrow of a negative number in the bits below.

    Signed factors must be narrow: the lowest number of their shape is not allowed where factors are packed.

    Parameters
    ----------
    a, b : shapes of the factors; at least one of them is signed
    counts : factors a and b (I, J) of a multiplication; with (1, 1) nothing is packed
    """

    a: Shape
    b: Shape
    counts: tuple[int, int]
    terms: int

    @classmethod
    def densest(cls, a: Shape, b: Shape, counts: tuple[int, int], terms: Sequence[int]) -> "Packing":
        """The packing that fits `PORT_BITS` and takes the fewest multipliers for all products of `counts` factors; of
        these, the one of most terms, and then of fewest fields. Products that do not fit at all are not packed."""
        candidates = [
            packing
            for i, j, t in product(range(1, counts[0] + 1), range(1, counts[1] + 1), terms)
            if i * j > 1 and (packing := cls(a, b, (i, j), t)).fits
        ]
        alone = cls(a, b, (1, 1), max(terms))
        return min([*candidates, alone], key=lambda p: (p.multipliers(counts), -p.terms, p.counts[0] * p.counts[1]))

    def multipliers(self, counts: tuple[int, int]) -> int:
        """Multiplications that make all products of `counts` factors."""
        return ceil(counts[0] / self.counts[0]) * ceil(counts[1] / self.counts[1])

    @property
    def field(self) -> int:
        """Bits of a sum of `terms` products."""
        return (self.terms * _largest(self.a) * _largest(self.b)).bit_length() + 1

    @property
    def sum_shape(self) -> Shape:
        """Of a sum of `terms` products."""
        return signed(self.field)

    @property
    def bias(self) -> int:
        """Added to a total, it makes every sum but the highest positive, so that none borrows: see `split_biased`."""
        return sum(1 << (low + self.field - 1) for low in self._lows[:-1])

    @property
    def strides(self) -> tuple[int, int]:
        """Bits from one factor of a packed operand to the next, of A and of B."""
        return self.counts[1] * self.field, self.field

    @property
    def a_shape(self) -> Shape:
        """Of A."""
        return _packed_shape(self.a, self.counts[0], self.strides[0])

    @property
    def b_shape(self) -> Shape:
        """Of B."""
        return _packed_shape(self.b, self.counts[1], self.strides[1])

    @property
    def fits(self) -> bool:
        """Whether operands and sums fit the multiplier."""
        shapes = (self.a_shape, self.b_shape)
        fields = self.counts[0] * self.counts[1] * self.field
        return fields <= TOTAL_BITS and all(s.width + (not s.signed) <= b for s, b in zip(shapes, PORT_BITS))

    def pack_a(self, factors: Sequence[Value]) -> Value:
        """A, of `counts[0]` factors."""
        return _pack(factors, self.strides[0])

    def pack_b(self, factors: Sequence[Value]) -> Value:
        """B, of `counts[1]` factors."""
        return _pack(factors, self.strides[1])

    def split(self, total: Value) -> list[list[Value]]:
        """The sums of a[i] * b[j], by i and j, given the sum of up to `terms` products A * B."""
        if self.counts == (1, 1):
            return [[total]]
        borrows = [total[low - 1] if low else Const(0) for low in self._lows]
        parts = [total[low : low + self.field].as_signed() for low in self._lows]
        return self._by_factors([(part + borrow)[: self.field].as_signed() for part, borrow in zip(parts, borrows)])

    def split_biased(self, total: Value) -> list[list[Value]]:
        """Like `split`, of a sum that began with `bias`: no logic but inverters."""
        fields = [total[low : low + self.field] for low in self._lows]
        return self._by_factors([*(Cat(f[:-1], ~f[-1]).as_signed() for f in fields[:-1]), fields[-1].as_signed()])

    @property
    def _lows(self) -> range:
        """The lowest bit of each field."""
        return range(0, self.counts[0] * self.counts[1] * self.field, self.field)

    def _by_factors(self, sums: list[Value]) -> list[list[Value]]:
        return [sums[first : first + self.counts[1]] for first in range(0, len(sums), self.counts[1])]


def _largest(shape: Shape) -> int:
    """Largest magnitude of a factor, narrow if signed."""
    return (1 << (shape.width - shape.signed)) - 1


def _packed_shape(factor: Shape, count: int, stride: int) -> Shape:
    width = (count - 1) * stride + factor.width
    return signed(width) if factor.signed else unsigned(width)


def _pack(factors: Sequence[Value], stride: int) -> Value:
    """Sum of factor * 2**(i * stride). A negative number borrows from the factor above it; its sign fills the gap."""
    parts, borrow = [], Const(0)
    for factor in factors[:-1]:
        digit = (factor - borrow)[: len(factor)]
        borrow = digit[-1] if factor.shape().signed else Const(0)
        parts += [digit, borrow.replicate(stride - len(factor))]
    last = factors[-1]
    packed = Cat(*parts, (last - borrow)[: len(last)])
    return packed.as_signed() if last.shape().signed else packed
