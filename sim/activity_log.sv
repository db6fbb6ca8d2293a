// Records what the accelerator does: `state` in every cycle in which it differs from the cycle before. The file is named
// by +activity=FILE and written by activity_log.cpp; without it, nothing is recorded.

module activity_log #(
    parameter int BITS = 1
) (
    input wire clk,
    input wire [63:0] cycle,
    input wire [BITS-1:0] state
);
  import "DPI-C" function bit activity_open();
  import "DPI-C" function void activity_record(input int cycle, input bit [95:0] state);
  import "DPI-C" function void activity_close();

  bit enabled;
  bit [BITS-1:0] last = 0;
  initial enabled = activity_open();
  always @(posedge clk) if (enabled && state != last) begin
    activity_record(32'(cycle), 96'(state));
    last <= state;
  end
  final activity_close();
endmodule
