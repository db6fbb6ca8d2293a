// A board between a host's serial line and its memory chip. The cocotb test sets and reads the signals of this module.

`timescale 1ns / 1ns
module testbench #(
    parameter int DIVIDER = 4,
    parameter int OUTBOX_BYTES = 2048,
    parameter int INBOX_BYTES = 8192
);
  reg clk = 0;
  always #1 clk = ~clk;

  // set by the test
  reg reset = 1;
  reg send = 0;  // toggles: send `outbox_bytes` bytes of `outbox`
  reg [15:0] outbox_bytes = 0;
  reg [8*OUTBOX_BYTES-1:0] outbox = 0;
  reg armed = 0;  // let `wake` rise
  reg [31:0] wanted = 0;
  reg [63:0] deadline = 0;

  // seen by the test
  reg sent = 0;  // follows `send`
  reg [7:0] inbox[INBOX_BYTES];  // a ring
  reg [31:0] inbox_count = 0;  // bytes since the beginning
  reg [63:0] cycle = 0;
  reg wake = 0;  // `wanted` bytes have come, or the deadline has passed
  wire busy;
  wire fault;

  always @(posedge clk) begin
    cycle <= cycle + 1;
    wake <= armed && (inbox_count >= wanted || cycle >= deadline);
  end

  reg rst = 1;
  always @(posedge clk) rst <= reset;

  system #(.DIVIDER(DIVIDER)) system (
      .clk(clk), .rst(rst), .rx(line), .tx(tx), .busy(busy), .fault(fault)
  );

  // The host's side of the line.
  reg line = 1;
  reg [9:0] bits = '1;
  reg [15:0] index = 0, left = 0, timer = 0;
  always @(posedge clk) begin
    line <= bits[0];
    if (timer != 0) timer <= timer - 1;
    else if (left != 0) begin
      bits <= {1'b1, bits[9:1]};
      left <= left - 1;
      timer <= DIVIDER - 1;
    end else if (send != sent) begin
      if (index == outbox_bytes) begin
        sent <= send;
        index <= 0;
      end else begin
        bits <= {1'b1, outbox[8*index+:8], 1'b0};
        index <= index + 1;
        left <= 9;
        timer <= DIVIDER - 1;
      end
    end
  end

  wire tx;
  reg [7:0] byte_in = 0;
  reg [15:0] bits_left = 0, sample = 0;
  always @(posedge clk) begin
    if (bits_left == 0) begin
      if (!tx) begin
        bits_left <= 10;
        sample <= DIVIDER / 2 - 1;
      end
    end else if (sample != 0) sample <= sample - 1;
    else begin
      sample <= DIVIDER - 1;
      bits_left <= bits_left - 1;
      if (bits_left == 1) begin
        inbox[inbox_count%INBOX_BYTES] <= byte_in;
        inbox_count <= inbox_count + 1;
      end else byte_in <= {tx, byte_in[7:1]};
    end
  end
endmodule
