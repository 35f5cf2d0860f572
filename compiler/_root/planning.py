"""The commands that choose plans: ``nomul build`` and ``nomul explore``."""
from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomul.compiler.errors import PlanError
from nomul.terminal import (
    bars,
    command_line,
    complain,
    console,
    data_option,
    images_of,
    network_argument,
    print_table,
    split_option,
)

if TYPE_CHECKING:
    from nomul.boards.estimate import Estimate
    from nomul.boards.targets import Target
    from nomul.compiler.network import Network
    from nomul.compiler.plan import EnginePlan, Plan

__all__ = ["build", "explore_plans"]

# Of the vectors that a build holds if it is not told how many images.
_VECTOR_CODES = 4_000_000


@click.command()
@network_argument
@click.option("--fold", help="Outputs x inputs at once: 4x8 for all layers, or "
              "dense1=4x8,dense2=2x16.  [default: 1x1, the smallest]")
@click.option("--product", "products", multiple=True, metavar="[LAYER=]CIRCUIT",
              help="Circuit that makes the products, of a layer or of all: shift-add, masked-sums, "
              "table, bucket-accumulate, unrolled or decode-multiply, the only one with "
              "multipliers; may be given several times.  [default: the smallest exact one]")
@click.option("--plan", "plan_file", type=Path, help="Plan to follow: a JSON file like a build's "
              "plan.json.")
@click.option("--fps", type=float, help="Inferences a second to reach at --clock, with the fewest "
              "lanes.")
@click.option("--clock", type=float, default=24.0, show_default=True,
              help="Clock that --fps counts with, in MHz.")
@click.option("--max-cells", type=click.IntRange(1), help="As many inferences as can be within so "
              "many logic cells and the block RAM of the --target, by estimate.")
@click.option("--fastest", is_flag=True, help="As many inferences as can be, with the fewest "
              "lanes; one a clock if all layers are dense ones, which are then unrolled.")
@click.option("--engine", type=click.IntRange(1), metavar="LANES", help="One engine for all "
              "layers, one after the other, instead of a unit for each: it computes so many "
              "outputs at once.")
@click.option("--weights-in", type=click.Choice(["block", "spram"]), help="Where an engine's "
              "weights lie: in block RAM, which the bitstream fills, or in SPRAM, which takes the "
              "build's weights.bin from the port s_axis_weights after reset.  [default: block]")
@click.option("--input-lanes", type=int, help="Codes that enter at once.  [default: 1, or what "
              "--fps, --max-cells or --fastest need]")
@click.option("--lean", is_flag=True, help="Take few block RAMs: constants in logic, one vector "
              "at a time in dense layers.")
@click.option("--registered/--no-registered", default=None, help="Registers behind block RAMs, for "
              "a faster clock.  [default: if a --target is an ECP5]")
@click.option("--parity", is_flag=True, help="A parity bit for each word of the tables, checked "
              "when it is read; the port parity_error tells of a wrong one.")
@click.option("--target", "targets", multiple=True, help="Chip, for 'nomul synth'; may be given "
              "several times.")
@click.option("--board", "boards", multiple=True, help="Board, for 'nomul synth' and 'nomul run'; "
              "may be given several times.")
@data_option
@split_option
@click.option("--vectors", type=click.IntRange(1), help="Images to write test vectors of, the "
              "first ones.  [default: all, but no more than 4 million codes need]")
