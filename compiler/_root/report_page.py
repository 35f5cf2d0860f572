"""The report's page: its figures in words, its plots, its template filled."""
from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from nomul import report_plots as plots
from nomul.compiler.network import Weighted
from nomul.report_inputs import Build, Part

__all__ = ["render"]

Json = dict[str, Any]

IMAGES_SHOWN = 4  # on the timeline
DASH = "\N{EN DASH}"  # for a value that is not known
TIMES = "\N{MULTIPLICATION SIGN}"


def render(facts: Json, build: Build) -> str:
    """The page as text.

    Parameters
    ----------
    facts : dict
        What ``nomul.report.collect`` found.
    build : Build
        The folder it was found in.

    Returns
    -------
    str
        A whole HTML document that reads nothing from outside.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters.update(number=number, percent=percent, bits=bits, pairs=pairs)
    template = environment.from_string(files("nomul").joinpath("report.html").read_text("utf-8"))
    return template.render(
        **facts,
        badges=_badges(facts),
        tiles=_tiles(facts),
        confused=_confused(facts["confusion"]),
        splits=_splits(facts, build),
        commands=_commands(build),
        origin=_origin(build.provenance),
        filled=_filled(build.synth),
        memories=_memories(build.synth),
        guesses=_guesses(build.manifest),
        plots=_plots(facts, build),
    )


def number(value: float | None, digits: int = 0) -> str:
    """``value`` with its thousands apart; a dash if there is none."""
    return DASH if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; a dash if there is none."""
    return DASH if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def bits(value: int | None) -> str:
    """A number of bits in the largest unit that suits it."""
    if value is None:
        return DASH
    size, unit = float(value), "bits"
    for larger, step in (("Kibit", 1024), ("Mibit", 1024)):
        if size < 10 * step:
            break
        size, unit = size / step, larger
    return f"{size:,.0f}\N{NO-BREAK SPACE}{unit}" if unit == "bits" else (
        f"{size:,.1f}\N{NO-BREAK SPACE}{unit}")


def pairs(value: object) -> str:
    """A JSON object on one line, for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {pairs(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(pairs, value))
    return DASH if value is None else str(value)


def _badges(facts: Json) -> list[Json]:
    """What a reader wants to know first; ``good`` is None where nothing was measured."""
    def badge(good: bool | None, text: str) -> Json:
        return {"good": good, "text": text}

    exact, accuracy = facts["bitexact"], facts["accuracy"]
    if exact["images"] is None:
        badges = [badge(None, "not simulated")]
    elif exact["mismatches"]:
        badges = [badge(False, f"{exact['mismatches']:,} mismatches in "
                               f"{exact['images']:,} images")]
    else:
        badges = [badge(True, f"bit-exact {exact['images']:,} / {exact['images']:,} images")]

    kind = _headline(accuracy)
    if kind:
        name = {"rtl": "in Verilog", "golden": "as integers", "float": "as floats"}[kind]
        badges.append(badge(True if kind == "rtl" and not exact["mismatches"] else None,
                            f"accuracy {percent(accuracy[kind])} {name}"))

    multipliers = _multipliers(facts)
    if multipliers is None:
        badges.append(badge(None, "not synthesised"))
    else:
        badges.append(badge(not multipliers, f"{multipliers:,} multiplier"
                                             f"{'' if multipliers == 1 else 's'}"))
        for name, target in facts["synthesis"].items():
            if target["fits"] is not None:
                badges.append(badge(target["fits"], f"fits {name}" if target["fits"]
                                    else f"too large for {name}"))
            if board := target["board"]:
                met = board["timing_met"]
                badges.append(badge(met, f"{number(board['clock_mhz'], 1)} MHz "
                                         f"{'' if met else 'not '}met on {name}"))
    return badges


def _multipliers(facts: Json) -> int | None:
    """Multipliers and DSP blocks in the netlists; None before synthesis."""
    if not facts["synthesis"]:
        return None
    counts = [target.get(key) for target in facts["synthesis"].values()
              for key in ("dsp", "multipliers")]
    return sum(count for count in counts if isinstance(count, int))


def _headline(accuracy: Json) -> str | None:
    """The accuracy that counts most: the Verilog's, if all images of the split were simulated."""
    kinds = ("golden", "rtl", "float") if accuracy["partial"] else ("rtl", "golden", "float")
    return next((kind for kind in kinds if accuracy[kind] is not None), None)


