"""Plans by size: what each will take on a chip, and the fastest one that fits."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomul.boards.estimate import Estimate, estimate
from nomul.boards.shell import PinShell
from nomul.boards.targets import TARGETS, Family, Target
from nomul.boards.tools import RunFailure, Tool, require
from nomul.boards.yosys import GLUE
from nomul.compiler.engine import engine_circuits
from nomul.compiler.errors import FitError, PlanError, ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Conv2d, Network, Weighted
from nomul.compiler.plan import Plan, engine_program, loads_weights, plan_interval
from nomul.compiler.planner import Foldings, input_lanes_for, make_engine_plan, make_plan
from nomul.hw.circuits import CodeMemory, ProductCircuit, WeightMemory

__all__ = ["Chosen", "Sized", "check_memories", "codes_in", "engine_lanes", "estimate_plan",
           "fastest_within", "plan_within", "registered", "sized", "sized_engine", "spram_blocks",
           "with_weights_in_spram"]

# Bits of an SPRAM's word, and of its address.
_SPRAM_WIDTH, _SPRAM_ADDRESS = 16, 14

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
                "block RAMs": self.estimate.counts.bram - chip.capacity.bram,
                "SPRAMs": self.estimate.counts.spram - chip.capacity.spram}
        return {what: count for what, count in over.items() if count > 0}

    def __str__(self) -> str:
        engine = self.plan.engine
        style = f"an engine of {engine.lanes} lanes" if engine else ""
        style += ", weights in SPRAM: " if loads_weights(self.plan) else ": " if engine else ""
        return (f"{style}{self.interval:,} cycles, about {self.estimate.logic_cells:,} logic "
                f"cells, {self.estimate.counts.bram} block RAMs")


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


def check_memories(plan: Plan, chip: Target) -> None:
    """`PlanError` if ``plan`` wants SPRAM for weights, and ``chip`` has none."""
    if loads_weights(plan) and not chip.capacity.spram:
        having = ", ".join(other.name for other in TARGETS.values() if other.capacity.spram)
        raise PlanError(f"plan: engine must have its weights in block RAM on {chip.name}, which "
                        f"has no SPRAM; use a chip that has ({having}), or --weights-in block")


def estimate_plan(network: Network, plan: Plan, chip: Target) -> Estimate:
    """What ``network`` will take on ``chip``, built as ``plan`` says.

    Raises
    ------
    PlanError
        The plan wants memories that the chip does not have.
    ToolError
        Yosys is missing, or failed.
    """
    check_memories(plan, chip)
    require(Tool.YOSYS)
    with tempfile.TemporaryDirectory(prefix="nomul-") as folder:
        try:
            return estimate(PinShell(lower(network, plan)), "top.network.body", chip,
                            Path(folder))
        except RunFailure as failure:
            raise ToolError(f"network '{network.name}': Yosys failed with '{failure.reason}' "
                            "while its size was estimated") from failure


def plan_within(network: Network, foldings: Foldings, chip: Target, interval: int, *,
                lean: bool = False, registers: bool | None = None) -> Plan:
    """The plan with the fewest lanes for an ``interval`` in cycles on ``chip``; with ``registers``
    behind block RAMs, or as is good for it if omitted."""
    return make_plan(network, foldings.within(interval), lean=lean,
                     blocks=chip.capacity.bram_shapes,
                     registered=registered(chip) if registers is None else registers,
                     input_lanes=input_lanes_for(network, interval))


def sized(network: Network, foldings: Foldings, chip: Target, interval: int, *,
          lean: bool = False, registers: bool | None = None) -> Sized:
    """The plan with the fewest lanes for an ``interval`` in cycles, and what it will take."""
    plan = plan_within(network, foldings, chip, interval, lean=lean, registers=registers)
    return Sized(plan=plan, interval=plan_interval(plan, network),
                 estimate=estimate_plan(network, plan, chip))


def engine_lanes(network: Network) -> list[int]:
    """Numbers of lanes that are worth trying for an engine: powers of two, and as many as the layer
    with the most outputs has. None if there is nothing for an engine to do."""
    try:
        engine_circuits(network)
    except PlanError:
        return []
    most = max((layer.outputs // (layer.groups if isinstance(layer, Conv2d) else 1)
                for layer in network.layers if isinstance(layer, Weighted)), default=1)
    return [*(1 << n for n in range((most - 1).bit_length())), most]


def codes_in(chips: Sequence[Target]) -> CodeMemory:
    """What an engine keeps codes in: SPRAM, where all ``chips`` have it."""
    spram = chips and all(chip.capacity.spram for chip in chips)
    return CodeMemory.SINGLE_PORT if spram else CodeMemory.BLOCK


def spram_blocks(network: Network, plan: Plan) -> int:
    """SPRAMs that an engine takes where a chip has them."""
    engine, memories = plan.engine, []
    assert engine is not None
    program = engine_program(network, engine)
    if engine.codes_in is CodeMemory.SINGLE_PORT:
        memories += [(program.code_shape.width, depth) for depth in program.depths]
    if engine.weights_in is WeightMemory.SPRAM:
        entries = program.table.shape[0 if engine.product is ProductCircuit.SHIFT_ADD else 1]
        width = engine.lanes * max(1, (entries - 1).bit_length())
        memories.append((8 * -(-width // 8), len(program.words)))
    return sum(-(-width // _SPRAM_WIDTH) * -(-depth >> _SPRAM_ADDRESS)
               for width, depth in memories)


def with_weights_in_spram(network: Network, lanes: int, chips: Sequence[Target], *,
                          registered: bool, input_lanes: int = 1) -> Plan:
    """An engine of so many ``lanes`` with its weights in SPRAM, and its codes too, where all
    ``chips`` have enough for both."""
    plan = make_engine_plan(network, lanes, registered=registered, input_lanes=input_lanes,
                            codes_in=CodeMemory.SINGLE_PORT, weights_in=WeightMemory.SPRAM)
    most = min((chip.capacity.spram for chip in chips), default=0)
    if spram_blocks(network, plan) <= most:
        return plan
    return make_engine_plan(network, lanes, registered=registered, input_lanes=input_lanes,
                            weights_in=WeightMemory.SPRAM)


def sized_engine(network: Network, lanes: int, chip: Target, *, registers: bool | None = None,
                 loads: bool = True) -> Sized:
    """The plan with an engine of so many ``lanes``, and what it will take.

    Where its memories take more block RAM than there is, weights go to SPRAM, if ``chip`` has it
    and they may be loaded (``loads``).
    """
    registers = registered(chip) if registers is None else registers
    plan = make_engine_plan(network, lanes, codes_in=codes_in([chip]), registered=registers)
    found = _sized_plan(network, plan, chip)
    if loads and chip.capacity.spram and _lacking(found, chip):
        other = _sized_plan(network, with_weights_in_spram(network, lanes, [chip],
                                                           registered=registers), chip)
        if _lacking(other, chip) < _lacking(found, chip):
            return other
    return found


def _sized_plan(network: Network, plan: Plan, chip: Target) -> Sized:
    return Sized(plan=plan, interval=plan_interval(plan, network),
                 estimate=estimate_plan(network, plan, chip))


def _lacking(found: Sized, chip: Target) -> int:
    """Memories that ``chip`` does not have."""
    return sum(found.excess(found.estimate.logic_cells, chip).values())


def fastest_within(network: Network, chip: Target, *, max_cells: int | None = None,
                   registers: bool | None = None, loads: bool = True,
                   progress: Progress | None = None) -> Chosen:
    """The plan with the shortest interval that fits ``chip``, by estimate.

    Where an ordinary plan takes more block RAM than there is, a lean one is tried. An engine for
    all layers competes with the units for each.

    Parameters
    ----------
    max_cells : int, optional
        Logic cells that it may take, instead of all.
    registers : bool, optional
        Whether block RAMs have registers behind them; as is good for ``chip`` if omitted.
    loads : bool
        Whether an engine's weights may be in SPRAM, which a stream must fill.

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
    foldings, widths = Foldings(network), engine_lanes(network)
    options = foldings.intervals()
    most, made = 2 * len(options).bit_length() + 4 + len(widths).bit_length() + 1, 0

    def tried(found: Sized) -> tuple[Sized, dict[str, int]]:
        nonlocal made
        made += 1
        if progress:
            progress(made, most, str(found))
        return found, found.excess(cells, chip)

    def pipeline(option: int) -> tuple[Sized, dict[str, int]]:
        for lean in (False, True):
            found, excess = tried(sized(network, foldings, chip, options[-1 - option], lean=lean,
                                        registers=registers))
            if "block RAMs" not in excess:
                break
        return found, excess

    def engine(option: int) -> tuple[Sized, dict[str, int]]:
        return tried(sized_engine(network, widths[option], chip, registers=registers,
                                  loads=loads))

    # The fastest pipeline is tried by itself: unrolled, it may be smaller than slower ones.
    tries = [_largest(pipeline, len(options), last=True)]
    if widths:
        tries.append(_largest(engine, len(widths), last=False))
    found = [chosen for _, chosen in tries if chosen is not None]
    if not found:
        smallest = min((first for first, _ in tries), key=lambda first: max(
            first.estimate.logic_cells / cells, first.estimate.counts.bram / chip.capacity.bram))
        raise _does_not_fit(network, chip, cells, smallest, smallest.excess(cells, chip))
    chosen = min(found, key=lambda chosen: chosen.best.interval)
    if progress:
        progress(most, most, str(chosen.best))
    return chosen


