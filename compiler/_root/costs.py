"""Fits the weights of `nomul.boards.estimate` against synthesis: ``python -m nomul.costs docs``.

Writes ``boards/costs.json``, and the table of docs/costs.md: the errors of these weights on the
networks that they were fitted on, and on each network with weights that were fitted without it,
as a new network meets them.
"""
from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from nomul.compiler.network import (
    Argmax,
    Dense,
    Flatten,
    Input,
    Layer,
    Levels,
    Network,
    Staircase,
    Weighted,
)
from nomul.compiler.plan import Plan, plan_interval
from nomul.compiler.planner import Foldings, make_engine_plan, make_plan
from nomul.compiler.storage import load
from nomul.hw.circuits import ProductCircuit
from nomul.sizing import plan_within, registered
from nomul.tables import table, versions

__all__ = ["Sample", "collect", "corpus", "errors", "fit", "main", "random_networks", "within",
           "write"]

CHIPS = {Family.ECP5: "ecp5-85k", Family.ICE40: "ice40-hx8k"}
# Plans of each network, by the beginning of its name. Cycles between inferences, at most;
_INTERVALS: dict[str, tuple[int, ...]] = {
    "digits": (4096, 1200, 700, 200, 1),
    "mnist": (209_000, 60_000, 30_000, 12_000),
    "fashion": (400_000, 100_000, 48_000, 24_000),
    "cifar10_mobile": (2_500_000,),
    "cifar10_resnet20": (4_500_000,),
    "random": (4096, 300),
}
# those of lean plans;
_LEAN: dict[str, tuple[int, ...]] = {"mnist": (30_000,), "cifar10_resnet20": (150_000,)}
# lanes of each layer of plans with buckets;
_BUCKETS: dict[str, tuple[int, ...]] = dict.fromkeys(
    ("digits_fixed", "digits_free", "digits_pruned"), (1, 2))
# and those of an engine for all layers.
_ENGINES: dict[str, tuple[int, ...]] = {
    "digits": (8,), "mnist": (4, 16), "fashion": (8,), "cifar10": (16,), "random": (4,)}
# Of networks that are too large for it, the smaller chip has none.
_ONLY_ECP5 = "cifar10"
# How strongly weights are drawn to what a circuit on paper takes; figures are relative ones.
_RIDGE = 0.1
_LOGIC = {"choice table": 1.0, "gate table": 1.0, "inversion table": 1.0, "rom": 1.0,
          "registers": 0.5}
