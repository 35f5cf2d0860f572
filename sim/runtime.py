"""Verilator's own runtime: the same objects in every simulation, compiled once.

They are a third of the work of a small simulation. What make would run for them, with which
compiler, names their folder among nomul's caches: other versions and options have another one.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nomul.compiler.errors import DataError
from nomul.compiler.files import cache_folder, replace_file

__all__ = ["compile_model"]


def compile_model(prefix: str, folder: Path, call: Callable[..., object]) -> None:
    """Compile what Verilator wrote to ``folder``, with the runtime from the cache if it is there.

    Parameters
    ----------
    prefix : str
        Of the files: make reads ``<prefix>.mk``.
    folder : Path
        Where make runs.
    call : callable of the words of a command
        Runs it in ``folder``, and raises if it fails; `compile_model` raises nothing else.
    """
    names = _runtime(prefix, folder)
    cache = _cache(prefix, folder, names)
    known = cache is not None and all((cache / name).is_file() for name in names)
    if cache is not None and known:
        with contextlib.suppress(OSError):
            for name in names:
                shutil.copyfile(cache / name, folder / name)
    call("make", "-j", str(os.cpu_count() or 1), "-f", f"{prefix}.mk")
    if cache is not None and not known:
        # A cache that cannot be written is none; the next simulation compiles again.
        with contextlib.suppress(OSError, DataError):
            for name in names:
                replace_file(cache / name, (folder / name).read_bytes())


def _runtime(prefix: str, folder: Path) -> list[str]:
    """Objects that come from Verilator's sources, not from the circuit's."""
    text = (folder / f"{prefix}_classes.mk").read_text()
    return sorted({f"{name}.o" for name in re.findall(r"^\s+(verilated\w*) \\$", text,
                                                      re.MULTILINE)})


def _cache(prefix: str, folder: Path, names: list[str]) -> Path | None:
    """Where the objects ``names`` are kept; None if it cannot be known what makes them."""
    if not names:
        return None
    try:
        # A make below another make would name the folder first, and each simulation has its own.
        commands = _output(("make", "--no-print-directory", "-n", "-B", "-f", f"{prefix}.mk",
                            *names), folder)
        compiler = _output((shlex.split(commands)[0], "--version"), folder)
        verilator = version("verilator")
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError, PackageNotFoundError):
        return None
    digest = hashlib.sha256("\0".join((commands, compiler, verilator)).encode()).hexdigest()
    return cache_folder() / "verilator" / digest[:32]


def _output(command: tuple[str, ...], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=True).stdout
