// Block RAM of the ECP5: 16,384 bits, and 2,048 more for words of 9, 18 and 36 bits. Yosys has no
// model of it. Written from Lattice's "ECP5 and ECP5-5G Memory User Guide" (FPGA-TN-02204).
//
// A row is 18 bits; INITVAL_xx holds 16 rows, 20 bits apart. Words of 4, 2 and 1 bits leave out
// the ninth bit of each byte. Words of 36 bits take the data pins of both ports, A's lowest.
// Where words have 18 or 36 bits, the lowest address bits say which bytes are written.
//
// What the chip leaves open ends the simulation: a port that reads what the other one writes. So
// do output registers, chip selects and inverted clocks, which nomul does not use. In a
// proof (FORMAL) these are assertions.
module DP16KD #(
    parameter DATA_WIDTH_A = 18, parameter DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", parameter REGMODE_B = "NOREG",
    parameter RESETMODE = "SYNC", parameter ASYNC_RESET_RELEASE = "SYNC",
    parameter CSDECODE_A = "0b000", parameter CSDECODE_B = "0b000",
    parameter WRITEMODE_A = "NORMAL", parameter WRITEMODE_B = "NORMAL",
    parameter CLKAMUX = "CLKA", parameter CLKBMUX = "CLKB",
    parameter GSR = "ENABLED",
    parameter [319:0] INITVAL_00 = 0, parameter [319:0] INITVAL_01 = 0,
    parameter [319:0] INITVAL_02 = 0, parameter [319:0] INITVAL_03 = 0,
    parameter [319:0] INITVAL_04 = 0, parameter [319:0] INITVAL_05 = 0,
    parameter [319:0] INITVAL_06 = 0, parameter [319:0] INITVAL_07 = 0,
    parameter [319:0] INITVAL_08 = 0, parameter [319:0] INITVAL_09 = 0,
    parameter [319:0] INITVAL_0A = 0, parameter [319:0] INITVAL_0B = 0,
    parameter [319:0] INITVAL_0C = 0, parameter [319:0] INITVAL_0D = 0,
    parameter [319:0] INITVAL_0E = 0, parameter [319:0] INITVAL_0F = 0,
    parameter [319:0] INITVAL_10 = 0, parameter [319:0] INITVAL_11 = 0,
    parameter [319:0] INITVAL_12 = 0, parameter [319:0] INITVAL_13 = 0,
    parameter [319:0] INITVAL_14 = 0, parameter [319:0] INITVAL_15 = 0,
    parameter [319:0] INITVAL_16 = 0, parameter [319:0] INITVAL_17 = 0,
    parameter [319:0] INITVAL_18 = 0, parameter [319:0] INITVAL_19 = 0,
    parameter [319:0] INITVAL_1A = 0, parameter [319:0] INITVAL_1B = 0,
    parameter [319:0] INITVAL_1C = 0, parameter [319:0] INITVAL_1D = 0,
    parameter [319:0] INITVAL_1E = 0, parameter [319:0] INITVAL_1F = 0,
    parameter [319:0] INITVAL_20 = 0, parameter [319:0] INITVAL_21 = 0,
    parameter [319:0] INITVAL_22 = 0, parameter [319:0] INITVAL_23 = 0,
    parameter [319:0] INITVAL_24 = 0, parameter [319:0] INITVAL_25 = 0,
    parameter [319:0] INITVAL_26 = 0, parameter [319:0] INITVAL_27 = 0,
    parameter [319:0] INITVAL_28 = 0, parameter [319:0] INITVAL_29 = 0,
    parameter [319:0] INITVAL_2A = 0, parameter [319:0] INITVAL_2B = 0,
    parameter [319:0] INITVAL_2C = 0, parameter [319:0] INITVAL_2D = 0,
    parameter [319:0] INITVAL_2E = 0, parameter [319:0] INITVAL_2F = 0,
    parameter [319:0] INITVAL_30 = 0, parameter [319:0] INITVAL_31 = 0,
    parameter [319:0] INITVAL_32 = 0, parameter [319:0] INITVAL_33 = 0,
    parameter [319:0] INITVAL_34 = 0, parameter [319:0] INITVAL_35 = 0,
    parameter [319:0] INITVAL_36 = 0, parameter [319:0] INITVAL_37 = 0,
    parameter [319:0] INITVAL_38 = 0, parameter [319:0] INITVAL_39 = 0,
    parameter [319:0] INITVAL_3A = 0, parameter [319:0] INITVAL_3B = 0,
    parameter [319:0] INITVAL_3C = 0, parameter [319:0] INITVAL_3D = 0,
    parameter [319:0] INITVAL_3E = 0, parameter [319:0] INITVAL_3F = 0
) (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
        DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1,
        ADA0,
    input CLKA, CEA, OCEA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6,
        DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
        DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1,
        ADB0,
    input CLKB, CEB, OCEB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6,
        DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
  // Two rows in one, so that a word of 36 bits is one of them.
  reg [35:0] pairs [0:511];

  localparam [64 * 320 - 1:0] CONTENTS = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
        INITVAL_38,
    INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31,
        INITVAL_30,
    INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29,
        INITVAL_28,
    INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21,
        INITVAL_20,
    INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19,
        INITVAL_18,
    INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11,
        INITVAL_10,
    INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09,
        INITVAL_08,
    INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00};

  integer row;
  initial begin
    for (row = 0; row < 1024; row = row + 1)
      pairs[row >> 1][18 * (row & 1) +: 18] = CONTENTS[20 * row +: 18];
