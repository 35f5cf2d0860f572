"""iCESugar-Pro: serial line through the iCELink on its carrier board."""
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
