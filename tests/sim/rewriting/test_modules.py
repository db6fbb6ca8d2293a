"""Modules that are alike become one."""

from pathlib import Path

import pytest

from sim.rewriting.modules import share_modules
from tests.sim.rewriting.support import prove

LEAF = """\
module \\{name} (\\port$1$0 , \\port${port}$0 , y);
  input \\port$1$0 ;
  wire \\port$1$0 ;
  input \\port${port}$0 ;
  wire \\port${port}$0 ;
  output y;
  wire y;
  assign y = {value};
endmodule
"""
BRANCH = """\
module \\{name} (\\port$1$0 , \\port${port}$0 , y);
  input \\port$1$0 ;
  wire \\port$1$0 ;
  input \\port${port}$0 ;
  wire \\port${port}$0 ;
  output y;
  wire y;
  \\{leaf}  leaf (
    .\\port$1$0 ({first}),
    .\\port${leaf_port}$0 ({second}),
    .y(y)
  );
endmodule
"""
TOP = """\
module m(a, b, out);
  input a;
  wire a;
  input b;
  wire b;
  output [1:0] out;
  wire [1:0] out;
  \\branch.0  left (
    .\\port$1$0 (a),
    .\\port$2$0 (b),
    .y(out[0])
  );
  \\branch.1  right (
    .\\port$1$0 (a),
    .\\port$3$0 (b),
    .y(out[1])
  );
endmodule
"""


def design(value: str = "\\port$1$0  & ~ \\port$5$0 ", first: str = "\\port$1$0 ", second: str = "\\port$3$0 ") -> str:
    return (
        TOP
        + LEAF.format(name="leaf.0", port=4, value="\\port$1$0  & ~ \\port$4$0 ")
        + LEAF.format(name="leaf.1", port=5, value=value)
        + BRANCH.format(name="branch.0", port=2, leaf="leaf.0", leaf_port=4, first="\\port$1$0 ", second="\\port$2$0 ")
        + BRANCH.format(name="branch.1", port=3, leaf="leaf.1", leaf_port=5, first=first, second=second)
    )


def test_modules_and_what_is_in_them_become_one(tmp_path: Path) -> None:
    gold = design()
    gate = share_modules(gold)
    assert gate.count("endmodule") == 3 and "\\branch.0  right (" in gate and "\\port$3$0" not in gate
    assert prove(tmp_path, "m", gold, gate).returncode == 0
    mutant = gate.replace(".\\port$1$0 (a)", ".\\port$1$0 (b)", 1)
    assert prove(tmp_path, "m", gold, mutant).returncode != 0


@pytest.mark.parametrize(
    ("fields", "modules"),
    [
        ({"value": "~ \\port$1$0  & \\port$5$0 "}, 5),
        ({"first": "\\port$3$0 ", "second": "\\port$1$0 "}, 4),
    ],
    ids=["other logic", "other connections"],
)
def test_others_stay(fields: dict, modules: int, tmp_path: Path) -> None:
    gold = design(**fields)
    gate = share_modules(gold)
    assert gate.count("endmodule") == modules
    assert prove(tmp_path, "m", gold, gate).returncode == 0
