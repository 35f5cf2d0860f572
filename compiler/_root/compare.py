"""Methods side by side: one float net compressed by each, trained, proved and synthesized.

Each row of the table is a network that was exported, played bit by bit in Verilator against the
golden model, and placed and routed: nothing is estimated. A comparison that is interrupted goes
on where it was.
"""
from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomul.boards.doctor import tool_versions
from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import Target
from nomul.compiler.compactness import compactness
from nomul.compiler.emit import emit
from nomul.compiler.errors import DataError, FitError
from nomul.compiler.files import replace_file
from nomul.compiler.layers import Weighted
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.planner import fold_for_interval, make_plan
from nomul.compiler.quantize.checkpoints import Checkpoint
from nomul.compiler.quantize.datasets import Dataset
from nomul.compiler.quantize.datasets import load as load_data
from nomul.compiler.quantize.export import layer_codes
from nomul.compiler.quantize.methods import Method
from nomul.compiler.quantize.recipes import Recipe
from nomul.compiler.quantize.training import Teacher, Trained, train
from nomul.compiler.storage import save
from nomul.sim import golden
from nomul.sim.vectors import make_vectors
from nomul.sim.verilator import simulate
from nomul.sizing import registered
from nomul.tables import table

__all__ = ["Row", "Size", "cells", "compare", "markdown", "plot", "size_of"]

