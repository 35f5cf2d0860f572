"""Fits the weights of `nomul.boards.estimate` against synthesis: ``python -m nomul.costs docs``.

Writes ``boards/costs.json``, and the table of docs/costs.md: the errors of these weights on the
networks that they were fitted on, and on each network with weights that were fitted without it,
as a new network meets them.
"""
from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

from nomul.boards.estimate import FITTED, Features, features, merged
from nomul.boards.place import packed_cells
from nomul.boards.shell import PinShell
from nomul.boards.targets import Family, target
from nomul.boards.yosys import make_netlist
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, plan_interval
from nomul.compiler.planner import fastest, fold_for_interval, make_plan
from nomul.compiler.storage import load
from nomul.tables import table, versions

__all__ = ["Sample", "collect", "errors", "fit", "main", "within", "write"]

CHIPS = {Family.ECP5: "ecp5-85k", Family.ICE40: "ice40-hx8k"}
# Cycles between inferences of the plans of each network, by the beginning of its name; None is
# the fastest plan there is.
INTERVALS: dict[str, tuple[int | None, ...]] = {
    "digits": (4096, 1200, 700, 200, None),
    "mnist": (209_000, 60_000, 30_000, 12_000),
    "fashion": (400_000, 100_000, 48_000, 24_000),
    "cifar10": (4_500_000,),
}
# How strongly weights are drawn to what a circuit on paper takes; figures are relative ones.
_RIDGE = 0.2
_LOGIC = {"mux": 1, "mask": 0.5, "pmux": 0.5, "decode": 1 / 3, "compare": 2 / 3, "gate": 0.5,
          "gates": 0.7, "inversions": 1, "reduce": 1 / 3, "rom": 1, "table": 1, "shift": 1,
          "bmux": 0.5, "registers": 0.5}
