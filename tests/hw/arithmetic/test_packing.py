import itertools
import random

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.sim import Simulator

from hw.arithmetic.packing import PORT_BITS, Packing


def evaluate(inputs, expression, vectors):
    """Values of an expression for every vector of input values."""
    results = []

    async def bench(ctx):
        for vector in vectors:
            for port, value in zip(inputs, vector):
                ctx.set(port, value)
            results.append(ctx.get(expression))

    m = Module()
    m.d.comb += Signal.like(expression).eq(expression)
    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
    return results


SHAPES = [
    (unsigned(8), signed(8), 4),  # MAC array
    (signed(8), unsigned(8), 3),  # depthwise: pixels share a weight
    (unsigned(8), signed(9), 1),  # outer products
    (unsigned(4), signed(4), 4),
    (unsigned(3), signed(2), 2),
]


def span(shape):
    low = -(1 << (shape.width - 1)) if shape.signed else 0
    return range(low, low + (1 << shape.width))


@pytest.mark.parametrize(("shared", "other", "terms"), SHAPES)
def test_pack_is_exact_for_all_pairs(shared, other, terms):
    packing = Packing(shared, other, terms)
    low, high = Signal(other), Signal(other)
    pairs = list(itertools.product(span(other), repeat=2))
    if len(pairs) > 1 << 13:  # the high parts enter only through a decrement: their ends and a sample suffice
        ends = {*span(other)[:2], *span(other)[-2:], 0, -1 if other.signed else 1, 85}
        pairs = [(lo, hi) for lo in span(other) for hi in ends]
    packed = packing.pack(low, high)
    assert packed.shape() == packing.shape
    assert packing.shape.width <= PORT_BITS[0]
    assert evaluate([low, high], packed, pairs) == [(hi << packing.field) + lo for lo, hi in pairs]


@pytest.mark.parametrize(("shared", "other", "terms"), SHAPES)
def test_split_gives_both_sums_back(shared, other, terms):
    packing = Packing(shared, other, terms)
    products = [s * o for s in (span(shared)[0], span(shared)[-1]) for o in (span(other)[0], span(other)[-1])]
    least, most = terms * min(products), terms * max(products)
    rng = random.Random(terms)
    sums = [least, least + 1, -1, 0, 1, most - 1, most, *(rng.randint(least, most) for _ in range(200))]
    total = Signal(signed(packing.shape.width + shared.width + 2))
    pairs = [*itertools.product(sums[:7], repeat=2), *zip(sums, reversed(sums))]
    vectors = [((hi << packing.field) + lo,) for lo, hi in pairs]
    low, high = packing.split(total)
    assert evaluate([total], low, vectors) == [lo for lo, _ in pairs]
    assert evaluate([total], high, vectors) == [hi for _, hi in pairs]


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="27 by 18 bits"):
        Packing(unsigned(8), signed(8), 64)
    with pytest.raises(ValueError, match="27 by 18 bits"):
        Packing(unsigned(18), signed(2), 1)
