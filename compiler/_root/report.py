"""A build folder as one HTML page for people and one JSON file for machines."""
from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.files import replace_file
from nomul.compiler.network import Argmax, Codes, Integers, Levels, Network, Weighted
from nomul.hw.circuits import ProductCircuit
from nomul.report_inputs import Build, Part, read_build

__all__ = ["collect", "write_report"]

Json = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into the build folder.

    The page holds its plots and its style; it reads nothing else. Equal folders
    give equal bytes. Nothing is written unless both files could be made, so that a
    folder which is refused keeps the report it had.

    Parameters
    ----------
    folder : Path
        What ``nomul build`` made, with ``sim.json`` and ``synth.json`` if they are there.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        A file is missing, broken or of another network.
    ToolError
        The packages that draw the page are not installed.
    """
    folder = Path(folder)
    build = read_build(folder)
    facts = collect(build)
    try:
        from nomul.report_page import render
    except ModuleNotFoundError as error:
        raise ToolError(f"package '{error.name}', which draws the report, must be installed; "
                        "run: pip install 'nomul[report]'") from error
    page = render(facts, build)
    text = json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    outputs = {folder / "report.json": text, folder / "report.html": page}
    for path in outputs:
        if path.is_dir():
            raise DataError(f"'{path}' must be a file, but is a folder; remove it")
    for path, content in outputs.items():
        replace_file(path, content)
    return folder / "report.html"


def collect(build: Build) -> Json:
    """All that the report says, as JSON values.

    Parameters
    ----------
    build : Build
        A build folder that was read.

    Returns
    -------
    dict
        The content of ``report.json``; what was not measured is None.
    """
    layers = _layers(build)
    cycles = _cycles(build)
    return {
        "network": _network(build.network, layers),
        "status": _status(build),
        "accuracy": _accuracy(build),
        "bitexact": _bitexact(build.sim),
        "cycles": cycles,
        "synthesis": _synthesis(build.synth, cycles["interval"]),
        "estimate": build.manifest.values.get("estimate"),
        "layers": layers,
        "memory": {layer["name"]: layer["memory"] for layer in layers},
        "confusion": _confusion(build),
        "tools": _tools(build),
        "provenance": build.provenance.values,
    }


def weighted_layers(network: Network) -> list[tuple[Weighted, Levels]]:
    """The layers that hold weights, and what the codes that they read mean."""
    pairs = []
    for layer in network.layers:
        if isinstance(layer, Weighted):
            wire, = network.reads(layer)
            assert isinstance(wire, Codes)
            pairs.append((layer, wire.levels))
    return pairs


def value_bits(dictionary: NDArray[np.int64]) -> int:
    """Bits that hold every entry: two's complement if one is negative; at least 1."""
    low, high = int(dictionary.min()), int(dictionary.max())
    if low < 0:
        return max((-low - 1).bit_length(), max(high, 0).bit_length()) + 1
    return max(1, high.bit_length())


def is_shift_add(products: NDArray[np.int64]) -> bool:
    """Whether each entry's products are an offset plus 0 or +-2**n times the code."""
    rises = (products - products[:, :1]).astype(object)
    if rises.shape[1] < 2:
        return True
    slopes = [int(slope) for slope in rises[:, 1]]
    codes = range(rises.shape[1])
    return all(abs(slope).bit_count() <= 1 and list(row) == [slope * code for code in codes]
               for slope, row in zip(slopes, rises, strict=True))


def _layers(build: Build) -> list[Json]:
    """One row for each layer with weights."""
    folds = {row.text("name"): row for row in build.plan.rows("layers")}
    estimate = build.manifest.part("estimate")
    estimates = estimate.part("layers") if estimate else None
    rows = []
    for layer, levels in weighted_layers(build.network):
        entries = len(layer.dictionary)
        stored, value = layer.stored_bits, value_bits(layer.dictionary)
        index = (layer.assignment_bits if layer.widths is None  # else their mean
                 else round(stored / layer.assignment.size, 2))
        shifts = is_shift_add(layer.products(levels))
        fold = folds.get(layer.name)
        multiplies = fold and fold.text("product") == ProductCircuit.MULTIPLY.value
        positions = prod(build.network.wires[layer.name].shape[:-1])  # of a kernel; else 1
        rows.append({
            "name": layer.name,
            "outputs": layer.outputs,
            "inputs": layer.fan_in,
            "weights": layer.assignment.size,
            "entries": entries,
            "zeros": int((layer.weights == 0).sum()),
            "products": "shift-add" if shifts else "table",
            "table_entries": 0 if shifts else entries * len(levels),
            "multiplications": {"before": layer.assignment.size * positions,
                                "after": layer.assignment.size * positions if multiplies else 0,
                                "regrouped": entries * layer.outputs * positions
                                + layer.corrected},
            "fold": {"outputs": fold.integer("outputs"), "inputs": fold.integer("inputs")}
                    if fold else None,
            "estimated_cycles": estimates.integer(layer.name) if estimates else None,
            "memory": {
                "index_bits": index,
                "value_bits": value,
                "assignments": stored,
                "dictionary": entries * value,
                "bits": stored + entries * value,
                "float32_bits": 32 * layer.assignment.size,
            },
        })
    return rows


