"""The DSP48E2 multiplier equals the portable one: Yosys proves it on the generated Verilog and the block's model."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import signed, unsigned
from amaranth.sim import Simulator

import sim
from hw.arithmetic.multiplier import Multiplier
from hw.config import Multipliers
from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS

MODEL = Path(sim.__file__).parent / "dsp48e2.v"


def text(style: Multipliers, a, b, latency: int) -> str:
    name = str(style)
    return verilog.convert(Multiplier(a, b, style, latency), name=name, platform=ModuleLibrary(), emit_src=False)


def prove(tmp_path: Path, a, b, latency: int, device: str) -> subprocess.CompletedProcess:
    (tmp_path / "device.v").write_text(device)
    (tmp_path / "portable.v").write_text(text(Multipliers.PACKED, a, b, latency))
    (tmp_path / "model.v").write_text(MODEL.read_text())
    script = [
        "read_verilog model.v device.v portable.v",
        "setattr -mod -unset top *; hierarchy -check",
        "proc",
        "flatten",
        "miter -equiv -flatten -ignore_gold_x packed dsp48e2 miter",
        "cd miter",
        # The products of equal factors become one cell, so that no solver has to compare multipliers.
        "opt -full; wreduce; opt -full",
        "sat -verify -tempinduct -set-init-zero -prove trigger 0 -seq 2",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)


@pytest.mark.parametrize(
    ("a", "b"),
    [(signed(27), unsigned(8)), (signed(27), signed(8)), (signed(15), unsigned(4)), (signed(27), signed(18))],
)
@pytest.mark.parametrize("latency", [1, 2])
def test_device_equals_portable(tmp_path: Path, a, b, latency: int) -> None:
    device = text(Multipliers.DSP48E2, a, b, latency)
    assert device.count("DSP48E2") == 1
    proof = prove(tmp_path, a, b, latency, device)
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_proof_fails_for_a_wrong_operand(tmp_path: Path) -> None:
    device = text(Multipliers.DSP48E2, signed(27), unsigned(8), 1)
    wrong = device.replace("{ 10'h000, b }", "{ 10'h001, b }")
    proof = prove(tmp_path, signed(27), unsigned(8), 1, wrong)
    assert "proof did fail" in proof.stdout + proof.stderr


@pytest.mark.parametrize(
    ("a", "b"), [(27, signed(18)), (19, signed(18)), (27, unsigned(16)), (18, signed(18)), (9, signed(9))]
)
def test_latency_and_products_of_all_portable_styles(a: int, b) -> None:
    """Random and extreme factors, with random enables: cut or whole, the product is of the factors two enables ago."""
    rng = random.Random(1)
    for style in Multipliers:
        if style is Multipliers.LOGIC and b.signed:
            continue
        dut = Multiplier(signed(a), b, style, latency=2)

        async def bench(ctx, dut=dut) -> None:
            low, high = (-(1 << b.width - 1), (1 << b.width - 1) - 1) if b.signed else (0, (1 << b.width) - 1)
            extremes = [(x, y) for x in (-(1 << a - 1), -1, 0, (1 << a - 1) - 1) for y in (low, 0, high)]
            inputs = extremes + [(rng.getrandbits(a) - (1 << a - 1), rng.randint(low, high)) for _ in range(200)]
            held = [0, 0]
            for x, y in inputs:
                enables = [rng.random() < 0.8, rng.random() < 0.8]
                ctx.set(dut.a, x)
                ctx.set(dut.b, y)
                ctx.set(dut.enables, enables[0] | enables[1] << 1)
                await ctx.tick()
                held = [x * y if enables[0] else held[0], held[0] if enables[1] else held[1]]
                assert ctx.get(dut.product) == held[1]

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
