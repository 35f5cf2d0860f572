"""What a circuit will take on a chip, known in a second: Yosys maps its memories, but no logic.

After the word-level half of Yosys's own script, block RAM, distributed RAM and multiplier blocks
are exact. What is left is counted by kind: bits of additions, of comparisons, tables that its gates
and choices would fill (`nomul.boards.cover`), tables of memories in logic. Look-up tables, carries,
flip-flops and logic cells are weighted sums of the counts; the weights were fitted against
synthesis (``python -m nomul.costs``, docs/costs.md).
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from nomul.boards.cover import LARGEST_ROM, Module, number, tables
from nomul.boards.targets import Family, Target
from nomul.boards.tools import Tool, run
from nomul.boards.yosys import GLUE, NEVER_COLLIDES, Counts, kept_layers

__all__ = ["FITTED", "Estimate", "Features", "Weights", "estimate", "features", "weights_of"]

Features = Mapping[str, int]
"""How many bits, or cells, of each kind a circuit has before its logic is mapped."""

Weights = Mapping[str, Mapping[str, float]]
"""For each figure that is fitted, what one of each kind adds to it."""

#: Figures that are weighted sums.
FITTED = ("lut4", "carry", "ff", "logic_cells")

_LIBRARIES = {
    Family.ICE40: "-lib +/ice40/brams.txt -lib +/ice40/spram.txt -no-auto-huge",
    Family.ECP5: "-lib +/lattice/lutrams_trellis.txt -lib +/lattice/brams_16kd.txt",
}

# Cells that hold memory or multiply, by how their type begins or what it contains.
_BLOCK_RAM = ("$__ICE40_RAM4K", "$__DP16KD", "$__PDPW16KD")
_SINGLE_PORT_RAM = "$__ICE40_SPRAM"
_DISTRIBUTED_RAM = ("$__TRELLIS_DPR16X4",)
_MULTIPLIER = ("$__MUL", "$mul", "SB_MAC16", "MULT18X18D")
_INVERSE = str.maketrans("01", "10")

# What the tables of logic are counted as.
_TABLES = {"choice": "choice table", "gate": "gate table", "inversion": "inversion table",
           "rom": "rom"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a circuit will take.

    Attributes
    ----------
    counts : Counts
        Cells before place and route; memories and multipliers are exact.
    logic_cells : int
        Logic cells that they will be packed into.
    layers : mapping of str to Counts
        Cells of each layer; those outside of all layers under `GLUE`.
    """

    counts: Counts
    logic_cells: int
    layers: Mapping[str, Counts]


def estimate(component: wiring.Component, network: str, chip: Target, folder: Path) -> Estimate:
    """What ``component`` will take on ``chip``.

    Parameters
    ----------
    component : wiring.Component
        The whole circuit.
    network : str
        Path of the module whose submodules are the layers, as of `count_layers`.
    chip : Target
        The chip.
    folder : Path
        Working folder; ``coarse.il``, ``coarse.log`` and ``coarse.json`` stay there.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    weights = weights_of(chip.family)
    parts = features(component, network, chip, folder)
    sums = {name: _sums(weights, found) for name, found in parts.items()}
    total = _sums(weights, merged(parts.values()))
    return Estimate(counts=_counts(total, merged(parts.values())),
                    logic_cells=round(total["logic_cells"]),
                    layers={name: _counts(sums[name], found) for name, found in parts.items()})


def weights_of(family: Family) -> Weights:
    """The weights that were fitted for ``family``."""
    text = files("nomul.boards").joinpath("costs.json").read_text()
    weights: Weights = json.loads(text)[family.value]
    return weights


def merged(parts: Iterable[Features]) -> Counter[str]:
    """Features of all ``parts`` together."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def features(component: wiring.Component, network: str, chip: Target,
             folder: Path) -> dict[str, Counter[str]]:
    """For each layer, and for what lies outside of them, how much of each kind there is.

    Parameters and errors are those of `estimate`.
    """
    text, layers = kept_layers(component, network, chip)
    (folder / "coarse.il").write_text(text)
    (folder / "coarse.ys").write_text("\n".join((
        "read_rtlil coarse.il",
        NEVER_COLLIDES,
        f"{chip.synth_command} -top top -run begin:map_ram",
        f"memory_libmap {_LIBRARIES[chip.family]}",
        "select top top.*",
        "write_json -selected coarse.json", "")))
    run(Tool.YOSYS, ("coarse.ys",), folder, "coarse.log")
    modules = json.loads((folder / "coarse.json").read_text())["modules"]
    empty: Module = {"cells": {}, "ports": {}}
    found = {name: _features(modules.get(module, empty), chip.family)
             for name, module in layers.items()}
    return found | {GLUE: _features(modules["top"], chip.family)}


def _sums(weights: Weights, found: Features) -> dict[str, float]:
    return {figure: sum(each.get(kind, 0) * count for kind, count in found.items())
            for figure, each in weights.items()}