@click.option("-o", "--output", "folder", type=Path, required=True, help="Folder to write.")
def build(network_file: Path, plan_file: Path | None, targets: tuple[str, ...],
          boards: tuple[str, ...], data: str | None, split: str, vectors: int | None,
          folder: Path, **choice: Any) -> None:
    """Build NETWORK: Verilog, test vectors, plan and manifest.

    \b
    Example:
      nomul build digits.nomul --target ice40-hx8k -o build/
      nomul build digits.nomul --board icebreaker -o build/
      nomul build digits.nomul --fold dense1=8x4,dense2=5x4 -o build/fast
      nomul build digits.nomul --product dense1=bucket-accumulate -o build/buckets
      nomul build digits.nomul --fps 10000 --clock 48 -o build/paced
      nomul build digits.nomul --max-cells 1200 --target ice40-hx8k -o build/sized
      nomul build digits.nomul --fastest --target ecp5-25k -o build/unrolled
      nomul build mnist.nomul --engine 8 --target ice40-up5k -o build/engine
      nomul build mnist.nomul --engine 8 --weights-in spram --target ice40-up5k -o build/loaded
    """
    from nomul.boards.targets import board as check_board
    from nomul.boards.targets import target as find_target
    from nomul.build import write_build
    from nomul.compiler.latency import latency
    from nomul.compiler.plan import intervals, plan_interval, refuse_loads
    from nomul.compiler.plan_file import load_plan
    from nomul.compiler.storage import load, load_provenance
    from nomul.sizing import check_memories, registered

    ways = ("fold", "fps", "max_cells", "fastest", "engine")
    if sum(given not in (None, False) for given in (
            plan_file, *(choice[way] for way in ways))) > 1:
        raise click.UsageError("--fold, --plan, --fps, --max-cells, --fastest and --engine exclude "
                               "each other; give one of them")
    if choice["weights_in"] and not choice["engine"]:
        raise click.UsageError("--weights-in belongs to --engine; give it too")
    if choice["engine"] and (choice["lean"] or choice["parity"] or choice["products"]):
        raise click.UsageError("--lean, --parity and --product are of plans with a unit for each "
                               "layer; leave them out")
    if plan_file and any(choice[part] not in (None, False, ())
                         for part in ("lean", "input_lanes", "parity", "registered", "products")):
        raise click.UsageError("--input-lanes, --lean, --parity, --registered and --product are "
                               "parts of the plan; change it there")
    boards = tuple(dict.fromkeys(map(check_board, boards)))
    chips = list({chip.name: chip for chip in map(find_target, (*targets, *boards))}.values())
    if choice["registered"] is None:
        choice["registered"] = any(map(registered, chips))
    if choice["max_cells"] and (len(chips) != 1 or choice["input_lanes"] is not None
                                or choice["lean"] or choice["parity"] or choice["products"]):
        raise click.UsageError("--max-cells needs one --target or --board, chooses --input-lanes "
                               "and --lean itself, and goes without --parity and --product")
    network, provenance = load(network_file), load_provenance(network_file)
    estimates: dict[str, Estimate] = {}
    if plan_file:
        plan = load_plan(plan_file, network)
    elif choice["max_cells"]:
        plan, estimates = _fitting(network, chips[0], choice["max_cells"], choice["registered"],
                                   loads=not boards)
    else:
        plan = _paced(network, chips, **choice)
    for chip in chips:
        check_memories(plan, chip)
    if boards:
        refuse_loads(network, plan, f"board {boards[0]!r}")
    each = sum(prod(wire.shape) for wire in network.wires.values())
    images = images_of(data, split, network, provenance).first(
        vectors or max(20, _VECTOR_CODES // each))
    estimates = estimates or _estimates(network, plan, chips)
    built = write_build(folder, network, plan, images, provenance=provenance,
                        targets=list(dict.fromkeys(find_target(name).name for name in targets)),
                        boards=boards, estimates=estimates,
                        command=command_line())

    cycles, fps, clock = intervals(plan, network), choice["fps"], choice["clock"]
    if fps is not None and plan_interval(plan, network) > clock * 1e6 / fps:
        slowest = max(cycles, key=lambda name: cycles[name])
        complain(f"note: {fps:g} inferences a second are not reached at {clock:g} MHz, because "
                  f"{slowest!r} takes {cycles[slowest]} cycles; see --input-lanes")
    rows: list[tuple[Any, ...]] = []
    for name, count in cycles.items():
        entry = next((e for e in plan.layers if e.name == name), None)
        if plan.engine:
            rows.append((name, f"{plan.engine.lanes} x 1", plan.engine.product.value,
                         plan.engine.staircase.value, _weights_in(plan.engine), count))
        elif entry:
            rows.append((name, f"{entry.outputs} x {entry.inputs}", entry.product.value,
                         entry.staircase.value, entry.weights_in.value, count))
        else:
            rows.append((name, None, None, None, None, count))
    print_table(f"{folder}: {network.name}, {len(built.vectors.images)} test vectors "
           f"({built.vectors.source} {built.vectors.split})",
           {"layer": False, "outputs x inputs": False, "products": False, "staircase": False,
            "weights in": False, "cycles": True}, rows)
    console.print(f"first result after {latency(network, plan):,} cycles, then one every "
                  f"{plan_interval(plan, network):,}", highlight=False)
    _show_use(network, plan)
    _show_estimates(network, chips, estimates)


def _show_use(network: Network, plan: Plan) -> None:
    """How far the lanes are used, if there are weights."""
    from nomul.compiler.efficiency import lane_use
    from nomul.compiler.network import Weighted

    if any(isinstance(layer, Weighted) for layer in network.layers):
        use = lane_use(network, plan)
        console.print(f"lanes add a product in {use.while_working:.1%} of the cycles in which "
                      f"their layer works, and in {use.throughout:.1%} of all", highlight=False)


def _weights_in(engine: EnginePlan) -> str:
    from nomul.hw.circuits import WeightMemory

    block = engine.weights_in is WeightMemory.BLOCK
    return engine.memories.value if block else engine.weights_in.value


def _paced(network: Network, chips: list[Target], *, fold: str | None, fps: float | None,
           clock: float, fastest: bool, engine: int | None, weights_in: str | None,
           input_lanes: int | None, lean: bool, parity: bool, registered: bool,
           products: tuple[str, ...], **_others: Any) -> Plan:
    """The plan that ``--fold``, ``--fps``, ``--fastest`` or ``--engine`` asks for."""
    from nomul.compiler import planner

    if engine:
        from nomul.sizing import codes_in, with_weights_in_spram

        if weights_in == "spram":
            return with_weights_in_spram(network, engine, chips, registered=registered,
                                         input_lanes=input_lanes or 1)
        return planner.make_engine_plan(network, engine, registered=registered,
                                        codes_in=codes_in(chips), input_lanes=input_lanes or 1)
    folds, lanes = planner.parse_folds(fold, network) if fold else {}, 1
    if fastest:
        folds, lanes = planner.fastest(network)
    elif fps is not None:
        if not (0 < fps < float("inf") and 0 < clock < float("inf")):
            raise PlanError("plan: inferences a second and clock must be above 0, "
                            f"not {fps} and {clock}")
        folds = planner.fold_for_interval(network, int(clock * 1e6 / fps))
        lanes = planner.input_lanes_for(network, int(clock * 1e6 / fps))
    shapes = {chip.capacity.bram_shapes for chip in chips}
    return planner.make_plan(network, folds, lean=lean, registered=registered, parity=parity,
                             blocks=shapes.pop() if len(shapes) == 1 else None,
                             input_lanes=lanes if input_lanes is None else input_lanes,
                             products=planner.parse_products(products, network))


def _fitting(network: Network, chip: Target, max_cells: int, registered: bool, *,
             loads: bool) -> tuple[Plan, dict[str, Estimate]]:
    """The plan that ``--max-cells`` asks for, and what it will take."""
    from nomul.sizing import fastest_within

    with bars() as report:
        chosen = fastest_within(
            network, chip, max_cells=max_cells, registers=registered, loads=loads,
            progress=lambda done, total, text: report("estimates", done, total, text))
    console.print(f"[bold]chosen[/] {chosen.best}; {chosen.limit}", highlight=False)
    return chosen.best.plan, {chip.name: chosen.best.estimate}


def _estimates(network: Network, plan: Plan, chips: list[Target]) -> dict[str, Estimate]:
    """What ``plan`` will take on each chip; nothing if Yosys is not installed."""
    from nomul.boards.tools import Tool, require
    from nomul.compiler.errors import ToolError
    from nomul.sizing import estimate_plan

    try:
        if chips:
            require(Tool.YOSYS)
    except ToolError as error:
        complain(f"note: sizes are not estimated: {error}")
        return {}
    return {chip.name: estimate_plan(network, plan, chip) for chip in chips}


def _show_estimates(network: Network, chips: list[Target],
                    estimates: dict[str, Estimate]) -> None:
    """A table of sizes, and a note of what does not fit."""
    rows, capacities = [], {chip.name: chip.capacity for chip in chips}
    for name, guess in estimates.items():
        capacity = capacities[name]
        rows.append((name, guess.logic_cells, capacity.logic_cells, guess.counts.lut4,
                     guess.counts.carry, guess.counts.ff, guess.counts.bram, capacity.bram))
        for what, needed, available in (
                ("logic cells", guess.logic_cells, capacity.logic_cells),
                ("block RAMs", guess.counts.bram, capacity.bram),
                ("SPRAMs", guess.counts.spram, capacity.spram)):
            if needed > available:
                complain(f"note: network {network.name!r} will hardly fit {name}: by estimate it "
                         f"needs {needed:,} {what}, {needed - available:,} more than the chip "
                         "has; see --max-cells, --lean and --weights-in")
    if rows:
        print_table("Estimates before synthesis", {
            "chip": False, "logic cells": True, "of": True, "LUT4": True, "carry": True,
            "FF": True, "block RAM": True, "of ": True}, rows)


@click.command(name="explore")
@network_argument
@click.option("--target", "--board", "target", required=True, help="Chip, or board.")
@click.option("--points", type=click.IntRange(2), default=12, show_default=True,
              help="Plans to try.")
@click.option("--seeds", type=click.IntRange(0), default=1, show_default=True,
              help="Placements of each; with 0 plans are only estimated.")
@click.option("--clock", type=float, help="Clock to aim at, in MHz.  [default: the chip's]")
@click.option("--max-cells", type=click.IntRange(1), help="Leave out plans of more logic cells, "
              "by estimate.  [default: those of the chip]")
@click.option("--jobs", type=click.IntRange(1), help="Plans at a time.  [default: all cores]")
@click.option("--dask", metavar="ADDRESS", help="Compute on the Dask cluster with this scheduler, "
              "for example tcp://host:8786, whose workers see the same folder.")
@click.option("-o", "--output", "folder", type=Path, required=True, help="Folder to write.")
def explore_plans(network_file: Path, target: str, points: int, seeds: int, clock: float | None,
                  max_cells: int | None, jobs: int | None, dask: str | None,
                  folder: Path) -> None:
    """Place and route NETWORK under plans from the smallest to the fastest.

    Draws cells against inferences a second, and writes each plan for 'nomul build --plan'. What
    is interrupted goes on where it was.

    \b
    Example:
      nomul explore digits.nomul --target ice40-hx8k -o explored/
      nomul build digits.nomul --plan explored/plan-256.json -o build/
    """
    from nomul.boards.targets import BOARDS
    from nomul.boards.targets import target as find_target
    from nomul.compiler.storage import load
    from nomul.explore import explore, front, plot

    if clock is not None and not 0 < clock < 1000:
        raise PlanError(f"clock must be above 0 and below 1000 MHz, not {clock:g}")
    network, chip = load(network_file), find_target(target)
    with bars() as report:
        found = explore(network, chip, folder, points=points, seeds=seeds, clock_mhz=clock,
                        max_cells=max_cells, jobs=jobs or -1, dask=dask,
                        loads=target not in BOARDS,
                        progress=report)
    plot(found, chip, network.name, folder / "explore.png")
    best = {point.name for point in front(found)}
    print_table(f"{folder}: {network.name} on {chip.name}", {
        "plan": False, "cycles": True, "estimate": True, "logic cells": True, "block RAM": True,
        "MHz": True, "inferences/s": True, "": False},
        [(point.name, point.interval, point.estimated_cells, point.logic_cells,
          point.estimated_bram if point.bram is None else point.bram,
          f"{point.clock_mhz:.1f}", round(point.rate),
          "does not fit" if point.trouble else "on the front" if point.name in best else "")
         for point in found])
    for point in found:
        if point.trouble:
            complain(f"note: {point.name}: {point.trouble}")
