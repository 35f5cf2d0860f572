"""iCEBreaker: iCE40UP5K, serial line through the FTDI chip's second channel, SPI on PMOD 1A."""
from __future__ import annotations

from amaranth.build import Attrs
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.resources import SPIResource

from nomul.boards.board import Board

__all__ = ["ICEBREAKER"]

ICEBREAKER = Board(
    name="icebreaker",
    title="iCEBreaker",
    platform=ICEBreakerPlatform,
    led=("led",),
    loader="iceprog {file}",
    baud=1_000_000,
    line="USB, second serial port",
    spi="connector PMOD 1A, pins 1 to 4: CS, COPI, CIPO, SCK",
    resources=(SPIResource(0, cs_n="1", copi="2", cipo="3", clk="4", conn=("pmod", 0),
                           attrs=Attrs(IO_STANDARD="SB_LVCMOS", PULLUP=1), role="peripheral"),),
    clock_on_pll_pad=True,
)
