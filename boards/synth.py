"""An Amaranth component to a bitstream and its figures, with nothing but packages from PyPI."""
from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from nomul.boards.place import PACKER, PLACER, Placement, pack, place
from nomul.boards.shell import PinShell
from nomul.boards.targets import Target
from nomul.boards.tools import RunFailure, Tool, require
from nomul.boards.top import BoardTop
from nomul.boards.yosys import Counts, Netlist, count_layers, make_netlist
from nomul.compiler.errors import DataError, FitError, ToolError
from nomul.compiler.files import new_folder, replace_file
from nomul.hw.branch import Queue

__all__ = ["Progress", "Synthesis", "run_folder", "synthesize", "synthesize_in"]

#: Called with the steps done, the steps in all, and what has just been done.
Progress = Callable[[int, int, str], None]

_RESULT = "synthesis.json"
# What nextpnr says when a circuit is too big, rather than wrong.
_TOO_BIG = re.compile(r"plac|rout|BEL|utili[sz]ation", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What a circuit takes on a chip, and how fast it is there.

    Attributes
    ----------
    target : Target
        The chip.
    counts : Counts
        Cells of the netlist.
    multipliers : int
        Multiplications in the circuit, mapped to a multiplier block or not.
    logic_cells : int
        Logic cells after packing.
    placements : tuple of Placement
        One for each seed that was placed and routed, by seed; at least one.
    failed_seeds : tuple of int
        Seeds without a place or a route.
    layers : mapping of str to Counts
        Cells of each layer before packing; see `nomul.boards.yosys.count_layers`.
    memories : mapping of str to int
        Block RAMs of each memory; see `nomul.boards.yosys.Netlist`.
    bitstream : str
        File name of the fastest placement's bitstream, in the folder of the run.
    """

    target: Target
    counts: Counts
    multipliers: int
    logic_cells: int
    placements: tuple[Placement, ...]
    failed_seeds: tuple[int, ...]
    layers: Mapping[str, Counts]
    memories: Mapping[str, int]
    bitstream: str

    @property
    def weight_blocks(self) -> int:
        """Block RAMs that hold weights, and nothing else."""
        return sum(blocks for name, blocks in self.memories.items()
                   if any(part.split("$")[0] == "weights" for part in name.split(".")))

    def as_json(self) -> dict[str, Any]:
        """The figures in plain types, clocks in MHz and memory in bits."""
        capacity = self.target.capacity
        clocks = [placement.fmax_mhz for placement in self.placements]
        return asdict(self.counts) | {
            "target": self.target.name,
            "multipliers": self.multipliers,
            "logic_cells": self.logic_cells,
            "fits": True,
            "capacity": {"logic_cells": capacity.logic_cells, "bram": capacity.bram,
                         "dsp": capacity.dsp},
            "fmax_mhz": {
                "min": min(clocks),
                "median": statistics.median(clocks),
                "max": max(clocks),
                "seeds": {str(placement.seed): placement.fmax_mhz
                          for placement in self.placements},
            },
            "failed_seeds": list(self.failed_seeds),
            "layers": {name: asdict(counts) for name, counts in self.layers.items()},
            "memories": dict(self.memories),
            "bram_bits": {"allocated": self.counts.bram * capacity.bram_block_bits,
                          "weights": self.weight_blocks * capacity.bram_block_bits},
            "bitstream": self.bitstream,
        }


def synthesize(component: wiring.Component, name: str, target: Target, folder: Path, *,
               seeds: Sequence[int] = (1, 2, 3, 4, 5), clock_mhz: float | None = None,
               jobs: int | None = None, progress: Progress | None = None) -> Synthesis:
    """Synthesize ``component``, place and route it once a seed, pack the fastest result.

    A circuit that is surely too big for the chip is refused before place and route, which could
    take minutes to find out.

    Parameters
    ----------
    component : wiring.Component
        The circuit, with one clock. Wrap a network in `PinShell`: its layers are then those of
        the network inside.
    name : str
        The network's name, for messages and for the bitstream's file.
    target : Target
        The chip.
    folder : Path
        Becomes the folder of this run: netlist, logs, reports, bitstream and ``synthesis.json``.
        It is replaced whole and only after success; an earlier run stays until then.
    seeds : sequence of int
        Starting points of the placer; at least one, all different.
    clock_mhz : float, optional
        Clock that place and route aims at, in MHz; the chip's ``goal_mhz`` unless given. Missing
        it is no error.
    jobs : int, optional
        Seeds placed at a time; one for each processor unless given. Each may need 1 GB.
    progress : Progress, optional
        Called from this thread after each step.

    Raises
    ------
    FitError
        The circuit needs more than the chip has; the message names every resource exceeded.
    ToolError
        A tool is missing or failed; the message names its log, which is kept beside ``folder``.
    DataError
        ``folder`` holds something other than an earlier run, or cannot be written.
    ValueError
        ``seeds`` is empty or repeats one.
    """
    with run_folder(name, target, folder) as work:
        synthesis = synthesize_in(work, component, name, target, seeds=seeds, clock_mhz=clock_mhz,
                                  jobs=jobs, progress=progress)
    return synthesis


@contextmanager
def run_folder(name: str, target: Target, folder: Path) -> Iterator[Path]:
    """An empty folder to run in, which becomes ``folder`` if all goes well.

    Raises
    ------
    FitError, ToolError, DataError
        As `synthesize` does; a failed tool's log is kept beside ``folder``.
    """
    require(Tool.YOSYS, PLACER[target.family], PACKER[target.family])
    _check_replaceable(folder)
    with new_folder(folder) as work, _failures_kept(name, target, folder):
        yield work


def synthesize_in(work: Path, component: wiring.Component, name: str, target: Target, *,
                  seeds: Sequence[int], clock_mhz: float | None = None, jobs: int | None = None,
                  constraints: str | None = None, progress: Progress | None = None) -> Synthesis:
    """What `synthesize` does, in a folder of `run_folder`.

    Parameters
    ----------
    work : Path
        Where to run; what an earlier run left there is overwritten.
    constraints : str, optional
        Pins of all ports and clocks of the inputs, as nextpnr reads them; without them pins are
        wherever it puts them.

    Raises
    ------
    RunFailure
        A tool failed.
    FitError
        The circuit needs more than the chip has.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"Seeds must be at least one and all different, not {tuple(seeds)!r}")
    steps = len(seeds) + 2

    def report(done: int, what: str) -> None:
        if progress is not None:
            progress(done, steps, what)

    netlist, layers = _map(component, target, work)
    _check_fit(name, target, netlist, component)
    report(1, f"Yosys: {netlist.counts.lut4:,} tables, {netlist.counts.ff:,} flip-flops")
    placements: list[Placement] = []
    failures: list[RunFailure] = []
    for done, result in enumerate(place(netlist.file, target, work, seeds,
                                        clock_mhz=clock_mhz or target.goal_mhz,
                                        jobs=jobs or os.cpu_count() or 1,
                                        constraints=constraints), 2):
        if isinstance(result, RunFailure):
            failures.append(result)
            report(done, f"nextpnr: {result.reason}")
        else:
            placements.append(result)
            report(done, f"nextpnr: {result.fmax_mhz:.1f} MHz with seed {result.seed}")
    if not placements:
        raise failures[-1]
    placements.sort(key=lambda placement: placement.seed)
    best = max(placements, key=lambda placement: placement.fmax_mhz)
    synthesis = Synthesis(
        target=target, counts=netlist.counts, multipliers=netlist.multipliers,
        logic_cells=best.logic_cells, placements=tuple(placements),
        failed_seeds=tuple(sorted(set(seeds) - {placement.seed for placement in placements})),
        layers=layers, memories=netlist.memories, bitstream=pack(best, target, work, name))
    replace_file(work / _RESULT, json.dumps(synthesis.as_json(), indent=1) + "\n")
    report(steps, f"bitstream {synthesis.bitstream}")
    return synthesis


