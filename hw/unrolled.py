"""Unrolled dot products: a constant matrix times a vector, by additions alone."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Module, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import beats, vector

__all__ = ["AdderGraph", "Bounds", "Sum", "Term", "UnrolledDots", "addition_bits", "bits_of"]

Bounds = tuple[int, int]
"""Lowest and highest value."""


@dataclass(frozen=True, slots=True)
class Term:
    """``sign * 2**shift`` times an input, or a sum: number ``source`` of the former, then of the
    latter."""

    source: int
    shift: int
    sign: int

    def bounds(self, of_source: Bounds) -> Bounds:
        """Lowest and highest value of the term, given those of its source."""
        low, high = sorted(self.sign * end << self.shift for end in of_source)
        return low, high


@dataclass(frozen=True, slots=True)
class Sum:
    """Two terms added; the left one is not shifted, and at least one is not negative."""

    left: Term
    right: Term

    def bounds(self, sources: Sequence[Bounds]) -> Bounds:
        """Lowest and highest value, given those of all sources."""
        left, right = (term.bounds(sources[term.source]) for term in (self.left, self.right))
        return left[0] + right[0], left[1] + right[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class AdderGraph:
    """Sums in the order in which they are added, and the outputs among them.

    Parameters
    ----------
    inputs : sequence of (lowest, highest)
        What each input can be; a constant is an input that can be one number.
    sums : sequence of Sum
        Each of inputs and of sums before it.
    outputs : sequence of Term or None
        None is an output that is always 0.
    """

    inputs: tuple[Bounds, ...]
    sums: tuple[Sum, ...]
    outputs: tuple[Term | None, ...]

    @cached_property
    def bounds(self) -> list[Bounds]:
        """Of each input, then of each sum: exact where no input is added twice."""
        bounds = list(self.inputs)
        for item in self.sums:
            bounds.append(item.bounds(bounds))
        return bounds

    @cached_property
    def levels(self) -> list[int]:
        """Additions on the longest way to each input, then to each sum."""
        levels = [0] * len(self.inputs)
        for item in self.sums:
            levels.append(1 + max(levels[item.left.source], levels[item.right.source]))
        return levels

    @property
    def bits(self) -> int:
        """Bits of all additions, and of the negations of outputs: each is a look-up table and a
        carry."""
        outputs = (term for term in self.outputs if term is not None and term.sign < 0)
        negated = sum(bits_of(self.bounds[term.source]) + 1 for term in outputs)
        return negated + sum(
            addition_bits(item, self.bounds[item.left.source], result)
            for item, result in zip(self.sums, self.bounds[len(self.inputs):], strict=True))

    def values(self, inputs: Sequence[int]) -> list[int]:
        """Outputs, by the sums, for one number for each input."""
        values = list(inputs)
        for item in self.sums:
            values.append(sum(_of(term, values) for term in (item.left, item.right)))
        return [0 if term is None else _of(term, values) for term in self.outputs]


def _of(term: Term, values: Sequence[int]) -> int:
    return term.sign * values[term.source] << term.shift


def bits_of(bounds: Bounds) -> int:
    """Bits of a number, in two's complement if it may be negative."""
    low, high = bounds
    return max(high.bit_length(), (-1 - low).bit_length()) + 1 if low < 0 else high.bit_length()


def addition_bits(item: Sum, left: Bounds, result: Bounds) -> int:
    """Bits that an addition takes: those below a shifted term pass, unless they are negated.

    Parameters
    ----------
    item : Sum
    left, result : (lowest, highest)
        Of the source of its left term, and of the sum.
    """
    shift = item.right.shift if item.left.sign > 0 else 0
    if shift and item.right.sign > 0 and left[0] >= 0 and bits_of(left) <= shift:
        return 0  # they stand side by side
    return bits_of(result) - shift


