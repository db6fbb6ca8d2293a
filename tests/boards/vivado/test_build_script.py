"""The Tcl of the projects, run with stand-ins for Vivado's commands."""

import json
from pathlib import Path

import pytest

from boards.registry import VIVADO_BOARDS
from boards.vivado.script import build_script, constraints
from tests.boards.vivado.recording_tcl import TclError, balanced, run_script

BOARDS = list(VIVADO_BOARDS.values())


def names(board) -> str:
    return board.name


def write(board, folder: Path) -> Path:
    """The script, beside what Vivado would have made by its end."""
    for path in ("vitsmith.runs/impl_1/system_wrapper.bit", "vitsmith.gen/sources_1/bd/system/hw_handoff/system.hwh"):
        made = folder / "project" / path
        made.parent.mkdir(parents=True)
        made.write_text(path)
    script = folder / "build.tcl"
    script.write_text(build_script(board, board.build_system().design))
    return script


def run(script: Path, **settings: object) -> list[list[str]]:
    calls = run_script(script, **settings)
    if calls is None:
        pytest.skip("neither tkinter nor tclsh is installed")
    return calls


@pytest.mark.parametrize("board", BOARDS, ids=names)
def test_scripts_are_balanced(board) -> None:
    script = build_script(board, board.build_system().design)
    assert balanced(script)
    assert not balanced(script + "}") and not balanced(script.replace("[list", "list", 1))


@pytest.mark.parametrize("board", BOARDS, ids=names)
def test_scripts_make_the_design(board, tmp_path: Path) -> None:
    """All cells before what connects them, all nets, links, and addresses, then check, build, and export."""
    design = board.build_system().design
    calls = run(write(board, tmp_path))
    order = [call[0] for call in calls]
    assert order[0] == "create_project" and board.device in calls[0]
    assert [call[-1] for call in calls if call[0] == "create_bd_cell"] == [cell.name for cell in design.cells]
    nets = {call[1]: tuple(call[2:]) for call in calls if call[0] == "connect_bd_net"}
    assert nets == design.nets
    assert {call[1]: call[2] for call in calls if call[0] == "connect_bd_intf_net"} == design.links
    addresses = [call for call in calls if call[0] == "assign_bd_address"]
    assert [(c[2], c[4], c[6], c[7]) for c in addresses] == [
        (f"{a.offset:#x}", f"{a.size:#x}", a.space, a.segment) for a in design.addresses
    ]
    last = ("connect_bd_intf_net", "assign_bd_address", "validate_bd_design", "make_wrapper", "launch_runs")
    positions = [len(order) - 1 - order[::-1].index(name) for name in last]
    assert positions == sorted(positions)
    assert ("write_hw_platform" in order) == (board.baud is None)
    assert (tmp_path / "vitsmith.bit").read_text() == "vitsmith.runs/impl_1/system_wrapper.bit"
    assert (tmp_path / "vitsmith.hwh").exists() == (board.baud is None)
    assert json.loads((tmp_path / "report.json").read_text()) == {"setup_slack_ns": 0.5, "hold_slack_ns": 0.1}


@pytest.mark.parametrize("board", BOARDS, ids=names)
def test_settings_of_cells(board, tmp_path: Path) -> None:
    """Every cell gets its settings, as one dictionary, and presets come before them."""
    design = board.build_system().design
    calls = run(write(board, tmp_path))
    given = {call[-1]: call[2] for call in calls if call[:2] == ["set_property", "-dict"]}
    for cell in design.cells:
        words = (f"CONFIG.{name} {f'{{{value}}}' if ' ' in value else value}" for name, value in cell.config.items())
        assert given.get(cell.name, "") == " ".join(words)
    automations = [call[-1] for call in calls if call[0] == "apply_bd_automation"]
    assert automations == [cell.name for cell in design.cells if cell.preset]


def test_only_memory_is_mapped(tmp_path: Path) -> None:
    """Of what else the processor's ports offer, nothing is, and memory is not taken away again."""
    calls = run(write(VIVADO_BOARDS["kv260"], tmp_path))
    excluded = [(call[3], call[4]) for call in calls if call[0] == "exclude_bd_addr_seg"]
    assert ("accelerator/m0_axi", "/processor/SAXIGP2/LPS_OCM") in excluded
    assert not {("accelerator/m0_axi", "/processor/SAXIGP2/HP0_DDR_LOW")} & set(excluded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STATS__WNS": -0.01}, "timing is not met: -0.01 ns of setup slack, 0.1 ns of hold slack"),
        ({"STATS__WHS": -0.2}, "timing is not met: 0.5 ns of setup slack, -0.2 ns of hold slack"),
        ({"PROGRESS": "63%"}, "the build failed: route_design ERROR"),
        ({"board": False}, r"lacks the files of this board.*xhub::install \[xhub::get_xitems \*kv260\*\]"),
    ],
)
def test_failures(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    """Each ends the script with its reason, and leaves no bitstream."""
    with pytest.raises(TclError, match=message):
        run(write(VIVADO_BOARDS["kv260"], tmp_path), **settings)
    assert not (tmp_path / "vitsmith.bit").exists()


def test_unknown_pins_are_found(tmp_path: Path) -> None:
    """Of the stand-ins: a script that names a cell which it did not make fails."""
    script = write(VIVADO_BOARDS["kv260"], tmp_path)
    script.write_text(script.read_text().replace("[get_bd_pins resets/", "[get_bd_pins reset/"))
    with pytest.raises(TclError, match="there is no reset/"):
        run(script)


def test_constraints() -> None:
    """Every pin outside of the design has its place; designs without any have none."""
    for board in BOARDS:
        text = constraints(board)
        assert balanced(text)
        for port in board.build_system().design.outside.pins:
            assert f"[get_ports {port}]" in text
        assert ("PACKAGE_PIN" in text) == bool(board.pins)
