"""iCE40-HX8K breakout board: serial line through the FTDI chip's second channel, SPI on J2."""
from __future__ import annotations

from amaranth.build import Attrs
from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform
from amaranth_boards.resources import SPIResource

from nomul.boards.board import Board

__all__ = ["ICE40_HX8K_B_EVN"]

ICE40_HX8K_B_EVN = Board(
    name="ice40-hx8k-b-evn",
    title="iCE40-HX8K Breakout Board (iCE40HX8K-B-EVN)",
    platform=ICE40HX8KBEVNPlatform,
    led=("led",),
    # Into the chip itself, with the board's jumpers set for that.
    loader="iceprog -S {file}",
    baud=1_000_000,
    line="USB, second serial port",
    spi="header J2, pins 9 to 12: CS, COPI, CIPO, SCK",
    resources=(SPIResource(0, cs_n="9", copi="10", cipo="11", clk="12", conn=("j", 2),
                           attrs=Attrs(IO_STANDARD="SB_LVCMOS", PULLUP=1), role="peripheral"),),
)