def _tiles(facts: Json) -> list[Json]:
    """The headline's figures."""
    network, accuracy, cycles = facts["network"], facts["accuracy"], facts["cycles"]
    measured = _headline(accuracy)
    words = {"rtl": "measured on the Verilog", "golden": "of the integer network",
             "float": "of the float network"}
    rates = {name: target["inferences_per_second"]
             for name, target in (facts["synthesis"] or {}).items()
             if target["inferences_per_second"]}
    best = max(rates, key=lambda name: float(rates[name])) if rates else None
    multiplications = network["multiplications"]
    smaller = network["float32_bits"] / network["memory_bits"] if network["memory_bits"] else 0
    interval, ideal = cycles["interval"], cycles["ideal_interval"]
    return [
        {"name": "accuracy", "value": percent(accuracy[measured]) if measured else DASH,
         "note": words[measured] if measured else "not recorded"},
        {"name": "multiplications", "value": number(multiplications["after"]),
         "note": f"instead of {number(multiplications['before'])} an inference"},
        {"name": "cycles an inference", "value": number(interval),
         "note": _against(interval, ideal)},
        {"name": "inferences a second", "value": number(rates[best]) if best else DASH,
         "note": f"{best}, at its clock" if best else "needs simulation and synthesis"},
        {"name": "weights", "value": bits(network["memory_bits"]),
         "note": f"{smaller:.1f} {TIMES} below 32-bit floats"},
    ]


def _against(interval: int | None, ideal: int | None) -> str:
    """The interval measured beside the ideal one."""
    if interval is None:
        return "not simulated" + (f"; ideal {number(ideal)}" if ideal else "")
    return f"ideal {number(ideal)}, {100 * (interval / ideal - 1):+.1f} %" if ideal else "measured"


def _confused(counts: list[list[int]] | None) -> list[Json]:
    """The classes most often taken for another one."""
    if counts is None:
        return []
    wrong = [(count, true, predicted) for true, row in enumerate(counts)
             for predicted, count in enumerate(row) if count and true != predicted]
    wrong.sort(key=lambda item: (-item[0], item[1:]))
    return [{"true": true, "predicted": predicted, "count": count}
            for count, true, predicted in wrong[:6]]


def _splits(facts: Json, build: Build) -> list[Json]:
    """Accuracy by split of the data, from training to Verilog."""
    trained = build.provenance.part("accuracy")
    simulated = facts["accuracy"]
    names = dict.fromkeys([simulated["split"]])
    if trained:
        names |= dict.fromkeys(name.partition("_")[2] for name in trained.values)
    rows = []
    for name in names:
        mine = name == simulated["split"]
        row = {"name": name,
               "float": trained.fraction(f"float_{name}") if trained else None,
               "golden": simulated["golden"] if mine else
               trained.fraction(f"quantized_{name}") if trained else None,
               "rtl": simulated["rtl"] if mine else None,
               "images": simulated["images"] if mine else None}
        if any(row[key] is not None for key in ("float", "golden", "rtl")):
            rows.append(row)
    return rows


def _origin(provenance: Part) -> Json:
    """How the network came to be, as strings; None where it was not recorded."""
    dictionary, data, seed = (provenance.part("dictionary"), provenance.part("data"),
                              provenance.integer("seed"))
    name = data.text("name") if data else None
    digest = data.text("digest") if data else None
    sizes = data.part("sizes") if data else None
    counts = {split: sizes.integer(split) for split in ("train", "validation", "test")} if (
        sizes) else {}
    images = [f"{count:,} {split}" for split, count in counts.items() if count is not None]
    settings = provenance.part("recipe")
    recipe = settings.text("name") if settings else None
    return {
        "summary": [text for text in (provenance.text("method"),
                                      f"recipe {recipe}" if recipe else None,
                                      f"data {name}" if name else None) if text],
        "dictionary": pairs(dictionary.values) if dictionary else None,
        "seed": None if seed is None else str(seed),
        "data": ", ".join(filter(None, [name, " / ".join(images) + " images" if images else None,
                                        f"digest {digest[:12]}" if digest else None])) or None,
    }


def _filled(synth: Part | None) -> dict[str, float | None]:
    """By target, the share of the weights' block RAM whose bits are weights."""
    shares: dict[str, float | None] = {}
    for name, target in (synth.parts("targets") if synth else {}).items():
        amounts = target.part("bram_bits")
        stored = amounts.integer("stored") if amounts else None
        allocated = amounts.integer("weights") if amounts else None
        shares[name] = stored / allocated if stored is not None and allocated else None
    return shares


def _memories(synth: Part | None) -> dict[str, dict[str, int | None]]:
    """Block RAMs by memory and target."""
    found: dict[str, dict[str, int | None]] = {}
    for name, target in (synth.parts("targets") if synth else {}).items():
        if blocks := target.part("memories"):
            for path in blocks.values:
                place = found.setdefault(path.removeprefix("network.").removeprefix("body."), {})
                place[name] = blocks.integer(path)
    return found


