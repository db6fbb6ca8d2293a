"""A stand-in for the accelerator, in a page of Verilog: it copies the image, inverted, into the result area.

The low bits of its TIMEOUT register choose a misbehaviour, so that one build serves all tests.
"""

from enum import IntEnum

import numpy as np

from compiler.program import Program, StoredMap, assemble
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.registers import BY_NAME, IDENTITY, ErrorCode
from hw.verilog import TOP as ACCELERATOR
from sim.testbench import monitor_widths

BURST_BEATS = 16


class Misbehaviour(IntEnum):
    NONE = 0
    STRAY_WRITE = 1  # writes begin one page before the result area
    PAGE_CROSSING = 2  # bursts begin one beat before a page
    UNSTABLE_DATA = 3  # write data changes while it waits
    HANG = 4
    EARLY_LAST = 5


def stand_in(config: AcceleratorConfig, input_bytes: int) -> str:
    bits, ports = config.bus_bits, config.bus_ports
    offset = {name: f"12'h{register.offset:03x}" for name, register in BY_NAME.items()}
    engines = "\n".join(ENGINE.format(p=p, bits=bits, bytes=bits // 8) for p in range(ports))
    declarations = "\n".join(PORTS.format(p=p, bits=bits, bytes=bits // 8) for p in range(ports))
    monitors = monitor_widths(config)
    return TOP.format(
        monitors=", ".join(f"output [{width - 1}:0] {name}" for name, width in monitors.items()),
        quiet=", ".join(monitors),
        top=ACCELERATOR, declarations=declarations, engines=engines, identity=IDENTITY, abi=ABI_VERSION, ports=ports,
        hash_lo=config.hash & 0xFFFFFFFF, hash_hi=config.hash >> 32, o=offset,
        bursts=input_bytes // (ports * BURST_BEATS * bits // 8), read_error=int(ErrorCode.BUS_READ),
    )  # fmt: skip


def copy_program(config: AcceleratorConfig, bursts: int) -> Program:
    """A program for the stand-in whose image, and result, is `bursts` bursts per port."""
    size = bursts * BURST_BEATS * config.bus_ports * config.bus_bytes
    scores = StoredMap("scores", 0, 0, 1, 1, 10, -(-10 // config.in_lanes), 1, scores=True)
    image = assemble([0xF], b"", config_hash=config.hash, input_bytes=size, result_bytes=size, port_stride=0)
    return Program(image, config.hash, size, size, (scores,), predicted_cycles=1000)


def random_images(program: Program, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 1, 1, program.input_bytes), np.uint8)


PORTS = """
    output reg [39:0] m{p}_axi_araddr, output [7:0] m{p}_axi_arlen, output [2:0] m{p}_axi_arsize,
    output [1:0] m{p}_axi_arburst, output [3:0] m{p}_axi_arcache, output [2:0] m{p}_axi_arprot,
    output reg m{p}_axi_arvalid, input m{p}_axi_arready,
    input [{bits}-1:0] m{p}_axi_rdata, input [1:0] m{p}_axi_rresp, input m{p}_axi_rlast, input m{p}_axi_rvalid,
    output m{p}_axi_rready,
    output reg [39:0] m{p}_axi_awaddr, output [7:0] m{p}_axi_awlen, output [2:0] m{p}_axi_awsize,
    output [1:0] m{p}_axi_awburst, output [3:0] m{p}_axi_awcache, output [2:0] m{p}_axi_awprot,
    output reg m{p}_axi_awvalid, input m{p}_axi_awready,
    output [{bits}-1:0] m{p}_axi_wdata, output [{bytes}-1:0] m{p}_axi_wstrb, output m{p}_axi_wlast,
    output m{p}_axi_wvalid, input m{p}_axi_wready,
    input [1:0] m{p}_axi_bresp, input m{p}_axi_bvalid, output m{p}_axi_bready,
"""

# Port p copies every `ports`-th burst; read data goes straight to the write channel.
ENGINE = """
  reg [31:0] reads{p}, writes{p}, answers{p}, beats{p};
  assign m{p}_axi_arlen = 15, m{p}_axi_awlen = 15, m{p}_axi_arburst = 1, m{p}_axi_awburst = 1;
  assign m{p}_axi_arsize = $clog2({bytes}), m{p}_axi_awsize = $clog2({bytes});
  assign m{p}_axi_arcache = 3, m{p}_axi_awcache = 3, m{p}_axi_arprot = 0, m{p}_axi_awprot = 0;
  assign m{p}_axi_rready = m{p}_axi_wready, m{p}_axi_wvalid = m{p}_axi_rvalid, m{p}_axi_wstrb = '1, m{p}_axi_bready = 1;
  assign m{p}_axi_wdata = ~m{p}_axi_rdata ^ (mode == 3 ? cycles : 0);
  assign m{p}_axi_wlast = beats{p}[3:0] == (mode == 5 ? 14 : 15);
  assign finished[{p}] = answers{p} == BURSTS && mode != 4;
  always @(posedge clk) begin
    if (m{p}_axi_arready) m{p}_axi_arvalid <= 0;
    if (m{p}_axi_awready) m{p}_axi_awvalid <= 0;
    if (m{p}_axi_rvalid && m{p}_axi_rready) beats{p} <= beats{p} + 1;
    if (m{p}_axi_bvalid) answers{p} <= answers{p} + 1;
    if (m{p}_axi_rvalid && m{p}_axi_rready && m{p}_axi_rresp != 0) failed[{p}] <= 1;
    if (rst || start) begin
      reads{p} <= 0; writes{p} <= 0; answers{p} <= 0; beats{p} <= 0; failed[{p}] <= 0;
      m{p}_axi_arvalid <= 0; m{p}_axi_awvalid <= 0;
    end else if (busy) begin
      if (reads{p} < BURSTS && (!m{p}_axi_arvalid || m{p}_axi_arready)) begin
        reads{p} <= reads{p} + 1;
        m{p}_axi_arvalid <= 1;
        m{p}_axi_araddr <= input_base + (reads{p} * PORTS + {p}) * (16 * {bytes}) - (mode == 2 ? {bytes} : 0);
      end
      if (writes{p} < BURSTS && (!m{p}_axi_awvalid || m{p}_axi_awready)) begin
        writes{p} <= writes{p} + 1;
        m{p}_axi_awvalid <= 1;
        m{p}_axi_awaddr <= result_base + (writes{p} * PORTS + {p}) * (16 * {bytes}) - (mode == 1 ? 4096 : 0);
      end
    end
  end
"""

TOP = """
module {top} (
    input clk, input rst, output irq, {monitors},
{declarations}
    input [11:0] s_axi_awaddr, input [2:0] s_axi_awprot, input s_axi_awvalid, output s_axi_awready,
    input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb, input s_axi_wvalid, output s_axi_wready,
    output [1:0] s_axi_bresp, output reg s_axi_bvalid, input s_axi_bready,
    input [11:0] s_axi_araddr, input [2:0] s_axi_arprot, input s_axi_arvalid, output s_axi_arready,
    output reg [31:0] s_axi_rdata, output [1:0] s_axi_rresp, output reg s_axi_rvalid, input s_axi_rready
);
  localparam PORTS = {ports}, BURSTS = {bursts};
  reg [39:0] input_base, result_base;
  reg [31:0] cycles, mode;
  reg busy, done, interrupt, irq_enable, start;
  reg [PORTS-1:0] failed;
  wire [PORTS-1:0] finished;
  assign irq = interrupt && irq_enable;
  assign {{{quiet}}} = 0;
  assign s_axi_bresp = 0, s_axi_rresp = 0;
  assign s_axi_awready = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid, s_axi_wready = s_axi_awready;
  assign s_axi_arready = !s_axi_rvalid;
{engines}
  always @(posedge clk) begin
    start <= 0;
    if (busy) cycles <= cycles + 1;
    if (start) begin busy <= 1; cycles <= 0; end
    else if (busy && (&finished)) begin busy <= 0; interrupt <= 1; done <= 1; end
    if (s_axi_bready) s_axi_bvalid <= 0;
    if (s_axi_awready) begin
      s_axi_bvalid <= 1;
      case (s_axi_awaddr)
        {o[CONTROL]}: begin start <= s_axi_wdata[0]; irq_enable <= s_axi_wdata[2]; end
        {o[STATUS]}: if (s_axi_wdata[4]) interrupt <= 0;
        {o[INPUT_BASE_LO]}: input_base[31:0] <= s_axi_wdata;
        {o[INPUT_BASE_HI]}: input_base[39:32] <= s_axi_wdata;
        {o[RESULT_BASE_LO]}: result_base[31:0] <= s_axi_wdata;
        {o[RESULT_BASE_HI]}: result_base[39:32] <= s_axi_wdata;
        {o[TIMEOUT]}: mode <= s_axi_wdata;
      endcase
    end
    if (s_axi_rready) s_axi_rvalid <= 0;
    if (s_axi_arready && s_axi_arvalid) begin
      s_axi_rvalid <= 1;
      case (s_axi_araddr)
        {o[IDENTITY]}: s_axi_rdata <= 32'd{identity};
        {o[ABI_VERSION]}: s_axi_rdata <= {abi};
        {o[CONFIG_HASH_LO]}: s_axi_rdata <= 32'd{hash_lo};
        {o[CONFIG_HASH_HI]}: s_axi_rdata <= 32'd{hash_hi};
        {o[STATUS]}: s_axi_rdata <= {{interrupt, |failed, done, busy, !busy}};
        {o[ERROR_CODE]}: s_axi_rdata <= |failed ? {read_error} : 0;
        {o[ERROR_INFO]}: s_axi_rdata <= 1;
        {o[CYCLES_LO]}: s_axi_rdata <= cycles;
        default: s_axi_rdata <= 0;
      endcase
    end
    if (rst) begin
      busy <= 0; done <= 0; interrupt <= 0; irq_enable <= 0; start <= 0; mode <= 0;
      s_axi_bvalid <= 0; s_axi_rvalid <= 0;
    end
  end
endmodule
"""
