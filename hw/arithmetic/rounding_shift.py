"""Division by a power of two, rounded: the barrel shifter behind every fixed-point multiplication."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundingShift"]

SHIFT_BITS = 5
COARSE, MIDDLE = 8, 2  # a shift is 0..3 times each of these, and 0 or 1


def select(x: Value, amount: Value, step: int, width: int) -> Value:
    """`width` bits of x from `amount * step` on: one 6-input LUT per bit."""
    parts = [x[k * step : k * step + width] for k in range(4)]
    return Mux(amount[1], Mux(amount[0], parts[3], parts[2]), Mux(amount[0], parts[1], parts[0]))


def exceeds(x: Value, sign: Value, amount: Value, step: int, width: int) -> Value:
    """Bits of x above those of `select`, or the highest of those, differ from the sign."""
    differs = [
        (x[start : start + step] ^ sign.replicate(step)).any() for start in range(width - 1, width - 1 + 3 * step, step)
    ]
    rest = x[width - 1 + 3 * step :]
    differs.append((rest ^ sign.replicate(len(rest))).any())
    return (differs[0] & (amount == 0)) | (differs[1] & ~amount[1]) | (differs[2] & (amount != 3)) | differs[3]


class RoundingShift(wiring.Component):
    """y = saturate(round_shift(x, shift)) of `quant.numerics`, for shifts of 0 to 31.

    With t = 2 * x >> shift, the rounded quotient is (t + 1) >> 1: no wide rounding constant is needed. The shift is
    made by multiples of 8, then of 2, then by 0 or 1; whether t still fits is kept beside it, and saturation, the last
    step of the shift, and the rounding share the LUTs of one carry chain.

    Latency: 2 cycles, then combinational. Registers of stage k load with `enables[k]`.

    Parameters
    ----------
    x_bits, y_bits : widths of the signed operand and result

    Members
    -------
    t : `y_bits + 1` bits of t, signed; `sign`, `over` : the sign of x, and whether t does not fit those bits
    """

    latency = 2

    def __init__(self, x_bits: int, y_bits: int) -> None:
        super().__init__(
            {
                "enables": In(2),
                "x": In(signed(x_bits)),
                "shift": In(SHIFT_BITS),
                "t": Out(signed(y_bits + 1)),
                "sign": Out(1),
                "over": Out(1),
                "y": Out(signed(y_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.t)
        widths = bits + COARSE - 1, bits + MIDDLE - 1
        coarse, middle = Signal(widths[0], reset_less=True), Signal(widths[1], reset_less=True)
        coarse_sign, coarse_over, middle_over = (Signal(reset_less=True) for _ in range(3))
        ones = Signal(reset_less=True)  # middle[1 : bits - 1] are
        rest, last = Signal(3, reset_less=True), Signal(reset_less=True)
        sign = self.x[-1]
        doubled = Cat(0, self.x, sign.replicate(max(0, 3 * COARSE + widths[0] - len(self.x) - 1)))
        with m.If(self.enables[0]):
            m.d.sync += [
                coarse.eq(select(doubled, self.shift[3:], COARSE, widths[0])),
                coarse_over.eq(exceeds(doubled, sign, self.shift[3:], COARSE, widths[0])),
                coarse_sign.eq(sign),
                rest.eq(self.shift[:3]),
            ]
        shifted = select(coarse, rest[1:], MIDDLE, widths[1])
        with m.If(self.enables[1]):
            m.d.sync += [
                middle.eq(shifted),
                ones.eq(shifted[1 : bits - 1].all()),
                middle_over.eq(coarse_over | exceeds(coarse, coarse_sign, rest[1:], MIDDLE, widths[1])),
                self.sign.eq(coarse_sign),
                last.eq(rest[0]),
            ]
        m.d.comb += [
            self.t.eq(Mux(last, middle[1:], middle[:-1])),
            self.over.eq(middle_over | (~last & (middle[bits - 1] ^ self.sign))),
        ]
        # The largest t would be rounded beyond the largest y.
        over = Signal()
        m.d.comb += over.eq(self.over | (~self.sign & ones & Mux(last, middle[bits - 1], middle[0])))
        limit = Cat(0, (~self.sign).replicate(bits - 2), self.sign)
        m.d.comb += self.y.eq((Mux(over, limit, self.t[:]).as_signed() + 1) >> 1)
        return m
