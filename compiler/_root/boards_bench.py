"""Bitstreams for boards: ``python -m nomul.boards_bench docs`` writes docs/boards.md.

Builds the zoo's digits network as ``nomul build --board`` and ``nomul synth`` do, for all boards or
for those that are named behind ``docs``. If they are all, the table of the README is written too.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.boards.board import Board, LinkKind
from nomul.boards.catalogue import ALL_BOARDS, find_board
from nomul.boards.on_board import synthesize_on_board
from nomul.compiler.files import replace_file
from nomul.compiler.network import Network
from nomul.compiler.plan import intervals
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.sizing import registered
from nomul.tables import Row, put_in, table, versions

__all__ = ["Measured", "boards_page", "main", "measure", "summary"]

_NETWORK = Path("examples/zoo/digits_pow2_3bit.nomul")
_SEEDS = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network on a board.

    Parameters
    ----------
    board : Board
    figures : dict
        What `BoardSynthesis.as_json` says.
    interval : int
        Cycles of an inference.
    """

    board: Board
    figures: dict[str, Any]
    interval: int

    @property
    def rate(self) -> int:
        """Inferences a second at the clock of the bitstream."""
        clock: float = self.figures["board"]["clock_mhz"]
        return round(clock * 1e6 / self.interval)

    @property
    def met(self) -> str:
        """Whether the bitstream meets its clock."""
        return "yes" if self.figures["board"]["timing_met"] else "no"


def measure(network: Network, board: Board, folder: Path) -> Measured:
    """The bitstream of ``network`` for ``board``, one lane a layer; files stay in ``folder``."""
    plan = make_plan(network, {}, registered=registered(board.target))
    result = synthesize_on_board(network, plan, board, folder, seeds=range(1, _SEEDS + 1))
    return Measured(board=board, figures=result.as_json(),
                    interval=max(intervals(plan, network).values()))


def boards_page(network: Network, measured: Sequence[Measured]) -> str:
    """Text of docs/boards.md."""
    spi = [(board.name, " ".join(pin.site for pin in board.pins(LinkKind.SPI)[1:-1]), board.spi)
           for board in ALL_BOARDS.values() if board.spi is not None]
    lines = [(board.name, board.title, f"{board.clock_hz / 1e6:g} MHz",
              " ".join(pin.site for pin in board.pins()), board.line, board.baud,
              f"`{board.load_command('FILE')}`") for board in ALL_BOARDS.values()]
    return "\n\n".join((
        "# Boards",
        "Made by `python -m nomul.boards_bench docs`, which measures all boards or those that are "
        "named; do not edit. "
        + versions("pyosys", "nextpnr-ice40", "nextpnr-ecp5", "amaranth-boards"),
        _INTRODUCTION,
        table(("board", "called", "clock", "pins: clock, RX, TX, LED", "serial line", "baud",
               "to load it"), lines),
        _SPI,
        table(("board", "pins: SCK, CS, COPI, CIPO", "SPI"), spi),
        _NOTES,
        f"## The {network.name} network on them",
        f"One lane a layer, the best of {_SEEDS} placements by nextpnr's model of timing. The "
        "chip's goal (48 MHz on the UP5K, 100 MHz elsewhere) is tried first; if the chip could be "
        "much faster, what it could be; where no placement meets a clock, the PLL is set down to "
        "what one reached. Inferences a second are those that the circuit could do; the line "
        "brings fewer.",
        table(("board", "chip", "logic cells", "of", "LUT4", "carry", "FF", "block RAM", "of",
               "clock (MHz)", "Fmax (MHz)", "timing met", "clocks missed before (MHz)",
               "inferences/s"), [_row(one) for one in measured]))) + "\n"


def summary(measured: Sequence[Measured]) -> str:
    """The table of the README."""
    return table(("board", "chip", "logic cells", "of", "clock, MHz", "timing met",
                  "inferences/s"),
                 [(one.board.title, one.figures["target"], one.figures["logic_cells"],
                   one.figures["capacity"]["logic_cells"],
                   f"{one.figures['board']['clock_mhz']:.2f}", one.met, one.rate)
                  for one in measured])


def _row(one: Measured) -> Row:
    figures, capacity, board = one.figures, one.figures["capacity"], one.figures["board"]
    return (one.board.name, figures["target"], figures["logic_cells"], capacity["logic_cells"],
            figures["lut4"], figures["carry"], figures["ff"], figures["bram"], capacity["bram"],
            f"{board['clock_mhz']:.2f}", f"{figures['fmax_mhz']['max']:.1f}", one.met,
            ", ".join(f"{mhz:.2f}" for mhz in board["missed_mhz"]) or "none", one.rate)


_INTRODUCTION = """\
A build for a board has its pins, its clock through the chip's PLL, and a serial line or SPI
([link.md](link.md)) in the place of the AXI4-Streams:

    nomul build digits.nomul --board icebreaker -o build/
    nomul synth build/
    nomul run build/ --port /dev/ttyUSB1 seven.png"""

_SPI = """\
`nomul synth --link spi` puts SPI in the place of the serial line, where a board has it. SCK may be
an eighth of the clock. Levels are those of 3.3 V; board and host must share their ground."""

_NOTES = """\
Pins are those of `amaranth-boards`. The OrangeCrab's USB belongs to the FPGA, so its serial line
is on the headers. SPI of the iCEBreaker is in the order of the standard for PMODs. Of the
OrangeCrab it is on the pins that its form names so, with any free one for the chip-select; of the
ULX3S and the HX8K board on four free pins of a header. Of the iCESugar-Pro `amaranth-boards`
knows the module's pins, but not where a carrier has them, so it has no SPI. The ESP32 on the ULX3S
cannot run `nomul run`, so its pins are not used. iCESugar-Pro and OrangeCrab begin with 115,200
baud, because what stands between them and the computer is not known to be faster; `nomul synth
--baud` sets another one. To the tools an ECP5 12F is a 25F with another number, and so are its
capacities here; Lattice sells it with half as many cells. None of the bitstreams has been on a real
board yet: what is proved, in simulation, is the circuit behind the PLL, from pin to pin."""


def main(docs: Path, names: Sequence[str] = ()) -> None:
    """Write ``boards.md`` in ``docs``; if no board is named, the README beside ``docs`` too."""
    network, measured = load(_NETWORK), []
    chosen = [find_board(name) for name in names] or [*ALL_BOARDS.values()]
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        for number, board in enumerate(chosen, 1):
            print(f"{number} of {len(chosen)}: {board.name}", flush=True)
            measured.append(measure(network, board, Path(folder) / board.name))
    replace_file(docs / "boards.md", boards_page(network, measured))
    if not names:
        put_in(docs.parent / "README.md", "boards", summary(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
