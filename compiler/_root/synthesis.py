"""A build folder's circuit on chips: bitstreams, and their figures in ``synth.json``."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nomul.boards.board import Board, LinkKind
from nomul.boards.on_board import synthesize_on_board
from nomul.boards.shell import PinShell
from nomul.boards.synth import Progress, synthesize
from nomul.boards.targets import Target
from nomul.build import BuildFolder, merge_targets
from nomul.compiler.efficiency import weight_bits_in_block_ram
from nomul.compiler.errors import FitError
from nomul.compiler.lower import lower
from nomul.compiler.plan import refuse_loads
from nomul.sizing import check_memories

__all__ = ["synthesize_build"]


def synthesize_build(build: BuildFolder, chips: Sequence[Target | Board], *, seeds: Iterable[int],
                     clock_mhz: float | None = None, link: LinkKind = LinkKind.UART,
                     baud: int | None = None, queue: int | None = None, jobs: int | None = None,
                     command: str | None = None,
                     progress: Callable[[str, int, int, str], None] | None = None,
                     ) -> tuple[dict[str, dict[str, Any]], list[FitError]]:
    """Synthesize ``build`` for each of ``chips`` and boards, into folders by their names.

    ``synth.json`` gets the figures, beside those of other chips that were there. ``link``,
    ``baud`` and ``queue`` are for boards; see `nomul.boards.on_board.synthesize_on_board`.

    Returns
    -------
    results : dict of name to figures
    errors : list of FitError
        For chips that are too small, and boards that meet no clock.
    """
    results: dict[str, dict[str, Any]] = {}
    errors: list[FitError] = []
    for chip in chips:
        def report(done: int, total: int, text: str, name: str = chip.name) -> None:
            if progress:
                progress(name, done, total, text)

        try:
            figures = _figures(build, chip, tuple(seeds), clock_mhz, link, baud, queue, jobs,
                               report)
        except FitError as error:
            errors.append(error)
            continue
        figures["bram_bits"]["stored"] = weight_bits_in_block_ram(build.network, build.plan)
        figures["bitstream"] = f"synth/{chip.name}/{figures['bitstream']}"
        if isinstance(chip, Board):
            figures["board"]["load"] = chip.load_command(str(build.path / figures["bitstream"]))
        results[chip.name] = figures
    merge_targets(build, "synth.json", results, command)
    return results, errors


def _figures(build: BuildFolder, chip: Target | Board, seeds: tuple[int, ...],
             clock_mhz: float | None, link: LinkKind, baud: int | None, queue: int | None,
             jobs: int | None, report: Progress) -> dict[str, Any]:
    folder = build.path / "synth" / chip.name
    if isinstance(chip, Board):
        refuse_loads(build.network, build.plan, f"board {chip.name!r}")
        return synthesize_on_board(build.network, build.plan, chip, folder, seeds=seeds,
                                   clock_mhz=clock_mhz, link=link, baud=baud, queue=queue,
                                   jobs=jobs, progress=report).as_json()
    check_memories(build.plan, chip)
    return synthesize(PinShell(lower(build.network, build.plan)), build.network.name, chip, folder,
                      seeds=seeds, clock_mhz=clock_mhz, jobs=jobs, progress=report).as_json()