def _largest(attempt: Callable[[int], tuple[Sized, dict[str, int]]], count: int, *, last: bool,
             ) -> tuple[Sized, Chosen | None]:
    """The first of ``count`` options, and the largest one that fits, as far as halving finds it;
    the ``last`` one of all is tried by itself."""
    first, excess = attempt(0)
    if excess:
        return first, None
    # All options up to `fits` fit, as far as is known; none from `over` on does.
    best, fits, over, limit = first, 0, count, "no faster one exists"
    option = count - 1 if last else count // 2
    while over - fits > 1:
        found, excess = attempt(option)
        if excess:
            over = option
            limit = (f"the next faster one found ({found.interval:,} cycles) needs "
                     + " and ".join(f"about {count:,} {what} more"
                                    for what, count in excess.items()))
        else:
            fits, best = option, found
        option = (fits + over) // 2
    return first, Chosen(best=best, limit=limit)


def _does_not_fit(network: Network, chip: Target, cells: int, smallest: Sized,
                  excess: dict[str, int]) -> FitError:
    needs = {"logic cells": (smallest.estimate.logic_cells, cells),
             "block RAMs": (smallest.estimate.counts.bram, chip.capacity.bram),
             "SPRAMs": (smallest.estimate.counts.spram, chip.capacity.spram)}
    layers = {name: counts for name, counts in smallest.estimate.layers.items() if name != GLUE}
    largest = max(layers, key=lambda name: (
        layers[name].bram if "block RAMs" in excess else layers[name].lut4))
    blame = ("one engine for all layers takes them" if smallest.plan.engine
             else f"layer '{largest}' takes most of them")
    return FitError(
        f"network '{network.name}' does not fit {chip.name}: its smallest plan needs "
        + " and ".join(f"about {needs[what][0]:,} {what} of {needs[what][1]:,}, {count:,} too many"
                       for what, count in excess.items())
        + f"; {blame}; use a larger chip, or a smaller network")
