"""Whole projects, and running Vivado, of which there is a stand-in."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest
from typer.testing import CliRunner

from boards.board import BoardError
from boards.registry import VIVADO_BOARDS
from boards.vivado import ip
from boards.vivado.driver import DRIVER
from boards.vivado.project import ADDRESS_MAP, run_vivado, write_project
from hw.config import CONFIGS, AcceleratorConfig
from vitsmith import cli

COMMAND = "vivado -mode batch -nojournal -log vivado.log -source build.tcl"
COMMON = {"README.md", "build.tcl", "constraints.xdc", "config.json", ADDRESS_MAP, "ip"}


@pytest.fixture(autouse=True)
def short_verilog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ip, "generate_verilog", lambda config: f"// {config.name}\n")


@pytest.fixture
def vivado(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which a test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "vivado"
    program.touch(0o755)
    return program


@pytest.mark.parametrize("board", VIVADO_BOARDS.values(), ids=lambda board: board.name)
def test_projects_are_whole(board, tmp_path: Path) -> None:
    write_project(board, None, tmp_path)
    serial = board.baud is not None
    assert {path.name for path in tmp_path.iterdir()} == COMMON | (set() if serial else {DRIVER})
    packages = {path.name for path in (tmp_path / "ip").iterdir()}
    assert packages == {"vitsmith", *(["vitsmith_link"] if serial else [])}
    for name in packages:
        assert {path.name for path in (tmp_path / "ip" / name).iterdir()} == {"component.xml", "gui.tcl", f"{name}.v"}
        xml.parse(tmp_path / "ip" / name / "component.xml")
    assert AcceleratorConfig.from_json((tmp_path / "config.json").read_text()) == board.accelerator
    places = json.loads((tmp_path / ADDRESS_MAP).read_text())
    assert places["configuration_hash"] == f"{board.accelerator.hash:016x}"
    assert {"accelerator/m0_axi"} <= {place["space"] for place in places["addresses"]}
    assert COMMAND in (tmp_path / "README.md").read_text()


def test_projects_hold_another_accelerator(tmp_path: Path) -> None:
    write_project(VIVADO_BOARDS["zcu104"], CONFIGS["nano"], tmp_path)
    assert (tmp_path / "ip/vitsmith/vitsmith.v").read_text() == "// nano\n"
    assert "accelerator/m1_axi" not in (tmp_path / "build.tcl").read_text()
    with pytest.raises(BoardError, match="dsp48e2 is for UltraScale"):
        write_project(VIVADO_BOARDS["pynq-z2"], CONFIGS["max"], tmp_path)


def build(*arguments: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(cli.app, ["build", "--board", "kv260", "--json", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def test_without_vivado_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    status, document = build()
    assert status == 0 and document["status"] == VIVADO_BOARDS["kv260"].status
    assert document["to build the bitstream, type"] == f"cd build/boards/kv260 && {COMMAND}"


def test_with_vivado_it_is_run(vivado: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = json.dumps({"setup_slack_ns": 0.2, "hold_slack_ns": 0.1})
    vivado.write_text(f"#!/bin/sh\necho \"$@\" > arguments\ntouch vitsmith.bit\necho '{report}' > report.json\n")
    assert "setup_slack_ns" not in build("--project")[1]
    status, document = build()
    assert (status, document["setup_slack_ns"]) == (0, 0.2)
    assert Path(document["bitstream"]).exists()
    assert f"vivado {(tmp_path / 'build/boards/kv260/arguments').read_text().strip()}" == COMMAND


def test_failures_of_vivado_are_told(vivado: Path, tmp_path: Path) -> None:
    """With its last error; a bitstream of an earlier build is gone."""
    (tmp_path / "vitsmith.bit").touch()
    vivado.write_text("#!/bin/sh\necho 'ERROR: [Common 1] timing is not met'\nexit 1\n")
    with pytest.raises(BoardError, match="timing is not met; see .*vivado.log"):
        run_vivado(tmp_path)
    assert not (tmp_path / "vitsmith.bit").exists()


def test_flash() -> None:
    """Over its cable where there is one."""
    runner = CliRunner()
    output = runner.invoke(cli.app, ["flash", "--board", "arty-a7-100", "--dry-run"]).stdout
    assert "--board arty_a7_100t --write-sram build/boards/arty-a7-100/vitsmith.bit" in output
    error = runner.invoke(cli.app, ["flash", "--board", "kv260", "--dry-run"]).exception
    assert isinstance(error, BoardError) and "its own processor" in str(error)
