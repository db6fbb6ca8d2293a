"""Dot products in chains of DSP48E2 blocks, which add without logic and hold the factors of one side."""

from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.dot_product import adder_levels, adder_tree
from hw.arithmetic.dsp48e2 import A_BITS, B_BITS, P_BITS, PRODUCT_BITS, dsp48e2, extend
from hw.arithmetic.packing import Packing
from hw.shared import ModuleLibrary, place

__all__ = ["CascadeBlock", "CascadeFormat", "Cascades"]

TERMS = (1, 2, 4, 8)  #: blocks of a chain; fields of nine and more products of 8 bits do not fit


@dataclass(frozen=True)
class CascadeFormat:
    """What the dot products of a lane are made of; parameters like those of `DotProductFormat`.

    Parameters
    ----------
    inputs : a power of two
    """

    inputs: int
    a: Shape
    b: Shape
    counts: tuple[int, int]

    @cached_property
    def packing(self) -> Packing:
        """How factors share blocks, in sums over a chain."""
        return Packing.densest(self.a, self.b, self.counts, [t for t in TERMS if t <= self.inputs])

    @property
    def psum_shape(self) -> Shape:
        """Of each sum."""
        return Packing(self.a, self.b, (1, 1), self.inputs).sum_shape

    @property
    def length(self) -> int:
        """Blocks of a chain."""
        return self.packing.terms

    @property
    def chains(self) -> int:
        """Chains of a lane."""
        return self.inputs // self.length

    def position(self, x: int) -> int:
        """The place of an input in its chain: its operands come so many cycles later than those of place 0."""
        return x // self.chains

    @property
    def latency(self) -> int:
        """Cycles from the operands of place 0 to the dot products."""
        return self.length + 2 + (adder_levels(self.chains) + 1 if self.chains > 1 else 0)


class CascadeBlock(wiring.Component):
    """One block of a chain: total = carry + b * (the a that was loaded before the last swap), and bias if first.

    `load` takes a, `swap` makes it the current factor; `enable` has one bit each for the registers of b, product,
    and total. A factor b that is valid with `enable[0]` in cycle t is multiplied by the factor that is current in
    cycle t + 1 with `enable[1]`, and added to the carry of cycle t + 2 with `enable[2]`. Latency: 3.

    The generated Verilog instantiates a DSP48E2 (UG579); Amaranth's simulator sees a description of the same registers.

    Members
    -------
    carry, carry_out : dedicated wires between neighbours, the carry-out equal to the total
    """

    def __init__(self, a: Shape, b: Shape, *, bias: int, first: bool) -> None:
        self._bias, self._first = bias, first
        super().__init__(
            {
                "load": In(1),
                "swap": In(1),
                "enable": In(3),
                "a": In(a),
                "b": In(b),
                "carry": In(signed(P_BITS)),
                "carry_out": Out(signed(P_BITS)),
                "total": Out(signed(P_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = extend(self.a, A_BITS), extend(self.b, B_BITS)
        if isinstance(platform, ModuleLibrary):
            m.submodules.dsp = self._device(a, b)
            return m
        loaded, current = Signal(A_BITS, reset_less=True), Signal(A_BITS, reset_less=True)
        factor, product = Signal(signed(B_BITS), reset_less=True), Signal(signed(PRODUCT_BITS), reset_less=True)
        total = Signal(signed(P_BITS), reset_less=True)
        with m.If(self.load):
            m.d.sync += loaded.eq(a)
        with m.If(self.swap):
            m.d.sync += current.eq(loaded)
        with m.If(self.enable[0]):
            m.d.sync += factor.eq(b)
        with m.If(self.enable[1]):
            m.d.sync += product.eq(current[:27].as_signed() * factor)
        with m.If(self.enable[2]):
            m.d.sync += total.eq(product + (Const(self._bias, P_BITS) if self._first else self.carry))
        m.d.comb += [self.total.eq(total), self.carry_out.eq(total)]
        return m

    def _device(self, a: Value, b: Value) -> Instance:
        adds = {"i_OPMODE": Const(0b10_000_01_01, 9)} if self._first else {"i_OPMODE": Const(0b00_001_01_01, 9)}
        return dsp48e2(
            registers={"A": 2, "ACASC": 2, "B": 1, "BCASC": 1, "M": 1, "P": 1},
            p_RND=Const(self._bias, P_BITS),
            **adds,
            i_CLK=ClockSignal(),
            i_CEA1=self.load,
            i_CEA2=self.swap,
            i_CEB2=self.enable[0],
            i_CEM=self.enable[1],
            i_CEP=self.enable[2],
            i_A=a,
            i_B=b,
            i_PCIN=self.carry,
            o_PCOUT=self.carry_out,
            o_P=self.total,
        )


class Cascades(wiring.Component):
    """All dot products of I vectors a, which are held, with J vectors b, (I, J) = `packing.counts`:

        psum[i][j] = sum over x of a[x][i] * b[x][j]

    Inputs x lie in chains of blocks. What belongs to an input comes `position(x)` cycles later than for place 0, and so
    does what belongs to places in the control signals. The sums of several chains are added by a tree.

    Latency: `latency` cycles of the format from b at place 0; one result per cycle.

    Members
    -------
    a, load : the next factors, and when each is taken
    swap : bit k makes the factors of place k current for the b of the same cycle and all that follow
    b : factors; valid at place k in the cycle where `enable[k]` is 1
    enable : a valid bit in cycle t, of place 0, goes to bit s in cycle t + s
    """

    def __init__(self, form: CascadeFormat) -> None:
        self._form = form
        i_count, j_count = form.packing.counts
        super().__init__(
            {
                "a": In(data.ArrayLayout(form.packing.a_shape, form.inputs)),
                "load": In(form.inputs),
                "swap": In(form.length),
                "b": In(data.ArrayLayout(form.packing.b_shape, form.inputs)),
                "enable": In(form.latency),
                "psum": Out(data.ArrayLayout(data.ArrayLayout(form.psum_shape, j_count), i_count)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        form = self._form
        totals = [form.packing.split_biased(self._chain(m, platform, chain)) for chain in range(form.chains)]
        for i, row in enumerate(self.psum):
            for j, psum in enumerate(row):
                terms = [total[i][j] for total in totals]
                if form.chains > 1:
                    terms = [adder_tree(m, f"sum{i}_{j}", terms, self.enable[form.length + 2 :])]
                m.d.comb += psum.eq(terms[0])
        return m

    def _chain(self, m: Module, platform: object, chain: int) -> Value:
        """The total of a chain."""
        form = self._form
        carry, total = Const(0, signed(P_BITS)), None
        for x in range(chain, form.inputs, form.chains):
            k = form.position(x)
            shapes = {"bias": form.packing.bias if k == 0 else 0, "first": k == 0}
            args = (form.packing.a_shape, form.packing.b_shape)
            block = place(m, platform, f"block{x}", CascadeBlock, *args, **shapes)
            m.d.comb += [
                block.load.eq(self.load[x]),
                block.swap.eq(self.swap[k]),
                block.enable.eq(Cat(self.enable[k : k + 3])),
                block.a.eq(self.a[x]),
                block.b.eq(self.b[x]),
                block.carry.eq(carry),
            ]
            carry, total = block.carry_out, block.total
        return total
