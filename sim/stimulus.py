"""Programs in C++ that play images into a network's Verilog: compiled by Verilator, and run.

What they play and what they note are beats as bytes: each element in whole bytes, the lowest first.
"""
from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nomul.compiler.emit import Port
from nomul.compiler.errors import ToolError
from nomul.compiler.values import Ints
from nomul.sim.runtime import compile_model
from nomul.sim.verilator import build_environment

__all__ = ["Progress", "compile_program", "elements", "images_as_bytes", "run_programs"]

Progress = Callable[[str, int, int], None]


def images_as_bytes(codes: Ints, port: Port) -> bytes:
    """The beats of images ``codes``, shape [images, height, width, channels], at ``port``."""
    flat = codes.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % port.lanes)))
    return flat.astype(f"<u{port.bits // 8}").tobytes()


def elements(content: bytes, length: int, port: Port) -> Ints:
    """Vectors of ``length`` elements in the bytes of beats at ``port``, shape [vectors, length]."""
    size = port.bits // 8
    raw = np.frombuffer(content, dtype=np.uint8).reshape(-1, size).astype(np.int64)
    values = (raw << 8 * np.arange(size)).sum(axis=1)
    if port.signed:
        values -= (values >> port.bits - 1) << port.bits
    result: Ints = values.reshape(-1, -(-length // port.lanes) * port.lanes)[:, :length]
    return result


def compile_program(program: str, top: str, folder: Path, report: Progress,
                    *options: str) -> Path:
    """Compile ``<program>.cpp`` of this package with the module ``top`` of ``network.v`` in
    ``folder``, and with further ``options`` of Verilator or files; the program.

    Raises
    ------
    ToolError
        With the first error that was reported.
    """
    report("compile", 0, 1)
    source = f"{program}.cpp"
    for name in (source, "ports.h"):
        shutil.copy(Path(__file__).with_name(name), folder)
    with build_environment(fast="-O3"), (folder / "build.log").open("w") as output:

        def call(*command: str) -> None:
            code = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                                  stderr=subprocess.STDOUT, check=False).returncode
            if code:
                lines = (folder / "build.log").read_text(errors="replace").splitlines()
                reason = next((line for line in lines if "rror" in line), f"code {code}")
                raise ToolError(f"simulation of network {top!r} must compile, but {command[0]} "
                                f"failed: {reason.strip()}")

        call("verilator", "--cc", "--exe", "-O3", "-Mdir", ".", "--prefix", "Vnetwork", "-o",
             program, "--top-module", top, "-Wno-fatal", "-Wno-lint", *options, source,
             "network.v")
        compile_model("Vnetwork", folder, call)
    report("compile", 1, 1)
    return folder / program


def run_programs(commands: Sequence[Sequence[str]], folder: Path,
                 follow: Callable[[int, str], None]) -> None:
    """Run all ``commands`` at a time in ``folder``.

    ``follow`` is called, from one thread at a time, with the number of a command and each line that
    it prints. If one fails, or on an interrupt, all are stopped.

    Raises
    ------
    ToolError
        With what the command that failed said.
    """
    processes = [subprocess.Popen(command, cwd=folder, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for command in commands]
    lock = threading.Lock()

    def read(number: int) -> None:
        output = processes[number].stdout
        assert output is not None
        for line in output:
            with lock:
                follow(number, line.strip())

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(processes))]
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
