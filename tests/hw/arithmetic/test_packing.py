"""Packing is exact: proved by Yosys for every width of the factors, and tried with products of real numbers.

Both halves of a packing are linear, so solvers are quick: `pack` makes the sum of shifted factors, and `split` finds
the sums of products in the sum of shifted sums. Between them is the distributive law.
"""

import subprocess
import sys
from itertools import product
from pathlib import Path
from random import Random

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.packing import PORT_BITS, TOTAL_BITS, Packing
from hw.synthesis import RUN_YOSYS
from tests.hw.support import simulate

TERMS = (1, 2, 4, 8)


def largest(shape: Shape) -> int:
    return (1 << (shape.width - shape.signed)) - 1


class Claim(wiring.Component):
    """`holds` is 1 unless a packing of these factors and sums is wrong; with `mutant`, of one that forgets borrows."""

    def __init__(self, packing: Packing, mutant: bool = False) -> None:
        self.packing, self.mutant = packing, mutant
        i_count, j_count = packing.counts
        ports = {f"a{i}": In(packing.a) for i in range(i_count)} | {f"b{j}": In(packing.b) for j in range(j_count)}
        ports |= {f"sum{n}": In(signed(packing.field)) for n in range(i_count * j_count)}
        super().__init__(ports | {"holds": Out(1)})

    def elaborate(self, platform: object) -> Module:
        packing, m = self.packing, Module()
        a, b, sums = (
            [value for name, value in vars(self).items() if name.startswith(prefix) and isinstance(value, Value)]
            for prefix in ("a", "b", "sum")
        )
        a, b = a[: packing.counts[0]], b[: packing.counts[1]]
        limits = [largest(packing.a)] * len(a) + [largest(packing.b)] * len(b)
        limits += [packing.terms * largest(packing.a) * largest(packing.b)] * len(sums)
        assumed = Value.cast(1)
        for value, limit in zip((*a, *b, *sums), limits):
            if value.shape().signed:
                assumed &= (value >= -limit) & (value <= limit)
        offsets = range(0, len(sums) * packing.field, packing.field)
        total = Signal(signed(TOTAL_BITS))
        m.d.comb += total.eq(sum(value << offset for value, offset in zip(sums, offsets)))
        biased = Signal(signed(TOTAL_BITS))
        m.d.comb += biased.eq(total + packing.bias)
        split = [value for row in packing.split(total) for value in row]
        if self.mutant:
            split = [total[offset : offset + packing.field].as_signed() for offset in offsets]
        correct = [
            packing.pack_a(a) == sum(value << (i * packing.strides[0]) for i, value in enumerate(a)),
            packing.pack_b(b) == sum(value << (j * packing.strides[1]) for j, value in enumerate(b)),
            *(found == value for found, value in zip(split, sums)),
            *(found == value for found, value in zip(sum(packing.split_biased(biased), []), sums)),
        ]
        m.d.comb += self.holds.eq(~assumed | Value.cast(sum(correct) == len(correct)))
        return m


def prove(tmp_path: Path, claims: list[Claim]) -> subprocess.CompletedProcess:
    script = []
    for n, claim in enumerate(claims):
        (tmp_path / f"claim{n}.il").write_text(rtlil.convert(claim, name=f"claim{n}", emit_src=False))
        script += [f"read_rtlil claim{n}.il", f"hierarchy -top claim{n}", "proc", f"cd claim{n}"]
        script += ["sat -verify -prove holds 1", "cd ..", "design -reset"]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, cwd=tmp_path)


def packings(act_bits: int, weight_bits: int) -> set[Packing]:
    """Those of the MAC array in blocks and in logic, the depthwise engine, and the attention unit, if they pack."""
    act, weight = unsigned(act_bits), signed(weight_bits)
    found = {
        Packing.densest(weight, act, (16, 7), TERMS),
        Packing.densest(weight, act, (16, 7), TERMS[:3]),
        Packing.densest(act, weight, (7, 1), TERMS[:3]),
        Packing.densest(signed(act_bits + 1), act, (16, 8), (1,)),
    }
    return {packing for packing in found if packing.counts != (1, 1)}


