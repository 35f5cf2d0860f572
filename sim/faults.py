"""Single bits of a network's Verilog, flipped in Verilator while images are played.

One compiled simulation serves all upsets: registers and memories can be reached from C++ by their
names. An upset of a register, or of a memory that is written, comes once, in some cycle. One of a
read-only memory is there from the first cycle to the last image, because nothing ever writes it
again. After each the circuit is reset and the bit, if it lasts, mended.
"""
from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.emit import Emitted, Port, verilog_digest
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.flow import hardware_source
from nomul.compiler.network import Argmax, Network
from nomul.compiler.plan import Plan, refuse_loads
from nomul.compiler.values import Ints
from nomul.sim.golden import check_images, run
from nomul.sim.records import beats_of
from nomul.sim.stimulus import (
    Progress,
    compile_program,
    elements,
    images_as_bytes,
    run_programs,
)
from nomul.sim.upsets import Kind, Place, places
from nomul.sim.verilator import check_run, check_simulator

__all__ = ["Bench", "Effect", "Upset", "draw", "faults_bench"]

# A circuit that takes so many times as long as without an upset hangs.
_PATIENCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Upset:
    """A bit that is flipped.

    Parameters
    ----------
    place : Place
    word, bit : int
        Where in it; word 0 of a register.
    cycle : int
        When, from reset.
    first_image : int
        The image that is played first; the others follow in their order, and those before it
        are the last ones.
    """

    place: Place
    word: int
    bit: int
    cycle: int = 0
    first_image: int = 0


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What the circuit did with an upset, or without one.

    Parameters
    ----------
    upset : Upset or None
    finished : bool
        Whether all results came.
    classes : array of int, shape [images]
        In the order in which the images were given, whichever was played first.
    scores : array of int, shape [images, elements]
        What the classes are chosen from.
    came : array of bool, shape [images]
        Where there is a result; else class and scores are 0.
    framing : bool
        Whether ``m_axis_tlast`` was wrong.
    frame_error, parity_error : bool
        The circuit's flags afterwards; not every circuit has the latter.
    """

    upset: Upset | None
    finished: bool
    classes: Ints
    scores: Ints
    came: NDArray[np.bool_]
    framing: bool
    frame_error: bool
    parity_error: bool


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A compiled simulation, in whose registers and memories bits can be flipped.

    Parameters
    ----------
    places : tuple of Place
        All that can be flipped.
    images : int
        How many are played.
    golden : Effect
        What the golden model gives, and the circuit without an upset, in every bit.
    first_result, interval : int
        Cycles from reset to the first result, and from result to result.
    parity : bool
        Whether the circuit has a flag for parity.
    simulator : str
        Name and version.
    """

    places: tuple[Place, ...]
    images: int
    golden: Effect
    first_result: int
    interval: int
    parity: bool
    simulator: str
    _program: _Program

    def play(self, upsets: Sequence[Upset], *, jobs: int | None = None,
             progress: Progress | None = None) -> list[Effect]:
        """What each of ``upsets`` does, by ``jobs`` processes, or one for each processor.

        Raises
        ------
        ToolError
            If the simulation fails, or is not as before when all upsets are mended.
        """
        limit = _PATIENCE * (self.first_result + self.images * self.interval)
        count = max(1, min(jobs or os.cpu_count() or 1, len(upsets)))
        parts = [upsets[number::count] for number in range(count)]
        played = self._program.play([[*part, None] for part in parts], limit, len(upsets),
                                    progress or (lambda stage, done, total: None))
        for effects in played:
            self.check(effects.pop()[0])
        return [played[n % count][n // count][0] for n in range(len(upsets))]

    def check(self, effect: Effect) -> None:
        """`ToolError` unless ``effect`` is that of no upset."""
        if not effect.finished or (effect.scores != self.golden.scores).any() or (
                effect.classes != self.golden.classes).any():
            raise ToolError("circuit must give the golden model's scores without an upset, but "
                            "does not; find the first difference with 'nomul sim'")
        if effect.parity_error:
            raise ToolError("circuit must not raise parity_error without an upset, but does; "
                            "build it again with 'nomul build'")


@contextmanager
def faults_bench(network: Network, plan: Plan, circuit: Emitted, codes: Ints, *,
                 progress: Progress | None = None) -> Iterator[Bench]:
    """Compile the Verilog of ``network`` for upsets.

    Parameters
    ----------
    circuit : Emitted
        What ``network`` and ``plan`` were emitted to.
    codes : array of int, shape [images, height, width, channels]
        Images to play.
    progress : callable of stage, done, total

    Raises
    ------
    DataError
        If network, Verilog and images do not belong together.
    PlanError
        If weights must be loaded.
    ToolError
        If a tool is missing or fails, or the circuit does not give the golden model's scores.
    """
    simulator = check_simulator()
    refuse_loads(network, plan, "upsets")
    check_run(network, 0.0, {"Verilog": verilog_digest(circuit.verilog)})
    codes = check_images(network, codes)
    if not len(codes):
        raise DataError("there must be at least one image to simulate")
    found = places(network, plan, circuit.verilog)
    golden = _golden(network, codes)
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        program = _Program(network, plan, circuit, codes, found, Path(name))
        program.build(progress or (lambda stage, done, total: None))
        (effect, first, last), = program.play([[None]], 1 << 40, 1)[0]
        bench = Bench(places=tuple(found), images=len(codes), golden=golden, first_result=first,
                      interval=(last - first) // max(1, len(codes) - 1) or 1,
                      parity=program.parity, simulator=simulator, _program=program)
        bench.check(effect)
        yield bench


def draw(bench: Bench, kind: Kind, count: int, seed: int) -> list[Upset]:
    """``count`` upsets of bits of a kind, all of them equally likely.

    Those that last are of different bits, of which there may be fewer. The others come in a cycle
    of the first interval in which the circuit is full, and any image may be the first one.
    """
    rng = np.random.default_rng([seed, *kind.value.encode()])
    chosen = [place for place in bench.places if place.kind is kind]
    ends = np.cumsum([place.bits for place in chosen])
    if not chosen:
        return []
    total = int(ends[-1])
    numbers = (rng.choice(total, min(count, total), replace=False) if kind.lasts
               else rng.integers(0, total, count))
    upsets = []
    for number in numbers.tolist():
        at = int(np.searchsorted(ends, number, side="right"))
        word, bit = divmod(number - int(ends[at]) + chosen[at].bits, chosen[at].width)
        upsets.append(Upset(
            place=chosen[at], word=word, bit=bit,
            cycle=0 if kind.lasts else bench.first_result + int(rng.integers(bench.interval)),
            first_image=0 if kind.lasts else int(rng.integers(bench.images))))
    return upsets


def _golden(network: Network, codes: Ints) -> Effect:
    trace = run(network, codes)
    return Effect(upset=None, finished=True, classes=trace.classes,
                  scores=trace[_scores(network)].reshape(len(codes), -1),
                  came=np.ones(len(codes), dtype=bool), framing=False, frame_error=False,
                  parity_error=False)


def _scores(network: Network) -> str:
    """The layer that classes are chosen from."""
    last = network.layers[-1]
    return hardware_source(network, last.inputs[0] if isinstance(last, Argmax) else last.name)


class _Program:
    """``faults.cpp``, compiled for one circuit, and what it reads and writes."""

    def __init__(self, network: Network, plan: Plan, circuit: Emitted, codes: Ints,
                 found: Sequence[Place], folder: Path) -> None:
        self.network, self.circuit, self.folder, self.places = network, circuit, folder, found
        self.images = len(codes)
        self.parity = circuit.parity
        layer = _scores(network)
        tap = next((tap for tap in circuit.taps if tap.layer == layer), None)
        assert tap is not None, "every layer in hardware has a tap"
        self.tap = tap
        #: As the wrapper gives it: each element in whole bytes.
        self.scores = Port(layer=layer, lanes=tap.lanes, bits=-(-tap.bits // 8) * 8,
                           signed=tap.signed)
        (folder / "images").write_bytes(images_as_bytes(codes, circuit.s_axis))

    def build(self, report: Progress) -> None:
        # Only what is flipped can be reached from outside: all else is optimized.
        (self.folder / "network.v").write_text(self.circuit.verilog + self._wrapper())
        (self.folder / "places.vlt").write_text("`verilator_config\n" + "".join(sorted(
            {f'public_flat_rw -module "{place.module}" -var "{place.path[-1]}"\n'
             for place in self.places})))
        compile_program("faults", f"{self.network.name}_faults", self.folder, report,
                        "--vpi", "places.vlt")

    def _wrapper(self) -> str:
        """The network, and what its class is chosen from, as ports."""
        name, tap, size = self.network.name, self.tap, self.scores.bits
        fields = []
        for lane in reversed(range(tap.lanes)):
            sign = f"payload[{(lane + 1) * tap.bits - 1}]" if tap.signed else "1'b0"
            fields += [sign] * (size - tap.bits) + [f"payload[{lane * tap.bits} +: {tap.bits}]"]
        i_bits, o_bits = (port.lanes * port.bits
                          for port in (self.circuit.s_axis, self.circuit.m_axis))
        ports = ["clk", "rst", "s_axis_tdata", "s_axis_tvalid", "s_axis_tready", "s_axis_tlast",
                 "m_axis_tdata", "m_axis_tvalid", "m_axis_tready", "m_axis_tlast", "frame_error"]
        ports += ["parity_error"] * self.parity
        wire = f"network.body.{tap.layer}__"
        return f"""
module {name}_faults
    (input clk, input rst, input [{i_bits - 1}:0] s_axis_tdata, input s_axis_tvalid,
     output s_axis_tready, input s_axis_tlast, output [{o_bits - 1}:0] m_axis_tdata,
     output m_axis_tvalid, input m_axis_tready, output m_axis_tlast, output frame_error,
     output parity_error, output [{tap.lanes * size - 1}:0] scores, output scores_taken);
  {name} network ({", ".join(f".{port}({port})" for port in ports)});
  wire [{tap.lanes * tap.bits - 1}:0] payload = {wire}payload;
  assign scores = {{{', '.join(fields)}}};
  assign scores_taken = {wire}valid & {wire}ready;
  {"" if self.parity else "assign parity_error = 0;"}
endmodule
"""

    def play(self, parts: Sequence[Sequence[Upset | None]], limit: int, total: int,
             report: Progress | None = None) -> list[list[tuple[Effect, int, int]]]:
        """Of each upset of each part, a process for each: the effect, and cycles from reset to the
        first result and to the last one."""
        sizes = [self.circuit.s_axis.lanes * self.circuit.s_axis.bits // 8,
                 beats_of((1, 1, prod(self.network.input.shape)), self.circuit.s_axis.lanes),
                 self.circuit.m_axis.lanes * self.circuit.m_axis.bits // 8,
                 beats_of(self.network.output.shape, self.circuit.m_axis.lanes),
                 self.scores.lanes * self.scores.bits // 8,
                 beats_of(self.network.wires[self.scores.layer].shape, self.scores.lanes)]
        lines: list[list[list[int]]] = [[] for _ in parts]
        for number, part in enumerate(parts):
            (self.folder / f"{number}.upsets").write_text("".join(map(self._line, part)))

        def follow(number: int, line: str) -> None:
            lines[number].append([int(field) for field in line.split()])
            if report:
                report("upsets", min(total, sum(map(len, lines))), total)

        run_programs([[str(self.folder / "faults"), "images", f"{number}.upsets", f"{number}.out",
                       *map(str, (*sizes, limit))] for number in range(len(parts))],
                     self.folder, follow)
        result_bytes, score_bytes = (self.images * sizes[n] * sizes[n + 1] for n in (2, 4))
        played = []
        for number, part in enumerate(parts):
            content = (self.folder / f"{number}.out").read_bytes()
            size = result_bytes + score_bytes
            played.append([
                self._effect(upset, facts, content[n * size:n * size + result_bytes],
                             content[n * size + result_bytes:(n + 1) * size])
                for n, (upset, facts) in enumerate(zip(part, lines[number], strict=True))])
        return played

    def _line(self, upset: Upset | None) -> str:
        if upset is None:
            return "0 0 0 -1 0 -\n"
        place = upset.place
        names = ["TOP", f"{self.network.name}_faults", "network", *place.path[1:]]
        # As Verilator writes names that C would not take.
        path = ".".join(name if re.fullmatch(r"\w+", name) else f"\\{name} " for name in names)
        return (f"{upset.cycle} {upset.first_image} {int(place.kind.lasts)} "
                f"{upset.word if place.memory else -1} {upset.bit} {path}\n")

    def _effect(self, upset: Upset | None, facts: list[int], results: bytes, scores: bytes,
                ) -> tuple[Effect, int, int]:
        taken, first, last, framing, frame_error, parity_error = facts
        each = beats_of(self.network.output.shape, self.circuit.m_axis.lanes)
        back = 0 if upset is None else upset.first_image

        def in_order(content: bytes, shape: tuple[int, ...], port: Port) -> Ints:
            values = elements(content, shape[-1], port).reshape(self.images, -1)
            return np.roll(values, back, axis=0)

        got = in_order(results, self.network.output.shape, self.circuit.m_axis)
        came = np.roll(np.arange(self.images) < taken // each, back)
        return Effect(
            upset=upset, finished=bool(came.all()), came=came,
            classes=got[:, 0] if got.shape[1] == 1 else got.argmax(axis=1),
            scores=in_order(scores, self.network.wires[self.scores.layer].shape, self.scores),
            framing=bool(framing), frame_error=bool(frame_error),
            parity_error=bool(parity_error)), first, last
