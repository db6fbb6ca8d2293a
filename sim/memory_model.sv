// External memory behind the AXI4 ports of the accelerator.
//
// The protocol engine and the storage are C++ (memory_model.cpp), called once per clock cycle for all ports together;
// this module only bundles the signals and registers the replies, so every output comes from a flip-flop. Vectors hold
// port 0 in their low bits. `frame` and the result window are set by the test bench between runs.

module memory_model #(
    parameter int PORTS = 1,
    parameter int DATA_BITS = 128,
    parameter int ADDRESS_BITS = 40
) (
    input wire clk,
    input wire rst,

    input wire [31:0] frame,
    input wire [63:0] result_base,   // writes outside of this window are refused and counted
    input wire [63:0] result_bytes,
    output reg fault,                // an AXI rule was broken; sticky

    input  wire [PORTS-1:0] arvalid,
    output reg  [PORTS-1:0] arready,
    input  wire [PORTS*ADDRESS_BITS-1:0] araddr,
    input  wire [PORTS*8-1:0] arlen,
    input  wire [PORTS*3-1:0] arsize,
    input  wire [PORTS*2-1:0] arburst,
    output reg  [PORTS-1:0] rvalid,
    input  wire [PORTS-1:0] rready,
    output reg  [PORTS*DATA_BITS-1:0] rdata,
    output reg  [PORTS*2-1:0] rresp,
    output reg  [PORTS-1:0] rlast,

    input  wire [PORTS-1:0] awvalid,
    output reg  [PORTS-1:0] awready,
    input  wire [PORTS*ADDRESS_BITS-1:0] awaddr,
    input  wire [PORTS*8-1:0] awlen,
    input  wire [PORTS*3-1:0] awsize,
    input  wire [PORTS*2-1:0] awburst,
    input  wire [PORTS-1:0] wvalid,
    output reg  [PORTS-1:0] wready,
    input  wire [PORTS*DATA_BITS-1:0] wdata,
    input  wire [PORTS*DATA_BITS/8-1:0] wstrb,
    input  wire [PORTS-1:0] wlast,
    output reg  [PORTS-1:0] bvalid,
    input  wire [PORTS-1:0] bready,
    output reg  [PORTS*2-1:0] bresp
);
  // One 64-bit word per port and direction: {valid, burst, size, len, address}; see `Request` in memory_model.cpp.
  bit [PORTS*64-1:0] read_request, write_request;
  // One 64-bit word per port: {bready, rready, wlast, wvalid, wstrb}; see `Channels` there.
  bit [PORTS*64-1:0] channels;
  // One byte per port of each: {wready, awready, arready, bresp, bvalid} and {rresp, rlast, rvalid}.
  bit [PORTS*32-1:0] reply;
  bit [PORTS*DATA_BITS-1:0] write_data, read_data;
  bit fault_reply;

  import "DPI-C" function void memory_open(input int ports, input int data_bits);
  import "DPI-C" function void memory_close();
  import "DPI-C" function bit memory_cycle(
      input bit reset,
      input int frame,
      input longint result_base,
      input longint result_bytes,
      input bit [PORTS*64-1:0] read_request,
      input bit [PORTS*64-1:0] write_request,
      input bit [PORTS*64-1:0] channels,
      input bit [PORTS*DATA_BITS-1:0] write_data,
      output bit [PORTS*32-1:0] reply,
      output bit [PORTS*DATA_BITS-1:0] read_data
  );

  always_comb begin
    for (int p = 0; p < PORTS; p++) begin
      read_request[64*p+:64] = {
        10'b0, arvalid[p], arburst[2*p+:2], arsize[3*p+:3], arlen[8*p+:8], 40'(araddr[ADDRESS_BITS*p+:ADDRESS_BITS])
      };
      write_request[64*p+:64] = {
        10'b0, awvalid[p], awburst[2*p+:2], awsize[3*p+:3], awlen[8*p+:8], 40'(awaddr[ADDRESS_BITS*p+:ADDRESS_BITS])
      };
      channels[64*p+:64] = {28'b0, bready[p], rready[p], wlast[p], wvalid[p], 32'(wstrb[DATA_BITS/8*p+:DATA_BITS/8])};
    end
    write_data = wdata;
  end

  always @(posedge clk) begin
    fault_reply = memory_cycle(
        rst, frame, result_base, result_bytes, read_request, write_request, channels, write_data, reply, read_data
    );
    fault <= fault_reply;
    rdata <= read_data;
    for (int p = 0; p < PORTS; p++) begin
      rvalid[p] <= reply[32*p];
      rlast[p] <= reply[32*p+1];
      rresp[2*p+:2] <= reply[32*p+2+:2];
      bvalid[p] <= reply[32*p+4];
      bresp[2*p+:2] <= reply[32*p+5+:2];
      arready[p] <= reply[32*p+7];
      awready[p] <= reply[32*p+8];
      wready[p] <= reply[32*p+9];
    end
  end

  initial memory_open(PORTS, DATA_BITS);
  final memory_close();
endmodule
