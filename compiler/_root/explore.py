"""A network's plans from the smallest to the fastest: cells against inferences a second."""
from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nomul.boards.doctor import tool_versions
from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import Target
from nomul.compiler.errors import DataError, FitError, PlanError, ToolError
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, plan_interval
from nomul.compiler.plan_file import plan_json
from nomul.compiler.planner import Foldings, input_lanes_for, make_plan
from nomul.sizing import (
    Sized,
    engine_lanes,
    estimate_plan,
    fastest_within,
    registered,
    sized_engine,
)

__all__ = ["Explored", "explore", "front", "plot"]

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Explored:
    """A plan, estimated and, if it was asked for and fits, placed and routed.

    Parameters
    ----------
    name : str
        File name of its plan, without the ending.
    interval : int
        Ideal cycles between inferences.
    estimated_cells, estimated_lut4, estimated_bram : int
        By `nomul.boards.estimate`.
    clock_mhz : float
        Median clock of the seeds; the one asked for where it was not placed.
    logic_cells, lut4, bram : int or None
        As synthesized; None if not.
    trouble : str
        Why it does not fit, if so.
    """

    name: str
    interval: int
    estimated_cells: int
    estimated_lut4: int
    estimated_bram: int
    clock_mhz: float
    logic_cells: int | None = None
    lut4: int | None = None
    bram: int | None = None
    trouble: str = ""

    @property
    def cells(self) -> int:
        """Logic cells as synthesized; else as estimated."""
        return self.estimated_cells if self.logic_cells is None else self.logic_cells

    @property
    def rate(self) -> float:
        """Inferences a second at its clock."""
        return self.clock_mhz * 1e6 / self.interval


def explore(network: Network, chip: Target, folder: Path, *, points: int = 12, seeds: int = 1,
            clock_mhz: float | None = None, max_cells: int | None = None, jobs: int = -1,
            dask: str | None = None, loads: bool = True,
            progress: Progress | None = None) -> list[Explored]:
    """Estimate, place and route plans between the smallest and the fastest one that fits, and
    engines of 1, 2, 4 and more lanes.

    Each becomes ``plan-<cycles>.json`` or ``engine-<lanes>.json`` in ``folder``, for ``nomul build
    --plan``; all figures are in ``explore.json``. Points that are there from an earlier run are not
    computed again.

    Parameters
    ----------
    points : int
        Plans with a unit for each layer; their intervals are spread evenly on a logarithmic scale.
    seeds : int
        Placements of each; with 0 plans are only estimated.
    clock_mhz : float, optional
        Clock to aim at, and to count with where nothing is placed; the chip's unless given.
    max_cells : int, optional
        Plans of more logic cells than this, by estimate, are left out; the chip's unless given.
    jobs : int
        Plans at a time; -1 for one on each processor.
    dask : str, optional
        Address of the scheduler of a Dask cluster that computes instead; its workers must see
        ``folder`` under the same name.
    loads : bool
        Whether an engine's weights may be in SPRAM, which a stream must fill.
    progress : callable of stage, done, total, text

    Returns
    -------
    list of Explored
        The smallest interval first; those that do not fit have a `trouble`.

    Raises
    ------
    PlanError
        If a number is below what it must be.
    FitError
        If even the smallest plan does not fit, by estimate.
    DataError
        If ``folder`` holds figures that cannot be read.
    ToolError
        If a tool or package is missing or fails, or the cluster cannot be reached.
    """
    for what, number, least in (("points", points, 2), ("seeds", seeds, 0)):
        if number < least:
            raise PlanError(f"exploration: {what} must be at least {least}, not {number}")
    clock = clock_mhz or chip.goal_mhz
    folder.mkdir(parents=True, exist_ok=True)
    known = _known(folder / "explore.json")
    cells = min(max_cells or chip.capacity.logic_cells, chip.capacity.logic_cells)

    def report(stage: str, done: int, total: int, text: str) -> None:
        if progress:
            progress(stage, done, total, text)

    fastest = fastest_within(network, chip, max_cells=max_cells, loads=loads,
                             progress=lambda *step: report("estimates", *step))
    plans = _plans(network, chip, fastest.best, points, loads)
    tasks, found = [], {}
    for name, plan in plans.items():
        replace_file(folder / f"{name}.json", plan_json(plan))
        key = _identity(plan, chip, seeds, clock, cells)
        if key in known:
            found[key] = Explored(**known[key])
        else:
            tasks.append((key, (name, network, plan, chip, folder, seeds, clock, cells)))
    done = len(found)
    for key, result in _compute(tasks, jobs, dask):
        found[key], known[key] = result, asdict(result)
        replace_file(folder / "explore.json", json.dumps(
            {"points": known, "tools": tool_versions()}, indent=1) + "\n")
        done += 1
        report("plans", done, len(plans), f"{result.interval:,} cycles")
    return sorted(found.values(), key=lambda result: result.interval)


