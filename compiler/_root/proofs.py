# amaranth: UnusedElaboratable=no
"""All that is proved, and the page about it.

``python -m nomul.proofs docs`` proves everything, which takes minutes, and writes docs/proofs.md.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Const, Value, unsigned

from nomul.boards.equivalence import equivalences
from nomul.boards.shell import ByteCollector, ByteSplitter, PinShell, Skid
from nomul.compiler.files import replace_file
from nomul.hw.axis import AxisTop
from nomul.hw.branch import Queue
from nomul.hw.stream import vector
from nomul.sim.formal import Beats, Proof, Verdict
from nomul.sim.obligations import Example, Obligation
from nomul.sim.proofs import EXAMPLES, HARDWARE, OTHERS, PINNED

__all__ = ["OBLIGATIONS", "SHELL", "page"]


def _bytes(beats: Beats) -> Beats:
    """Two bytes in one beat."""
    return {"o": [Cat(*(Value.cast(beat)[:8] for beat in beats["i"]), Const(0, 1))]}


def _apart(beats: Beats) -> Beats:
    """A beat of two bytes in two, and whether it ends."""
    beat = Value.cast(beats["i"][0])
    return {"o": [Cat(beat[:8], Const(0, 1)), beat[8:]]}


def _shell(length: int = 2) -> PinShell:
    """Around codes of 2 bits, two to a result."""
    body = Queue(vector(unsigned(2), 1).members["payload"].shape, 1)
    return PinShell(AxisTop(body, i_length=2, o_length=length))


def _codes(beats: Beats) -> Beats:
    return {"m_axis": [Cat(Value.cast(beat)[:2], Const(0, 6), Const(n == 1, 1))
                       for n, beat in enumerate(beats["s_axis"])]}


def _no_last(port: str, beat: Any) -> Value:
    return ~Value.cast(beat)[-1]


#: What the parts of the pin shell do.
SHELL = (
    Example(sizes="2 bits", make=lambda: Skid(unsigned(2)), takes={"i": 1}, gives={"o": 1},
            function=lambda beats: {"o": beats["i"]}, capacity=3, computes="first in, first out"),
    Example(sizes="2 bytes", make=lambda: ByteCollector(2), takes={"i": 2}, gives={"o": 1},
            function=_bytes, capacity=2, assume=_no_last,
            computes="the bytes of a beat together, unless it ends early"),
    Example(sizes="2 bytes", make=lambda: ByteSplitter(2), takes={"i": 1}, gives={"o": 2},
            function=_apart, capacity=2, computes="the bytes of a beat one after the other"),
    Example(sizes="codes of 2 bits, around a queue", make=_shell, takes={"s_axis": 2},
            gives={"m_axis": 2}, function=_codes, capacity=4,
            computes="what the network gives, in bytes", broken=lambda: _shell(1),
            twin="counts another number of results"),
)

#: Everything there is to prove.
OBLIGATIONS: tuple[Obligation, ...] = (
    *HARDWARE, *(o for example in SHELL for o in example.obligations()),
    *equivalences((*EXAMPLES, *SHELL), (*OTHERS, *PINNED)))


def page(proofs: Iterable[tuple[Obligation, Proof, Proof]]) -> str:
    """Text of docs/proofs.md.

    Parameters
    ----------
    proofs : iterable of obligation, its proof, and the refutation of its broken twin
    """
    rows = []
    for obligation, proof, twin in proofs:
        method = ("for ever (PDR)" if obligation.bound is None
                  else f"{obligation.bound} cycles (BMC)")
        rows.append(f"| `{obligation.component.__module__}.{obligation.component.__name__}` | "
                    f"{obligation.sizes} | {obligation.claim} | {method} | {proof.frames} | "
                    f"{proof.seconds:.1f} | {obligation.twin}: {twin.frames} |")
    return "\n".join((
        "# Proofs", "",
        "Made by `python -m nomul.proofs docs`, from the list that the tests prove; do not edit.",
        "",
        "Each row is proved for all inputs, under all stalls that keep the stream rules, from "
        "reset on. *For ever* is a proof without a bound on time: ABC's property-directed "
        "reachability (PDR) finds an invariant. *Frames* are cycles that it looked at until then; "
        "of a broken twin, which differs in what the last column says, cycles of the run that "
        "refutes it. Seconds are processor time of the Yosys and the ABC of `pyosys`.", "",
        "A *vector* is what a component computes one result from. That none is lost, repeated or "
        "out of order, and that no accumulator overflows, follows from the exact function: sums "
        "are compared with exact ones, beat by beat. Nothing is proved about progress.", "",
        "Rows that name a family of chips are about the netlist that Yosys maps the component to: "
        "in each cycle it gives the same `valid` and `ready` as the component, whatever comes and "
        "whenever it resets, and the same payload where that is valid.", "",
        "| component | sizes | claim | proved | frames | s | broken twin, refuted in frame |",
        "|---|---|---|---|---|---|---|", *rows, ""))


def _settle(obligation: Obligation) -> tuple[Obligation, Proof, Proof]:
    """Prove, and refute the twin; `RuntimeError` if either does not succeed."""
    with tempfile.TemporaryDirectory(prefix="nomul-") as one, \
            tempfile.TemporaryDirectory(prefix="nomul-") as other:
        proof, twin = obligation.prove(Path(one)), obligation.refute(Path(other))
    if (proof.verdict, twin.verdict) != (Verdict.PROVED, Verdict.REFUTED):
        raise RuntimeError(f"{obligation.name}: {proof.verdict.value}, and its broken twin "
                           f"{twin.verdict.value}")
    return obligation, proof, twin


if __name__ == "__main__":
    replace_file(Path(sys.argv[1]) / "proofs.md", page(map(_settle, OBLIGATIONS)))
