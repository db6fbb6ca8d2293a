"""The DDR3 controller with LiteDRAM's core, against a chip that checks times and whose reads need tuning."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.back import verilog

from boards.memory.ddr3 import core as ddr3_core
from boards.memory.ddr3.chip import CAS_LATENCY, MODE_REGISTERS, MT41K256M16, WRITE_LATENCY, Ddr3Chip
from boards.memory.ddr3.controller import Ddr3Controller, Ddr3Memory
from boards.memory.ddr3.core import CORE, Ddr3Core, Ddr3Error, core_verilog
from sim.verilator import build

FREQUENCY = 50e6
CHIP = replace(MT41K256M16, row_bits=12)  # the model keeps all of them

BENCH = """
`timescale 1ns / 1ns
module bench;
  reg clk = 0;
  always #1 clk = ~clk;
  reg [31:0] cycle = 0;
  always @(posedge clk) cycle <= cycle + 1;

  // set by the test
  reg rst = 1, valid = 0, write = 0;
  reg [31:0] address = 0;
  reg [63:0] data = 0;
  reg [7:0] mask = 0;

  // seen by the test
  wire ready, read_valid;
  wire [63:0] read_data;
  reg accepted = 0, answered = 0;
  reg [63:0] answer = 0;
  always @(posedge clk) begin
    accepted <= valid && ready;
    answered <= read_valid && !rst;
    answer <= read_data;
  end
{wires}
  {core} core (.sys_clk(clk), .sys_rst(rst), .phy_rst(1'b0){core_ports});
  controller controller (
      .clk(clk), .rst(rst), .access__valid(valid), .access__ready(ready),
      .access__payload({{mask, data, write, address}}),
      .read_data(read_data), .read_valid(read_valid){ports}
  );
endmodule
"""


def simulate(work_dir: Path, chip: Ddr3Chip = CHIP) -> tuple[dict, str]:
    """The report of `controller_run`, and the log, for a controller that believes in `chip`."""
    pytest.importorskip("litedram")
    from boards.memory.ddr3.generator import litedram_module
    from tests.boards.ddr3_model import ModelPhy

    dut = Ddr3Controller(chip, FREQUENCY)
    widths = {"_".join(path): len(signal) for path, _, signal in Ddr3Core(chip).flatten(dut.pins)}
    bench = BENCH.format(
        core=CORE,
        wires="\n".join(f"  wire [{width - 1}:0] {name};" for name, width in widths.items()),
        core_ports="".join(f", .{name}({name})" for name in widths),
        ports="".join(f", .pins__{name.replace('_', '__', 1)}({name})" for name in widths),
    )
    sources = {
        "bench.sv": bench,
        "controller.v": verilog.convert(dut, name="controller", emit_src=False),
        "core.v": core_verilog(chip, FREQUENCY, lambda module, settings, frequency: ModelPhy(
            litedram_module(CHIP, frequency), settings, frequency
        )),
    }  # fmt: skip
    report = work_dir / "report.json"
    build(sources, "bench").run("tests.boards.memory.ddr3.controller_run", work_dir, plusargs={"report": report})
    return json.loads(report.read_text()), (work_dir / "simulation.log").read_text()


def test_traffic(tmp_path: Path) -> None:
    """Reads are right, times are kept, and a reset in the middle of traffic is survived."""
    report, log = simulate(tmp_path)
    print(report)
    assert "violation" not in log
    assert report["start"] < 0.0011 * FREQUENCY and report["start_again"] == report["start"]
    timing = Ddr3Memory(CHIP).timing(FREQUENCY)
    assert report["rate"] > timing.bytes_per_cycle


def test_violated_times_are_seen(tmp_path: Path) -> None:
    """The model complains when the controller believes that refreshes are short."""
    assert "REF->ACT violation" in simulate(tmp_path, replace(CHIP, t_rfc=60))[1]


def test_mode_registers_are_those_of_litedram() -> None:
    pytest.importorskip("litedram")
    from litedram.init import get_ddr3_phy_init_sequence
    from litedram.phy import ECP5DDRPHY

    from boards.memory.ddr3.generator import litedram_module, pads

    settings = ECP5DDRPHY(pads(MT41K256M16), FREQUENCY, cl=CAS_LATENCY, cwl=WRITE_LATENCY).settings
    steps, _ = get_ddr3_phy_init_sequence(settings, litedram_module(MT41K256M16, FREQUENCY).timing_settings)
    assert {bank: address for name, address, bank, *_ in steps if "Mode Register" in name} == MODE_REGISTERS


def test_the_same_core_every_time() -> None:
    pytest.importorskip("litedram")
    assert core_verilog(MT41K256M16, FREQUENCY) == core_verilog(MT41K256M16, FREQUENCY)


@pytest.mark.parametrize("found", ["2023.12", None])
def test_litedram_is_missing(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise ddr3_core.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(ddr3_core, "version", version)
    with pytest.raises(Ddr3Error, match=r"release 2024.12; pip install vitsmith\[ddr3\]"):
        core_verilog(MT41K256M16, FREQUENCY)
