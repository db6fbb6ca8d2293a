"""Two products in one multiplication: they share a factor, and lie in separate fields of the wide product."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Shape, Value, signed

__all__ = ["PORT_BITS", "Packing"]

PORT_BITS = (27, 18)  #: signed operands of the multipliers that pairs are packed for (DSP48E2)


@dataclass(frozen=True)
class Packing:
    """Sums of up to `terms` products `s * low` and `s * high`, from one multiplication per term:

        sum of s * (high * 2**field + low) = (sum of s * high) * 2**field + (sum of s * low)

    `field` bits hold any sum of the low products, so that `split` gets both sums back exactly: the low one is the
    field read as a signed number, the high one is the rest and the borrow of a negative low sum.

    Parameters
    ----------
    shared, other : shapes of s, and of low and high; at least one of them is signed.

    Raises
    ------
    ValueError : the operands do not fit the multiplier's ports.
    """

    shared: Shape
    other: Shape
    terms: int

    def __post_init__(self) -> None:
        if self.shape.width > PORT_BITS[0] or self.shared.width + (not self.shared.signed) > PORT_BITS[1]:
            raise ValueError(
                f"{self.terms} products of {self.shared} and pairs of {self.other} need a {self.shape.width}-bit "
                f"operand; the multiplier has {PORT_BITS[0]} by {PORT_BITS[1]} bits"
            )

    @property
    def field(self) -> int:
        """Bits of a sum of `terms` products."""
        return self.shared.width + self.other.width + (self.terms - 1).bit_length()

    @property
    def shape(self) -> Shape:
        """Of a packed pair."""
        return signed(self.field + self.other.width + 1)

    def pack(self, low: Value, high: Value) -> Value:
        """The pair as one operand: high * 2**field + low."""
        # A negative low part borrows from the high one; its sign fills the field.
        borrow = low[-1] if self.other.signed else Const(0)
        fill = borrow.replicate(self.field - len(low))
        return Cat(low, fill, (high - borrow)[: self.shape.width - self.field]).as_signed()

    def split(self, total: Value) -> tuple[Value, Value]:
        """The sums of the low and of the high products, given the sum of up to `terms` products with packed pairs."""
        low = total[: self.field].as_signed()
        return low, (total[self.field :].as_signed() + total[self.field - 1])[: self.field].as_signed()
