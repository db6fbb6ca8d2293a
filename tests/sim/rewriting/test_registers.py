"""Registers that are merged with their next values."""

from pathlib import Path

import pytest

from sim.rewriting.registers import update_where_enabled
from tests.sim.rewriting.support import prove

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
