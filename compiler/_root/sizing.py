"""Plans by size: what each will take on a chip, and the fastest one that fits."""
from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nomul.boards.estimate import Estimate, estimate
from nomul.boards.shell import PinShell
from nomul.boards.targets import Family, Target
from nomul.boards.tools import RunFailure, Tool, require
from nomul.boards.yosys import GLUE
from nomul.compiler.errors import FitError, PlanError, ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals
from nomul.compiler.planner import Foldings, input_lanes_for, make_plan

__all__ = ["Chosen", "Sized", "estimate_plan", "fastest_within", "registered", "sized"]

Progress = Callable[[int, int, str], None]
"""Called with the estimates made, how many there may be, and the last one in words."""


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A plan, and what it will take.

    Parameters
    ----------
    plan : Plan
    interval : int
        Ideal cycles between inferences.
    estimate : Estimate
        On the chip that was asked for, with its pins.
    """

    plan: Plan
    interval: int
    estimate: Estimate

    def excess(self, cells: int, chip: Target) -> dict[str, int]:
        """What it needs beyond ``cells`` logic cells and the block RAM of ``chip``."""
        over = {"logic cells": self.estimate.logic_cells - cells,
                "block RAMs": self.estimate.counts.bram - chip.capacity.bram}
        return {what: count for what, count in over.items() if count > 0}

    def __str__(self) -> str:
        return (f"{self.interval:,} cycles, about {self.estimate.logic_cells:,} logic cells, "
                f"{self.estimate.counts.bram} block RAMs")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The fastest plan that fits.

    Parameters
    ----------
    best : Sized
    limit : str
        Why none is faster, as a sentence.
    """

    best: Sized
    limit: str


def registered(chip: Target) -> bool:
    """Whether registers behind block RAMs are worth their cells: where words come so late that
    they would set the clock."""
    return chip.family is Family.ECP5


def estimate_plan(network: Network, plan: Plan, chip: Target) -> Estimate:
    """What ``network`` will take on ``chip``, built as ``plan`` says.

    Raises
    ------
    ToolError
        Yosys is missing, or failed.
    """
    require(Tool.YOSYS)
    with tempfile.TemporaryDirectory(prefix="nomul-") as folder:
        try:
            return estimate(PinShell(lower(network, plan)), "top.network.body", chip,
                            Path(folder))
        except RunFailure as failure:
            raise ToolError(f"network '{network.name}': Yosys failed with '{failure.reason}' "
                            "while its size was estimated") from failure


def sized(network: Network, foldings: Foldings, chip: Target, interval: int, *,
          lean: bool = False, registers: bool | None = None) -> Sized:
    """The plan with the fewest lanes for an ``interval`` in cycles, and what it will take."""
    plan = make_plan(network, foldings.within(interval), lean=lean,
                     registered=registered(chip) if registers is None else registers,
                     input_lanes=input_lanes_for(network, interval))
    return Sized(plan=plan, interval=max(intervals(plan, network).values()),
                 estimate=estimate_plan(network, plan, chip))


def fastest_within(network: Network, chip: Target, *, max_cells: int | None = None,
                   registers: bool | None = None, progress: Progress | None = None) -> Chosen:
    """The plan with the shortest interval that fits ``chip``, by estimate.

    Where an ordinary plan takes more block RAM than there is, a lean one is tried.

    Parameters
    ----------
    max_cells : int, optional
        Logic cells that it may take, instead of all.
    registers : bool, optional
        Whether block RAMs have registers behind them; as is good for ``chip`` if omitted.

    Raises
    ------
    FitError
        If even the smallest plan does not fit; it says by how much, and what takes most.
    PlanError
        If ``max_cells`` is below 1.
    """
    if max_cells is not None and max_cells < 1:
        raise PlanError(f"plan: logic cells must be at least 1, not {max_cells}")
    cells = min(max_cells or chip.capacity.logic_cells, chip.capacity.logic_cells)
    foldings = Foldings(network)
    options = foldings.intervals()
    most, made = 2 * len(options).bit_length() + 4, 0

    def attempt(interval: int) -> tuple[Sized, dict[str, int]]:
        nonlocal made
        for lean in (False, True):
            found = sized(network, foldings, chip, interval, lean=lean, registers=registers)
            made += 1
            if progress:
                progress(made, most, str(found))
            excess = found.excess(cells, chip)
            if "block RAMs" not in excess:
                break
        return found, excess

    best, excess = attempt(options[-1])
    if excess:
        raise _does_not_fit(network, chip, cells, best, excess)
    # All intervals from `slow` on fit, as far as is known; none up to `fast` does. The fastest
    # plan is tried by itself: unrolled, it may be smaller than slower ones.
    fast, slow, limit = -1, len(options) - 1, "no faster one exists"
    middle = 0
    while slow - fast > 1:
        found, excess = attempt(options[middle])
        if excess:
            fast = middle
            limit = (f"the next faster one found ({found.interval:,} cycles) needs "
                     + " and ".join(f"about {count:,} {what} more"
                                    for what, count in excess.items()))
        else:
            slow, best = middle, found
        middle = (fast + slow) // 2
    if progress:
        progress(most, most, str(best))
    return Chosen(best=best, limit=limit)


def _does_not_fit(network: Network, chip: Target, cells: int, smallest: Sized,
                  excess: dict[str, int]) -> FitError:
    needs = {"logic cells": (smallest.estimate.logic_cells, cells),
             "block RAMs": (smallest.estimate.counts.bram, chip.capacity.bram)}
    layers = {name: counts for name, counts in smallest.estimate.layers.items() if name != GLUE}
    largest = max(layers, key=lambda name: (
        layers[name].bram if "block RAMs" in excess else layers[name].lut4))
    return FitError(
        f"network '{network.name}' does not fit {chip.name}: its smallest plan needs "
        + " and ".join(f"about {needs[what][0]:,} {what} of {needs[what][1]:,}, {count:,} too many"
                       for what, count in excess.items())
        + f"; layer '{largest}' takes most of them; use a larger chip, or a smaller network")
