"""Lanes as loops: the same hardware, if the lanes are of forms that are known."""

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.arithmetic.requantizer import Requantizer
from hw.config import Multipliers
from hw.engines.mac_array import MacArray
from hw.memory.ram import Ram
from sim.rewriting import rewrite
from sim.rewriting.lanes import MIN_LANES, loop_over_lanes
from tests.configs import SMALL
from tests.sim.rewriting.support import prove, text_of

LANE = """\
module lane(clk, enable, a, k, index, y);
  input clk;
  wire clk;
  input [1:0] enable;
  wire [1:0] enable;
  input [3:0] a;
  wire [3:0] a;
  input [3:0] k;
  wire [3:0] k;
  output [3:0] index;
  wire [3:0] index;
  output [5:0] y;
  wire [5:0] y;
  wire [3:0] \\$1 ;
  reg [3:0] \\$2 ;
  reg [3:0] first = 4'h0;
  reg [3:0] second = 4'h0;
  reg [1:0] common = 2'h0;
  assign \\$1  = a + k;
  assign index = first ^ 4'h{flip};
  assign y[5:4] = common;
  assign y[3:0] = second;
  always @* begin
    \\$2  = first;
    if (common[0]) begin
      \\$2  = \\$1 ;
    end
  end
  always @(posedge clk) begin
    if (enable[0]) begin
      first <= \\$1 ;
    end
  end
  always @(posedge clk) begin
    if (enable[1]) begin
      {write}
    end
  end
  always @(posedge clk)
    common <= k[1:0];
{more}endmodule
"""
INSTANCE = """\
  lane lane_{n} (
    .a({a}),
    .clk(clk),
    .enable(enable),
    .index(\\index_{n} ),
    .k(k),
    .y(\\y_{n} )
  );
"""


def design(lanes: int = 4, a: str = "as[{high}:{low}]", second: str = "\\$2 ", **fields: str) -> str:
    fields = {"flip": "3", "write": f"second <= {second};", "more": ""} | fields
    numbers = range(lanes)
    wires = "".join(f"  wire [3:0] \\index_{n} ;\n  wire [5:0] \\y_{n} ;\n" for n in numbers)
    instances = "".join(INSTANCE.format(n=n, a=a.format(high=4 * n + 3, low=4 * n)) for n in numbers)
    outputs = ", ".join(f"\\y_{n} , \\index_{n} " for n in numbers)
    return f"""\
module m(clk, enable, as, k, out);
  input clk;
  wire clk;
  input [1:0] enable;
  wire [1:0] enable;
  input [{4 * lanes - 1}:0] as;
  wire [{4 * lanes - 1}:0] as;
  input [3:0] k;
  wire [3:0] k;
  output [{10 * lanes - 1}:0] out;
  wire [{10 * lanes - 1}:0] out;
{wires}{instances}  assign out = {{ {outputs} }};
endmodule
{LANE.format(**fields)}"""


@pytest.mark.parametrize("lanes", [MIN_LANES, 5, 8])
def test_lanes_become_loops(lanes: int, tmp_path: Path) -> None:
    gold = design(lanes)
    gate = loop_over_lanes(gold)
    top = gate[: gate.index("module lane(")]
    assert "lane_0 (" not in top and "\\lane.first.next  [0:" not in top
    assert top.count("; \\lane.lane.") == 6  # for the index, and two stages
    assert top.count("\\lane.common  <= ") == 1
    assert prove(tmp_path, "m", gold, gate).returncode == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"second": "first"},
        {"second": "{ second[2:0], second[3] }"},
        {"write": "casez (k)\n        4'b1?0?:\n            second <= \\$2 ;\n      endcase"},
        {"write": "if (a[0]) begin\n        second <= a;\n      end else begin\n        second[2] <= a[3];\n      end"},
        {"a": "{{ as[{low}], k[2:0] }}"},
        {"a": "~ as[{high}:{low}]"},
        {"more": "  reg [3:0] third = 4'h0;\n  always @(posedge clk)\n    third <= second;\n"},  # nobody reads it
    ],
    ids=["copy", "rotation", "case", "branches", "input of parts", "input with logic", "unused register"],
)
def test_forms_of_lanes(fields: dict, tmp_path: Path) -> None:
    gold = design(**fields)
    gate = loop_over_lanes(gold)
    assert ":lanes" in gate and "third" not in gate[: gate.index("module lane(")]
    assert prove(tmp_path, "m", gold, gate).returncode == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("as[7:4]", "as[3:0]"),
        ("if (enable[1])", "if (enable[0])"),
        (
            "assign \\y_1  = { \\lane.common , \\lane.second [1] }",
            "assign \\y_1  = { \\lane.common , \\lane.second [2] }",
        ),
        ("^ 4'h3", "^ 4'h1"),
    ],
)
def test_proofs_fail_for_mutants(right: str, wrong: str, tmp_path: Path) -> None:
    gold = design()
    gate = loop_over_lanes(gold)
    assert right in gate
    assert prove(tmp_path, "m", gold, gate.replace(right, wrong, 1)).returncode != 0


