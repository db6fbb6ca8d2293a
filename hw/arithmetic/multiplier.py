"""The multiplier primitive: a registered product, portable or as a hard block of a device."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.dsp48e2 import A_BITS, B_BITS, P_BITS, dsp48e2, extend
from hw.arithmetic.product import product
from hw.config import Multipliers
from hw.shared import ModuleLibrary

__all__ = ["Multiplier"]


LOW_BITS = 17  #: of the unsigned part of a factor that is too wide for a block of 18 x 18 bits


class Multiplier(wiring.Component):
    """product = a * b, through `latency` registers, 1 or 2; one product per cycle. Register k loads with `enables[k]`.

    With `Multipliers.DSP48E2` the generated Verilog instantiates that block, whose own registers hold the product (open
    synthesis would leave them in fabric). Amaranth's simulator sees the portable description in every style.
    With `Multipliers.PLAIN`, whose blocks have 18 x 18 bits, and a latency of 2, a wider `a` is cut: each block has a
    register, and their sum the second one.

    Parameters
    ----------
    a, b : shapes of the factors; for a DSP48E2 at most 27 and 18 bits as signed numbers. Not both signed in logic.
    """

    def __init__(self, a: Shape, b: Shape, style: Multipliers, latency: int = 1) -> None:
        self._style = style
        product = (Value.cast(Const(0, a)) * Const(0, b)).shape()
        super().__init__({"enables": In(latency), "a": In(a), "b": In(b), "product": Out(product)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._style is Multipliers.DSP48E2 and isinstance(platform, ModuleLibrary):
            m.submodules.dsp = self._dsp48e2()
            return m
        value = self._first(m)
        for enable in self.enables[1:]:
            value = self._register(m, enable, value)
        m.d.comb += self.product.eq(value)
        return m

    def _first(self, m: Module) -> Value:
        """a * b from registers; what is left to add is added by the second one."""
        cut = self._style is Multipliers.PLAIN and len(self.enables) > 1 and len(self.a) > LOW_BITS + 1
        parts = [self.a[:LOW_BITS], self.a[LOW_BITS:].as_signed()] if cut else [self.a]
        products = [self._register(m, self.enables[0], product(part, self.b, self._style)) for part in parts]
        return products[0] + (products[1] << LOW_BITS) if cut else products[0]

    def _register(self, m: Module, enable: Value, value: Value) -> Signal:
        register = Signal(value.shape(), name="register", reset_less=True)
        with m.If(enable):
            m.d.sync += register.eq(value)
        return register

    def _dsp48e2(self) -> Instance:
        """Multiplier and registers of the block; everything behind them passes the product on."""
        registers = dict(zip(("M", "P"), (1,) * len(self.enables)))
        return dsp48e2(
            registers=registers,
            **{f"i_CE{name}": enable for name, enable in zip(registers, self.enables)},
            i_CLK=ClockSignal(),
            i_OPMODE=Const(0b000000101, 9),  # X and Y: the product
            i_A=extend(self.a, A_BITS),
            i_B=extend(self.b, B_BITS),
            o_P=Cat(self.product, Signal(P_BITS - len(self.product), name="unused")),
        )