class UnrolledDots(wiring.Component):
    """Dot products of a vector with constant rows, all at once.

    There is an adder for each sum of the graph; registers stand behind every ``depth`` of them,
    and behind the outputs. All paths from ``i`` to ``o`` are registered; ``i.ready`` depends
    combinationally on ``o.ready``.

    Latency: ``latency`` cycles, the levels of the graph by ``depth``. Throughput: 1 vector a
    cycle.

    Parameters
    ----------
    graph : AdderGraph
        Its first inputs are the elements of a vector, those beyond them constants.
    code_shape : shape-like
        Unsigned shape of an element.
    elements : int
        Elements of a vector; at least 1.
    o_shape : shape-like
        Signed shape that holds every output.
    depth : int
        Additions between two registers; at least 1.

    Members
    -------
    i : In(vector(code_shape, elements))
        Vectors.
    o : Out(vector(o_shape, outputs))
        Outputs of the graph.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, graph: AdderGraph, *, code_shape: ShapeLike, elements: int,
                 o_shape: ShapeLike, depth: int) -> None:
        self.graph = graph
        self.code_shape, self.o_shape = Shape.cast(code_shape), Shape.cast(o_shape)
        self.elements = elements
        if not 1 <= elements <= len(graph.inputs) or not graph.outputs:
            raise ValueError(f"Graph must have at least 1 output, and an input for each of "
                             f"{elements!r} elements, not {len(graph.inputs)}")
        if any(low != high for low, high in graph.inputs[elements:]):
            raise ValueError("Inputs beyond the elements of a vector must be constants")
        if not self.o_shape.signed:
            raise ValueError(f"Shape of outputs must be signed, not {self.o_shape!r}")
        if depth < 1:
            raise ValueError(f"Additions between registers must be at least 1, not {depth!r}")
        self.depth = depth
        used = [graph.levels[term.source] for term in graph.outputs if term is not None]
        self.latency = max(1, beats(max(used, default=1), depth))
        super().__init__({"i": In(vector(self.code_shape, elements)),
                          "o": Out(vector(self.o_shape, len(graph.outputs)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        valid: Value = self.i.valid
        for level in range(self.latency - 1):
            following = Signal(name=f"valid_{level}")
            with m.If(advance):
                m.d.sync += following.eq(valid)
            valid = following

        # What every source is behind so many registers. A sum is made in the stage that its level
        # lies in, of what its terms are there; a register takes it along to the next stage.
        graph, count = self.graph, len(self.graph.inputs)
        at: dict[tuple[int, int], Value] = {
            (n, 0): self.i.payload[n] for n in range(self.elements)}

        def value(source: int, stage: int) -> Value:
            if self.elements <= source < count:
                return Value.cast(graph.inputs[source][0])
            if (source, stage) not in at:
                before = value(source, stage - 1)
                register = Signal(before.shape(), name=f"value_{source}_{stage}")
                with m.If(advance):
                    m.d.sync += register.eq(before)
                at[source, stage] = register
            return at[source, stage]

        for number, item in enumerate(graph.sums, start=count):
            stage = (graph.levels[number] - 1) // self.depth
            left = value(item.left.source, stage)
            right = value(item.right.source, stage) << item.right.shift
            # Yosys would join additions of three and more numbers in a dearer circuit.
            total = Signal(_shape(graph.bounds[number]), name=f"sum_{number}",
                           attrs={"keep": 1})
            m.d.comb += total.eq(right - left if item.left.sign < 0 else
                                 left + right if item.right.sign > 0 else left - right)
            at[number, stage] = total

        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
        for n, term in enumerate(graph.outputs):
            if term is None:
                continue
            shifted = value(term.source, self.latency) << term.shift
            m.d.comb += self.o.payload[n].eq(-shifted if term.sign < 0 else shifted)

        return m


def _shape(bounds: Bounds) -> Shape:
    return Shape(max(1, bits_of(bounds)), signed=bounds[0] < 0)