@pytest.mark.parametrize(
    "fields",
    [
        {"lanes": MIN_LANES - 1},
        {"more": "  always @(negedge clk)\n    common <= k[3:2];\n"},
        {"more": "  always @(posedge clk)\n    common <= k[3:2];\n"},
        {"more": "  other box (\n    .a(a)\n  );\n"},
        {
            "more": "  wire loop;\n  wire pool;\n  assign loop = ~ pool;\n  assign pool = loop ^ a[0];\n",
            "second": "{ loop, a[2:0] }",
        },
    ],
    ids=["few lanes", "other clock edge", "two processes", "unknown module", "loop of logic"],
)
def test_other_lanes_stay(fields: dict) -> None:
    text = design(**fields)
    assert loop_over_lanes(text) == text


@pytest.mark.parametrize(
    "component",
    [
        lambda: Accumulators(depth=4, lanes=6, acc_bits=10, psum_bits=6, groups=2),
        lambda: Requantizer(
            replace(SMALL, table_index_bits=4), pixels=2, channels=2, word_bits=64, acc_bits=12, matmul=True
        ),
        lambda: MacArray(replace(SMALL, in_lanes=4, out_lanes=4, multiplier=Multipliers.PACKED, logic_engines=False)),
    ],
    ids=["accumulators", "requantizer", "mac_array"],
)
def test_hardware_is_the_same(component, tmp_path: Path) -> None:
    """Solvers cannot compare products: both texts have differences in their places, of which no two are alike."""
    gold = text_of(component())
    gate = rewrite(gold)
    assert ":lanes" in gate
    proof = prove(tmp_path, "dut", gold.replace(" * ", " - "), gate.replace(" * ", " - "))
    assert proof.returncode == 0, proof.stdout + proof.stderr


class Tables(wiring.Component):
    """Memories that are written alike, as activation tables."""

    enable: In(1)
    address: In(1)
    data: In(2)
    read_addresses: In(MIN_LANES)
    out: Out(2 * MIN_LANES)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for n in range(MIN_LANES):
            m.submodules[f"table_{n}"] = table = Ram(width=2, depth=2)
            m.d.comb += [
                table.write_enable.eq(self.enable),
                table.write_address.eq(self.address),
                table.write_data.eq(self.data),
                table.read_enable.eq(~self.address),
                table.read_address.eq(self.read_addresses[n]),
                self.out.word_select(n, 2).eq(table.read_data),
            ]
        return m


def test_memories_of_the_same_contents_are_one(tmp_path: Path) -> None:
    gold = text_of(Tables())
    gate = rewrite(gold)
    assert gate[: gate.index("endmodule")].count("memory.words [0:1];") == 1
    assert prove(tmp_path, "dut", gold, gate).returncode == 0
    for right, wrong in ((" [1] = read_addresses[1]", " [1] = read_addresses[2]"), (" <= data;", " <= ~ data;")):
        assert right in gate
        assert prove(tmp_path, "dut", gold, gate.replace(right, wrong, 1)).returncode != 0
