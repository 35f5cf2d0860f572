"""Every board, by name."""
from __future__ import annotations

from nomul.boards.board import Board
from nomul.boards.ice40_hx8k_b_evn import ICE40_HX8K_B_EVN
from nomul.boards.icebreaker import ICEBREAKER
from nomul.boards.icesugar_pro import ICESUGAR_PRO
from nomul.boards.orangecrab import ORANGECRAB
from nomul.boards.ulx3s import ULX3S_12F, ULX3S_25F, ULX3S_45F, ULX3S_85F
from nomul.compiler.errors import PlanError

__all__ = ["ALL_BOARDS", "find_board"]

#: In the order in which tables list them.
ALL_BOARDS = {board.name: board for board in (
    ICEBREAKER, ICE40_HX8K_B_EVN, ULX3S_12F, ULX3S_25F, ULX3S_45F, ULX3S_85F, ORANGECRAB,
    ICESUGAR_PRO)}


def find_board(name: str) -> Board:
    """The board called ``name``.

    Raises
    ------
    PlanError
        No board has this name; the message lists those that are known.
    """
    board = ALL_BOARDS.get(name)
    if board is None:
        raise PlanError(f"board '{name}' must be one of {', '.join(ALL_BOARDS)}")
    return board
