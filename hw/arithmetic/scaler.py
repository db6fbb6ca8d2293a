"""Multiplication by a fixed-point factor, rounded once."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.product import product
from hw.arithmetic.rounding_shift import RoundingShift
from hw.config import Multipliers
from quant import numerics

__all__ = ["Scaler"]


class Scaler(wiring.Component):
    """y = saturate(round_shift(x * multiplier, shift)) of `quant.numerics`, for shifts of 0 to 31.

    One operand per cycle, `latency` cycles; inputs come from registers of the caller.

    Parameters
    ----------
    x_bits : bits of the signed operand; multiplier_bits : of an unsigned number; y_bits : of the result
    style : how to multiply
    """

    latency = 2 + RoundingShift.latency  #: cycles from `valid` to `y`

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

        valids = Signal(self.latency - 1)
        m.d.sync += valids.eq(Cat(self.valid, valids))

        scaled = Signal(signed(len(self.x) + len(self.multiplier)), reset_less=True)
        shift = Signal.like(self.shift, reset_less=True)
        with m.If(self.valid):
            m.d.sync += [scaled.eq(product(self.multiplier, self.x, self._style)), shift.eq(self.shift)]
        m.submodules.shifter = shifter = RoundingShift(len(scaled), len(self.y))
        m.d.comb += [shifter.enables.eq(valids), shifter.x.eq(scaled), shifter.shift.eq(shift)]
        with m.If(valids[-1]):
            m.d.sync += self.y.eq(shifter.y)
        return m