def _map(component: wiring.Component, target: Target,
         work: Path) -> tuple[Netlist, dict[str, Counts]]:
    """The flat netlist and the counts of its layers, both at a time."""
    network = component.layers if isinstance(component, PinShell | BoardTop) else "top"
    with ThreadPoolExecutor(1) as pool:
        layers = pool.submit(count_layers, component, network, target, work)
        return make_netlist(component, target, work), layers.result()


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _RESULT).exists():
        raise DataError(f"folder '{folder}' must be empty or hold an earlier synthesis, because "
                        "its contents are replaced; choose another place")


def _check_fit(name: str, target: Target, netlist: Netlist, component: wiring.Component) -> None:
    capacity = target.capacity
    excess = [f"it needs at least {needed:,} {what} and the chip has {available:,}"
              for what, needed, available in (
                  ("logic cells", netlist.least_logic_cells, capacity.logic_cells),
                  ("flip-flops", netlist.counts.ff, capacity.logic_cells),
                  ("block RAMs", netlist.counts.bram, capacity.bram),
                  ("multiplier blocks", netlist.counts.dsp, capacity.dsp),
                  ("SPRAMs", netlist.counts.spram, capacity.spram),
                  ("pins", netlist.pins, capacity.pins),
              ) if needed > available]
    if excess:
        remedies = ["fewer lanes (--fold)", "fewer block RAMs (--lean)"]
        if (netlist.counts.bram > capacity.bram and isinstance(component, BoardTop)
                and component.core.linked.depth > Queue.registers):
            remedies.append(f"none for the line (--queue {Queue.registers})")
        raise FitError(f"network '{name}' does not fit {target.name}: {'; '.join(excess)}; "
                       f"use {', '.join(remedies)} or a larger chip")


@contextmanager
def _failures_kept(name: str, target: Target, folder: Path) -> Iterator[None]:
    """Turn a tool's failure into a sentence, and keep its log beside ``folder``."""
    try:
        yield
    except RunFailure as failure:
        log = folder.with_name(f"{folder.name}-{failure.log.name}")
        replace_file(log, failure.log.read_bytes())
        if failure.tool in PLACER.values() and _TOO_BIG.search(failure.reason):
            raise FitError(f"network '{name}' does not fit {target.name}: {failure.tool.title} "
                           f"reports '{failure.reason}' (log: {log}); use fewer lanes (--fold) "
                           "or a larger chip") from failure
        raise ToolError(f"network '{name}': {failure.tool.title} failed with "
                        f"'{failure.reason}'; see its log '{log}'") from failure
