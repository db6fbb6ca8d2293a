"""Exponent and mantissa of an unsigned integer."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LeadingOne", "leading_one_latency"]

STEPS_PER_STAGE = 2  #: shift steps between two registers


def leading_one_latency(width: int) -> int:
    """Cycles that a `LeadingOne` of this width takes."""
    return -(-(width - 1).bit_length() // STEPS_PER_STAGE)


class LeadingOne(wiring.Component):
    """Find the leading one of `x` and the bits below it: x = 2**exponent * (1 + mantissa / 2**mantissa_bits), cut off.

    A barrel shifter moves the leading one to the top; the shifts that it did not make are the exponent's bits. Zero has
    exponent 0 and mantissa 0 (`quant.numerics.floor_log2`), and `nonzero` 0. One operand per cycle, `latency` cycles.

    Parameters
    ----------
    width : bits of `x`; `mantissa_bits` : bits below the leading one that are wanted, fewer than `width`
    """

    def __init__(self, width: int, mantissa_bits: int) -> None:
        self._steps = [1 << i for i in reversed(range((width - 1).bit_length()))]
        self._mantissa_bits = mantissa_bits
        self.latency = leading_one_latency(width)  #: cycles from `valid` to `out_valid`
        super().__init__(
            {
                "valid": In(1),
                "x": In(width),
                "out_valid": Out(1),
                "exponent": Out(len(self._steps)),
                "mantissa": Out(mantissa_bits),
                "nonzero": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        width = 1 << len(self._steps)
        valid, x, exponent = self.valid, Signal(width), Const(0, 0)
        m.d.comb += x.eq(self.x)
        for stage in range(self.latency):
            for step in self._steps[stage * STEPS_PER_STAGE : (stage + 1) * STEPS_PER_STAGE]:
                shifted = Signal(width, name=f"shifted{step}")
                stays = x[width - step :].any()
                m.d.comb += shifted.eq(Mux(stays, x, x << step))
                x, exponent = shifted, Cat(stays, exponent)
            stage_x = Signal(width, name=f"x{stage}")
            stage_exponent = Signal(len(exponent), name=f"exponent{stage}")
            stage_valid = Signal(name=f"valid{stage}")
            m.d.sync += stage_valid.eq(valid)
            with m.If(valid):
                m.d.sync += [stage_x.eq(x), stage_exponent.eq(exponent)]
            valid, x, exponent = stage_valid, stage_x, stage_exponent

        m.d.comb += [
            self.out_valid.eq(valid),
            self.exponent.eq(exponent),
            self.mantissa.eq(x[width - 1 - self._mantissa_bits :]),
            self.nonzero.eq(x[-1]),
        ]
        return m
