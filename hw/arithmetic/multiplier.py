"""The multiplier primitive: a registered product, portable or as a hard block of a device."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.dsp48e2 import A_BITS, B_BITS, P_BITS, dsp48e2, extend
from hw.arithmetic.product import product
from hw.config import Multipliers
from hw.shared import ModuleLibrary

__all__ = ["Multiplier"]


class Multiplier(wiring.Component):
    """product = a * b, registered; kept unless `enable`. Latency 1; one product per cycle.

    With `Multipliers.DSP48E2` the generated Verilog instantiates that block, whose own register holds the product (open
    synthesis would leave it in fabric). Amaranth's simulator sees the portable description in every style.

    Parameters
    ----------
    a, b : shapes of the factors; for a DSP48E2 at most 27 and 18 bits as signed numbers.
    """

    def __init__(self, a: Shape, b: Shape, style: Multipliers) -> None:
        self._style = style
        product = (Value.cast(Const(0, a)) * Const(0, b)).shape()
        super().__init__({"enable": In(1), "a": In(a), "b": In(b), "product": Out(product)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._style is Multipliers.DSP48E2 and isinstance(platform, ModuleLibrary):
            m.submodules.dsp = self._dsp48e2()
            return m
        register = Signal.like(self.product, reset_less=True)
        with m.If(self.enable):
            m.d.sync += register.eq(product(self.a, self.b, self._style))
        m.d.comb += self.product.eq(register)
        return m

    def _dsp48e2(self) -> Instance:
        """Multiplier and M register of the block; everything behind them passes the product on."""
        return dsp48e2(
            registers={"M": 1},
            i_CLK=ClockSignal(),
            i_CEM=self.enable,
            i_OPMODE=Const(0b000000101, 9),  # X and Y: the product
            i_A=extend(self.a, A_BITS),
            i_B=extend(self.b, B_BITS),
            o_P=Cat(self.product, Signal(P_BITS - len(self.product), name="unused")),
        )
