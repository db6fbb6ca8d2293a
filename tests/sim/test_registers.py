"""Processes that are merged for simulation describe the same registers: Yosys proves it, module by module."""

import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.lib import wiring

from hw.control.sequencer import Sequencer
from hw.engines.attention import StateWriter
from hw.engines.matmul_writer import ResultWriter
from hw.engines.tile_loader import TileLoader
from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS
from hw.time_zero import evaluate_at_time_zero
from sim.registers import update_where_enabled
from tests.configs import SMALL

SAME = """\
module m(clk, a, en, x);
  reg time_zero = 1;
  input clk;
  input a;
  input en;
  output x;
  reg x;
  reg \\$1 ;
  always @(posedge clk)
    x <= \\$1 ;
  always @* begin
    if (time_zero) begin end
    \\$1  = x;
    if (en) begin
      \\$1  = a;
    end
  end
{more}endmodule
"""


def prove(tmp_path: Path, name: str, gold: str, gate: str) -> subprocess.CompletedProcess:
    for file, text in (("gold.v", gold), ("gate.v", gate)):
        (tmp_path / file).write_text(text)
    script = [
        *(
            f"read_verilog {side}.v; hierarchy -top {name}; proc; flatten; memory_map; opt_clean; "
            f"rename {name} {side}; design -stash {side}"
            for side in ("gold", "gate")
        ),
        "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate",
        "equiv_make gold gate equiv; hierarchy -top equiv; opt_clean",
        "equiv_struct; equiv_simple; equiv_induct; equiv_status -assert",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)


def text_of(component: wiring.Component) -> str:
    library = ModuleLibrary()
    top = verilog.convert(component, name="dut", platform=library, emit_src=False, strip_internal_attrs=True)
    return evaluate_at_time_zero(top + library.verilog())


@pytest.mark.parametrize(
    "component",
    [
        lambda: Sequencer(SMALL),
        lambda: StateWriter(SMALL),
        lambda: TileLoader(SMALL),
        lambda: ResultWriter(SMALL, 20),
    ],
    ids=["sequencer", "state_writer", "tile_loader", "result_writer"],
)
def test_hardware_is_the_same(component, tmp_path: Path) -> None:
    gold = text_of(component())
    gate = update_where_enabled(gold)
    assert gate.count("always @*") < 0.3 * gold.count("always @*")
    proof = prove(tmp_path, "dut", gold, gate)
    assert proof.returncode == 0, proof.stdout + proof.stderr


@pytest.mark.parametrize(("right", "wrong"), [("if (en)", "if (!en)"), ("x <= a;", "x <= !a;")])
def test_proofs_fail_for_mutants(right: str, wrong: str, tmp_path: Path) -> None:
    gold = SAME.format(more="")
    gate = update_where_enabled(gold)
    assert "always @*" not in gate and right in gate
    assert prove(tmp_path, "m", gold, gate).returncode == 0
    assert prove(tmp_path, "m", gold, gate.replace(right, wrong)).returncode != 0


@pytest.mark.parametrize(
    "more",
    [
        "  wire y;\n  assign y = \\$1 ;\n",  # the next value is read
        "  reg z;\n  always @(posedge clk)\n    z <= \\$1 ;\n",  # by a second register
        "  always @(negedge clk)\n    \\$1  = a;\n",  # written elsewhere
    ],
)
def test_next_values_with_other_uses_stay(more: str) -> None:
    text = SAME.format(more=more)
    assert update_where_enabled(text) == text
