"""Whole data sets through a network's Verilog, in Verilator, with the stimulus in C++.

The cocotb bench (`nomul.sim.verilator`) sees every beat of every layer, and wakes Python for every
beat of an image. This one compares results alone and costs no Python in a cycle: some hundred
times faster, and on all cores.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.emit import Emitted, Port, verilog_digest
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.network import Network
from nomul.compiler.values import Ints
from nomul.sim.golden import check_images, run
from nomul.sim.records import beats_of
from nomul.sim.verilator import build_environment, check_run, check_simulator

__all__ = ["Batch", "play_all"]

Progress = Callable[[str, int, int], None]

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
             progress: Progress | None = None) -> Batch:
    """Play all images ``codes``, shape [images, height, width, channels], and compare the results.

    Parameters
    ----------
    circuit : Emitted
        What ``network`` was emitted to.
    byte_wide : bool
        Whether ``tdata`` of its Verilog has 8 bits, and the bytes of a beat come one after the
        other, the lowest first, as through the shell that is synthesized.
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
        _build(network.name, circuit.verilog, folder, report)
        parts = np.array_split(np.arange(len(codes)), min(jobs or os.cpu_count() or 1, len(codes)))
        for number, part in enumerate(parts):
            (folder / f"{number}.in").write_bytes(_sent(codes[part], circuit.s_axis))
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
            _received((folder / f"{number}.out").read_bytes(), network.output.shape,
                      circuit.m_axis) for number in range(len(parts))])
    expected, classes = [], []
    for first in range(0, len(codes), _GOLDEN):
        trace = run(network, codes[first:first + _GOLDEN])
        expected.append(trace[network.layers[-1].name])
        classes.append(trace.classes)
        report("golden model", min(first + _GOLDEN, len(codes)), len(codes))
    wrong = (got != np.concatenate(expected).reshape(got.shape)).any(axis=(1, 2))
    # An argmax gives the class; of raw scores it is the first of the largest.
    flat = got.reshape(len(got), -1)
    return Batch(
        images=len(codes), mismatches=int(wrong.sum()),
        first_mismatch=int(wrong.argmax()) if wrong.any() else None,
        classes=flat[:, 0] if flat.shape[1] == 1 else flat.argmax(axis=1),
        golden_classes=np.concatenate(classes), cycles=cycles, seconds=seconds, stall=stall,
        seed=seed, simulator=simulator)


def _sent(codes: Ints, port: Port) -> bytes:
    """Images as the bytes of beats."""
    flat = codes.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % port.lanes)))
    return flat.astype(f"<u{port.bits // 8}").tobytes()


def _received(content: bytes, shape: tuple[int, ...], port: Port) -> Ints:
    """Results in the bytes of beats, shape [images, vectors, elements]."""
    size = port.bits // 8
    raw = np.frombuffer(content, dtype=np.uint8).reshape(-1, size).astype(np.int64)
    values = (raw << 8 * np.arange(size)).sum(axis=1)
    if port.signed:
        values -= (values >> port.bits - 1) << port.bits
    *positions, elements = shape
    each = -(-elements // port.lanes) * port.lanes
    result: Ints = values.reshape(-1, prod(positions), each)[..., :elements]
    return result


def _build(top: str, verilog: str, folder: Path, report: Progress) -> None:
    report("compile", 0, 1)
    (folder / "network.v").write_text(verilog)
    shutil.copy(Path(__file__).with_name("batch.cpp"), folder)
    with build_environment(fast="-O3"), (folder / "build.log").open("w") as output:
        for command in (
                ("verilator", "--cc", "--exe", "-O3", "-Mdir", ".", "--prefix", "Vnetwork", "-o",
                 "batch", "--top-module", top, "-Wno-fatal", "-Wno-lint", "batch.cpp",
                 "network.v"),
                ("make", "-j", str(os.cpu_count() or 1), "-f", "Vnetwork.mk")):
            code = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                                  stderr=subprocess.STDOUT, check=False).returncode
            if code:
                lines = (folder / "build.log").read_text(errors="replace").splitlines()
                reason = next((line for line in lines if "rror" in line), f"code {code}")
                raise ToolError(f"simulation of network {top!r} must compile, but {command[0]} "
                                f"failed: {reason.strip()}")
    report("compile", 1, 1)


def _run(folder: Path, count: int, sizes: Sequence[int], stall: float, seed: int, images: int,
         report: Progress) -> int:
    """Run ``count`` processes at a time; cycles of all of them.

    ``sizes`` are the bytes of a beat and the beats of an image, then those of a result.
    """
    report("simulate", 0, images)
    processes = [subprocess.Popen(
        [str(folder / "batch"), f"{number}.in", f"{number}.out", *map(str, sizes),
         str(int(stall * 65536)), str(seed + number), str(_PATIENCE)], cwd=folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(count)]
    done, cycles, lock = [0] * count, [0] * count, threading.Lock()

    def follow(number: int) -> None:
        output = processes[number].stdout
        assert output is not None
        for line in output:
            word, _, value = line.strip().partition(" ")
            if word == "cycles":
                cycles[number] = int(value)
            else:
                with lock:
                    done[number] = int(word)
                    report("simulate", sum(done), images)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for process in processes:
            error = (process.stderr.read() if process.stderr else "").strip()
            if process.wait():
                raise ToolError("simulation must run to its end, but failed: "
                                f"{error.removeprefix('Error: ') or process.returncode}")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return sum(cycles)
