"""Plots of the report: SVG that takes its colours and its font from the page around it.

Matplotlib draws with stand-in colours; each becomes a style variable of the page, so
that one drawing serves light, dark and paper. Equal data gives equal text.
"""
from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

__all__ = [
    "Bar",
    "Span",
    "Usage",
    "capacity_plot",
    "cells_plot",
    "confusion_plot",
    "frequency_plot",
    "memory_plot",
    "timeline_plot",
    "weights_plot",
]

# Stand-in colour: the page's variable.
INK, MUTED, GRID, TRACK = "#010203", "#010204", "#010205", "#010206"
BAD, ON, IDLE = "#010207", "#010208", "#010209"
SERIES = ("#020301", "#020302", "#020303", "#020304")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", TRACK: "--track", BAD: "--bad",
              ON: "--on", IDLE: "--idle",
              **{colour: f"--series-{n + 1}" for n, colour in enumerate(SERIES)}}

WIDTH = 9.6  # inches
TIMES = "\N{MULTIPLICATION SIGN}"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 9, "axes.labelsize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED, "axes.titlecolor": INK, "text.color": INK, "axes.axisbelow": True,
    "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "ytick.major.size": 0, "xtick.major.size": 3,
    "grid.color": GRID, "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 9.5,
    "legend.handlelength": 1, "legend.handleheight": 1, "legend.borderaxespad": 0,
    "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06, "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.05,
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How often the weights of a layer use each value, in increasing order of value."""

    layer: str
    values: Sequence[int]
    counts: Sequence[int]
    exponent: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A resource used, out of what the chip has."""

    target: str
    resource: str
    used: int
    available: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """First and last cycle in which a layer gives results of an image."""

    layer: str
    image: int
    first: int
    last: int