def _guesses(manifest: Part) -> dict[str, dict[str, int | None]]:
    """By target, what was estimated before synthesis."""
    estimate = manifest.part("estimate")
    return {name: {key: guess.integer(key) for key in
                   ("lut4", "carry", "ff", "logic_cells", "bram", "dsp")}
            for name, guess in (estimate.parts("targets") if estimate else {}).items()}


def _commands(build: Build) -> list[Json]:
    """What makes this folder again, as far as it was recorded."""
    def command(part: Part | None, default: str) -> str:
        return (part.text("command") if part else None) or default

    made = build.provenance.text("command")
    words = made.split() if made else []
    name = next((after for word, after in pairwise(words) if word in ("-o", "--output")),
                "network.nomul")
    steps = [("train", made)]
    steps += [("build", command(build.manifest, f"nomul build {name} -o build/")),
              ("simulate", command(build.sim, "nomul sim build/")),
              ("synthesise", command(build.synth, "nomul synth build/")),
              ("report", "nomul report build/")]
    return [{"name": name, "text": text} for name, text in steps if text]


def _plots(facts: Json, build: Build) -> Mapping[str, str | None]:
    """Every plot as SVG; None for those whose data are missing."""
    layers = [layer for layer in build.network.layers if isinstance(layer, Weighted)]
    drawn: dict[str, str | None] = dict.fromkeys(
        ("weights", "memory", "confusion", "timeline", "cells", "capacity", "frequency"))
    if layers:
        drawn["weights"] = plots.weights_plot([_usage(layer) for layer in layers])
        drawn["memory"] = plots.memory_plot({
            name: (memory["assignments"], memory["dictionary"], memory["float32_bits"])
            for name, memory in facts["memory"].items()})
    if facts["confusion"]:
        drawn["confusion"] = plots.confusion_plot(np.array(facts["confusion"]))
    spans = _spans(build.sim) if build.sim else []
    if spans:
        drawn["timeline"] = plots.timeline_plot(
            spans, [layer.name for layer in build.network.layers], facts["cycles"]["interval"])
    targets = build.synth.parts("targets") if build.synth else {}
    cells = {name: {layer: {kind: row.integer(kind) or 0 for kind in ("lut4", "carry", "ff")}
                    for layer, row in target.parts("layers").items()}
             for name, target in targets.items() if target.parts("layers")}
    if cells:
        drawn["cells"] = plots.cells_plot(cells)
    bars = [bar for name, target in targets.items() for bar in _bars(name, target)]
    if bars:
        drawn["capacity"] = plots.capacity_plot(bars)
    clocks, medians = _clocks(facts["synthesis"] or {})
    if clocks:
        drawn["frequency"] = plots.frequency_plot(clocks, medians)
    return drawn


def _usage(layer: Weighted) -> plots.Usage:
    counts = np.bincount(layer.assignment.ravel(), minlength=len(layer.dictionary))
    order = np.argsort(layer.dictionary, kind="stable")
    return plots.Usage(layer=layer.name, values=layer.dictionary[order].tolist(),
                       counts=counts[order].tolist(), exponent=layer.exponent)


def _spans(sim: Part) -> list[plots.Span]:
    spans = []
    for row in sim.rows("timeline"):
        layer = row.text("layer")
        if layer is None:
            row.refuse("layer", "a name")
        span = plots.Span(layer=layer, image=row.count("image"), first=row.count("first"),
                          last=row.count("last"))
        if span.last < span.first:
            row.refuse("last", f"at least {span.first}, the first cycle")
        spans.append(span)
    shown = sorted({span.image for span in spans})[:IMAGES_SHOWN]
    return [span for span in spans if span.image in shown]


def _bars(name: str, target: Part) -> list[plots.Bar]:
    capacity = target.part("capacity")
    bars = []
    for key, resource in (("logic_cells", "logic cells"), ("bram", "block RAM"),
                          ("dsp", "DSP blocks")):
        used, available = target.integer(key), capacity.integer(key) if capacity else None
        if used is not None and available is not None:
            bars.append(plots.Bar(target=name, resource=resource, used=used,
                                  available=available))
    return bars


def _clocks(targets: Json) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The clocks that the seeds reached, and their median, by target."""
    clocks, medians = {}, {}
    for name, target in targets.items():
        fmax = target["fmax_mhz"] or {}
        known = [fmax.get(key) for key in ("min", "median", "max")]
        values = [value for value in [*known, *fmax.get("seeds", {}).values()]
                  if value is not None]
        if values and fmax["median"] is not None:
            seeds = [value for value in fmax["seeds"].values() if value is not None]
            clocks[name], medians[name] = seeds or values, fmax["median"]
    return clocks, medians
