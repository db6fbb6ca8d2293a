// Simulation model of the DSP48E2 block (UG579), of what the accelerator uses: A behind two registers or none, B, M, and
// P behind one or none; the product, added to PCIN, to the constant RND, or to 0. Any other setting stops the simulation.
module DSP48E2 #(
    parameter AREG = 1, ACASCREG = 1, ADREG = 1, ALUMODEREG = 1, BREG = 1, BCASCREG = 1, CARRYINREG = 1,
    parameter CARRYINSELREG = 1, CREG = 1, DREG = 1, INMODEREG = 1, MREG = 1, OPMODEREG = 1, PREG = 1,
    parameter [47:0] RND = 0
) (
    input wire CLK,
    input wire signed [29:0] A,
    input wire signed [17:0] B,
    input wire signed [47:0] PCIN,
    input wire [47:0] C,
    input wire [26:0] D,
    input wire [29:0] ACIN,
    input wire [17:0] BCIN,
    input wire [8:0] OPMODE,
    input wire [4:0] INMODE,
    input wire [3:0] ALUMODE,
    input wire [2:0] CARRYINSEL,
    input wire CARRYCASCIN, CARRYIN, MULTSIGNIN,
    input wire CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP,
    input wire RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP,
    output wire signed [47:0] P,
    output wire signed [47:0] PCOUT
);
  localparam OTHERS = ADREG | ALUMODEREG | CARRYINREG | CARRYINSELREG | CREG | DREG | INMODEREG | OPMODEREG;
  localparam [8:0] PRODUCT = 9'b00_000_01_01, WITH_RND = 9'b10_000_01_01, WITH_PCIN = 9'b00_001_01_01;

  wire signed [29:0] a;
  wire signed [17:0] b;
  wire signed [44:0] m;
  generate
    if (AREG == 2) begin : a_registers
      reg signed [29:0] a1, a2;
      always @(posedge CLK) begin
        if (CEA1) a1 <= A;
        if (CEA2) a2 <= a1;
      end
      assign a = a2;
    end else assign a = A;

    if (BREG == 1) begin : b_register
      reg signed [17:0] b2;
      always @(posedge CLK) if (CEB2) b2 <= B;
      assign b = b2;
    end else assign b = B;

    if (MREG == 1) begin : m_register
      reg signed [44:0] product;
      always @(posedge CLK) if (CEM) product <= $signed(a[26:0]) * b;
      assign m = product;
    end else assign m = $signed(a[26:0]) * b;

    if (PREG == 1) begin : p_register
      reg signed [47:0] total;
      always @(posedge CLK)
        if (CEP) total <= m + (OPMODE == WITH_PCIN ? PCIN : OPMODE == WITH_RND ? $signed(RND) : 48'sd0);
      assign P = total;
    end else assign P = m;
  endgenerate
  assign PCOUT = P;

`ifndef SYNTHESIS
  initial
    if (OTHERS != 0 || (AREG != 0 && AREG != 2) || BREG > 1 || ACASCREG != AREG || BCASCREG != BREG) begin
      $display("DSP48E2: these registers are not modelled");
      $stop;
    end
  always @(posedge CLK)
    if ((OPMODE != PRODUCT && (PREG == 0 || (OPMODE != WITH_RND && OPMODE != WITH_PCIN)))
        || INMODE != 0 || ALUMODE != 0 || CARRYINSEL != 0 || CARRYIN || RSTA || RSTB || RSTM || RSTP) begin
      $display("DSP48E2: OPMODE %b, INMODE %b, ALUMODE %b, CARRYINSEL %b are not modelled",
               OPMODE, INMODE, ALUMODE, CARRYINSEL);
      $stop;
    end
`endif
endmodule
