"""Multiplication by a fixed-point factor, rounded once."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.multiplier import Multiplier
from hw.arithmetic.rounding_shift import RoundingShift
from hw.config import Multipliers
from quant import numerics

__all__ = ["Scaler"]

PRODUCT_LATENCY = 2  #: a wide operand takes two blocks and a sum


class Scaler(wiring.Component):
    """y = saturate(round_shift(x * multiplier, shift)) of `quant.numerics`, for shifts of 0 to 31.

    One operand per cycle, `latency` cycles; inputs come from registers of the caller.

    Parameters
    ----------
    x_bits : bits of the signed operand; multiplier_bits : of an unsigned number; y_bits : of the result
    style : how to multiply
    """

    latency = PRODUCT_LATENCY + RoundingShift.latency + 1  #: cycles from `valid` to `y`

    def __init__(self, x_bits: int, multiplier_bits: int, y_bits: int, style: Multipliers) -> None:
        self._style = style
        super().__init__(
            {
                "valid": In(1),
                "x": In(signed(x_bits)),
                "multiplier": In(multiplier_bits),
                "shift": In(numerics.SHIFT_BITS),
                "y": Out(signed(y_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        enables = Signal(self.latency)  # bit k: stage k holds an operand
        valids = Signal(self.latency - 1)
        m.d.comb += enables.eq(Cat(self.valid, valids))
        m.d.sync += valids.eq(enables)

        shape = (self.x.shape(), self.multiplier.shape())
        m.submodules.multiplier = multiplier = Multiplier(*shape, self._style, PRODUCT_LATENCY)
        m.d.comb += [
            multiplier.enables.eq(enables),
            multiplier.a.eq(self.x),
            multiplier.b.eq(self.multiplier),
        ]
        shift = self.shift
        for k in range(PRODUCT_LATENCY):
            register = Signal.like(self.shift, name=f"shift{k + 1}", reset_less=True)
            with m.If(enables[k]):
                m.d.sync += register.eq(shift)
            shift = register
        m.submodules.shifter = shifter = RoundingShift(len(multiplier.product), len(self.y))
        m.d.comb += [
            shifter.enables.eq(enables[PRODUCT_LATENCY:]),
            shifter.x.eq(multiplier.product),
            shifter.shift.eq(shift),
        ]
        with m.If(enables[-1]):
            m.d.sync += self.y.eq(shifter.y)
        return m
