"""iCEBreaker: iCE40UP5K, serial line through the FTDI chip's second channel."""
from __future__ import annotations

from amaranth_boards.icebreaker import ICEBreakerPlatform

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
    clock_on_pll_pad=True,
)
