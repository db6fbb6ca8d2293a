// Simulation models of the ECP5 blocks of which Yosys knows the ports only, as far as it makes use of them for the
// accelerator: block RAM with one clock (TN1264), and the multiplier without registers (TN1267). Any other setting stops
// the simulation.

// What a port reads while the other one writes it is the complement of the old data, as it may be anything. A port of 36
// bits writes with the data inputs of both ports, or reads with the outputs of both.
module DP16KD #(
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC",
    parameter ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000", WRITEMODE_A = "NORMAL",
    parameter WRITEMODE_B = "NORMAL", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "ENABLED",
    parameter [319:0]
        INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 =
        0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0,
        INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 =
        0, INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0, INITVAL_19 = 0,
        INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 =
        0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0,
        INITVAL_27 = 0, INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D =
        0, INITVAL_2E = 0, INITVAL_2F = 0, INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0,
        INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A =
        0, INITVAL_3B = 0, INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0
) (
    input wire CLKA, CEA, OCEA, WEA, RSTA, CSA0, CSA1, CSA2, CLKB, CEB, OCEB, WEB, RSTB, CSB0, CSB1, CSB2,
    input wire
        ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13, ADB0, ADB1, ADB2,
        ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13, DIA0, DIA1, DIA2, DIA3, DIA4, DIA5,
        DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12, DIA13, DIA14, DIA15, DIA16, DIA17, DIB0, DIB1, DIB2, DIB3,
        DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12, DIB13, DIB14, DIB15, DIB16, DIB17,
    output wire
        DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8, DOA9, DOA10, DOA11, DOA12, DOA13, DOA14, DOA15, DOA16,
        DOA17, DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12, DOB13, DOB14, DOB15,
        DOB16, DOB17
);
  localparam [64*320-1:0] INITIAL = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38, INITVAL_37,
    INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E,
    INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25,
    INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C,
    INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13,
    INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A,
    INITVAL_09, INITVAL_08, INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
    INITVAL_00
  };
  wire [13:0] address_a = {
    ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0
  };
  wire [13:0] address_b = {
    ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0
  };
  wire [35:0] inputs = {
    DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
    DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
    DIA1, DIA0
  };
  wire [35:0] outputs;
  assign {
    DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
    DOB0, DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
    DOA1, DOA0
  } = outputs;

  // Bytes of 9 bits; ports narrower than one leave the ninth alone.
  reg [8:0] bytes[0:2047];
  reg [17:0] a = 0;
  reg [35:0] b = 0;
  assign outputs = DATA_WIDTH_B == 36 ? b : {b[17:0], a};
  wire write_a = CEA & WEA, write_b = CEB & WEB;

  // The first byte of an access, its bits there, and what it enables of them.
  function [10:0] first(input integer width, input [13:0] address);
    first = address[13:3] & (width == 36 ? 11'h7fc : width == 18 ? 11'h7fe : 11'h7ff);
  endfunction
  function [2:0] place(input integer width, input [13:0] address);
    place = width == 4 ? {address[2], 2'b00} : width == 2 ? {address[2:1], 1'b0} : width == 1 ? address[2:0] : 0;
  endfunction
  function [35:0] enabled(input integer width, input [13:0] address);
    if (width < 18) enabled = ((36'h1 << width) - 1) << place(width, address);
    else begin
      enabled = {{9{address[3]}}, {9{address[2]}}, {9{address[1]}}, {9{address[0]}}};
      if (width == 18) enabled = enabled & 36'h3ffff;
    end
  endfunction

  wire [10:0] first_a = first(DATA_WIDTH_A, address_a), first_b = first(DATA_WIDTH_B, address_b);
  wire [35:0] mask_a = write_a ? enabled(DATA_WIDTH_A, address_a) : 0;
  wire [35:0] mask_b = write_b ? enabled(DATA_WIDTH_B, address_b) : 0;
  wire [35:0] value_a = (DATA_WIDTH_A == 36 ? inputs : inputs[17:0]) << place(DATA_WIDTH_A, address_a);
  wire [35:0] value_b = inputs[35:18] << place(DATA_WIDTH_B, address_b);

  reg [35:0] found_a, found_b;
  integer i, j;
  always @* begin
    for (i = 0; i < 4; i = i + 1) begin
      found_a[9*i +: 9] = bytes[first_a+i];
      found_b[9*i +: 9] = bytes[first_b+i];
      for (j = 0; j < 4; j = j + 1) begin
        if (first_a + i == first_b + j) begin
          found_a[9*i +: 9] = found_a[9*i +: 9] ^ mask_b[9*j +: 9];
          found_b[9*j +: 9] = found_b[9*j +: 9] ^ mask_a[9*i +: 9];
        end
      end
    end
  end

  always @(posedge CLKA) begin
    if (CEA && (!WEA || WRITEMODE_A == "READBEFOREWRITE")) a <= found_a >> place(DATA_WIDTH_A, address_a);
    if (CEB && (!WEB || WRITEMODE_B == "READBEFOREWRITE")) b <= found_b >> place(DATA_WIDTH_B, address_b);
    for (i = 0; i < 4; i = i + 1) begin
      if (mask_a[9*i +: 9] != 0)
        bytes[first_a+i] <= (bytes[first_a+i] & ~mask_a[9*i +: 9]) | (value_a[9*i +: 9] & mask_a[9*i +: 9]);
      if (mask_b[9*i +: 9] != 0)
        bytes[first_b+i] <= (bytes[first_b+i] & ~mask_b[9*i +: 9]) | (value_b[9*i +: 9] & mask_b[9*i +: 9]);
    end
    if (RSTA | RSTB | CSA0 | CSA1 | CSA2 | CSB0 | CSB1 | CSB2 | ~OCEB) begin
      $display("DP16KD: resets, chip selects, and output enables are not modelled");
      $stop;
    end
  end

  integer k;
  initial begin
    for (k = 0; k < 2048; k = k + 1) bytes[k] = INITIAL[k/2*20+k%2*9 +: 9];
    if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB" ||
        WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH") begin
      $display("DP16KD: output registers, inverted clocks, and writing through are not modelled");
      $stop;
    end
  end
endmodule

module MULT18X18D (
    input wire SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input wire
        A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17, B0, B1, B2, B3, B4, B5, B6,
        B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17, C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12,
        C13, C14, C15, C16, C17,
    output wire
        P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17, P18, P19, P20, P21, P22,
        P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35
);
  wire [17:0] a = {
    A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0
  };
  wire [17:0] b = {
    B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0
  };
  wire signed [18:0] first = {SIGNEDA & a[17], a}, second = {SIGNEDB & b[17], b};
  wire signed [37:0] product = first * second;
  assign {
    P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
    P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
  } = product[35:0];
endmodule