_SUMS = {"alu": 1.0, "macc": 0.2, "macc sum": 1.0, "order": 1.0}
_ON_PAPER: dict[Family, dict[str, dict[str, float]]] = {
    Family.ICE40: {"lut4": {**_LOGIC, **_SUMS}, "carry": _SUMS,
                   "logic_cells": {**_LOGIC, **_SUMS, "ff": 0.5}},
    Family.ECP5: {"lut4": _LOGIC, "carry": {kind: bits / 2 for kind, bits in _SUMS.items()},
                  "logic_cells": {**_LOGIC, **_SUMS, "lutram": 4}},
}
_REGISTERS = {"ff": 1.0, "rom row": 1.0, "registers": 1.0}
# What is counted and needs no weight.
_EXACT = ("bram", "lutram", "dsp")
# What look-up tables are not made of.
_NO_LOGIC = {*_EXACT, "ff"}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A synthesized plan.

    Parameters
    ----------
    network, plan : str
        Its names.
    family : Family
    features : mapping
        What the estimate counts.
    figures : mapping of str to int
        Cells, as synthesized.
    """

    network: str
    plan: str
    family: Family
    features: Features
    figures: Mapping[str, int]


def fit(samples: Sequence[Sample], figure: str) -> dict[str, float]:
    """Weights of at least 0 with the least squared relative error in ``figure``."""
    from scipy.optimize import nnls

    paper = _ON_PAPER[samples[0].family].get(figure, _REGISTERS)
    kinds = sorted({*paper, *(kind for sample in samples for kind in sample.features)})
    if figure in ("carry", "ff"):
        kinds = sorted(paper)
    elif figure == "lut4":
        kinds = [kind for kind in kinds if kind not in _NO_LOGIC]
    else:
        kinds = [kind for kind in kinds if kind not in ("bram", "dsp")]
    counts = np.array([[sample.features.get(kind, 0) for kind in kinds] for sample in samples])
    true = np.array([max(1, sample.figures[figure]) for sample in samples])
    relative = counts / true[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-9)
    system = np.vstack([relative / scale, _RIDGE * np.eye(len(kinds))])
    found: NDArray[np.float64] = nnls(system, np.concatenate(
        [np.ones(len(samples)),
         [_RIDGE * weight * paper.get(kind, 0) for kind, weight in zip(kinds, scale, strict=True)],
         ]))[0] / scale
    return {kind: round(float(weight), 4) for kind, weight in zip(kinds, found, strict=True)
            if round(float(weight), 4)}


def errors(samples: Sequence[Sample], figure: str, *, held_out: bool,
           ) -> list[tuple[Sample, float]]:
    """The relative error of each sample's estimate, from weights that were fitted on all; or, if
    ``held_out``, without any sample of its network."""
    weights = fit(samples, figure)
    result = []
    for name in dict.fromkeys(sample.network for sample in samples):
        if held_out:
            weights = fit([sample for sample in samples if sample.network != name], figure)
        for sample in samples:
            if sample.network == name:
                guess = sum(weights.get(kind, 0) * count
                            for kind, count in sample.features.items())
                result.append((sample, guess / max(1, sample.figures[figure]) - 1))
    return result


def within(found: Sequence[tuple[Sample, float]], bound: float) -> int:
    """How many errors are at most ``bound``."""
    return sum(abs(error) <= bound for _, error in found)


def _sample(name: str, network: Network, text: str, plan: Plan, family: Family) -> Sample:
    chip = target(CHIPS[family])
    component = PinShell(lower(network, plan))
    with tempfile.TemporaryDirectory(prefix="nomul-") as folder:
        counted = merged(features(component, "top.network.body", chip, Path(folder)).values())
        netlist = make_netlist(component, chip, Path(folder))
        cells = packed_cells(netlist.file, chip, Path(folder))
    return Sample(network=name, plan=text, family=family, features=counted, figures={
        **asdict(netlist.counts), "logic_cells": cells})


def _corpus(zoo: Path) -> list[tuple[str, Network, str, Plan]]:
    corpus = []
    for file in sorted(zoo.glob("*.nomul"), key=lambda file: file.stat().st_size):
        network = load(file)
        for interval in INTERVALS[file.stem.split("_")[0]]:
            folds, lanes = fastest(network) if interval is None else (
                fold_for_interval(network, interval), 1)
            plan = make_plan(network, folds, input_lanes=lanes)
            text = f"{plan_interval(plan, network):,} cycles"
            corpus.append((file.stem, network, text, plan))
    return corpus


def collect(zoo: Path) -> list[Sample]:
    """Synthesize the corpus, on all processors."""
    tasks = [(*entry, family) for entry in _corpus(zoo) for family in CHIPS
             if not (family is Family.ICE40 and entry[0].startswith("cifar10"))]
    samples: list[Sample] = []
    for sample in joblib.Parallel(n_jobs=-1, return_as="generator")(
            joblib.delayed(_sample)(*task) for task in tasks):
        samples.append(sample)
        print(f"{len(samples)} of {len(tasks)}: {sample.network} {sample.plan}", flush=True)
    return samples


def write(samples: Sequence[Sample], docs: Path) -> None:
    """Fit, and write ``costs.md`` in ``docs`` and ``costs.json`` of the package."""
    weights, rows, lines = {}, [], []
    for family, chip in CHIPS.items():
        of_chip = [sample for sample in samples if sample.family is family]
        weights[family.value] = {figure: fit(of_chip, figure) for figure in FITTED}
        exact = sum(all(sample.features.get(kind, 0) == sample.figures[kind] for kind in _EXACT)
                    for sample in of_chip)
        found = {(figure, held_out): errors(of_chip, figure, held_out=held_out)
                 for figure in FITTED for held_out in (False, True)}
        for held_out, text in ((False, "with it"), (True, "without it")):
            rows.append((chip, len(of_chip), text, *(
                f"{within(found[figure, held_out], 0.1)}, at most "
                f"{max(abs(error) for _, error in found[figure, held_out]):.0%}"
                for figure in FITTED), exact))
        for n, (sample, _) in enumerate(found["lut4", False]):
            lines.append((sample.network, sample.plan, chip, *(
                text for figure in ("lut4", "logic_cells") for text in (
                    sample.figures[figure], *(f"{found[figure, held_out][n][1]:+.1%}"
                                              for held_out in (False, True)))),
                sample.figures["bram"]))
    header = ("chip", "plans", "fitted", "LUT4", "carry", "FF", "logic cells", "memories")
    replace_file(docs.parent / "boards" / "costs.json", json.dumps(weights, indent=1) + "\n")
    replace_file(docs / "costs.md", "\n\n".join((
        "# Estimates against synthesis",
        "Made by `make bench`; do not edit. " + versions("pyosys", "nextpnr-ice40",
                                                         "nextpnr-ecp5", "amaranth"),
        "What `nomul build`, `--max-cells` and `nomul explore` say of a circuit before any logic "
        "is mapped (`nomul.boards.estimate`), beside what Yosys then makes of it.",
        "## Summary",
        "Plans whose estimate is within 10 %, and the largest error: with the weights that nomul "
        "has, which were fitted on all of these networks (*with it*), and with weights that were "
        "fitted on all but the network in question (*without it*), as a new network meets them. "
        "*Memories* counts plans of which block RAM, distributed RAM and multiplier blocks are "
        "all exact. Logic cells are nextpnr's, packed.",
        table(header, rows),
        "## Each plan",
        table(("network", "interval", "chip", "LUT4", "with", "without", "logic cells", "with",
               "without", "block RAM"), lines))) + "\n")
    print(table(header, rows))


def main(docs: Path) -> None:
    """Synthesize, fit, and write the table."""
    write(collect(docs.parent / "examples" / "zoo"), docs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
