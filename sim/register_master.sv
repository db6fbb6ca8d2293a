// Single AXI4-Lite reads and writes on behalf of the cocotb test: it sets a command and toggles `request`; when
// `done` toggles, the answer stands on `read_data` and `response`. Between accesses nothing here costs time.

module register_master #(
    parameter int ADDRESS_BITS = 12
) (
    input wire clk,
    input wire rst,

    input wire request,
    input wire write,
    input wire [ADDRESS_BITS-1:0] address,
    input wire [31:0] write_data,
    output reg done,
    output reg [31:0] read_data,
    output reg [1:0] response,

    output reg [ADDRESS_BITS-1:0] axi_awaddr,
    output reg axi_awvalid,
    input wire axi_awready,
    output reg [31:0] axi_wdata,
    output wire [3:0] axi_wstrb,
    output reg axi_wvalid,
    input wire axi_wready,
    input wire [1:0] axi_bresp,
    input wire axi_bvalid,
    output reg axi_bready,
    output reg [ADDRESS_BITS-1:0] axi_araddr,
    output reg axi_arvalid,
    input wire axi_arready,
    input wire [31:0] axi_rdata,
    input wire [1:0] axi_rresp,
    input wire axi_rvalid,
    output reg axi_rready
);
  reg busy;
  assign axi_wstrb = 4'b1111;

  always @(posedge clk) begin
    if (rst) begin
      busy <= 0;
      done <= request;
      axi_awvalid <= 0;
      axi_wvalid <= 0;
      axi_bready <= 0;
      axi_arvalid <= 0;
      axi_rready <= 0;
    end else if (!busy) begin
      if (request != done) begin
        busy <= 1;
        axi_awaddr <= address;
        axi_araddr <= address;
        axi_wdata <= write_data;
        axi_awvalid <= write;
        axi_wvalid <= write;
        axi_bready <= write;
        axi_arvalid <= !write;
        axi_rready <= !write;
      end
    end else begin
      if (axi_awready) axi_awvalid <= 0;
      if (axi_wready) axi_wvalid <= 0;
      if (axi_arready) axi_arvalid <= 0;
      if (axi_bready && axi_bvalid || axi_rready && axi_rvalid) begin
        busy <= 0;
        done <= request;
        axi_bready <= 0;
        axi_rready <= 0;
        read_data <= axi_rdata;
        response <= axi_rready ? axi_rresp : axi_bresp;
      end
    end
  end
endmodule