def _plans(network: Network, chip: Target, fastest: Sized, points: int, loads: bool,
           ) -> dict[str, Plan]:
    """Plans with different intervals by name, up to the ``fastest``."""
    foldings = Foldings(network)
    options = [option for option in foldings.intervals() if option > fastest.interval]
    plans = {f"plan-{fastest.interval}": fastest.plan}
    if not options:
        return plans
    for n in range(1, points):
        wanted = math.log(fastest.interval) + n / (points - 1) * math.log(
            options[-1] / fastest.interval)
        option = min(options, key=lambda option: abs(math.log(option) - wanted))
        plan = make_plan(network, foldings.within(option), registered=registered(chip),
                         input_lanes=input_lanes_for(network, option))
        plans[f"plan-{plan_interval(plan, network)}"] = plan
    for lanes in engine_lanes(network):
        plans[f"engine-{lanes}"] = sized_engine(network, lanes, chip, loads=loads).plan
    return plans


def _identity(plan: Plan, chip: Target, *settings: float) -> str:
    text = json.dumps([plan_json(plan), chip.name, *settings])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """Points of an earlier run, by what they were made from."""
    if not file.is_file():
        return {}
    try:
        points = json.loads(file.read_text())["points"]
        for point in points.values():
            Explored(**point)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"file '{file}' must be a whole one of nomul explore; remove it, or name "
                        "another folder") from error
    return dict(points)


Task = tuple[str, Network, Plan, Target, Path, int, float, int]


def _compute(tasks: Sequence[tuple[str, Task]], jobs: int, dask: str | None) -> Any:
    """Results of ``tasks`` with their keys, as they come."""
    import joblib

    with ExitStack() as stack:
        if dask is not None and tasks:
            try:
                from distributed import Client
            except ModuleNotFoundError as error:
                raise ToolError(f"package '{error.name}' must be installed to compute on a Dask "
                                "cluster; pip install 'nomul[dask]'") from error
            try:
                stack.enter_context(Client(dask, timeout=10))  # type: ignore[no-untyped-call]
            except (OSError, ValueError) as error:
                raise ToolError(f"Dask scheduler '{dask}' must answer within 10 s; start it, or "
                                "correct its address") from error
            stack.enter_context(joblib.parallel_config(backend="dask"))
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        yield from parallel(joblib.delayed(_measure)(key, *task) for key, task in tasks)


def _measure(key: str, name: str, network: Network, plan: Plan, chip: Target, folder: Path,
             seeds: int, clock: float, cells: int) -> tuple[str, Explored]:
    """One point; runs in a process of its own."""
    guess = estimate_plan(network, plan, chip)
    point: dict[str, Any] = {
        "name": name, "interval": plan_interval(plan, network), "clock_mhz": clock,
        "estimated_cells": guess.logic_cells, "estimated_lut4": guess.counts.lut4,
        "estimated_bram": guess.counts.bram}
    if guess.logic_cells > cells:
        return key, Explored(**point, trouble=f"about {guess.logic_cells:,} logic cells")
    for what, needed, available in (
            ("block RAMs", guess.counts.bram, chip.capacity.bram),
            ("SPRAMs", guess.counts.spram, chip.capacity.spram)):
        if needed > available:
            return key, Explored(**point, trouble=f"{needed} {what} of {available}")
    if not seeds:
        return key, Explored(**point)
    try:
        figures = synthesize(PinShell(lower(network, plan)), network.name, chip,
                             folder / "synth" / name, seeds=range(1, seeds + 1), clock_mhz=clock,
                             jobs=1).as_json()
    except FitError as error:
        return key, Explored(**point, trouble=str(error))
    point["clock_mhz"] = figures["fmax_mhz"]["median"]
    return key, Explored(**point, logic_cells=figures["logic_cells"], lut4=figures["lut4"],
                         bram=figures["bram"])


def front(points: Sequence[Explored]) -> list[Explored]:
    """The Pareto front: those that fit, and that no other one beats in cells and in rate; the
    smallest first."""
    best: list[Explored] = []
    for point in sorted((p for p in points if not p.trouble), key=lambda p: (p.cells, -p.rate)):
        if not best or point.rate > best[-1].rate:
            best.append(point)
    return best


def plot(points: Sequence[Explored], chip: Target, title: str, file: Path) -> None:
    """Cells against inferences a second, with the Pareto front, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    best = front(points)
    axes.plot([p.cells for p in best], [p.rate for p in best], "-", color="C0", linewidth=1)
    for style, label, chosen in (
            ("oC0", "placed and routed", [p for p in points if p.logic_cells is not None]),
            ("xC0", "estimated", [p for p in points if p.logic_cells is None and not p.trouble]),
            ("xC3", "does not fit", [p for p in points if p.trouble])):
        if chosen:
            axes.plot([p.cells for p in chosen], [p.rate for p in chosen], style, label=label)
    for point in best:
        axes.annotate(f"{point.interval:,} cycles", (point.cells, point.rate), xytext=(6, -10),
                      textcoords="offset points", fontsize=7, color="0.4")
    axes.set(xscale="log", yscale="log", xlabel=f"logic cells of {chip.name}",
             ylabel="inferences a second", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        figure.savefig(path, dpi=130)
        replace_file(file, path.read_bytes())
