"""Reciprocals against `quant.numerics.reciprocal`, which is itself checked against exact fractions."""

import random
from fractions import Fraction

import pytest
import torch
from amaranth.sim import Simulator

from hw.arithmetic.leading_one import LeadingOne
from hw.arithmetic.reciprocal import Reciprocal
from hw.config import AcceleratorConfig
from quant import numerics


def run_unit(unit, inputs: list[int | None], drive: str, *outputs: str) -> list[tuple[int, ...]]:
    """Offer one input per cycle (None: idle) and collect the outputs; asserts the latency."""
    results = []

    async def bench(ctx):
        valids = []
        for value in inputs + [None] * unit.latency:
            ctx.set(unit.valid, value is not None)
            if value is not None:
                ctx.set(getattr(unit, drive), value)
            await ctx.tick()
            valids.append(value is not None)
            expected = len(valids) >= unit.latency and valids[-unit.latency]
            assert ctx.get(unit.out_valid) == expected
            if expected:
                results.append(tuple(int(ctx.get(getattr(unit, name))) for name in outputs))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def divisors(bits: int, count: int = 300) -> list[int]:
    rng = random.Random(bits)
    edges = [min(max((1 << i) + d, 0), (1 << bits) - 1) for i in range(bits + 1) for d in (-1, 0, 1)]
    halves = [3 << i >> 1 for i in range(1, bits - 1)]
    return [0, *edges, *halves, *(rng.getrandbits(rng.randint(1, bits)) for _ in range(count))]


@pytest.mark.parametrize("mantissa_bits", [0, 1, 4, 8, 10])
@pytest.mark.parametrize("acc_bits", [16, 17, 26, 32])
def test_reciprocal(mantissa_bits: int, acc_bits: int) -> None:
    config = AcceleratorConfig(divisor_mantissa_bits=mantissa_bits, acc_bits=acc_bits)
    values = divisors(acc_bits)
    idle = random.Random(1)
    inputs = [v for value in values for v in ([None] * idle.choice((0, 0, 1)) + [value])]
    r, e = numerics.reciprocal(torch.tensor(values), mantissa_bits)
    assert run_unit(Reciprocal(config), inputs, "divisor", "r", "e") == list(zip(r.tolist(), e.tolist(), strict=True))


@pytest.mark.parametrize(("width", "mantissa_bits"), [(2, 1), (5, 3), (41, 7)])
def test_leading_one(width: int, mantissa_bits: int) -> None:
    values = divisors(width)
    expected = []
    for x in values:
        exponent = max(x.bit_length() - 1, 0)
        expected.append((exponent, (x << mantissa_bits >> exponent) % (1 << mantissa_bits) if x else 0, int(x > 0)))
    assert run_unit(LeadingOne(width, mantissa_bits), values, "x", "exponent", "mantissa", "nonzero") == expected


@pytest.mark.parametrize("mantissa_bits", range(11))
def test_definition_against_fractions(mantissa_bits: int) -> None:
    values = divisors(32)
    r, e = numerics.reciprocal(torch.tensor(values), mantissa_bits)
    for x, r_x, e_x in zip(values, r.tolist(), e.tolist(), strict=True):
        if x == 0:
            assert (r_x, e_x) == (0, 0)
            continue
        # Half a mantissa cell, and one unit of the last place of r; a power-of-two divisor is rounded at 1.5.
        relative = Fraction(1, 2) if mantissa_bits == 0 else Fraction(1, (2 << mantissa_bits) - 1)
        assert abs(Fraction(r_x * x, 1 << (15 + e_x)) - 1) <= relative + Fraction(1, 1 << 14)
