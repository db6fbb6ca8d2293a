"""Logic that is evaluated where a register takes it."""

from pathlib import Path

import pytest

from sim.rewriting.gating import compute_where_enabled
from tests.sim.rewriting.support import prove

STAGE = """\
module m(clk, a, en, x, y, z);
  input clk;
  wire clk;
  input [3:0] a;
  wire [3:0] a;
  input en;
  wire en;
  output [3:0] x;
  reg [3:0] x;
  output y;
  reg y;
  output [3:0] z;
  wire [3:0] z;
  wire [3:0] \\$1 ;
  wire [3:0] \\$2 ;
  reg [3:0] \\$3 ;
  assign z = {z};
  assign \\$2  = ~ \\$3 ;
  assign \\$1  = a ^ x;
  always @* begin
    \\$3  = \\$1 ;
    if (y) begin
      \\$3  = 4'h1;
    end
  end
  always @(posedge clk) begin
    if ({en}) begin
      x <= \\$2 ;
    end
    if (z[0]) begin
      x <= 4'h0;
    end
  end
  always @(posedge clk) begin
    if (en) begin
      y <= {y};
    end
  end
endmodule
"""
FIELDS = {"z": "a", "en": "en", "y": "\\$2 [0]"}


def test_shared_logic_moves_behind_what_it_reads(tmp_path: Path) -> None:
    gold = STAGE.format(**FIELDS)
    gate = compute_where_enabled(gold)
    process = gate[gate.index("if (en)") :]
    assert "always @*" not in gate and gate.count("always") == 1
    assert process.index("\\$3  = 4'h1") < process.index("\\$2  = ~ ") < process.index("x <= \\$2 ")
    assert process.index("x <= \\$2 ") < process.index("x <= 4'h0")
    assert "assign \\$1 " in gate  # used once, by what moves: Verilator itself moves it
    assert prove(tmp_path, "m", gold, gate).returncode == 0


@pytest.mark.parametrize(("right", "wrong"), [("~ \\$3", "\\$3"), ("y <= \\$2 [0]", "y <= \\$2 [1]")])
def test_proofs_fail_for_mutants(right: str, wrong: str, tmp_path: Path) -> None:
    gold = STAGE.format(**FIELDS)
    gate = compute_where_enabled(gold)
    assert right in gate
    assert prove(tmp_path, "m", gold, gate.replace(right, wrong)).returncode != 0


@pytest.mark.parametrize(
    "changes",
    [{"z": "\\$2 "}, {"en": "a[1]"}, {"en": "\\$2 [1]"}],
    ids=["read elsewhere", "two enables", "part of an enable"],
)
def test_other_logic_stays(changes: dict) -> None:
    text = STAGE.format(**FIELDS | changes)
    assert compute_where_enabled(text) == text
