"""Multiplication by a fixed-point factor, rounded once."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.product import product
from hw.arithmetic.requantizer import saturate
from hw.config import Multipliers

__all__ = ["Scaler"]


class Scaler(wiring.Component):
    """y = saturate(round_shift(x * multiplier, shift)) of `quant.numerics`, for every shift of `shift_bits` bits.

    With t = 2 * x * multiplier >> shift, the rounded quotient is (t + 1) >> 1: no wide rounding constant is needed.
    One operand per cycle, `latency` cycles; inputs come from registers of the caller.

    Parameters
    ----------
    x_bits : bits of the signed operand; multiplier_bits, shift_bits : of unsigned numbers; y_bits : of the result
    style : how to multiply
    """

    latency = 3  #: cycles from `valid` to `y`

    def __init__(self, x_bits: int, multiplier_bits: int, shift_bits: int, y_bits: int, style: Multipliers) -> None:
        self._style = style
        super().__init__(
            {
                "valid": In(1),
                "x": In(signed(x_bits)),
                "multiplier": In(multiplier_bits),
                "shift": In(shift_bits),
                "y": Out(signed(y_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        valids = Signal(2)
        m.d.sync += valids.eq(Cat(self.valid, valids))

        scaled = Signal(signed(len(self.x) + len(self.multiplier)), reset_less=True)
        shift = Signal.like(self.shift, reset_less=True)
        doubled = Signal(signed(len(scaled) + 1), reset_less=True)
        with m.If(self.valid):
            m.d.sync += [scaled.eq(product(self.multiplier, self.x, self._style)), shift.eq(self.shift)]
        with m.If(valids[0]):
            m.d.sync += doubled.eq(Cat(0, scaled).as_signed() >> shift)
        with m.If(valids[1]):
            m.d.sync += self.y.eq(saturate((doubled + 1) >> 1, len(self.y)))
        return m
