"""Projects for Vivado, and running it."""

import json
import shlex
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

from boards.board import BoardError
from boards.vivado.board import System, VivadoBoard
from boards.vivado.design import check_design
from boards.vivado.driver import DRIVER, driver_source
from boards.vivado.ip import GUI, component_xml
from boards.vivado.overlay import BITSTREAM, HANDOFF
from boards.vivado.script import REPORT, build_script, constraints
from hw.config import AcceleratorConfig
from hw.control.registers import REGISTERS

__all__ = ["ADDRESS_MAP", "command_line", "run_vivado", "vivado_found", "write_project"]

COMMAND = ("vivado", "-mode", "batch", "-nojournal", "-log", "vivado.log", "-source", "build.tcl")
ADDRESS_MAP = "address_map.json"


def write_project(board: VivadoBoard, config: AcceleratorConfig | None, folder: Path) -> None:
    """Write the packaged IP, the script of block design and build, constraints, address map, and driver.

    The accelerator is the board's own if `config` is None. Raises `BoardError` if the board cannot carry it, or if the
    block design leaves anything open.
    """
    config = config or board.accelerator
    system = board.build_system(config)
    check_design(system.design)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": config.to_json(),
        "build.tcl": build_script(board, system.design),
        "constraints.xdc": constraints(board),
        ADDRESS_MAP: json.dumps(address_map(board, config, system), indent=2) + "\n",
        "README.md": _readme(board, config, folder),
    }
    if board.baud is None:
        texts[DRIVER] = driver_source(config)
    for ip in system.ips:
        texts |= {
            f"ip/{ip.name}/component.xml": component_xml(ip),
            f"ip/{ip.name}/{ip.name}.v": ip.verilog(),
            f"ip/{ip.name}/gui.tcl": GUI,
        }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def address_map(board: VivadoBoard, config: AcceleratorConfig, system: System) -> dict[str, object]:
    """Where everything lies: in each address space, and the registers behind the accelerator's; bytes."""
    return {
        "board": board.name,
        "configuration": config.name,
        "configuration_hash": f"{config.hash:016x}",
        "addresses": [asdict(address) for address in system.design.addresses],
        "registers": {register.name: register.offset for register in REGISTERS},
    }


def vivado_found() -> bool:
    """Whether Vivado is on PATH."""
    return shutil.which(COMMAND[0]) is not None


def run_vivado(folder: Path) -> dict[str, float]:
    """Build the bitstream of a project, which takes hours; its slacks in nanoseconds.

    Raises `BoardError` if Vivado fails, also for timing that is not met.
    """
    (folder / BITSTREAM).unlink(missing_ok=True)  # one of an earlier build must not be taken for this one's
    run = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        errors = [line for line in run.stdout.splitlines() if "ERROR" in line] or run.stderr.splitlines()
        reason = errors[-1] if errors else f"exit status {run.returncode}"
        raise BoardError(f"vivado failed: {reason}; see {folder / 'vivado.log'}")
    return json.loads((folder / REPORT).read_text())


def command_line(folder: Path) -> str:
    """What to type where Vivado is."""
    return f"cd {shlex.quote(str(folder))} && {shlex.join(COMMAND)}"


def _readme(board: VivadoBoard, config: AcceleratorConfig, folder: Path) -> str:
    """What to type in the folder."""
    if board.baud is None:
        use = f"""On the board, put `{BITSTREAM}`, `{HANDOFF}`, and `{DRIVER}` into a folder, and from the bundle
`program.bin` and `program.json`. Then, in that folder, in the board's Python, as root:

    import vitsmith
    device = vitsmith.open("pynq")
    scores = device.run(images)  # int16 (N, classes) of uint8 (N, H, W, 3)
"""
    else:
        use = f"""    vitsmith flash --board {board.name}
    vitsmith run --board {board.name}:/dev/ttyUSB1 --bundle BUNDLE picture.jpg
"""
    return f"""# {board.title}, accelerator `{config.name}` ({config.hash:016x})

{board.status[0].upper()}{board.status[1:]}.

Build `{BITSTREAM}`, which takes hours and fails when timing is not met:

    {shlex.join(COMMAND)}

{use}
A bundle fits if its configuration is this one: `vitsmith quantize --config {folder / "config.json"}`.

| file | what |
|---|---|
| `ip/` | packaged IP: Verilog and IP-XACT |
| `build.tcl` | block design, synthesis, implementation, export |
| `constraints.xdc` | pins |
| `{ADDRESS_MAP}` | address spaces and registers |
"""