Progress = Callable[[str, int, int, str], None]
_FLOAT_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a network's weights take.

    Parameters
    ----------
    weights, weight_bits : int
        Weights, and the bits that store their assignments.
    ratio : float
        Compression ratio of the LC paper (arXiv 1707.04319): all parameters with 32 bits, over
        assignments, biases and dictionary entries, of which the latter two have 32 bits.
    table_entries : int
        Products of a dictionary entry and an input code, of all layers (arXiv 1906.04798).
    multiplications, regrouped : int
        Multiplications of an inference with one for each weight, and with one for each dictionary
        entry that is no power of two and each output (arXiv 1811.05355). The hardware has none.
    """

    weights: int
    weight_bits: int
    ratio: float
    table_entries: int
    multiplications: int
    regrouped: int


@dataclass(frozen=True, kw_only=True)
class Row(Size):
    """A method's network, measured. What a chip that is too small cannot tell is None.

    Parameters
    ----------
    name : str
        Of the method and its settings, as given.
    digest : str
        Of the network.
    float_accuracy, accuracy : float
        On all test images: of the float net, and of the golden model.
    exact : int
        Test images of which torch's classes equal the golden model's.
    played, mismatches : int
        Images played in Verilator, and how many of them had a wrong beat anywhere.
    interval : int
        Cycles between inferences.
    logic_cells, lut4, ff, bram, dsp : int or None
        Of the chip; DSP blocks and multipliers.
    fmax_mhz : float or None
        Median of the seeds.
    """

    name: str
    digest: str
    float_accuracy: float
    accuracy: float
    exact: int
    played: int
    mismatches: int
    interval: int
    logic_cells: int | None = None
    lut4: int | None = None
    ff: int | None = None
    bram: int | None = None
    dsp: int | None = None
    fmax_mhz: float | None = None


def size_of(network: Network) -> Size:
    """What the weights of ``network`` take, and what they would multiply."""
    weights = bits = parameters = others = products = regrouped = 0
    for layer in network.layers:
        if not isinstance(layer, Weighted):
            continue
        outputs = math.prod(network.wires[layer.name].shape)
        real = [value for value in layer.dictionary.tolist() if abs(value) & (abs(value) - 1)]
        weights += layer.assignment.size
        bits += layer.stored_bits
        parameters += layer.assignment.size + layer.outputs
        others += layer.outputs + len(layer.dictionary)
        products += outputs * layer.fan_in
        regrouped += outputs * (0 if layer.table is not None else len(real)) + layer.corrected
    return Size(weights=weights, weight_bits=bits, table_entries=compactness(network).products,
                ratio=parameters * _FLOAT_BITS / (bits + others * _FLOAT_BITS),
                multiplications=products, regrouped=regrouped)


def compare(recipe: Recipe, methods: Mapping[str, Method], folder: Path, *, chip: Target,
            interval: int | None = None, images: int = 100, seeds: int = 1, seed: int = 0,
            epochs: int | None = None, cache: Path | None = None,
            progress: Progress | None = None) -> list[Row]:
    """Train, prove and synthesize a network of ``recipe`` with each of ``methods``.

    Parameters
    ----------
    recipe : Recipe
        What is learned. All methods start from one float net.
    methods : mapping
        By the names that the rows get.
    folder : Path
        Gets checkpoints, a network for each method and ``compare.json``. What is there with the
        same settings, a row or the float net, is not made again.
    chip : Target
        What is synthesized for.
    interval : int, optional
        Cycles between inferences to reach with the fewest lanes; if omitted, one lane.
    images : int
        Test images to play in Verilator.
    seeds : int
        Placements; the clock is their median.
    seed, epochs, cache
        As of `nomul.compiler.quantize.training.fit`.
    progress : callable, optional
        Called with a stage, steps done, steps in all, and a line of text.

    Raises
    ------
    NomulError
        As training, simulation and synthesis do; a chip that is too small leaves gaps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(recipe.dataset, cache=cache)
    rows: dict[str, Row] = {}
    known = _known(folder / "compare.json")
    training = {"recipe": recipe.settings(), "seed": seed, "epochs": epochs, "data": data.digest}
    floats = Checkpoint(folder / f"{_file_name('float net', training)}.ckpt", training)
    kept = floats.stage("teacher")
    teacher = None if kept is None else Teacher(**kept)
    for name, method in methods.items():
        settings = {**training, "method": method.settings()}
        file = folder / _file_name(name, settings)
        identity = json.dumps({**settings, "chip": chip.name, "interval": interval,
                               "images": images, "seeds": seeds}, sort_keys=True)
        if identity in known:
            rows[name] = Row(**{**known[identity], "name": name})
            continue

        def report(stage: str, done: int, total: int, text: str, name: str = name) -> None:
            if progress:
                progress(f"{name}: {stage}", done, total, text)

        trained = train(recipe, method, data=data, seed=seed, epochs=epochs, teacher=teacher,
                        checkpoint=file.with_suffix(".ckpt"), progress=report)
        if teacher is None:
            teacher = trained.teacher
            floats.keep("teacher", {"state": teacher.state, "generator": teacher.generator})
        save(trained.network, file.with_suffix(".nomul"),
             provenance={**trained.provenance, "name": name})
        rows[name] = _measure(name, trained, data, folder, chip, interval, images, seeds, report)
        known[identity] = asdict(rows[name])
        replace_file(folder / "compare.json", json.dumps(
            {"rows": known, "tools": tool_versions()}, indent=1) + "\n")
    return [*rows.values()]


def _file_name(name: str, settings: Mapping[str, Any]) -> str:
    """A file's name without its ending: ``name`` in letters, and what tells ``settings`` apart."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") + "-" + digest[:8]


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier comparison, by what they were made from."""
    if not file.is_file():
        return {}
    try:
        rows = json.loads(file.read_text())["rows"]
        for row in rows.values():
            Row(**row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"comparison '{file}' must be a whole file of nomul compare; remove it, "
                        "or name another folder") from error
    return dict(rows)


