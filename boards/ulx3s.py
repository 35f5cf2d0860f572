"""ULX3S with each of its chips: serial line through the FT231X, SPI on the header."""
from __future__ import annotations

from typing import Any

from amaranth.build import Attrs
from amaranth_boards import ulx3s
from amaranth_boards.resources import SPIResource

from nomul.boards.board import Board

__all__ = ["ULX3S_12F", "ULX3S_25F", "ULX3S_45F", "ULX3S_85F"]


def _board(size: str, platform: Any) -> Board:
    return Board(
        name=f"ulx3s-{size}",
        title=f"ULX3S {size.upper()}",
        platform=platform,
        led=("led",),
        loader="openFPGALoader -b ulx3s {file}",
        baud=1_000_000,
        line="USB port US1",
        spi="header pins GP0 to GP3: CS, COPI, CIPO, SCK",
        resources=(SPIResource(0, cs_n="0+", copi="1+", cipo="2+", clk="3+", conn=("gpio", 0),
                               attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP"),
                               role="peripheral"),),
    )


ULX3S_12F = _board("12f", ulx3s.ULX3S_12F_Platform)
ULX3S_25F = _board("25f", ulx3s.ULX3S_25F_Platform)
ULX3S_45F = _board("45f", ulx3s.ULX3S_45F_Platform)
ULX3S_85F = _board("85f", ulx3s.ULX3S_85F_Platform)
