// A behavioural SDR SDRAM of 16 data bits that checks the timing of every command. All pins are active high.
// Violations print an error and raise `fault`. Times are in picoseconds, as `PERIOD` is.

module sdram_model #(
    parameter int PERIOD = 20000,
    parameter int ROW_BITS = 13,
    parameter int COLUMN_BITS = 9,
    parameter int CAS_LATENCY = 2,
    parameter int T_RCD = 0,
    parameter int T_RP = 0,
    parameter int T_RAS = 0,
    parameter int T_RC = 0,
    parameter int T_RRD = 0,
    parameter int T_RFC = 0,
    parameter int T_WR = 0,
    parameter int T_REFRESH = 0,
    parameter longint T_INIT = 0
) (
    input wire clk,
    input wire clk_en,
    input wire cs,
    input wire ras,
    input wire cas,
    input wire we,
    input wire [1:0] ba,
    input wire [ROW_BITS-1:0] a,
    input wire [1:0] dqm,
    input wire [15:0] dq_o,
    input wire dq_oe,
    output reg [15:0] dq_i,
    output reg fault
);
  localparam int BURST = 4, SLOTS = 8;
  localparam longint NEVER = -1000000000;

  reg [15:0] columns[1 << (2 + ROW_BITS + COLUMN_BITS)];
  reg [3:0] opened;
  reg [ROW_BITS-1:0] row[4];
  reg [2:0] writing;  // columns of a burst still to come
  reg [1:0] write_bank;
  reg [COLUMN_BITS-1:0] write_column;
  reg [15:0] data[SLOTS];  // read data by cycle, modulo SLOTS
  reg [SLOTS-1:0] pending;
  reg initialized;
  longint cycle, activated[4], precharged[4], written[4], last_activation, refreshed, refreshes, first_refresh;

  initial begin
    cycle = 0;
    fault = 0;
    opened = 0;
    writing = 0;
    pending = 0;
    initialized = 0;
    refreshes = 0;
    first_refresh = 0;
    last_activation = NEVER;
    refreshed = NEVER;
    for (int i = 0; i < 4; i++) begin
      activated[i] = NEVER;
      precharged[i] = NEVER;
      written[i] = NEVER;
    end
  end

  task automatic broken(input string what);
    $display("%%Error: SDRAM, cycle %0d: %s", cycle, what);
    fault = 1;
  endtask

  task automatic apart(input longint since, input longint ticks, input string what);
    if ((cycle - since) * PERIOD < ticks) broken(what);
  endtask

  task automatic precharge(input int bank);
    if (opened[bank]) begin
      apart(activated[bank], T_RAS, "t_ras");
      apart(written[bank], T_WR, "t_wr");
      if (writing != 0 && write_bank == bank) broken("a write was cut off");
      opened[bank] = 0;
      precharged[bank] = cycle;
    end
  endtask

  task automatic column_command(input bit write);
    if (!opened[ba]) broken("read or write of a closed row");
    if (a[10]) broken("auto-precharge is not expected");
    if (writing != 0) broken("a write was interrupted");
    apart(activated[ba], T_RCD, "t_rcd");
    if (write) begin
      if (pending != 0) broken("a read was interrupted");
      writing = BURST;
      write_bank = ba;
      write_column = a[COLUMN_BITS-1:0];
    end else begin
      for (int i = 0; i < BURST; i++) begin
        if (pending[(cycle + CAS_LATENCY - 1 + i) % SLOTS]) broken("a read was interrupted");
        pending[(cycle + CAS_LATENCY - 1 + i) % SLOTS] = 1;
        data[(cycle + CAS_LATENCY - 1 + i) % SLOTS] = columns[{row[ba], ba, a[COLUMN_BITS-1:2], i[1:0]}];
      end
    end
  endtask

  always @(posedge clk) begin
    if (cs && (ras || cas || we)) begin
      if (!clk_en) broken("clock not enabled");
      apart(0, T_INIT, "power-up");
      apart(refreshed, T_RFC, "t_rfc");
      case ({ras, cas, we})
        3'b100: begin
          if (!initialized || opened[ba]) broken("activation of an open bank, or before the mode was set");
          apart(precharged[ba], T_RP, "t_rp");
          apart(activated[ba], T_RC, "t_rc");
          apart(last_activation, T_RRD, "t_rrd");
          opened[ba] = 1;
          row[ba] = a;
          activated[ba] = cycle;
          last_activation = cycle;
        end
        3'b010: column_command(0);
        3'b011: column_command(1);
        3'b101: for (int bank = 0; bank < 4; bank++) if (a[10] || ba == bank) precharge(bank);
        3'b110: begin
          if (opened != 0) broken("refresh with open rows");
          for (int bank = 0; bank < 4; bank++) apart(precharged[bank], T_RP, "t_rp");
          refreshed = cycle;
          refreshes = refreshes + 1;
        end
        3'b111: begin
          if (opened != 0 || a[6:0] != {CAS_LATENCY[2:0], 4'b0010}) broken("mode");
          initialized = 1;
          refreshes = 0;
          first_refresh = cycle;
        end
        default: broken("unknown command");
      endcase
    end
    if (!clk_en) initialized = 0;  // the board was reset
    // eight refreshes may be postponed
    if (initialized && (cycle - first_refresh) * PERIOD > (refreshes + 8) * T_REFRESH) broken("t_refresh");

    if (writing != 0) begin
      if (!dq_oe) broken("a write without data");
      for (int i = 0; i < 2; i++)
        if (!dqm[i])
          columns[{row[write_bank], write_bank, write_column[COLUMN_BITS-1:2], 2'(BURST - writing)}][8*i+:8] =
              dq_o[8*i+:8];
      written[write_bank] = cycle;
      writing = writing - 1;
    end
    if (pending[cycle%SLOTS] && dq_oe) broken("both sides drive the data pins");
    dq_i <= pending[cycle%SLOTS] ? data[cycle%SLOTS] : 16'hdead;
    pending[cycle%SLOTS] = 0;
    cycle = cycle + 1;
  end
endmodule
