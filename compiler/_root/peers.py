"""Unrolled networks beside those of da4ml and alkaid: ``python -m nomul.peers docs``.

All of them get the same weights and make the same scores, one inference a clock; Yosys maps them
to cells by the same script, and nextpnr packs the cells. The peers are optional:
``pip install 'nomul[peers]'``. Each builds two circuits, one without registers and one with a
register wherever its own count of delays asks for it; the one of fewer cells is taken.
"""
from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nomul.boards.targets import Family, Target, target
from nomul.boards.tools import RunFailure, Tool, run
from nomul.boards.yosys import Counts, make_netlist, map_verilog
from nomul.compiler.circuits import shift_clip_terms, sum_terms, unrolled_matrix
from nomul.compiler.errors import ModelError, ToolError
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Argmax, Dense, Network
from nomul.compiler.planner import fastest, make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.images import load_images
from nomul.sim.golden import run as golden
from nomul.tables import Row, table, versions

__all__ = ["Affine", "affines", "main", "markdown", "measure", "scores_of"]

CHIPS = ("ice40-hx8k", "ecp5-25k")
HEADER: Row = ("network", "chip", "compiler", "LUT4", "carry", "LUT4 + carry", "FF", "logic cells")
#: Delays of an adder between two registers, as the peers count; -1 builds no register.
CUTOFFS = (-1, 5)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """A dense layer as the peers take it: ``clip((matrix @ x + offsets) >> shift)``.

    Parameters
    ----------
    matrix : array of int, shape [outputs, inputs]
    offsets : array of int, shape [outputs]
    shift : int, optional
        None for raw sums.
    bits : int
        Of the codes behind it.
    """

    matrix: Ints
    offsets: Ints
    shift: int | None
    bits: int


def scores_of(network: Network) -> Network:
    """``network`` without its last layer, if that is an argmax, which the peers do not build."""
    layers = network.layers[:-1] if isinstance(network.layers[-1], Argmax) else network.layers
    return Network(name=network.name, layers=layers)


def affines(network: Network) -> list[Affine]:
    """The layers of a network of dense ones; `ModelError` if one cannot be said like that."""
    found = []
    for layer in network.layers:
        if not isinstance(layer, Dense):
            continue
        terms, matrix = sum_terms(network, layer), unrolled_matrix(network, layer)
        shift, offsets, bits = None, terms.offsets, 0
        if matrix is None:
            raise ModelError(f"layer {layer.name!r}: products must be multiples of the codes")
        if layer.staircase:
            steps = shift_clip_terms(layer.staircase, terms.low + offsets, terms.high + offsets)
            if steps is None or not steps.common or steps.negate[0]:
                raise ModelError(f"layer {layer.name!r}: thresholds must be a common shift apart")
            offsets, shift = offsets + steps.offsets, int(steps.shifts[0])
            bits = layer.staircase.levels.bits
        found.append(Affine(matrix=matrix, offsets=offsets, shift=shift, bits=bits))
    return found


def measure(label: str, network: Network, chip: str) -> list[Row]:
    """Rows with `HEADER`; `ToolError` if a peer is missing or makes other scores."""
    scores = scores_of(network)
    folds, lanes = fastest(scores)
    layers, bits = affines(scores), scores.input.levels.bits
    images = load_images("digits", scores, split="test")
    expected = golden(scores, images.codes).output.reshape(len(images.codes), -1)
    goal = target(chip)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = make_netlist(lower_body(scores, make_plan(scores, folds, input_lanes=lanes)),
                            goal, folder).counts
        rows.append(_row(label, chip, "nomul", ours, _packed(ours, goal, folder)))
        for peer, build in PEERS.items():
            found = []
            for logic, path in build(layers, bits, folder):
                inputs = images.codes.reshape(len(images.codes), -1).astype(np.float64)
                if (logic.predict(inputs) != expected).any():
                    raise ToolError(f"{peer} must make the scores of network {network.name!r}, "
                                    "but makes others; install the version that is pinned")
                files = [file for file in sorted((path / "src").rglob("*.v"))
                         if "wrapper" not in file.name]
                counts = map_verilog(files, "top", goal, path)
                found.append((_packed(counts, goal, path), counts))
            cells, counts = min(found, key=lambda each: (each[0], each[1].lut4))
            rows.append(_row(label, chip, peer, counts, cells))
    return rows


def _row(label: str, chip: str, name: str, counts: Counts, cells: int) -> Row:
    return (f"`{label}`", chip, name, counts.lut4, counts.carry, counts.lut4 + counts.carry,
            counts.ff, cells)