`ifndef FORMAL
    if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG") $fatal(1, "DP16KD: output register");
    if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000") $fatal(1, "DP16KD: chip select");
    if (CLKAMUX != "CLKA" || CLKBMUX != "CLKB") $fatal(1, "DP16KD: inverted clock");
`endif
  end

  // First bit of the word at an address.
  function [5:0] place(input integer width, input [13:0] address);
    place = (width <= 18 ? 18 * address[4] : 0) + (width <= 9 ? 9 * address[3] : 0)
        + (width <= 4 ? 4 * address[2] : 0) + (width <= 2 ? 2 * address[1] : 0)
        + (width <= 1 ? address[0] : 0);
  endfunction

  // Bits that a write reaches, from the first bit of the word.
  function [35:0] reach(input integer width, input [13:0] address);
    integer n;
    for (n = 0; n < 36; n = n + 1)
      reach[n] = n < width && (width < 18 || address[n / 9]);
  endfunction

  wire [13:0] address_a =
      {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [17:0] data_a =
      {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
          DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [13:0] address_b =
      {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [17:0] data_b =
      {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
          DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [35:0] both = {data_b, data_a};
  wire [35:0] given_a = DATA_WIDTH_A == 36 ? both : {18'd0, data_a};
  wire [35:0] given_b = DATA_WIDTH_B == 36 ? both : {18'd0, data_b};
  wire [5:0] place_a = place(DATA_WIDTH_A, address_a), place_b = place(DATA_WIDTH_B, address_b);
  wire [35:0] mask_a = reach(DATA_WIDTH_A, address_a) << place_a;
  wire [35:0] mask_b = reach(DATA_WIDTH_B, address_b) << place_b;
  wire [35:0] word_a = ((36'd1 << DATA_WIDTH_A) - 36'd1) << place_a;
  wire [35:0] word_b = ((36'd1 << DATA_WIDTH_B) - 36'd1) << place_b;
  wire writes_a = CEA && WEA && !RSTA, writes_b = CEB && WEB && !RSTB;
  wire reads_a = CEA && !(WEA && WRITEMODE_A == "NORMAL");
  wire reads_b = CEB && !(WEB && WRITEMODE_B == "NORMAL");

`ifdef FORMAL
  always @(posedge CLKA)
    assert (REGMODE_A == "NOREG" && REGMODE_B == "NOREG" && CSDECODE_A == "0b000"
        && CSDECODE_B == "0b000" && CLKAMUX == "CLKA" && CLKBMUX == "CLKB");
`endif

  // What the pair would be after a port's write.
  wire [35:0] old_a = pairs[address_a[13:5]], old_b = pairs[address_b[13:5]];
  wire [35:0] new_a = writes_a ? (old_a & ~mask_a) | (given_a << place_a & mask_a) : old_a;
  wire [35:0] new_b = writes_b ? (old_b & ~mask_b) | (given_b << place_b & mask_b) : old_b;
  wire [35:0] seen_a = WRITEMODE_A == "WRITETHROUGH" ? new_a : old_a;
  wire [35:0] seen_b = WRITEMODE_B == "WRITETHROUGH" ? new_b : old_b;

  integer n;
  always @(posedge CLKA) if (writes_a)
    for (n = 0; n < 36; n = n + 1)
      if (mask_a[n]) pairs[address_a[13:5]][n] <= new_a[n];
  integer k;
  always @(posedge CLKB) if (writes_b)
    for (k = 0; k < 36; k = k + 1)
      if (mask_b[k]) pairs[address_b[13:5]][k] <= new_b[k];

  // What a port would read is compared whether or not a reset clears it.
  always @(posedge CLKA)
    if (address_a[13:5] == address_b[13:5]
        && (writes_a && reads_b && |(mask_a & word_b) || writes_b && reads_a && |(mask_b &
            word_a)
            || writes_a && writes_b && |(mask_a & mask_b)))
`ifdef FORMAL
      assert (0);
`else
      $fatal(1, "DP16KD: a word is read or written while the other port writes it");
`endif

  reg [35:0] out_a, out_b;
  initial out_a = 0;
  initial out_b = 0;
  generate
    if (RESETMODE == "ASYNC") begin
      always @(posedge CLKA, posedge RSTA)
        if (RSTA) out_a <= 0;
        else if (reads_a) out_a <= (seen_a & word_a) >> place_a;
      always @(posedge CLKB, posedge RSTB)
        if (RSTB) out_b <= 0;
        else if (reads_b) out_b <= (seen_b & word_b) >> place_b;
    end else begin
      always @(posedge CLKA)
        if (RSTA) out_a <= 0;
        else if (reads_a) out_a <= (seen_a & word_a) >> place_a;
      always @(posedge CLKB)
        if (RSTB) out_b <= 0;
        else if (reads_b) out_b <= (seen_b & word_b) >> place_b;
    end
  endgenerate

  // A word of 36 bits leaves through both ports; port B alone reads such words.
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
      DOA4, DOA3, DOA2, DOA1, DOA0} =
      DATA_WIDTH_B == 36 ? out_b[17:0] : out_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
      DOB4, DOB3, DOB2, DOB1, DOB0} =
      DATA_WIDTH_B == 36 ? out_b[35:18] : out_b[17:0];
endmodule
