"""Modules as data."""

import pytest

from hw.memory.ram import Ram
from sim.rewriting.text import MODULE
from sim.rewriting.unit import UnknownForm, flat_unit, instances, name_of_module
from tests.sim.rewriting.support import text_of

INNER = """\
module inner(clk, x, y);
  input clk;
  wire clk;
  input [3:0] x;
  wire [3:0] x;
  output [3:0] y;
  reg [3:0] y = 4'h5;
  always @(posedge clk) begin
    if (x[3]) begin
      y <= ~ x;
    end
    if (x[0]) begin
      y <= 4'h5;
    end
  end
endmodule
"""
OUTER = """\
module outer(clk, a, out);
  input clk;
  wire clk;
  input [5:0] a;
  wire [5:0] a;
  output [5:0] out;
  wire [5:0] out;
  wire [3:0] both;
  wire [3:0] \\y$1 ;
  wire unused;
  assign both[3:2] = a[5:4];
  assign both[1:0] = a[1:0];
  assign unused = a[2];
  assign out = { \\y$1 , both[2:1] };
  inner \\first$2  (
    .clk(clk),
    .x({value}),
    .y(\\y$1 )
  );
endmodule
"""


def modules(text: str) -> dict[str, str]:
    return {name_of_module(match[0]): match[0] for match in MODULE.finditer(text)}


def test_modules_in_modules() -> None:
    text = OUTER.replace("{value}", "both") + INNER
    unit = flat_unit("outer", modules(text))
    assert unit.inputs == ["clk", "a"] and unit.outputs == {"out": "{ \\first$2.y , a[4], a[1] }"}
    assert unit.processes == {
        "\\first$2.y": [
            ("a[5]", "      \\first$2.y  <= ~ { a[5:4], a[1:0] };\n"),
            ("a[0]", "      \\first$2.y  <= 4'h5;\n"),
        ]
    }
    assert unit.initial["\\first$2.y"] == "4'h5" and "unused" not in unit.widths
    (instance,) = instances(text)
    assert (instance.module, instance.name) == ("inner", "\\first$2") and instance.connection("x") == "both"
    with pytest.raises(UnknownForm, match=r"z of \\first\$2 is not connected"):
        instance.connection("z")


def test_expressions_at_ports_stay_expressions() -> None:
    unit = flat_unit("outer", modules(OUTER.replace("{value}", "both + both") + INNER))
    assert unit.logic["\\first$2.x"] == "    \\first$2.x  = { a[5:4], a[1:0] } + { a[5:4], a[1:0] };\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("posedge clk", "negedge clk"),
        ("y <= 4'h5;\n    end", "y <= 4'h5;\n    end else begin\n      y <= x;\n    end"),
        ("assign both[1:0] = a[1:0];", ""),
        ("assign both[1:0] = a[1:0];", "assign both[2:0] = a[2:0];"),
        ("  inner \\first", "  other \\first"),
        ("  input clk;", "  inout clk;"),
    ],
)
def test_other_forms_are_refused(right: str, wrong: str) -> None:
    text = OUTER.replace("{value}", "both") + INNER
    assert right in text
    with pytest.raises(UnknownForm):
        flat_unit("outer", modules(text.replace(right, wrong)))


def test_memories() -> None:
    unit = flat_unit("dut", modules(text_of(Ram(width=8, depth=5))))
    (words,) = unit.depths
    assert unit.depths[words] == 5 and unit.widths[words] == 8 and len(unit.processes) == 2
    with pytest.raises(UnknownForm):
        flat_unit("dut", modules(text_of(Ram(width=8, depth=5, granularity=4))))