def _packed(counts: Counts, chip: Target, folder: Path) -> int:
    """Logic cells that hold the tables, carries and flip-flops of the netlist in ``folder``."""
    if chip.family is Family.ECP5:
        return max(counts.lut4 + 2 * counts.carry, counts.ff)
    try:
        run(Tool.NEXTPNR_ICE40, (*chip.nextpnr_flags, "--json", "netlist.json", "--pack-only"),
            folder, "pack.log")
    except RunFailure:
        pass  # it does not fit, which the log says with its size
    found = re.search(r"ICESTORM_LC:\s*(\d+)", (folder / "pack.log").read_text())
    assert found, "nextpnr says what it has packed"
    return int(found[1])


def _traced(inputs: Any, layers: list[Affine], bits: int) -> Any:
    """What a peer's symbolic arrays make of ``layers``."""
    values = inputs.quantize(0, bits, 0)
    for layer in layers:
        values = values @ layer.matrix.T.astype(np.float64) + layer.offsets.astype(np.float64)
        if layer.shift is not None:
            values = (values * 2.0 ** -layer.shift).quantize(0, layer.bits, 0, "SAT", "TRN")
    return values


def _da4ml(layers: list[Affine], bits: int, folder: Path) -> Iterator[tuple[Any, Path]]:
    from da4ml.codegen import RTLModel
    from da4ml.trace import FixedVariableArrayInput, HWConfig, comb_trace

    inputs = FixedVariableArrayInput(layers[0].matrix.shape[1], hwconf=HWConfig(1, -1, -1))
    logic = comb_trace(inputs, _traced(inputs, layers, bits))
    for cutoff in CUTOFFS:
        path = folder / f"da4ml_{cutoff}"
        RTLModel(logic, "top", path, latency_cutoff=cutoff, print_latency=False).write()
        yield logic, path


def _alkaid(layers: list[Affine], bits: int, folder: Path) -> Iterator[tuple[Any, Path]]:
    from alkaid.codegen import RTLModel
    from alkaid.trace import FVArrayInput, trace

    inputs = FVArrayInput(layers[0].matrix.shape[1])
    logic = trace(inputs, _traced(inputs, layers, bits))
    for cutoff in CUTOFFS:
        path = folder / f"alkaid_{cutoff}"
        RTLModel(logic, path, "top", latency_cutoff=cutoff, print_latency=False).write()
        yield logic, path


PEERS: dict[str, Callable[[list[Affine], int, Path], Iterator[tuple[Any, Path]]]] = {
    "da4ml": _da4ml, "alkaid": _alkaid}


def markdown(rows: list[Row]) -> str:
    """Text of docs/unrolled.md."""
    return "\n\n".join((
        "# Unrolled networks beside their peers",
        "Made by `make bench`; do not edit. " + versions("pyosys", "nextpnr-ice40", "amaranth",
                                                         "da4ml", "alkaid"),
        "The zoo's digits networks up to their scores, one inference a clock: the same weights and "
        "the same scores on all 360 test images (ours in Verilator, by the tests; the peers' by "
        "their own interpreters), mapped by the same Yosys script. Ours has registers and the "
        "handshake of a stream; of each peer's circuits, without registers and with some, the one "
        "of fewer logic cells is shown. *Carry* counts SB_CARRY, one bit each, or CCU2C, two bits "
        "each. A logic cell of the iCE40 holds a table, a carry and a flip-flop (packed by "
        "nextpnr); one of the ECP5 holds a table and a flip-flop, and a CCU2C takes two of them. "
        "Networks whose thresholds are no shift are left out: the peers would need tables for "
        "them.",
        table(HEADER, rows))) + "\n"


def main(docs: Path, zoo: Path) -> None:
    """Write ``unrolled.md`` in ``docs``."""
    for peer in PEERS:
        if find_spec(peer) is None:
            raise ToolError(f"Python package {peer!r} must be installed to measure it; "
                            "pip install 'nomul[peers]'")
    rows: list[Row] = []
    for file in sorted(zoo.glob("digits_*.nomul")):
        network = load(file)
        try:
            affines(scores_of(network))
        except ModelError as error:
            print(f"{file.stem} is left out: {error}", flush=True)
            continue
        for chip in CHIPS:
            rows += measure(file.stem, network, chip)
            print(*(" ".join(map(str, row)) for row in rows[-3:]), sep="\n", flush=True)
    replace_file(docs / "unrolled.md", markdown(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]).parent / "examples" / "zoo")
