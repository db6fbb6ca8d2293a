"""The Verilog around the accelerator: clock, register master, external memory, and what the cocotb test sets and sees.

Two modules: `testbench` holds the few signals that cocotb reads and writes, which are public and cost time; `system`
below it holds everything else, private.
"""

from pathlib import Path

from hw.accelerator import AcceleratorSignature
from hw.config import AcceleratorConfig, Multipliers
from hw.control.descriptors import Engine
from hw.control.registers import ADDRESS_WIDTH
from hw.verilog import TOP as ACCELERATOR
from hw.verilog import top_ports
from sim.activity import STATE_BITS, fields

__all__ = ["TOP", "monitor_widths", "sources"]

TOP = "testbench"

TESTBENCH = f"""\
`timescale 1ns / 1ns
module testbench;
  // A clock in Verilog: the simulator need not call Python or cocotb for its edges.
  reg clk = 0;
  always #1 clk = ~clk;

  // set by the test
  reg reset = 1;
  reg request = 0;  // toggles for each register access
  reg write = 0;
  reg [{ADDRESS_WIDTH - 1}:0] address = 0;
  reg [31:0] write_data = 0;
  reg armed = 0;  // let `wake` rise
  reg [63:0] deadline = 0;
  reg [31:0] frame = 0;
  reg [63:0] result_base = 0, result_bytes = 0;

  // seen by the test
  wire done;
  wire [31:0] read_data;
  wire [1:0] response;
  wire irq, fault;
  reg [63:0] cycle = 0;
  reg wake = 0;  // the interrupt has come, an AXI rule was broken, or the deadline has passed

  always @(posedge clk) begin
    cycle <= cycle + 1;
    wake <= armed && (irq || fault || cycle >= deadline);
  end

  system system (.*);
endmodule
"""

READ_ADDRESS = {"araddr": "ADDRESS_BITS", "arlen": "8", "arsize": "3", "arburst": "2", "arvalid": "1"}
WRITE_ADDRESS = {"awaddr": "ADDRESS_BITS", "awlen": "8", "awsize": "3", "awburst": "2", "awvalid": "1"}
WRITE_DATA = {"wdata": "DATA_BITS", "wstrb": "DATA_BITS/8", "wlast": "1", "wvalid": "1", "bready": "1", "rready": "1"}
REPLIES = {
    "arready": "1", "rdata": "DATA_BITS", "rresp": "2", "rlast": "1", "rvalid": "1",
    "awready": "1", "wready": "1", "bresp": "2", "bvalid": "1",
}  # fmt: skip
CHANNELS = READ_ADDRESS | WRITE_ADDRESS | WRITE_DATA | REPLIES

LITE = (
    "awaddr", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid", "bready",
    "araddr", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready",
)  # fmt: skip
LITE_WIDTHS = {"awaddr": ADDRESS_WIDTH, "araddr": ADDRESS_WIDTH, "wdata": 32, "rdata": 32, "wstrb": 4} | {
    "bresp": 2,
    "rresp": 2,
}


def sources(config: AcceleratorConfig, accelerator: str) -> dict[str, str]:
    """All source texts by file name; `accelerator` is the text of `hw.verilog.generate_verilog`."""
    here = Path(__file__).parent
    fixed = ["memory_model.sv", "memory_model.cpp", "register_master.sv", "event_log.sv"]
    fixed += ["activity_log.sv", "activity_log.cpp"]
    if config.multiplier is Multipliers.DSP48E2:
        fixed.append("dsp48e2.v")
    return {"accelerator.v": accelerator, "testbench.sv": TESTBENCH + _system(config)} | {
        name: (here / name).read_text() for name in fixed
    }


def monitor_widths(config: AcceleratorConfig) -> dict[str, int]:
    """Names and bits of the accelerator's ports for traces."""
    ports = top_ports(AcceleratorSignature(config).create())
    return {name: len(value) for name, _, value in ports if name.startswith("monitor_")}


def _system(config: AcceleratorConfig) -> str:
    ports = config.bus_ports
    wires = [f"  wire [{ports}*{width}-1:0] {name};" for name, width in CHANNELS.items()]
    wires += [f"  wire [{LITE_WIDTHS.get(name, 1) - 1}:0] axi_{name};" for name in LITE]
    lite = [f"      .s_axi_{name}(axi_{name})" for name in LITE]
    buses = [
        f"      .m{port}_axi_{name}({name}[{port}*{width}+:{width}])"
        for port in range(ports)
        for name, width in CHANNELS.items()
    ]
    monitors = monitor_widths(config)
    wires += [f"  wire [{width - 1}:0] {name};" for name, width in monitors.items()]
    traces = [f"      .{name}({name})" for name in monitors]
    state = fields(config)
    bits = sum(width for width, _ in state.values())
    assert bits <= STATE_BITS
    newline = "\n"
    return f"""
module system (
    input wire clk,
    input wire reset,
    input wire request,
    input wire write,
    input wire [{ADDRESS_WIDTH - 1}:0] address,
    input wire [31:0] write_data,
    output wire done,
    output wire [31:0] read_data,
    output wire [1:0] response,
    input wire [31:0] frame,
    input wire [63:0] result_base,
    input wire [63:0] result_bytes,
    input wire [63:0] cycle,
    output wire irq,
    output wire fault
);
  localparam int DATA_BITS = {config.bus_bits};
  localparam int ADDRESS_BITS = {config.address_bits};

{newline.join(wires)}

  // All logic between what a test can set and the next register is evaluated in every time step. Reset reaches
  // almost all of the logic, so this register is worth a factor in speed.
  reg rst = 1;
  always @(posedge clk) rst <= reset;

  register_master #(.ADDRESS_BITS({ADDRESS_WIDTH})) register_master (.*);
  memory_model #(.PORTS({ports}), .DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS)) memory_model (.*);
  event_log #(.ENGINES({len(Engine)})) event_log (
      .clk(clk), .cycle(cycle), .started(monitor_started), .done(monitor_done)
  );
  activity_log #(.BITS({bits})) activity_log (
      .clk(clk), .cycle(cycle), .state({{{", ".join(expression for _, expression in reversed(state.values()))}}})
  );
  {ACCELERATOR} accelerator (
      .clk(clk),
      .rst(rst),
      .irq(irq),
      .s_axi_awprot(3'b000),
      .s_axi_arprot(3'b000),
{f",{newline}".join(lite + buses + traces)}
  );
endmodule
"""
