"""Normalised reciprocals of attention divisors (`quant.numerics.reciprocal`)."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arithmetic.leading_one import LeadingOne, leading_one_latency
from hw.config import AcceleratorConfig
from quant import numerics

__all__ = ["Reciprocal", "reciprocal_latency"]

R_BITS = numerics.RECIPROCAL_BITS + 1
E_BITS = 6


def reciprocal_latency(config: AcceleratorConfig) -> int:
    """Cycles from a divisor to its reciprocal."""
    return leading_one_latency(config.acc_bits) + 2


class Reciprocal(wiring.Component):
    """Reciprocal (r, e) of `divisor`, 0 .. 2**acc_bits - 1: 1 / divisor is about r * 2**-(15 + e); (0, 0) for 0.

    The mantissa of the divisor indexes a table; with `divisor_mantissa_bits` 0, the divisor is rounded to a power of
    two instead. One divisor per cycle, `latency` cycles, no back-pressure; r and e hold until the next result.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._mantissa_bits = config.divisor_mantissa_bits
        # The power-of-two divisor is rounded by one bit of its mantissa.
        self._leading_one = LeadingOne(config.acc_bits, max(self._mantissa_bits, 1))
        self.latency = reciprocal_latency(config)  #: cycles from `valid` to `out_valid`
        super().__init__(
            {
                "valid": In(1),
                "divisor": In(config.acc_bits),
                "out_valid": Out(1),
                "r": Out(R_BITS),
                "e": Out(E_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.leading_one = leading_one = self._leading_one
        m.d.comb += [leading_one.valid.eq(self.valid), leading_one.x.eq(self.divisor)]

        # The table is read while the exponent waits; then both go to the output registers.
        valid, nonzero, exponent, r = Signal(), Signal(), Signal(E_BITS), Signal(R_BITS)
        m.d.sync += valid.eq(leading_one.out_valid)
        with m.If(leading_one.out_valid):
            m.d.sync += nonzero.eq(leading_one.nonzero)
            if self._mantissa_bits:
                m.d.sync += exponent.eq(leading_one.exponent)
            else:
                m.d.sync += exponent.eq(leading_one.exponent + leading_one.mantissa)
        if self._mantissa_bits:
            table = Memory(
                shape=R_BITS, depth=1 << self._mantissa_bits, init=numerics.reciprocal_table(self._mantissa_bits)
            )
            m.submodules.table = table
            port = table.read_port()
            m.d.comb += [port.en.eq(leading_one.out_valid), port.addr.eq(leading_one.mantissa), r.eq(port.data)]
        else:
            m.d.comb += r.eq(numerics.reciprocal_table(0)[0])

        m.d.sync += self.out_valid.eq(valid)
        with m.If(valid):
            m.d.sync += Cat(self.r, self.e).eq(Mux(nonzero, Cat(r, exponent), 0))
        return m
