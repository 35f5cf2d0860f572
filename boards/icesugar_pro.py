"""iCESugar-Pro: serial line through the iCELink on its carrier board.

Of the module's edge connector `amaranth-boards` knows the pins, but not where a carrier has them:
so there is no SPI.
"""
from __future__ import annotations

from amaranth_boards.icesugar_pro import ICESugarProPlatform

from nomul.boards.board import Board

__all__ = ["ICESUGAR_PRO"]

ICESUGAR_PRO = Board(
    name="icesugar-pro",
    title="iCESugar-Pro",
    platform=ICESugarProPlatform,
    led=("rgb_led", "g"),
    loader="icesprog {file}",
    baud=115_200,
    line="USB of the iCELink",
)