def _network(network: Network, layers: list[Json]) -> Json:
    def total(*keys: str) -> int:
        values = []
        for layer in layers:
            value: Any = layer
            for key in keys:
                value = value[key]
            values.append(int(value))
        return sum(values)

    return {
        "name": network.name,
        "digest": network.digest,
        "weights": total("weights"),
        "weight_bits": total("memory", "assignments"),
        "memory_bits": total("memory", "bits"),
        "float32_bits": total("memory", "float32_bits"),
        "table_entries": total("table_entries"),
        "multiplications": {"before": total("multiplications", "before"),
                            "after": total("multiplications", "after"),
                            "regrouped": total("multiplications", "regrouped")},
    }


def _status(build: Build) -> Json:
    if build.sim is None:
        simulation = "not simulated"
    else:
        simulation = "differs" if build.sim.count("mismatches") else "bit-exact"
    return {"simulation": simulation,
            "synthesis": "not synthesised" if build.synth is None else "synthesised"}


def _accuracy(build: Build) -> Json:
    sim = build.sim
    split = (sim.text("split") if sim else None) or "test"
    trained = build.provenance.part("accuracy")
    golden = sim.fraction("golden_accuracy") if sim else None
    whole = trained.fraction(f"quantized_{split}") if trained else None
    if golden is None or (whole is not None and _is_part(build, split)):
        golden = whole  # of the whole split, not of the images simulated
    return {"float": trained.fraction(f"float_{split}") if trained else None,
            "golden": golden,
            "rtl": sim.fraction("accuracy") if sim else None,
            "images": sim.count("images") if sim else None,
            "partial": _is_part(build, split),
            "split": split}


def _is_part(build: Build, split: str) -> bool:
    """Whether only some images of the split were simulated."""
    data = build.provenance.part("data")
    sizes = data.part("sizes") if data else None
    total = sizes.integer(split) if sizes else None
    return bool(build.sim and total and build.sim.count("images") < total)


def _bitexact(sim: Part | None) -> Json:
    if sim is None:
        return dict.fromkeys(("images", "mismatches", "first_difference", "simulator", "stall",
                              "seed"))
    difference = sim.part("first_difference")
    return {"images": sim.count("images"),
            "mismatches": sim.count("mismatches"),
            "first_difference": difference.values if difference else None,
            "simulator": sim.text("simulator"),
            "stall": sim.number("stall"),
            "seed": sim.integer("seed")}


def _cycles(build: Build) -> Json:
    """Cycles measured; the ideal ones are estimates and known before any simulation."""
    cycles = build.sim.part("cycles") if build.sim else None
    estimate = build.manifest.part("estimate")
    found = {name: cycles.integer(name) if cycles else None
             for name in ("latency", "ideal_latency", "interval", "ideal_interval")}
    for name in ("ideal_latency", "ideal_interval"):
        if found[name] is None and estimate:
            found[name] = estimate.integer(name)
    return found


def _synthesis(synth: Part | None, interval: int | None) -> Json | None:
    if synth is None:
        return None
    targets = {}
    for name, target in synth.parts("targets").items():
        counts = {key: target.integer(key) for key in
                  ("lut4", "carry", "ff", "bram", "dsp", "logic_cells")}
        fmax = target.part("fmax_mhz")
        frequency = None
        if fmax:
            seeds = fmax.part("seeds")
            frequency = {**{key: fmax.number(key) for key in ("min", "median", "max")},
                         "seeds": {seed: seeds.number(seed) for seed in seeds.values}
                                  if seeds else {}}
        board = target.part("board")
        if board:
            board.flag("timing_met")
        # A board has a clock; a chip might have the one that its median placement reaches.
        clock = board.number("clock_mhz") if board else frequency["median"] if frequency else None
        rate = clock * 1e6 / interval if isinstance(clock, int | float) and interval else None
        targets[name] = {**target.values, **counts, "fits": target.flag("fits"),
                         "board": board.values if board else None,
                         "fmax_mhz": frequency, "inferences_per_second": rate}
    return targets


def _confusion(build: Build) -> list[list[int]] | None:
    """Images by true class (row) and predicted class (column)."""
    sim = build.sim
    labels = sim.integers("labels") if sim else None
    predictions = sim.integers("predictions") if sim else None
    if sim is None or not labels or predictions is None:
        return None
    if len(labels) != len(predictions):
        sim.refuse("labels", f"one for each of {len(predictions)} predictions")
    last = build.network.layers[-1]
    wire = build.network.output
    classes = wire.high + 1 if isinstance(last, Argmax) and isinstance(wire, Integers) else 0
    classes = max(classes, max(labels) + 1, max(predictions) + 1)
    if min(labels) < 0 or min(predictions) < 0 or classes > 1000:
        sim.refuse("labels", "classes from 0 to 999, like its predictions")
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.array(labels), np.array(predictions)), 1)
    rows: list[list[int]] = counts.tolist()
    return rows


def _tools(build: Build) -> Json:
    tools: Json = {"nomul": version("nomul")}
    for part in (build.manifest, build.synth):
        named: Mapping[str, Any] = (part.part("tools") or part).values if (
            part and part.part("tools")) else {}
        tools.update(named)
    simulator = build.sim.text("simulator") if build.sim else None
    if simulator:
        tools["simulator"] = simulator
    return tools