def weights_plot(layers: Sequence[Usage]) -> str:
    """Bars at the dictionary's entries: how many weights use each."""
    columns = 2 if len(layers) > 1 else 1
    rows = -(-len(layers) // columns)
    with _style("weights"):
        figure = Figure(figsize=(WIDTH, 2.75 * rows))
        for position, usage in enumerate(layers):
            _usage(figure.add_subplot(rows, columns, position + 1), usage,
                   WIDTH / columns - 0.9)
        most = "; ".join(
            f"{usage.layer}: {len(usage.values)} entries, most used "
            f"{usage.values[int(np.argmax(usage.counts))]}" for usage in layers)
        return _svg(figure, "weights", f"Weights that use each dictionary entry. {most}.")


def _usage(axes: Axes, usage: Usage, inches: float) -> None:
    counts = np.array(usage.counts)
    places = np.arange(len(counts))
    colours = [IDLE if value == 0 else SERIES[0] for value in usage.values]
    axes.bar(places, counts, width=0.78 if len(counts) <= 64 else 1, color=colours)
    axes.set_title(usage.layer)
    axes.set_xlabel("entry" if usage.exponent == 0
                    else f"entry {TIMES} 2{_superscript(usage.exponent)}")
    axes.set_ylabel("weights")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.7, len(counts) - 0.3)
    axes.set_ylim(0, max(1, counts.max()) * 1.14)
    names = [f"{value:,}".replace("-", "\N{MINUS SIGN}") for value in usage.values]
    slot = inches * 72 / (len(counts) + 0.4)  # points from bar to bar
    step = -(-len(counts) // 24)
    wide = max(map(len, names)) * 5.6 + 4 > slot * step
    axes.set_xticks(places[::step], names[::step], rotation=90 if wide else 0)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    if slot >= 14:
        for place, count in enumerate(counts):
            share = 100 * count / max(1, counts.sum())
            text = f"{share:.0f}" if slot < 30 else f"{share:.1f} %"
            axes.annotate(text, (place, count), (0, 2), textcoords="offset points",
                          ha="center", va="bottom", fontsize=8, color=MUTED)
        if slot < 30:
            axes.annotate("% above the bars", (1, 1), (0, 9), xycoords="axes fraction",
                          textcoords="offset points", ha="right", va="bottom", fontsize=8.5,
                          color=MUTED)


def confusion_plot(counts: NDArray[np.int64]) -> str:
    """Images by true and predicted class, darker where there are more of a row."""
    classes = len(counts)
    texts = classes <= 20
    inches = float(np.clip(0.36 * classes + 0.9, 3.0, 6.0))
    with _style("confusion"):
        figure = Figure(figsize=(inches, inches))
        axes = figure.add_subplot()
        totals = counts.sum(axis=1)
        for row in range(classes):
            for column in range(classes) if texts else ():
                axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, linewidth=0,
                                         facecolor=TRACK, alpha=0.7))
        for row, column in np.argwhere(counts).tolist():
            share = counts[row, column] / totals[row]
            # The lightest step still shows that an image is there.
            alpha = 0.14 + 0.86 * share
            axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, linewidth=0,
                                     facecolor=SERIES[0] if row == column else BAD, alpha=alpha))
            if texts:
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center",
                          fontsize=8.5, color=ON if alpha > 0.55 else INK)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal",
                 xlabel="predicted class", ylabel="true class")
        step = -(-classes // 20)
        axes.set_xticks(range(0, classes, step))
        axes.set_yticks(range(0, classes, step))
        axes.tick_params(length=0, labelcolor=INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
        right = int(np.trace(counts))
        return _svg(figure, "confusion", f"Confusion matrix of {classes} classes: {right} of "
                                         f"{int(counts.sum())} images on the diagonal.")


def cells_plot(targets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Cells of each layer, by kind, for each target."""
    kinds = (("lut4", "LUT4"), ("carry", "carry"), ("ff", "flip-flop"))
    columns = 2 if len(targets) > 1 else 1
    rows = -(-len(targets) // columns)
    tallest = max(len(layers) for layers in targets.values())
    with _style("cells"):
        figure = Figure(figsize=(WIDTH, rows * (0.36 * tallest + 0.75) + 0.4))
        said = []
        for position, (target, layers) in enumerate(targets.items()):
            axes = figure.add_subplot(rows, columns, position + 1)
            ends = np.zeros(len(layers))
            for (kind, name), colour in zip(kinds, SERIES, strict=False):
                values = np.array([layer.get(kind, 0) for layer in layers.values()])
                axes.barh(list(layers), values, left=ends, color=colour, height=0.62,
                          label=name if not position else None)
                ends += values
            for place, end in enumerate(ends):
                axes.annotate(f"{end:,.0f}", (end, place), (5, 0), textcoords="offset points",
                              va="center", fontsize=9, color=MUTED)
            axes.set_title(target)
            axes.set_xlim(0, max(1.0, ends.max()) * 1.14)
            _across(axes, tallest)
            said += [f"{target}: {ends.sum():,.0f} cells"]
        figure.legend(loc="outside upper left", ncols=len(kinds))
        return _svg(figure, "cells", f"Cells of each layer. {'; '.join(said)}.")


def capacity_plot(bars: Sequence[Bar]) -> str:
    """How full each chip is."""
    targets = list(dict.fromkeys(bar.target for bar in bars))
    places, place = [], 0.0
    for before, bar in zip([None, *bars], bars, strict=False):
        place += 1.75 if before and before.target != bar.target else 1
        places.append(place)
    with _style("capacity"):
        figure = Figure(figsize=(WIDTH, 0.27 * (places[-1] + 0.6) + 0.55))
        axes = figure.add_subplot()
        shares = [100 * bar.used / bar.available if bar.available else
                  (0.0 if not bar.used else 200.0) for bar in bars]
        axes.barh(places, [100] * len(bars), color=TRACK, height=0.62)
        axes.barh(places, np.minimum(shares, 100),
                  color=[BAD if share > 100 else SERIES[0] for share in shares], height=0.62)
        for where, bar, share in zip(places, bars, shares, strict=True):
            text = (f"{share:.1f} %, {bar.used:,} of {bar.available:,}" if bar.available
                    else "none on this chip" if not bar.used else f"{bar.used:,} of 0")
            axes.annotate(text, (100, where), (8, 0), textcoords="offset points", va="center",
                          fontsize=9, color=BAD if share > 100 else MUTED)
        axes.set_yticks(places, [bar.resource for bar in bars])
        axes.set(xlim=(0, 126), ylim=(places[-1] + 0.6, places[0] - 0.6),
                 xlabel="% of the chip")
        axes.set_xticks(range(0, 101, 25))
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        for target in targets:
            mine = [where for where, bar in zip(places, bars, strict=True)
                    if bar.target == target]
            axes.annotate(target, (0, float(np.mean(mine))), (-84, 0), fontweight="bold",
                          textcoords="offset points", ha="right", va="center", fontsize=9.5)
        said = "; ".join(f"{bar.target} {bar.resource} {bar.used} of {bar.available}"
                         for bar in bars)
        return _svg(figure, "capacity", f"Share of each chip that is used. {said}.")


def frequency_plot(targets: Mapping[str, Sequence[float]], medians: Mapping[str, float]) -> str:
    """Highest clock over the seeds of placement, from the slowest to the fastest."""
    with _style("frequency"):
        figure = Figure(figsize=(WIDTH, 0.5 * len(targets) + 0.75))
        axes = figure.add_subplot()
        said = []
        for place, (target, values) in enumerate(targets.items()):
            low, high, middle = min(values), max(values), medians[target]
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=7, alpha=0.28,
                      solid_capstyle="round")
            axes.scatter(values, [place] * len(values), s=20, color=SERIES[0], linewidths=0,
                         zorder=3)
            axes.plot([middle, middle], [place - 0.26, place + 0.26], color=INK, linewidth=2)
            text = f"median {middle:.1f} ({low:.1f}\N{EN DASH}{high:.1f})"
            axes.annotate(text, (high, place), (12, 0), textcoords="offset points", va="center",
                          fontsize=9, color=MUTED)
            said += [f"{target} {middle:.1f} MHz, {low:.1f} to {high:.1f}"]
        axes.set_yticks(range(len(targets)), list(targets))
        axes.set_xlim(0, max(map(max, targets.values())) * 1.34)
        axes.set_xlabel("MHz")
        _across(axes, len(targets))
        return _svg(figure, "frequency", "Highest clock over the seeds of place and route, "
                                         f"median and range. {'; '.join(said)}.")


def timeline_plot(spans: Sequence[Span], layers: Sequence[str], interval: int | None) -> str:
    """When each layer gives its results, image by image."""
    images = sorted({span.image for span in spans})
    names = [name for name in layers if any(span.layer == name for span in spans)]
    names += sorted({span.layer for span in spans} - set(names))
    end = max(span.last for span in spans) + 1
    with _style("timeline"):
        figure = Figure(figsize=(WIDTH, 0.42 * len(names) + 1.05))
        axes = figure.add_subplot()
        for place, name in enumerate(names):
            mine = sorted((span for span in spans if span.layer == name),
                          key=lambda span: (span.first, span.image))
            # Images that overlap within a layer take turns above and below.
            overlap = any(after.first <= before.last for before, after in pairwise(mine))
            for span in mine:
                turn = images.index(span.image)
                height = 0.31 if overlap else 0.62
                middle = place + ((turn % 2 - 0.5) * 0.33 if overlap else 0)
                length = span.last - span.first + 1
                # A span too short to see keeps a hair's width.
                axes.barh(middle, max(length, end * 0.002), left=span.first, height=height,
                          color=SERIES[turn % len(SERIES)])
                if length > end * 0.03 and not overlap:
                    axes.text(span.first + length / 2, middle, f"{span.image}", ha="center",
                              va="center", fontsize=8.5, color=ON)
        finished = [span for span in spans if span.layer == names[-1]]
        for span in finished:
            axes.axvline(span.last + 1, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)),
                         zorder=0)
        for turn, image in enumerate(images):
            axes.barh([0], [0], color=SERIES[turn % len(SERIES)], label=f"image {image}")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, end * 1.02)
        axes.set_xlabel("clock cycle")
        _across(axes, len(names))
        figure.legend(loc="outside upper left", ncols=len(images))
        said = f" A new result every {interval} cycles." if interval else ""
        return _svg(figure, "timeline", f"Cycles in which each of {len(names)} layers gives "
                                        f"results of the first {len(images)} images.{said}")


def memory_plot(layers: Mapping[str, tuple[int, int, int]]) -> str:
    """Bits of each layer's assignments and dictionary; the third number is 32-bit weights."""
    with _style("memory"):
        figure = Figure(figsize=(WIDTH, 0.4 * len(layers) + 1.05))
        axes = figure.add_subplot()
        names = list(layers)
        assignments, dictionaries, floats = np.array(list(layers.values())).T
        axes.barh(names, assignments, color=SERIES[0], height=0.62, label="assignments")
        axes.barh(names, dictionaries, left=assignments, color=SERIES[1], height=0.62,
                  label="dictionary")
        totals = assignments + dictionaries
        for place, total in enumerate(totals.tolist()):
            text = f"{total:,} bits"
            if total:
                text += f", {floats[place] / total:.1f} {TIMES} below 32-bit weights"
            axes.annotate(text, (total, place), (6, 0), textcoords="offset points",
                          va="center", fontsize=9, color=MUTED)
        axes.set_xlim(0, max(1, int(totals.max())) * 1.4)
        axes.set_xlabel("bits")
        _across(axes, len(names))
        figure.legend(loc="outside upper left", ncols=2)
        said = "; ".join(f"{name} {total}" for name, total in
                         zip(names, totals.tolist(), strict=True))
        return _svg(figure, "memory", f"Bits that hold the weights of each layer. {said}.")


def _across(axes: Axes, rows: int) -> None:
    """Rows from top to bottom, numbers along the bottom."""
    axes.set_ylim(rows - 0.45, -0.55)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """Matplotlib's defaults with ours, whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an element of an HTML page, which ``alt`` describes in words."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text,
                  flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    # Names that nothing refers to go; the others are told apart from the other plots'.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"'
                  if match[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#0[12]0[23]0\d", lambda match: f"var({_VARIABLES[match[0]]})"
                  if match[0] in _VARIABLES else match[0], text)
    text = re.sub(r"\s*\n\s*", " ", text)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    head = (f'<svg role="img" aria-label="{html.escape(alt)}" width="{width}" '
            f'height="{height}" viewBox')
    return re.sub(r"<svg.*?viewBox", lambda match: head, text, count=1, flags=re.DOTALL).strip()