_SUMS = {"alu": 1.0, "macc": 0.2, "macc sum": 1.0, "order": 1.0}
_ON_PAPER: dict[Family, dict[str, dict[str, float]]] = {
    Family.ICE40: {"lut4": {**_LOGIC, **_SUMS}, "carry": _SUMS,
                   "logic_cells": {**_LOGIC, **_SUMS, "ff": 0.5}},
    Family.ECP5: {"lut4": {**_LOGIC, "macc": 0.3},
                  "carry": {kind: bits / 2 for kind, bits in _SUMS.items()},
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


def _plans(name: str, network: Network, family: Family) -> Iterator[tuple[str, Plan]]:
    """Plans of a network as the planner makes them for a chip, and what they are in words."""
    foldings, chip = Foldings(network), target(CHIPS[family])

    def planned(most: int, words: str, *, lean: bool) -> tuple[str, Plan]:
        plan = plan_within(network, foldings, chip, most, lean=lean)
        return f"{words}{plan_interval(plan, network):,} cycles", plan

    for most in _of(_INTERVALS, name):
        yield planned(most, "", lean=False)
    for most in _of(_LEAN, name):
        yield planned(most, "lean, ", lean=True)
    weighted = [layer.name for layer in network.layers if isinstance(layer, Weighted)]
    for lanes in _of(_BUCKETS, name):
        plan = make_plan(network, default=(lanes, 1), registered=registered(chip),
                         products=dict.fromkeys(weighted, ProductCircuit.BUCKETS))
        yield f"buckets, {plan_interval(plan, network):,} cycles", plan
    for lanes in _of(_ENGINES, name):
        yield f"engine of {lanes} lanes", make_engine_plan(network, lanes,
                                                           registered=registered(chip))


def _of(plans: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    return sum((found for prefix, found in plans.items() if name.startswith(prefix)), ())


def corpus(zoo: Path) -> list[tuple[str, Network, str, Plan, Family]]:
    """What is synthesized: networks by their names, plans and what they are in words, families.

    The longest come first, so that processors end together.
    """
    files = sorted(zoo.glob("*.nomul"), key=lambda file: -file.stat().st_size)
    networks = {file.stem: load(file) for file in files} | {
        network.name: network for network in random_networks()}
    return [(name, network, text, plan, family) for name, network in networks.items()
            for family in CHIPS if family is Family.ECP5 or not name.startswith(_ONLY_ECP5)
            for text, plan in _plans(name, network, family)]


def random_networks() -> list[Network]:
    """Networks of two dense layers with random weights, for what the zoo's do not have: other
    dictionaries and thresholds, tables of products, corrections and widths of their own."""
    rng = np.random.default_rng(7)
    kinds: dict[str, dict[str, Any]] = {
        "pow2_2bit": {"dictionary": [-2, -1, 1, 2]},
        "pow2_4bit": {"dictionary": [sign << n for n in range(8) for sign in (-1, 1)]},
        "any_2bit": {"dictionary": [-7, -3, 2, 9]},
        "any_3bit": {"dictionary": [-23, -12, -5, 0, 3, 7, 14, 29]},
        "table_2bit": {"dictionary": [-2, -1, 1, 2], "table": rng.integers(-15, 16, (4, 16))},
        "corrections": {"dictionary": [-4, -1, 1, 4]},
        "widths": {"dictionary": [0, -2, 2, -4, -1, 1, 4]},
    }
    return [_random_network(rng, f"random_{kind}", **options) for kind, options in kinds.items()]


def _random_network(rng: np.random.Generator, name: str, **options: Any) -> Network:
    layers: list[Layer] = [Input(name="pixels", shape=(4, 4, 3), levels=Levels.uniform(16)),
                           Flatten(name="flat", inputs=("pixels",))]
    entries, fan_in = len(options["dictionary"]), 48
    for number, outputs in enumerate((24, 10), 1):
        assignment = rng.integers(0, entries, (outputs, fan_in))
        extra: dict[str, Any] = {}
        if name.endswith("corrections"):
            places = np.sort(rng.choice(assignment.size, 20, replace=False))
            extra["corrections"] = np.stack([places // fan_in, places % fan_in,
                                             rng.choice([-9, -5, 5, 9], 20)], axis=1)
        elif name.endswith("widths"):
            # Rows of two bits, of one bit, and of none.
            extra["widths"] = widths = rng.choice([2, 1, 0], outputs, p=[0.5, 0.4, 0.1])
            for width, first, size in ((0, 0, 1), (1, 1, 2), (2, 3, 4)):
                assignment[widths == width] = first + rng.integers(
                    0, size, (int((widths == width).sum()), fan_in))
        layer = Dense(name=f"dense{number}", inputs=(layers[-1].name,), assignment=assignment,
                      bias=rng.integers(-50, 51, outputs), **options, **extra)
        if number == 1:
            sums = layer.accumulators(Levels.uniform(16))
            reach = int(max(sums[1].max(), -sums[0].min()))
            layer = replace(layer, staircase=Staircase(
                thresholds=np.sort(rng.integers(-reach // 4, reach // 4, (outputs, 15))),
                levels=Levels.uniform(16)))
        layers.append(layer)
        fan_in = outputs
    return Network(name=name, layers=(*layers, Argmax(name="best", inputs=("dense2",))))


def collect(zoo: Path) -> list[Sample]:
    """Synthesize the corpus, on all processors; networks by name."""
    tasks = corpus(zoo)
    samples: list[Sample] = []
    for sample in joblib.Parallel(n_jobs=-1, return_as="generator")(
            joblib.delayed(_sample)(*task) for task in tasks):
        samples.append(sample)
        print(f"{len(samples)} of {len(tasks)}: {sample.network}, {sample.plan}, "
              f"{CHIPS[sample.family]}", flush=True)
    return sorted(samples, key=lambda sample: sample.network)


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
        table(("network", "plan", "chip", "LUT4", "with", "without", "logic cells", "with",
               "without", "block RAM"), lines))) + "\n")
    print(table(header, rows))


def main(docs: Path) -> None:
    """Synthesize, fit, and write the table."""
    write(collect(docs.parent / "examples" / "zoo"), docs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
