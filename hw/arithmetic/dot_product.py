"""Dot products of unsigned activations and signed weights: the multipliers and adder trees of the MAC array."""

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DotProduct"]

TREE_RADIX = 4  #: operands that are added between two registers of the adder tree


class DotProduct(wiring.Component):
    """`OUTPUTS` dot products that share their activations:

        psum[o] = sum over i of activations[i] * weights[o][i]

    Two outputs share one activation, so that a multiplier wide enough for two packed products serves both. The operands
    come from registers; products and every level of the adder tree (`TREE_RADIX` operands) are registered.

    Latency: `latency` cycles; one result per cycle. Stage s keeps its registers unless `enable[s]`; the array delays
    one valid bit for all its lanes: operands that are valid in cycle t want `enable[s]` in cycle t + s.
    """

    OUTPUTS = 2

    def __init__(self, *, inputs: int, act_bits: int, weight_bits: int) -> None:
        self.inputs = inputs
        self.act_bits = act_bits
        self.weight_bits = weight_bits
        self.latency = self.latency_of(inputs)  #: cycles from the operands to their dot products
        psum = signed(self.psum_bits_of(inputs, act_bits, weight_bits))
        super().__init__(
            {
                "enable": In(self.latency),
                "activations": In(data.ArrayLayout(unsigned(act_bits), inputs)),
                "weights": In(data.ArrayLayout(data.ArrayLayout(signed(weight_bits), inputs), self.OUTPUTS)),
                "psum": Out(data.ArrayLayout(psum, self.OUTPUTS)),
            }
        )

    @staticmethod
    def psum_bits_of(inputs: int, act_bits: int, weight_bits: int) -> int:
        """Bits of a sum of `inputs` products."""
        return act_bits + weight_bits + (inputs - 1).bit_length()

    @staticmethod
    def latency_of(inputs: int) -> int:
        """Cycles from the operands to their dot products."""
        stages, terms = 1, inputs
        while terms > 1:
            stages, terms = stages + 1, -(-terms // TREE_RADIX)
        return stages

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for o in range(self.OUTPUTS):
            terms = [self.activations[i] * self.weights[o][i] for i in range(self.inputs)]
            terms = self._register(m, f"product_{o}", 0, terms)
            stage = 1
            while len(terms) > 1:
                sums = [sum(terms[i + 1 : i + TREE_RADIX], terms[i]) for i in range(0, len(terms), TREE_RADIX)]
                terms = self._register(m, f"sum_{o}_{stage}", stage, sums)
                stage += 1
            m.d.comb += self.psum[o].eq(terms[0])
        return m

    def _register(self, m: Module, name: str, stage: int, values: list) -> list[Signal]:
        registers = [Signal(value.shape(), name=f"{name}_{i}", reset_less=True) for i, value in enumerate(values)]
        with m.If(self.enable[stage]):
            m.d.sync += [register.eq(value) for register, value in zip(registers, values)]
        return registers
