"""Cached builds, and what their errors say."""

from pathlib import Path

import pytest

from sim import verilator
from sim.verilator import VerilatorError, build

COUNTER = """
module counter (input clk, output reg [7:0] count);
  initial count = START;
  parameter START = 3;
  always @(posedge clk) count <= count + 1;
endmodule
"""

TEST_MODULE = """
import cocotb
from cocotb.triggers import Timer

@cocotb.test()
async def counts(dut):
    for clk in (0, 1) * 5:
        dut.clk.value = clk
        await Timer(1, "ns")
    assert int(dut.count.value) == int(cocotb.plusargs["expected"])
"""


def test_build_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counts.py").write_text(TEST_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    simulator = build({"counter.v": COUNTER}, "counter")
    simulator.run("counts", tmp_path, plusargs={"expected": 8})
    with pytest.raises(VerilatorError, match="1 of 1 cocotb tests failed"):
        simulator.run("counts", tmp_path, plusargs={"expected": 9})


def test_unchanged_sources_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("compiled again")

    built = build({"counter.v": COUNTER}, "counter", cache=tmp_path)
    monkeypatch.setattr(verilator, "_compile", refuse)
    assert build({"counter.v": COUNTER}, "counter", cache=tmp_path).folder == built.folder
    for changed in ({"parameters": {"START": 4}}, {"random_reset": True}, {"wave_format": "vcd"}):
        with pytest.raises(AssertionError, match="compiled again"):
            build({"counter.v": COUNTER}, "counter", cache=tmp_path, **changed)
    with pytest.raises(AssertionError, match="compiled again"):
        build({"counter.v": COUNTER.replace("+ 1", "+ 2")}, "counter", cache=tmp_path)


def test_error_shows_the_log(tmp_path: Path) -> None:
    with pytest.raises(VerilatorError, match=r"counter does not compile(.|\n)*syntax error"):
        build({"counter.v": COUNTER.replace("reg [7:0]", "reg [7:")}, "counter", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing half-built stays


def test_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerilatorError, match=r"g\+\+, make, perl not found; install"):
        build({"counter.v": COUNTER}, "counter", cache=tmp_path / "cache")


def test_oldest_builds_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(sources: object, top: str, folder: Path, *others: object) -> None:
        (folder / top).touch()
        (folder / "build.log").touch()

    monkeypatch.setattr(verilator, "_compile", pretend)
    monkeypatch.setattr(verilator, "KEPT_BUILDS", 2)
    folders = [build({"counter.v": f"// {i}"}, "counter", cache=tmp_path).folder for i in range(4)]
    assert [folder.exists() for folder in folders] == [False, False, True, True]
