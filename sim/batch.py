"""Whole data sets through a network's Verilog, in Verilator, with the stimulus in C++.

The cocotb bench (`nomul.sim.verilator`) sees every beat of every layer, and wakes Python for every
beat of an image. This one compares results alone and costs no Python in a cycle: some hundred
times faster, and on all cores.
"""
from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.emit import Emitted, verilog_digest
from nomul.compiler.errors import DataError
from nomul.compiler.network import Network
from nomul.compiler.values import Ints
from nomul.sim.golden import check_images, run
from nomul.sim.records import beats_of
from nomul.sim.stimulus import (
    Progress,
    compile_program,
    elements,
    images_as_bytes,
    run_programs,
)
from nomul.sim.verilator import check_run, check_simulator

__all__ = ["Batch", "play_all"]

# Images that the golden model is given at once.
_GOLDEN = 256
# A circuit that moves no beat for so many cycles hangs.
_PATIENCE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a whole data set in Verilog showed.

    Parameters
    ----------
    images, mismatches : int
        Images played, and those whose result is not the golden model's in every bit.
    first_mismatch : int or None
        The first one of these.
    classes, golden_classes : array of int, shape [images]
        By the Verilog and by the golden model.
    cycles : int
        Of all processes together.
    seconds : float
        That they took, at a time.
    stall, seed : float, int
        Chance that a beat waits a cycle more, at either end; seed of the stalls.
    simulator : str
        Name and version.
    """

    images: int
    mismatches: int
    first_mismatch: int | None
    classes: NDArray[np.int64]
    golden_classes: NDArray[np.int64]
    cycles: int
    seconds: float
    stall: float
    seed: int
    simulator: str


def play_all(network: Network, circuit: Emitted, codes: Ints, *, byte_wide: bool = False,
             stall: float = 0.0, seed: int = 1, jobs: int | None = None,
             files: Mapping[str, str] | None = None,
             progress: Progress | None = None) -> Batch:
    """Play all images ``codes``, shape [images, height, width, channels], and compare the results.

    Registers and memories to which the Verilog gives no initial value start with random ones, by
    ``seed``.

    Parameters
    ----------
    circuit : Emitted
        What ``network`` was emitted to.
    byte_wide : bool
        Whether ``tdata`` of its Verilog has 8 bits, and the bytes of a beat come one after the
        other, the lowest first, as through the shell that is synthesized.
    files : mapping of str to str, optional
        Files that the Verilog reads, by name.
    jobs : int, optional
        Processes at a time; one for each processor if omitted.
    progress : callable of stage, done, total

    Raises
    ------
    DataError
        If network, Verilog and images do not belong together.
    ToolError
        If a tool is missing or fails, or the circuit hangs.
    """
    simulator = check_simulator()
    check_run(network, stall, {"Verilog": verilog_digest(circuit.verilog)})
    codes = check_images(network, codes)
    if not len(codes):
        raise DataError("there must be at least one image to simulate")
    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        for file, content in {**(files or {}), "network.v": circuit.verilog}.items():
            (folder / file).write_text(content)
        (folder / "weights").write_bytes(circuit.weights)
        compile_program("batch", network.name, folder, report,
                        *(("-CFLAGS", "-DWEIGHTS") if circuit.weights else ()))
        parts = np.array_split(np.arange(len(codes)), min(jobs or os.cpu_count() or 1, len(codes)))
        for number, part in enumerate(parts):
            (folder / f"{number}.in").write_bytes(images_as_bytes(codes[part], circuit.s_axis))
        beats = (beats_of((1, 1, prod(network.input.shape)), circuit.s_axis.lanes),
                 beats_of(network.output.shape, circuit.m_axis.lanes))
        sizes = []
        for port, count in zip((circuit.s_axis, circuit.m_axis), beats, strict=True):
            size = port.lanes * port.bits // 8
            sizes += [1, size * count] if byte_wide else [size, count]
        start = time.monotonic()
        cycles = _run(folder, len(parts), sizes, stall, seed, len(codes), report)
        seconds = time.monotonic() - start
        got = np.concatenate([
            elements((folder / f"{number}.out").read_bytes(), network.output.shape[-1],
                     circuit.m_axis) for number in range(len(parts))])
    expected, classes = [], []
    for first in range(0, len(codes), _GOLDEN):
        trace = run(network, codes[first:first + _GOLDEN])
        expected.append(trace[network.layers[-1].name])
        classes.append(trace.classes)
        report("golden model", min(first + _GOLDEN, len(codes)), len(codes))
    # An argmax gives the class; of raw scores it is the first of the largest.
    flat = got.reshape(len(codes), -1)
    wrong = (flat != np.concatenate(expected).reshape(flat.shape)).any(axis=1)
    return Batch(
        images=len(codes), mismatches=int(wrong.sum()),
        first_mismatch=int(wrong.argmax()) if wrong.any() else None,
        classes=flat[:, 0] if flat.shape[1] == 1 else flat.argmax(axis=1),
        golden_classes=np.concatenate(classes), cycles=cycles, seconds=seconds, stall=stall,
        seed=seed, simulator=simulator)


def _run(folder: Path, count: int, sizes: Sequence[int], stall: float, seed: int, images: int,
         report: Progress) -> int:
    """Run ``count`` processes at a time; cycles of all of them.

    ``sizes`` are the bytes of a beat and the beats of an image, then those of a result.
    """
    report("simulate", 0, images)
    done, cycles = [0] * count, [0] * count

    def follow(number: int, line: str) -> None:
        word, _, value = line.partition(" ")
        if word == "cycles":
            cycles[number] = int(value)
        else:
            done[number] = int(word)
            report("simulate", sum(done), images)

    run_programs([[str(folder / "batch"), f"{number}.in", f"{number}.out", *map(str, sizes),
                   str(int(stall * 65536)), str(seed + number), str(_PATIENCE), "weights"]
                  for number in range(count)], folder, follow)
    return sum(cycles)
