"""The memory model against cocotbext-axi, an AXI4 implementation by someone else."""

import json
from pathlib import Path

import pytest

from sim import testbench
from sim.verilator import build
from tests.sim.axi_master import RESULT_BASE, RESULT_BYTES

# cocotbext-axi wants identifiers, which the accelerator and the model do without.
TOP = """
module one_port (
    input clk, input rst, output fault,
    input [7:0] m_awid, input [39:0] m_awaddr, input [7:0] m_awlen, input [2:0] m_awsize, input [1:0] m_awburst,
    input m_awvalid, output m_awready, input [{bits}-1:0] m_wdata, input [{bits}/8-1:0] m_wstrb, input m_wlast,
    input m_wvalid, output m_wready, output [7:0] m_bid, output [1:0] m_bresp, output m_bvalid, input m_bready,
    input [7:0] m_arid, input [39:0] m_araddr, input [7:0] m_arlen, input [2:0] m_arsize, input [1:0] m_arburst,
    input m_arvalid, output m_arready, output [7:0] m_rid, output [{bits}-1:0] m_rdata, output [1:0] m_rresp,
    output m_rlast, output m_rvalid, input m_rready
);
  assign m_bid = 0, m_rid = 0;
  memory_model #(.PORTS(1), .DATA_BITS({bits})) memory (
      .clk(clk), .rst(rst), .frame(0), .result_base(64'd{base}), .result_bytes(64'd{bytes}), .fault(fault),
{connections}
  );
endmodule
"""


@pytest.mark.parametrize("stall", [0, 0.4])
def test_against_cocotbext_axi(tmp_path: Path, stall: float) -> None:
    connections = ",\n".join(f"      .{name}(m_{name})" for name in testbench.CHANNELS)
    top = TOP.format(bits=64, base=RESULT_BASE, bytes=RESULT_BYTES, connections=connections)
    folder = Path(testbench.__file__).parent
    model = {name: (folder / name).read_text() for name in ("memory_model.sv", "memory_model.cpp")}
    simulator = build({"one_port.sv": top} | model, "one_port")
    plusargs = {
        "result_base": RESULT_BASE, "result_bytes": RESULT_BYTES, "error_base": RESULT_BASE + RESULT_BYTES - 64,
        "error_bytes": 64, "stall": stall, "latency": 5, "report": tmp_path / "report.json",
    }  # fmt: skip
    simulator.run("tests.sim.axi_master", tmp_path, plusargs={f"memory_{k}": v for k, v in plusargs.items()})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["broken_rules"] == 0, report["messages"]
    frame = report["frames"]["0"]
    assert (frame["stray_writes"], frame["stray_reads"], frame["stray_address"]) == (1, 1, RESULT_BASE - 4096)
