"""Products with small constants that take no multiplier."""

from functools import reduce
from operator import add

from amaranth.hdl import Const, Value

__all__ = ["constant_product"]


def constant_product(value: Value, factor: int) -> Value:
    """`value * factor` as a sum of shifts, for `factor` >= 0.

    Synthesis maps a plain product of such a kind to a DSP block.
    """
    terms = [value << i for i in range(factor.bit_length()) if factor >> i & 1]
    return reduce(add, terms, Const(0))
