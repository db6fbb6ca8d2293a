"""Proofs that two Verilog texts are the same hardware."""

import subprocess
import sys
from pathlib import Path

from amaranth.back import verilog
from amaranth.lib import wiring

from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS
from hw.time_zero import evaluate_at_time_zero


def prove(tmp_path: Path, name: str, gold: str, gate: str) -> subprocess.CompletedProcess:
    for file, text in (("gold.v", gold), ("gate.v", gate)):
        (tmp_path / file).write_text(text)
    script = [
        *(
            f"read_verilog {side}.v; hierarchy -top {name}; proc; flatten; memory_map; opt_clean; "
            f"rename {name} {side}; design -stash {side}"
            for side in ("gold", "gate")
        ),
        "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate",
        "equiv_make gold gate equiv; hierarchy -top equiv; opt_clean",
        "equiv_struct; equiv_simple; equiv_induct; equiv_status -assert",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)


def text_of(component: wiring.Component) -> str:
    library = ModuleLibrary()
    top = verilog.convert(component, name="dut", platform=library, emit_src=False, strip_internal_attrs=True)
    return evaluate_at_time_zero(top + library.verilog())
