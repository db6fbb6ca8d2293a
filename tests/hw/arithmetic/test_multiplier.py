"""The DSP48E2 multiplier equals the portable one: Yosys proves it on the generated Verilog and the block's model."""

import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import signed, unsigned

import sim
from hw.arithmetic.multiplier import Multiplier
from hw.config import Multipliers
from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS

MODEL = Path(sim.__file__).parent / "dsp48e2.v"


def text(style: Multipliers, a, b) -> str:
    name = str(style)
    return verilog.convert(Multiplier(a, b, style), name=name, platform=ModuleLibrary(), emit_src=False)


def prove(tmp_path: Path, a, b, device: str) -> subprocess.CompletedProcess:
    (tmp_path / "device.v").write_text(device)
    (tmp_path / "portable.v").write_text(text(Multipliers.PACKED, a, b))
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
        "sat -verify -tempinduct -set-init-zero -prove trigger 0 -seq 1",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)


@pytest.mark.parametrize(
    ("a", "b"),
    [(signed(27), unsigned(8)), (signed(27), signed(8)), (signed(15), unsigned(4)), (signed(27), signed(18))],
)
def test_device_equals_portable(tmp_path: Path, a, b) -> None:
    device = text(Multipliers.DSP48E2, a, b)
    assert device.count("DSP48E2") == 1
    proof = prove(tmp_path, a, b, device)
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_proof_fails_for_a_wrong_operand(tmp_path: Path) -> None:
    device = text(Multipliers.DSP48E2, signed(27), unsigned(8))
    wrong = device.replace("{ 10'h000, b }", "{ 10'h001, b }")
    proof = prove(tmp_path, signed(27), unsigned(8), wrong)
    assert "proof did fail" in proof.stdout + proof.stderr