def _counts(sums: Mapping[str, float], found: Features) -> Counts:
    return Counts(lut4=round(sums["lut4"]), carry=round(sums["carry"]), ff=round(sums["ff"]),
                  bram=found.get("bram", 0), lutram=found.get("lutram", 0),
                  dsp=found.get("dsp", 0), spram=found.get("spram", 0))


def _features(module: Module, family: Family) -> Counter[str]:
    found = Counter({_TABLES[kind]: count for kind, count in tables(
        module, carry=family is Family.ECP5).items()})
    for cell in module["cells"].values():
        _count(cell["type"], cell["parameters"], cell["connections"], found)
    return +found


def _count(kind: str, parameters: Mapping[str, Any], pins: Mapping[str, list[Any]],
           found: Counter[str]) -> None:
    """Add one cell to what was ``found``."""
    if kind.startswith(("$dff", "$sdff", "$adff")):
        found["ff"] += len(pins["Q"])
    elif kind.startswith(_BLOCK_RAM):
        found["bram"] += 1
    elif kind.startswith(_SINGLE_PORT_RAM):
        found["spram"] += 1
    elif kind.startswith(_DISTRIBUTED_RAM):
        found["lutram"] += 1
    elif kind.startswith(_MULTIPLIER):
        found["dsp"] += 1
    elif kind == "$alu":
        found["alu"] += len(pins["Y"])
    elif kind.startswith("$macc"):
        found["macc"] += sum(len(pins.get(name, ())) for name in "ABC")
        found["macc sum"] += len(pins["Y"])
    elif kind == "$mux":
        found["mux"] += sum(_wire(a) and _wire(b) for a, b in zip(pins["A"], pins["B"],
                                                                  strict=True))
    elif kind == "$bmux":
        found["mux"] += len(pins["A"]) - len(pins["Y"])
    elif kind == "$demux":
        found["decode"] += len(pins["Y"])
    elif kind in ("$eq", "$ne", "$eqx", "$nex"):
        wires = sorted(sum(map(_wire, pins[name])) for name in "AB")
        found["compare"] += wires[0]
        found["decode"] += wires[1] - wires[0]
    elif kind.startswith("$reduce") or kind == "$logic_not":
        found["reduce"] += len(pins["A"]) - 1
    elif kind in ("$xor", "$xnor") and len(pins["Y"]) > 1:
        found["inversions"] += len(pins["Y"])
    elif kind in ("$lt", "$le", "$gt", "$ge"):
        found["order"] += max(len(pins["A"]), len(pins["B"]))
    elif kind == "$mem_v2":
        _count_memory(parameters, pins, found)


def _count_memory(parameters: Mapping[str, Any], pins: Mapping[str, list[Any]],
                  found: Counter[str]) -> None:
    """A memory that becomes logic: a table, or registers and what chooses among them."""
    width, size = number(parameters["WIDTH"]), number(parameters["SIZE"])
    if number(parameters["WR_PORTS"]):
        found["registers"] += width * size
        return
    initial = parameters["INIT"][::-1]
    columns = {initial[bit:width * size:width].replace("x", "0") for bit in range(width)}
    synchronous = "1" in parameters["RD_CLK_ENABLE"]
    if size > LARGEST_ROM or synchronous:  # others are logic
        found["rom"] += _tables({base for column in columns if (base := _base(column))})
    if synchronous:
        found["rom row"] += sum(len(set(column)) > 1 for column in columns)


def _tables(columns: Iterable[str]) -> int:
    """Tables of four inputs that hold the bits of all ``columns``, by cutting them into quarters
    as often as needed; equal ones are made once. Where the last cut would leave tables of three
    inputs, the first one is into halves, which one table chooses from. Bits of the address that
    do not matter are left out.
    """
    rest = {_needed(column, range((len(column) - 1).bit_length())) for column in columns}
    tables = 0
    while rest:
        whole, rest = rest, set()
        for column, address in whole:
            if len(address) <= 4:
                tables += len(address) > 1  # a bit of the address by itself takes none
                continue
            kept = address[:-1 if len(address) % 2 else -2]
            size = 1 << len(kept)
            parts = {column[n:n + size] for n in range(0, len(column), size)}
            tables += 1 if len(parts) == 2 else 2
            rest |= {_needed(base, kept) for part in parts if (base := _base(part))}
    return tables


def _needed(column: str, address: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """``column``, up to a power of two, by the bits of the ``address`` that it depends on, the
    lowest first; and those."""
    column, needed = column.ljust(1 << len(address), column[-1]), list(address)
    step = 1
    for bit in address:
        starts = range(0, len(column), 2 * step)
        if all(column[n:n + step] == column[n + step:n + 2 * step] for n in starts):
            column = "".join(column[n:n + step] for n in starts)
            needed.remove(bit)
        else:
            step *= 2
    return column, tuple(needed)


def _base(column: str) -> str:
    """``column`` or its inverse, whichever begins with 0; nothing if it is constant."""
    if len(set(column)) < 2:
        return ""
    return column if column[0] == "0" else column.translate(_INVERSE)


def _wire(bit: int | str) -> bool:
    """Whether a bit is not a constant."""
    return not isinstance(bit, str)
