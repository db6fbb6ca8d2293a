// Writes one line, "cycle started done", for each cycle in which an instruction of an engine begins or has completed;
// one bit per engine, in decimal. The file is named by +events=FILE.

module event_log #(
    parameter int ENGINES = 6
) (
    input wire clk,
    input wire [63:0] cycle,
    input wire [ENGINES-1:0] started,
    input wire [ENGINES-1:0] done
);
  string path;
  int file = 0;
  initial if ($value$plusargs("events=%s", path)) file = $fopen(path, "w");
  always @(posedge clk) if (file != 0 && |{started, done}) $fdisplay(file, "%0d %0d %0d", cycle, started, done);
  final if (file != 0) $fclose(file);
endmodule
