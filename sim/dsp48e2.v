// Simulation model of the DSP48E2 block (UG579), of the one mode that the accelerator uses: the M register between
// multiplier and output, no others. Any other setting stops the simulation.
module DSP48E2 #(
    parameter AREG = 1, ACASCREG = 1, ADREG = 1, ALUMODEREG = 1, BREG = 1, BCASCREG = 1, CARRYINREG = 1,
    parameter CARRYINSELREG = 1, CREG = 1, DREG = 1, INMODEREG = 1, MREG = 1, OPMODEREG = 1, PREG = 1
) (
    input wire CLK, CEM, RSTM,
    input wire signed [29:0] A,
    input wire signed [17:0] B,
    input wire [47:0] C, PCIN,
    input wire [26:0] D,
    input wire [29:0] ACIN,
    input wire [17:0] BCIN,
    input wire [8:0] OPMODE,
    input wire [4:0] INMODE,
    input wire [3:0] ALUMODE,
    input wire [2:0] CARRYINSEL,
    input wire CARRYCASCIN, CARRYIN, MULTSIGNIN,
    input wire CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEP,
    input wire RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTP,
    output wire signed [47:0] P
);
  localparam OTHERS = AREG | ACASCREG | ADREG | ALUMODEREG | BREG | BCASCREG | CARRYINREG | CARRYINSELREG | CREG | DREG
      | INMODEREG | OPMODEREG | PREG;
  reg signed [44:0] m;
  always @(posedge CLK) if (CEM) m <= $signed(A[26:0]) * B;
  assign P = m;

`ifndef SYNTHESIS
  initial
    if (OTHERS != 0 || MREG != 1) begin
      $display("DSP48E2: registers other than M are not modelled");
      $stop;
    end
  always @(posedge CLK)
    if (OPMODE != 9'b000000101 || INMODE != 0 || ALUMODE != 0 || CARRYINSEL != 0 || CARRYIN || RSTM) begin
      $display("DSP48E2: OPMODE %b, INMODE %b, ALUMODE %b, CARRYINSEL %b are not modelled",
               OPMODE, INMODE, ALUMODE, CARRYINSEL);
      $stop;
    end
`endif
endmodule
