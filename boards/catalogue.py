"""Every board, by name."""
from __future__ import annotations

from nomul.boards.board import Board
from nomul.boards.ice40_hx8k_b_evn import ICE40_HX8K_B_EVN
from nomul.boards.icebreaker import ICEBREAKER
from nomul.boards.icesugar_pro import ICESUGAR_PRO
from nomul.boards.orangecrab import ORANGECRAB
from nomul.boards.targets import board
from nomul.boards.ulx3s import ULX3S_12F, ULX3S_25F, ULX3S_45F, ULX3S_85F

__all__ = ["ALL_BOARDS", "find_board"]

#: In the order in which tables list them.
ALL_BOARDS = {one.name: one for one in (
    ICEBREAKER, ICE40_HX8K_B_EVN, ULX3S_12F, ULX3S_25F, ULX3S_45F, ULX3S_85F, ORANGECRAB,
    ICESUGAR_PRO)}


def find_board(name: str) -> Board:
    """The board called ``name``.

    Raises
    ------
    PlanError
        No board has this name; the message lists those that are known.
    """
    return ALL_BOARDS[board(name)]
