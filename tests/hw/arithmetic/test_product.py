"""Products in logic equal products, for all factors or for the extremes and random ones."""

from itertools import product as pairs
from random import Random

import pytest
from amaranth.hdl import Module, Shape, Signal, signed, unsigned

from hw.arithmetic.product import product
from hw.config import Multipliers
from tests.hw.support import simulate


def values(shape: Shape, rng: Random) -> list[int]:
    """All values of a narrow shape; the extremes and random values of a wide one."""
    low = -(1 << (shape.width - 1)) if shape.signed else 0
    high = low + (1 << shape.width) - 1
    everything = range(low, high + 1)
    return (
        list(everything) if shape.width <= 5 else [low, low + 1, 0, 1, high - 1, high, *rng.choices(everything, k=30)]
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (unsigned(1), unsigned(1)), (unsigned(4), signed(5)), (unsigned(5), unsigned(4)), (unsigned(8), signed(8)),
        (signed(9), unsigned(8)), (unsigned(8), unsigned(12)), (unsigned(16), signed(33)),
    ],
)  # fmt: skip
def test_product_in_logic(a: Shape, b: Shape) -> None:
    m, rng = Module(), Random(1)
    x, y = Signal(a), Signal(b)
    result = product(x, y, Multipliers.LOGIC)
    assert result.shape() == (x * y).shape()
    z = Signal.like(result)
    m.d.sync += z.eq(result)

    async def bench(ctx):
        for i, j in pairs(values(a, rng), values(b, rng)):
            ctx.set(x, i)
            ctx.set(y, j)
            await ctx.tick()
            assert ctx.get(z) == i * j

    simulate(m, bench)


def test_blocks_take_the_plain_product() -> None:
    x, y = Signal(8), Signal(signed(8))
    assert repr(product(x, y, Multipliers.PLAIN)) == repr(x * y)


def test_two_signed_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="signed"):
        product(Signal(signed(4)), Signal(signed(4)), Multipliers.LOGIC)
