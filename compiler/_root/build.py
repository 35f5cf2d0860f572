"""The build folder: Verilog, vectors, plan and manifest, bound together by digests.

======================= =========================================================
``network.nomul``       the network, with how it was trained
``plan.json``           how it is built
``<name>.v``            the Verilog
``vectors.safetensors`` images, and what every layer makes of them
``weights.bin``         what ``s_axis_weights`` takes after reset, if the circuit has that port
``manifest.json``       ports, estimates, versions, and SHA-256 of the files above
``sim.json``            written by `nomul sim`; ``batch.json`` by `nomul sim --batch`
``synth.json``          written by `nomul synth`, with a folder for each chip or board
``netlist.json``        written by `nomul sim --netlist`
``report.html``         written by `nomul report`, as is ``report.json``
======================= =========================================================
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nomul.boards.doctor import tool_versions
from nomul.boards.estimate import Estimate
from nomul.compiler.emit import Emitted, Port, emit
from nomul.compiler.errors import DataError
from nomul.compiler.files import new_folder, replace_file
from nomul.compiler.latency import latency
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals, plan_interval
from nomul.compiler.plan_file import load_plan, plan_json
from nomul.compiler.storage import load, load_provenance, save
from nomul.images import Images
from nomul.sim.vectors import Vectors, load_vectors, make_vectors, save_vectors

__all__ = ["BuildFolder", "merge_targets", "open_build", "write_build"]

NETWORK, PLAN, VECTORS, WEIGHTS, MANIFEST = (
    "network.nomul", "plan.json", "vectors.safetensors", "weights.bin", "manifest.json")


@dataclass(frozen=True, kw_only=True)
class BuildFolder:
    """An opened build folder, all of whose files belong together."""

    path: Path
    network: Network
    provenance: dict[str, Any]
    plan: Plan
    circuit: Emitted
    vectors: Vectors
    targets: tuple[str, ...]
    boards: tuple[str, ...]


def write_build(folder: Path, network: Network, plan: Plan, images: Images, *,
                provenance: dict[str, Any] | None = None, targets: Sequence[str] = (),
                boards: Sequence[str] = (),
                estimates: Mapping[str, Estimate] | None = None,
                command: str | None = None) -> BuildFolder:
    """Emit ``network`` as ``plan`` says into ``folder``, with vectors for ``images``.

    A build that was there is replaced, when all is written. ``targets`` and ``boards``, for which
    it is to be synthesized, and ``estimates`` of its size, by chip, go into the manifest.

    Raises
    ------
    DataError
        If ``folder`` holds something else than a build, or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise DataError(f"folder '{folder}' must be new, empty or an earlier build, but holds "
                        "other files; choose another one")
    circuit = emit(network, plan)
    vectors = make_vectors(network, images.codes, images.labels, source=images.source,
                           split=images.split)
    with new_folder(folder) as new:
        save(network, new / NETWORK, provenance=provenance)
        (new / PLAN).write_text(plan_json(plan))
        (new / f"{network.name}.v").write_text(circuit.verilog)
        save_vectors(vectors, new / VECTORS)
        files = [NETWORK, PLAN, VECTORS, f"{network.name}.v"]
        if circuit.weights:
            (new / WEIGHTS).write_bytes(circuit.weights)
            files.append(WEIGHTS)
        cycles = intervals(plan, network)
        manifest = {
            "network": network.digest, "top": network.name, "verilog": f"{network.name}.v",
            "command": command, "targets": list(targets), "boards": list(boards),
            "weights": WEIGHTS if circuit.weights else None,
            "sha256": {name: _sha256(new / name) for name in files},
            "ports": {"s_axis": asdict(circuit.s_axis), "m_axis": asdict(circuit.m_axis),
                      "taps": [asdict(tap) for tap in circuit.taps],
                      "parity_error": circuit.parity},
            "estimate": {"ideal_interval": plan_interval(plan, network),
                         "ideal_latency": latency(network, plan), "layers": cycles,
                         "targets": {name: _estimate(guess)
                                     for name, guess in (estimates or {}).items()}},
            "vectors": {"source": vectors.source, "split": vectors.split,
                        "images": len(vectors.images), "accuracy": vectors.accuracy},
            "tools": tool_versions(),
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return open_build(folder)


def _estimate(guess: Estimate) -> dict[str, Any]:
    return {**asdict(guess.counts), "logic_cells": guess.logic_cells,
            "layers": {name: asdict(counts) for name, counts in guess.layers.items()}}


def open_build(folder: Path) -> BuildFolder:
    """Read the build in ``folder``; `DataError` if its files are missing, or do not belong
    together."""
    remedy = "build again with 'nomul build'"
    if not (folder / MANIFEST).is_file():
        raise DataError(f"folder '{folder}' must hold a build, but has no {MANIFEST}; "
                        "make one with 'nomul build'")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, digest in manifest["sha256"].items():
            if not (folder / name).is_file():
                raise DataError(f"file '{folder / name}' must exist; {remedy}")
            if _sha256(folder / name) != digest:
                raise DataError(f"file '{folder / name}' must be as it was built, but its SHA-256 "
                                f"differs from the one in {MANIFEST}; {remedy}")
        ports, weights = manifest["ports"], manifest.get("weights")
        circuit = Emitted(verilog=(folder / manifest["verilog"]).read_text(),
                          s_axis=Port(**ports["s_axis"]), m_axis=Port(**ports["m_axis"]),
                          taps=tuple(Port(**tap) for tap in ports["taps"]),
                          parity=bool(ports.get("parity_error", False)),
                          weights=(folder / WEIGHTS).read_bytes() if weights else b"")
        digest, targets = manifest["network"], tuple(manifest["targets"])
        boards = tuple(manifest.get("boards", ()))  # builds of 0.1.0 have none
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"file '{folder / MANIFEST}' must be whole ({error!r}); "
                        f"{remedy}") from error
    network = load(folder / NETWORK)
    vectors = load_vectors(folder / VECTORS)
    for what, theirs in ((MANIFEST, digest), (VECTORS, vectors.network)):
        if theirs != network.digest:
            raise DataError(f"file '{folder / what}' must be of the network in this folder "
                            f"({network.digest[:12]}), not of {theirs[:12]}; {remedy}")
    return BuildFolder(path=folder, network=network,
                       provenance=load_provenance(folder / NETWORK),
                       plan=load_plan(folder / PLAN, network), circuit=circuit, vectors=vectors,
                       targets=targets, boards=boards)


def merge_targets(build: BuildFolder, name: str, results: dict[str, dict[str, Any]],
                  command: str | None) -> None:
    """Write ``results``, by chip, into the file ``name`` of ``build``, beside those of other chips
    that were there."""
    file = build.path / name
    targets: dict[str, Any] = {}
    if file.is_file():
        try:
            earlier = json.loads(file.read_text())
            if earlier["network"] == build.network.digest:
                targets = dict(earlier["targets"])
        except (ValueError, KeyError, TypeError):
            pass  # a damaged file is replaced by a whole one
    if results:
        replace_file(file, json.dumps({
            "network": build.network.digest, "command": command, "targets": targets | results,
            "tools": tool_versions()}, indent=1) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
