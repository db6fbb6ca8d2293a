"""Expressions in fewer operations, each way on its own."""

from pathlib import Path

import pytest

from sim.rewriting.expressions import nest_sums, repeat_elements, share_duplicates
from tests.sim.rewriting.support import prove

SUMS = """\
module m(a, b, c, y);
  input [3:0] a;
  wire [3:0] a;
  input [3:0] b;
  wire [3:0] b;
  input [3:0] c;
  wire [3:0] c;
  output [{high}:0] y;
  wire [{high}:0] y;
  wire [{inner}:0] \\$1 ;
  wire [{high}:0] \\$2 ;
  assign \\$1  = $signed(a) + $signed({{ b[1:0], 2'h1 }});
  assign \\$2  = $signed(\\$1 ) + $signed(c);
  assign y = \\$2 {more};
endmodule
"""


def test_duplicates_become_one(tmp_path: Path) -> None:
    gold = """\
module m(a, y);
  input [1:0] a;
  wire [1:0] a;
  output [3:0] y;
  wire [3:0] y;
  wire [1:0] \\$1 ;
  wire [1:0] \\$2 ;
  wire [1:0] \\$3 ;
  wire [1:0] \\$10 ;
  wire [2:0] \\$4 ;
  assign \\$1  = ~ a;
  assign \\$2  = ~ a;
  assign \\$3  = \\$1  ^ 2'h1;
  assign \\$10  = \\$2  ^ 2'h1;
  assign \\$4  = ~ a;
  assign y = { \\$3 , \\$10  } ^ \\$4 ;
endmodule
"""
    gate = share_duplicates(gold)
    assert "\\$2 " not in gate and "\\$10 " not in gate and "{ \\$3 , \\$3  }" in gate
    assert "\\$4 " in gate  # the same expression, but of another width
    assert prove(tmp_path, "m", gold, gate).returncode == 0


@pytest.mark.parametrize("high", [2, 4, 5, 8])
def test_sums_are_nested(high: int, tmp_path: Path) -> None:
    gold = SUMS.format(high=high, inner=4, more="")
    gate = nest_sums(gold)
    assert "$signed(a) + $signed({ b[1:0], 2'h1 }) + $signed(c)" in gate and "\\$1 " not in gate
    assert prove(tmp_path, "m", gold, gate).returncode == 0


@pytest.mark.parametrize(
    "fields",
    [{"inner": 3, "more": ""}, {"inner": 4, "more": "^ \\$1 "}],
    ids=["inner sum overflows", "inner sum has another use"],
)
def test_other_sums_stay(fields: dict) -> None:
    text = SUMS.format(high=8, **fields)
    assert nest_sums(text) == text


def test_repeated_elements() -> None:
    assert repeat_elements("  assign y = { a[1], a[1], b, b, b, a[1] };") == (
        "  assign y = { {2{a[1]}}, {3{b}}, a[1] };"
    )
    assert repeat_elements("  assign y = { \\$1 , \\$1  };") == "  assign y = { {2{\\$1 }} };"