def _measure(name: str, trained: Trained, data: Dataset, folder: Path, chip: Target,
             interval: int | None, images: int, seeds: int, report: Progress) -> Row:
    """Golden model and torch on all test images, Verilog on some, and the chip."""
    network = trained.network
    codes, labels = data.codes(network.input.levels)[data.test], data.labels[data.test]
    right = exact = 0
    parts = np.array_split(np.arange(len(codes)), max(1, len(codes) // 250))
    for done, part in enumerate(parts):
        classes = golden.run(network, codes[part]).classes
        torchs = [*layer_codes(trained.model, codes[part]).values()][-1].reshape(-1)
        right += int((classes == labels[part]).sum())
        exact += int((classes == torchs).sum())
        report("golden", done + 1, len(parts), "")
    plan = make_plan(network, fold_for_interval(network, interval) if interval else None,
                     registered=registered(chip))
    vectors = make_vectors(network, codes[:images], labels[:images], source=data.name,
                           split="test")
    result = simulate(network, plan, emit(network, plan), vectors,
                      progress=lambda stage, done, total: report(stage, done, total, ""))
    row = {**asdict(size_of(network)), "name": name, "digest": network.digest,
           "float_accuracy": trained.provenance["accuracy"]["float_test"],
           "accuracy": right / len(codes), "exact": exact, "played": result.images,
           "mismatches": result.mismatches, "interval": result.interval}
    try:
        figures = synthesize(
            PinShell(lower(network, plan)), network.name, chip, folder / network.digest[:12],
            seeds=tuple(range(1, seeds + 1)),
            progress=lambda done, total, text: report(chip.name, done, total, text)).as_json()
    except FitError as error:
        report(chip.name, 1, 1, str(error))
        return Row(**row)
    return Row(**row, logic_cells=figures["logic_cells"], lut4=figures["lut4"], ff=figures["ff"],
               bram=figures["bram"], dsp=figures["dsp"] + figures["multipliers"],
               fmax_mhz=figures["fmax_mhz"]["median"])


_COLUMNS: dict[str, Callable[[Row], object]] = {
    "method": lambda row: row.name,
    "float, %": lambda row: f"{100 * row.float_accuracy:.2f}",
    "accuracy, %": lambda row: f"{100 * row.accuracy:.2f}",
    "weight bits": lambda row: row.weight_bits,
    "bits a weight": lambda row: f"{row.weight_bits / row.weights:.2f}",
    "ratio": lambda row: f"{row.ratio:.2f}",
    "table entries": lambda row: row.table_entries,
    "products": lambda row: row.multiplications,
    "regrouped": lambda row: row.regrouped,
    "LUT4": lambda row: row.lut4,
    "FF": lambda row: row.ff,
    "block RAM": lambda row: row.bram,
    "DSP": lambda row: row.dsp,
    "Fmax, MHz": lambda row: None if row.fmax_mhz is None else f"{row.fmax_mhz:.1f}",
    "cycles": lambda row: row.interval,
    "bit-exact": lambda row: f"{row.played - row.mismatches} of {row.played}",
}


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and text of a table of ``rows``."""
    def text(value: object) -> str:
        if value is None:
            return "too small"
        return f"{value:,}" if isinstance(value, int) else str(value)
    return [*_COLUMNS], [[text(column(row)) for column in _COLUMNS.values()] for row in rows]


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    header, lines = cells(rows)
    return table(header, lines) + "\n"


def plot(rows: Sequence[Row], file: Path) -> None:
    """Accuracy against the bits of all weights, and against LUT4, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    figures: tuple[tuple[str, Callable[[Row], int | None]], ...] = (
        ("bits of all weights", lambda row: row.weight_bits), ("LUT4", lambda row: row.lut4))
    for axis, (label, value) in zip(axes, figures, strict=True):
        for number, row in enumerate(rows):
            at = value(row)
            if at is None:
                continue
            colour = f"C{number % 10}"
            axis.plot(at, 100 * row.accuracy, "o", color=colour)
            axis.annotate(row.name, (at, 100 * row.accuracy), xytext=(6, 5), color=colour,
                          textcoords="offset points", fontsize=8)
        axis.axhline(100 * rows[0].float_accuracy, color="0.6", linestyle="--", linewidth=1)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.margins(x=0.25)
    axes[0].set_ylabel("test accuracy, %  (dashed: float)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        figure.savefig(path, dpi=130)
        replace_file(file, path.read_bytes())
