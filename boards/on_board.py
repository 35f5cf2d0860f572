"""A network to a bitstream for a board, with the fastest clock that its PLL and the chip allow."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.boards.board import Board, LinkKind
from nomul.boards.pll import Setting, fastest
from nomul.boards.synth import Progress, Synthesis, run_folder, synthesize_in
from nomul.boards.top import BoardTop, divisor_for, link_top
from nomul.compiler.errors import FitError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan

__all__ = ["BoardSynthesis", "synthesize_on_board"]

# Clocks that are tried, at most.
_ATTEMPTS = 8
# Where the chip could be so much faster than the first clock, a faster one is tried.
_WORTH = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSynthesis:
    """A bitstream for a board, and its figures.

    Attributes
    ----------
    board : Board
    synthesis : Synthesis
        What the circuit takes, and the clocks that it could have.
    setting : Setting
        The clock that it has; at least one placement meets it, and the bitstream is of that one.
    link : LinkKind
    baud, divisor, queue : int
        Bits a second on the line, cycles of one of them, and bytes that wait before the network;
        with SPI the most bits a second that there may be.
    missed : tuple of (float, float)
        Clocks in MHz that were tried before and met by no placement, and the fastest one that one
        of them reached.
    """

    board: Board
    synthesis: Synthesis
    setting: Setting
    link: LinkKind
    baud: int
    divisor: int
    queue: int
    missed: tuple[tuple[float, float], ...]

    def as_json(self) -> dict[str, Any]:
        """The figures of the synthesis in plain types, and under ``board`` those of the board."""
        setting = self.setting
        return self.synthesis.as_json() | {"board": {
            "name": self.board.name, "title": self.board.title, "link": self.link.value,
            "line": self.board.spi if self.link is LinkKind.SPI else self.board.line,
            "pin_mhz": setting.reference_hz / 1e6, "clock_mhz": setting.mhz,
            "pll": {"reference_div": setting.reference_div, "feedback_div": setting.feedback_div,
                    "output_div": setting.output_div} if setting.uses_pll else None,
            "timing_met": _reached(self.synthesis) >= setting.mhz,
            "missed_mhz": [clock for clock, _ in self.missed],
            "baud": self.baud, "divisor": self.divisor, "queue": self.queue,
            "load": self.board.load_command(self.synthesis.bitstream)}}


def synthesize_on_board(network: Network, plan: Plan, board: Board, folder: Path, *,
                        seeds: Sequence[int], clock_mhz: float | None = None,
                        link: LinkKind = LinkKind.UART, baud: int | None = None,
                        queue: int | None = None,
                        jobs: int | None = None, progress: Progress | None = None,
                        ) -> BoardSynthesis:
    """A bitstream of ``network`` for ``board`` that meets its clock.

    With ``clock_mhz`` that clock is tried, or the next slower one that the PLL has. Without, the
    chip's goal is tried, and if the chip could be much faster, what it could be. Where no
    placement meets a clock, the next one is the fastest that any of them reached.

    Parameters
    ----------
    folder : Path
        Becomes the folder of this run, as in `nomul.boards.synth.synthesize`.
    seeds : sequence of int
        Placements to try of each clock.
    clock_mhz : float, optional
        Clock wanted.
    link : LinkKind, optional
        What joins it to its host.
    baud : int, optional
        Bits a second on the line. If omitted, the board's own, or as fast as SPI can be.
    queue : int, optional
        Bytes that wait before the network; what comes in the time of an inference if omitted.

    Raises
    ------
    PlanError
        The PLL has no such clock, the clock cannot be divided into such bits, or the board has no
        such link.
    FitError
        The circuit needs more than the chip has, or meets no clock.
    ToolError, DataError
        As `nomul.boards.synth.synthesize` does.
    """
    target = board.target
    constraints = board.constraints(link)
    if link is LinkKind.UART and baud is None:
        baud = board.baud
    setting = fastest(target.family, board.clock_hz, clock_mhz or target.goal_mhz)
    missed: list[tuple[float, float]] = []
    with run_folder(network.name, target, folder) as work:
        for attempt in range(_ATTEMPTS):
            top = lower(network, plan)
            divisor = divisor_for(setting, baud, link)
            core = link_top(network, plan, top, link, divisor=divisor, depth=queue)
            result = synthesize_in(
                work, BoardTop(core, board, setting), network.name, target, seeds=seeds,
                clock_mhz=setting.mhz, jobs=jobs, constraints=constraints,
                progress=progress)
            reached = _reached(result)
            met = reached >= setting.mhz
            if not met:
                missed.append((setting.mhz, reached))
            elif attempt or clock_mhz or reached < _WORTH * setting.mhz:
                return BoardSynthesis(board=board, synthesis=result, setting=setting, link=link,
                                      baud=baud or int(setting.frequency / divisor),
                                      divisor=divisor, queue=core.linked.depth,
                                      missed=tuple(missed))
            setting = fastest(target.family, board.clock_hz, reached)
        raise FitError(f"network '{network.name}' must meet a clock on {board.name}, but "
                       f"missed {', '.join(f'{clock:g}' for clock, _ in missed)} MHz; ask for a "
                       "slower one with --clock")


def _reached(synthesis: Synthesis) -> float:
    return max(placement.fmax_mhz for placement in synthesis.placements)
