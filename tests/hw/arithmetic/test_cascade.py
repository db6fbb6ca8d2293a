"""Chains of blocks give dot products; Yosys proves that a block of the device equals the portable one."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data

import sim
from hw.arithmetic.cascade import CascadeBlock, CascadeFormat, Cascades
from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS
from tests.hw.support import simulate

MODEL = Path(sim.__file__).parent / "dsp48e2.v"


def prove(tmp_path: Path, device: str, *, bias: int, first: bool) -> subprocess.CompletedProcess:
    portable = CascadeBlock(signed(27), unsigned(8), bias=bias, first=first)
    (tmp_path / "device.v").write_text(device)
    (tmp_path / "portable.v").write_text(verilog.convert(portable, name="portable", emit_src=False))
    (tmp_path / "model.v").write_text(MODEL.read_text())
    script = [
        "read_verilog model.v device.v portable.v",
        "setattr -mod -unset top *; hierarchy -check",
        "proc",
        "flatten",
        "miter -equiv -flatten portable device miter",
        "cd miter",
        # Equal registers and products become one cell each; then the product may be anything.
        "setattr -unset init w:*",
        "opt -full; wreduce; opt -full",
        "select -assert-count 1 t:$mul; cutpoint t:$mul; opt -full",
        "sat -verify -tempinduct -set-init-zero -prove trigger 0 -seq 1",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)


def device(bias: int, first: bool) -> str:
    block = CascadeBlock(signed(27), unsigned(8), bias=bias, first=first)
    return verilog.convert(block, name="device", platform=ModuleLibrary(), emit_src=False)


@pytest.mark.parametrize(("bias", "first"), [(1 << 18, True), (0, False)])
def test_device_equals_portable(bias: int, first: bool, tmp_path: Path) -> None:
    text = device(bias, first)
    assert text.count("DSP48E2") == 1
    proof = prove(tmp_path, text, bias=bias, first=first)
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_proof_fails_for_another_bias(tmp_path: Path) -> None:
    proof = prove(tmp_path, device(1 << 18, True), bias=1 << 17, first=True)
    assert "proof did fail" in proof.stdout + proof.stderr


@pytest.mark.parametrize(
    ("inputs", "a", "b"),
    [
        (2, signed(8), unsigned(8)),
        (16, signed(8), unsigned(8)),
        (8, signed(4), unsigned(4)),
        (32, signed(4), unsigned(8)),
        (16, signed(2), unsigned(2)),
    ],
)
def test_sums_latency_and_swaps(inputs: int, a, b) -> None:
    """Vectors of b, with gaps, against factors a that are swapped now and then; the extremes come first."""
    form, rng = CascadeFormat(inputs, a, b, (8, 4)), Random(inputs)
    i_count, j_count = form.packing.counts
    m = Module()
    m.submodules.dut = dut = Cascades(form)
    factors_a = Signal(data.ArrayLayout(data.ArrayLayout(a, i_count), inputs))
    factors_b = Signal(data.ArrayLayout(data.ArrayLayout(b, j_count), inputs))
    m.d.comb += [port.eq(form.packing.pack_a(list(factors))) for port, factors in zip(dut.a, factors_a)]
    m.d.comb += [port.eq(form.packing.pack_b(list(factors))) for port, factors in zip(dut.b, factors_b)]
    high = (1 << (a.width - 1)) - 1

    def vector(low: int, top: int, count: int, extreme: bool) -> list[list[int]]:
        one = rng.choice((low, top))
        return [[one if extreme else rng.randint(low, top) for _ in range(count)] for _ in range(inputs)]

    async def bench(ctx):
        loaded, current, x = None, None, []  # factors a; vectors b by cycle
        swaps, expected, shown = [], {}, None
        for cycle in range(160):
            if cycle in expected:
                shown = expected[cycle]
            if shown:
                assert [[ctx.get(psum) for psum in row] for row in dut.psum] == shown
            # a load of all inputs, and the swap so much later that none of them is in use
            load = cycle % (2 * form.length + 3) == 0
            swap = loaded is not None and cycle % (2 * form.length + 3) == form.length
            current = loaded if swap else current
            valid = current is not None and (swap or rng.random() < 0.6)
            if load:
                loaded = vector(-high, high, i_count, cycle < 60)
            x.append(vector(0, (1 << b.width) - 1, j_count, cycle < 60) if valid else None)
            swaps.append(swap)
            if valid:
                expected[cycle + form.latency] = [
                    [sum(u[i] * v[j] for u, v in zip(current, x[-1])) for j in range(j_count)] for i in range(i_count)
                ]
            late = [cycle - form.position(n) for n in range(inputs)]
            ctx.set(factors_a, loaded or vector(0, 0, i_count, True))
            ctx.set(dut.load, -1 if load else 0)
            ctx.set(dut.swap, sum(swaps[cycle - k] << k for k in range(min(form.length, cycle + 1))))
            ctx.set(dut.enable, sum((x[cycle - s] is not None) << s for s in range(min(form.latency, cycle + 1))))
            arriving = [x[t][n] if t >= 0 and x[t] else [0] * j_count for n, t in enumerate(late)]
            ctx.set(factors_b, arriving)
            await ctx.tick()

    simulate(m, bench)


def test_latency() -> None:
    formats = [CascadeFormat(n, signed(8), unsigned(8), (2, 1)) for n in (2, 4, 8, 16, 64)]
    assert [form.latency for form in formats] == [4, 6, 10, 12, 13]
