"""Synthesis module by module: instances are counted, bad nets are refused, netlists are kept."""

from pathlib import Path

import pytest

from hw import synthesis
from hw.config import AcceleratorConfig, Multipliers
from hw.synthesis import TARGETS, Resources, SynthesisError, synthesize
from hw.verilog import generate_verilog

#: two levels of hierarchy, with 2 * 3 instances of the leaf; `\outer.odd$1 ` is a name as Amaranth makes them
DESIGN = """
module leaf(clk, d, q);
  input clk;
  input [7:0] d;
  output reg [7:0] q;
  always @(posedge clk) q <= d;
endmodule

module \\outer.odd$1 (clk, d, q);
  input clk;
  input [23:0] d;
  output [23:0] q;
  leaf \\a$0  (
    .clk(clk), .d(d[7:0]), .q(q[7:0])
  );
  leaf b (
    .clk(clk), .d(d[15:8]), .q(q[15:8])
  );
  leaf c (
    .clk(clk), .d(d[23:16]), .q(q[23:16])
  );
endmodule

module outer(clk, x, y);
  input clk;
  input [23:0] x;
  output [23:0] y;
  wire [23:0] z;
  \\outer.odd$1  first (
    .clk(clk), .d(x), .q(z)
  );
  \\outer.odd$1  second (
    .clk(clk), .d({z[23:1], ^z}), .q(y)
  );
endmodule
"""


@pytest.fixture(autouse=True)
def _units_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the leaf are too large to be flattened."""
    monkeypatch.setattr(synthesis, "FLAT_BYTES", 150)


def synthesize_text(text: str, work_dir: Path, target: str = "ecp5") -> Resources:
    verilog = work_dir / "design.v"
    verilog.write_text(text)
    return synthesize(verilog, target, work_dir / "work", top="outer")


@pytest.mark.parametrize("target", ["ecp5", "xcup"])
def test_instances_of_instances_are_counted(target: str, tmp_path: Path) -> None:
    resources = synthesize_text(DESIGN, tmp_path, target)
    assert {module.module: module.instances for module in resources.modules} == {
        "outer": 1, "outer.odd$1": 2, "leaf": 6,
    }  # fmt: skip
    assert resources.kinds["flip_flop"] == 6 * 8
    parity = next(module for module in resources.modules if module.module == "outer")
    assert parity.kinds["lut"] == resources.kinds["lut"] > 0


def test_small_modules_are_flattened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    by_unit = synthesize_text(DESIGN, tmp_path)
    monkeypatch.setattr(synthesis, "FLAT_BYTES", 10_000)
    flat = synthesize_text(DESIGN, tmp_path)
    assert [module.module for module in flat.modules] == ["outer"]
    assert flat.kinds == by_unit.kinds
    assert flat.path.levels == by_unit.path.levels


def test_longest_path_crosses_modules(tmp_path: Path) -> None:
    path = synthesize_text(DESIGN, tmp_path).path
    assert path.levels == 3  # 24 inputs of 4-input LUTs
    assert path.start.startswith("first.") and path.end.startswith("second.a")


def test_netlists_are_kept_by_content(tmp_path: Path) -> None:
    first = synthesize_text(DESIGN, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*[0-9a-f].json")}
    assert len(before) == 3
    assert synthesize_text(DESIGN.replace("leaf", "renamed").replace("^z", "&z"), tmp_path).kinds == first.kinds
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*[0-9a-f].json")}
    assert before.items() <= after.items()
    leaves = len(before) - 2  # its name does not matter; its parents contain the name
    assert len(after) == 2 * len(before) - leaves


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("always @(posedge clk) q <= d;", "always @* if (clk) q = d;"),  # a latch
        (".q(z)", ".q()"),  # nothing drives z
        (".q(y)", ".q(z)"),  # both instances do
        ("leaf b (", "absent b ("),
    ],
)
def test_bad_designs_are_refused(good: str, bad: str, tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="Yosys failed"):
        synthesize_text(DESIGN.replace(good, bad), tmp_path)


def test_unknown_target(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match=r"known are ecp5, xcup"):
        synthesize_text(DESIGN, tmp_path, "asic")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_whole_accelerator(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    config = AcceleratorConfig(
        name="tiny", pixels=1, in_lanes=4, out_lanes=2, dw_pixels=1, requant_channels=2, act_bits=4, weight_bits=4,
        bus_bits=64, bus_ports=2, stream_bits=128, acc_depth=8, weight_buffer_words=16, parameter_buffer_words=16,
        pad_words=(64, 64, 32, 32), state_tiles=2, table_index_bits=4, divisor_mantissa_bits=0,
        multiplier=Multipliers.DSP48E2 if target == "xcup" else Multipliers.PLAIN,
    )  # fmt: skip
    verilog = tmp_path / "tiny.v"
    verilog.write_text(generate_verilog(config))
    resources = synthesize(verilog, target, tmp_path / "work")
    assert all(resources.kinds[kind] for kind in ("lut", "carry", "flip_flop"))
    assert 4 < resources.path.levels < 40
