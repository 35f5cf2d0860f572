"""iCE40-HX8K breakout board: serial line through the FTDI chip's second channel."""
from __future__ import annotations

from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform

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
)
