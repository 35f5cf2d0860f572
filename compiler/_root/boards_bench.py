"""Bitstreams for boards: ``python -m nomul.boards_bench docs`` writes docs/boards.md.

Builds the zoo's digits network as ``nomul build --board`` and ``nomul synth`` do, for all boards or
for those that are named behind ``docs``.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nomul.boards.board import Board
from nomul.boards.catalogue import ALL_BOARDS, find_board
from nomul.boards.on_board import BoardSynthesis, synthesize_on_board
from nomul.compiler.files import replace_file
from nomul.compiler.network import Network
from nomul.compiler.plan import intervals
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.sizing import registered
from nomul.tables import Row, table, versions

__all__ = ["boards_page"]

_NETWORK = Path("examples/zoo/digits_pow2_3bit.nomul")
_SEEDS = 1


def boards_page(network: Network, boards: Sequence[Board]) -> str:
    """Text of docs/boards.md: ``network`` on ``boards``, one lane a layer."""
    rows = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        for number, board in enumerate(boards, 1):
            print(f"{number} of {len(boards)}: {board.name}", flush=True)
            plan = make_plan(network, {}, registered=registered(board.target))
            result = synthesize_on_board(network, plan, board, Path(folder) / board.name,
                                         seeds=range(1, _SEEDS + 1))
            rows.append(_row(result, max(intervals(plan, network).values())))
    lines = [(board.name, board.title, f"{board.clock_hz / 1e6:g} MHz",
              " ".join(pin.site for pin in board.pins), board.line, board.baud,
              f"`{board.load_command('FILE')}`") for board in ALL_BOARDS.values()]
    return "\n\n".join((
        "# Boards",
        "Made by `python -m nomul.boards_bench docs`, which measures all boards or those that are "
        "named; do not edit. "
        + versions("pyosys", "nextpnr-ice40", "nextpnr-ecp5", "amaranth-boards"),
        _INTRODUCTION,
        table(("board", "called", "clock", "pins: clock, RX, TX, LED", "serial line", "baud",
               "to load it"), lines),
        _NOTES,
        f"## The {network.name} network on them",
        f"One lane a layer, the best of {_SEEDS} placements by nextpnr's model of timing. The "
        "chip's goal (48 MHz on the UP5K, 100 MHz elsewhere) is tried first; if the chip could be "
        "much faster, what it could be; where no placement meets a clock, the PLL is set down to "
        "what one reached. Inferences a second are those that the circuit could do; the line "
        "brings fewer.",
        table(("board", "chip", "logic cells", "of", "LUT4", "carry", "FF", "block RAM", "of",
               "clock (MHz)", "Fmax (MHz)", "timing met", "clocks missed before (MHz)",
               "inferences/s"), rows))) + "\n"


def _row(result: BoardSynthesis, interval: int) -> Row:
    figures = result.as_json()
    board, capacity = figures["board"], figures["capacity"]
    return (board["name"], figures["target"], figures["logic_cells"], capacity["logic_cells"],
            figures["lut4"], figures["carry"], figures["ff"], figures["bram"], capacity["bram"],
            f"{board['clock_mhz']:.2f}", f"{figures['fmax_mhz']['max']:.1f}",
            "yes" if board["timing_met"] else "no",
            ", ".join(f"{mhz:.2f}" for mhz in board["missed_mhz"]) or "none",
            round(board["clock_mhz"] * 1e6 / interval))


_INTRODUCTION = """\
A build for a board has its pins, its clock through the chip's PLL, and a serial line
([link.md](link.md)) in the place of the AXI4-Streams:

    nomul build digits.nomul --board icebreaker -o build/
    nomul synth build/
    nomul run build/ --port /dev/ttyUSB1 seven.png"""

_NOTES = """\
Pins are those of `amaranth-boards`. The OrangeCrab's USB belongs to the FPGA, so its serial line
is on the headers. iCESugar-Pro and OrangeCrab begin with 115,200 baud, because what stands between
them and the computer is not known to be faster; `nomul synth --baud` sets another one. To the
tools an ECP5 12F is a 25F with another number, and so are its capacities here; Lattice sells it
with half as many cells. None of these bitstreams has been on a real board yet: what is proved, in
simulation, is the circuit behind the PLL, from pin to pin."""


if __name__ == "__main__":
    chosen = [find_board(name) for name in sys.argv[2:]] or [*ALL_BOARDS.values()]
    replace_file(Path(sys.argv[1]) / "boards.md", boards_page(load(_NETWORK), chosen))
