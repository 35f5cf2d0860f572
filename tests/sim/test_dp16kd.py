"""Our model of ECP5's block RAM does what its guide says, with words of every width."""
from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import nomul.sim
from nomul.sim.verilator import build_environment

pytestmark = [pytest.mark.cocotb, pytest.mark.full]

MODEL = Path(nomul.sim.__path__[0]) / "dp16kd.v"
STEPS = 500
# Widths of both ports and what a port shows when it writes. A port with words of 36 bits writes
# through A and reads through B, and the other one may have any. The last one is a broken twin.
CONFIGURATIONS = [(1, 18, "NORMAL"), (2, 9, "WRITETHROUGH"), (4, 4, "READBEFOREWRITE"),
                  (9, 1, "READBEFOREWRITE"), (18, 2, "WRITETHROUGH"), (18, 18, "NORMAL"),
                  (36, 36, "NORMAL"), (36, 9, "NORMAL"), (18, 18, "NORMAL")]
BROKEN = len(CONFIGURATIONS) - 1


class Memory:
    """The memory bit by bit: 1,024 rows of two bytes of 9 bits."""

    def __init__(self, rows: list[int]) -> None:
        self.bits = [row >> n & 1 for row in rows for n in range(18)]
        self.out = [0, 0]

    @staticmethod
    def places(width: int, address: int) -> range:
        """Bits of a word, whose address counts bits of bytes of 8."""
        if width >= 9:
            first = address // {9: 8, 18: 16, 36: 32}[width] * width
        else:
            first = address // 8 * 9 + address % 8 // width * width
        return range(first, first + width)

    def step(self, port: int, width: int, mode: str, enable: int, write: int, reset: int,
             address: int, data: int) -> None:
        places = self.places(width, address)
        before = [self.bits[place] for place in places]
        if enable and write and not reset:
            for n, place in enumerate(places):
                if width < 18 or address >> n // 9 & 1:
                    self.bits[place] = data >> n & 1
        after = [self.bits[place] for place in places]
        if reset:
            self.out[port] = 0
        elif enable and not (write and mode == "NORMAL"):
            shown = after if mode == "WRITETHROUGH" else before
            self.out[port] = sum(bit << n for n, bit in enumerate(shown))


def instance(number: int, rows: list[int]) -> str:
    """A block RAM whose pins are bits of buses."""
    width_a, width_b, mode = CONFIGURATIONS[number]
    module = "DP16KD_broken" if number == BROKEN else "DP16KD"

    def pins(name: str, bus: str, count: int) -> str:
        return ", ".join(f".{name}{n}({bus}[{n}])" for n in range(count))

    values = ", ".join(
        f".INITVAL_{n:02X}(320'h{sum(row << 20 * k for k, row in enumerate(rows[16 * n:][:16])):x})"
        for n in range(64))
    return f"""
  {module} #(.DATA_WIDTH_A({width_a}), .DATA_WIDTH_B({width_b}), .WRITEMODE_A("{mode}"),
      .WRITEMODE_B("{mode}"), {values}) ram_{number} (
      {pins("ADA", "address", 14)}, {pins("DIA", "data", 18)},
      {pins("ADB", "address", 14)}, {pins("DIB", f"data_b[{number}]", 18)},
      {pins("DOA", f"seen[{number}]", 18)}, {pins("DOB", f"seen[{number}][35:18]", 18)},
      .CLKA(clk[{number}]), .CLKB(clk[{number}]), .WEA(write), .WEB(write),
      .CEA(enable && !port), .CEB(enable && port), .RSTA(reset && !port), .RSTB(reset && port),
      .OCEA(1'b1), .OCEB(1'b1), .CSA0(1'b0), .CSA1(1'b0), .CSA2(1'b0), .CSB0(1'b0), .CSB1(1'b0),
      .CSB2(1'b0));
  assign data_b[{number}] = {"data[35:18]" if width_a == 36 else "data[17:0]"};
""".replace(f"seen[{number}][35:18][", f"seen_b[{number}][")


def test_words_of_every_width(tmp_path: Path) -> None:
    """The ports take turns, since a chip leaves open what both at once would do. The broken twin
    writes all bytes."""
    rng = np.random.default_rng(16)
    instances, vectors = [], []
    for number, (width_a, width_b, mode) in enumerate(CONFIGURATIONS):
        rows = [int(row) for row in rng.integers(0, 1 << 18, 1024)]
        instances.append(instance(number, rows))
        memory = Memory(rows)
        for step in range(STEPS):
            port, write = int(rng.integers(2)), int(rng.integers(2))
            if width_a == 36:
                write = 1 - port
            enable, reset = int(rng.random() < 0.9), int(rng.random() < 0.1)
            # Few places, so that what is written is read; but the last row too.
            address = int(rng.integers(128)) if step % 5 else 0x3fff - int(rng.integers(16))
            data = int(rng.integers(1 << 36))
            memory.step(port, (width_a, width_b)[port], mode, enable, write, reset, address, data)
            a, b = memory.out
            if width_b == 36:
                a, b = b & 0x3ffff, b >> 18
            mask = 0x3ffff << 18 | (width_a < 36 or width_b == 36) * 0x3ffff
            word = 0
            for value, bits in ((number, 4), (port, 1), (enable, 1), (write, 1), (reset, 1),
                                (address, 14), (data, 36), (mask, 36), (b << 18 | a, 36)):
                word = word << bits | value
            vectors.append(f"{word:033x}\n")
    (tmp_path / "vectors.hex").write_text("".join(vectors))
    (tmp_path / "bench.v").write_text(f"""
module bench;
  reg [129:0] vectors [0:{len(vectors) - 1}];
  reg [{BROKEN}:0] clk = 0;
  reg [3:0] number;
  reg port, enable, write, reset;
  reg [13:0] address;
  reg [35:0] data, mask, due;
  wire [17:0] data_b [0:{BROKEN}];
  wire [17:0] seen [0:{BROKEN}], seen_b [0:{BROKEN}];
  integer n, wrong = 0, broken = 0;
{''.join(instances)}
  initial begin
    $readmemh("vectors.hex", vectors);
    for (n = 0; n < {len(vectors)}; n = n + 1) begin
      {{number, port, enable, write, reset, address, data, mask, due}} = vectors[n];
      #1 clk[number] = 1;
      #1 clk[number] = 0;
      #1 if (({{seen_b[number], seen[number]}} ^ due) & mask)
        if (number < {BROKEN}) wrong = wrong + 1; else broken = broken + 1;
    end
    $display("%0d %0d", wrong, broken);
    $finish;
  end
endmodule
""")
    model = MODEL.read_text()
    broken = model.replace("(width < 18 || address[n / 9])", "1").replace("module DP16KD",
                                                                          "module DP16KD_broken")
    (tmp_path / "models.v").write_text(model + broken)
    with build_environment(fast="-O0"):
        subprocess.run(["verilator", "--binary", "-CFLAGS", "-fcoroutines", "-Mdir", "made",
                        "--top-module", "bench", "-Wno-fatal", "-Wno-lint", "bench.v", "models.v"],
                       cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([str(tmp_path / "made" / "Vbench")], cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    wrong, seen_broken = map(int, done.stdout.split()[:2])
    assert wrong == 0 < seen_broken
