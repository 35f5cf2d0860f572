"""Verilog under Verilator's linter, with every warning that it knows."""
from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nomul.compiler.errors import ToolError
from nomul.sim.verilator import build_environment, check_simulator

__all__ = ["WAIVED", "lint"]

WAIVED: Mapping[str, str] = {
    "UNUSEDSIGNAL": "the upper bits of the bytes in which codes travel on s_axis_tdata, and bits "
                    "that a shift drops, have no reader",
    "WIDTHEXPAND": "Yosys writes operands as wide as they are; Verilog extends the shorter one, "
                   "by its sign",
}
"""Warnings that are not errors in Verilog written by nomul, and why."""


def lint(files: Sequence[Path], top: str, *, waived: Sequence[str] = tuple(WAIVED)) -> list[str]:
    """Warnings and errors in ``files``, those ``waived`` apart; `ToolError` if there is no
    linter."""
    check_simulator()
    with build_environment():
        done = subprocess.run(
            ["verilator", "--lint-only", "-Wall", *(f"-Wno-{name}" for name in waived),
             "--top-module", top, *map(str, files)], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("%")]
    if done.returncode and not found:
        raise ToolError(f"verilator must read the Verilog of {top!r}, but failed with code "
                        f"{done.returncode}: {done.stdout.strip()[-300:]}")
    return found