@pytest.mark.parametrize("act_bits", range(2, 9))
def test_packing_is_exact(act_bits: int, tmp_path: Path) -> None:
    claims = {packing for weight_bits in range(2, 9) for packing in packings(act_bits, weight_bits)}
    assert all(packing.fits for packing in claims)
    proof = prove(tmp_path, [Claim(packing) for packing in claims])
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_proof_fails_without_borrow(tmp_path: Path) -> None:
    proof = prove(tmp_path, [Claim(Packing(signed(4), unsigned(4), (2, 2), 8), mutant=True)])
    assert "proof did fail" in proof.stdout + proof.stderr


def test_proof_fails_with_a_field_too_few(tmp_path: Path) -> None:
    class Tight(Packing):
        field = 10  # a sum of 8 products of 15 * 7 has 11 bits

    proof = prove(tmp_path, [Claim(Tight(signed(4), unsigned(4), (2, 2), 8))])
    assert "proof did fail" in proof.stdout + proof.stderr


@pytest.mark.parametrize(("act_bits", "weight_bits"), [(8, 8), (4, 4), (2, 2), (8, 3), (5, 6), (2, 7)])
def test_products(act_bits: int, weight_bits: int) -> None:
    """Sums of products of the extremes and of random factors."""
    packing, rng = Packing.densest(signed(weight_bits), unsigned(act_bits), (16, 7), TERMS), Random(1)
    a = [Signal(packing.a, name=f"a{i}") for i in range(packing.counts[0])]
    b = [Signal(packing.b, name=f"b{j}") for j in range(packing.counts[1])]
    m, clear, total = Module(), Signal(), Signal(signed(TOTAL_BITS))
    split = [[Signal.like(value) for value in row] for row in packing.split(total)]
    m.d.comb += [x.eq(y) for row, values in zip(split, packing.split(total)) for x, y in zip(row, values)]
    m.d.sync += total.eq((total & ~clear.replicate(TOTAL_BITS)).as_signed() + packing.pack_a(a) * packing.pack_b(b))

    async def bench(ctx):
        weights = [-largest(packing.a), largest(packing.a)]
        extremes = [(*w, x) for *w, x in product(weights, weights, (0, largest(packing.b)))]
        for case in range(60):
            expected = [[0] * len(b) for _ in a]
            for term in range(packing.terms):
                x = [rng.randint(*weights) for _ in a]
                y = [rng.randint(0, largest(packing.b)) for _ in b]
                if case < len(extremes):  # all terms alike, for the largest sums
                    x, y = [extremes[case][i % 2] for i in range(len(a))], [extremes[case][2]] * len(b)
                for signals, values in ((a, x), (b, y)):
                    for signal, value in zip(signals, values):
                        ctx.set(signal, value)
                ctx.set(clear, term == 0)
                await ctx.tick()
                expected = [[s + u * w for s, w in zip(row, y)] for row, u in zip(expected, x)]
            assert [[ctx.get(value) for value in row] for row in split] == expected

    simulate(m, bench)


@pytest.mark.parametrize(
    ("act_bits", "weight_bits", "counts", "terms"),
    [(8, 8, (2, 1), 8), (4, 4, (2, 2), 8), (8, 4, (2, 1), 8), (8, 3, (3, 1), 2), (8, 2, (2, 2), 1), (2, 2, (3, 4), 1)],
)
def test_densest(act_bits: int, weight_bits: int, counts: tuple[int, int], terms: int) -> None:
    packing = Packing.densest(signed(weight_bits), unsigned(act_bits), (16, 7), TERMS)
    assert (packing.counts, packing.terms) == (counts, terms)


def test_wide_factors_are_not_packed() -> None:
    packing = Packing.densest(signed(20), unsigned(10), (16, 16), TERMS)
    assert packing.counts == (1, 1)
    assert not Packing(signed(20), unsigned(10), (2, 1), 1).fits
    assert packing.a_shape.width <= PORT_BITS[0]
