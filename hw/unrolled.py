"""Unrolled dot products: a constant matrix times a vector, by additions alone."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from amaranth.hdl import Cat, Const, Module, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import beats, vector

__all__ = ["AdderGraph", "Bounds", "Sum", "Term", "UnrolledDots", "bits_of"]

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
    """Two terms and a constant added; the left term is not shifted, and at least one is not
    negative.

    The constant costs nothing: it is what is carried into the adder, and bits above those of the
    narrower term. So a difference can be made one that is never negative, and needs no sign.
    """

    left: Term
    right: Term
    constant: int = 0

    def bounds(self, sources: Sequence[Bounds]) -> Bounds:
        """Lowest and highest value, given those of all sources."""
        left, right = (term.bounds(sources[term.source]) for term in (self.left, self.right))
        return left[0] + right[0] + self.constant, left[1] + right[1] + self.constant

    @property
    def passed(self) -> int:
        """Low bits of the left term that are those of the sum: none if it is negated."""
        return self.right.shift if self.left.sign > 0 else 0

    @property
    def subtracts(self) -> bool:
        return self.left.sign < 0 or self.right.sign < 0

    def widths(self, sources: Sequence[Bounds]) -> tuple[int, int]:
        """Bits of the two numbers that the adder adds, the left one's first."""
        left, right = (bits_of(sources[term.source]) for term in (self.left, self.right))
        if self.left.sign < 0:
            return left, right + self.right.shift
        return max(left - self.passed, int(sources[self.left.source][0] < 0)), right

    def split(self, sources: Sequence[Bounds]) -> tuple[int, int, int]:
        """The constant as what is carried in, 0 or 1, and numbers above the left and the right
        term, of which one is 0. A subtraction carries 1 in where it adds nothing.

        Raises
        ------
        ValueError
            The constant is not of this kind.
        """
        units, rest = divmod(self.constant, 1 << self.passed)
        widths = left, right = self.widths(sources)
        units += self.subtracts
        above, carry = (divmod(units, 1 << min(widths)) if min(widths) else
                        (units - self.subtracts, int(self.subtracts)))
        if rest or carry > 1:
            raise ValueError(f"Constant of a sum must be carried in at bit {self.passed} or lie "
                             f"{min(widths)} bits above, not {self.constant!r}")
        lows = [sources[term.source][0] for term in (self.left, self.right)]
        if not above:
            return carry, 0, 0
        if left <= right and lows[0] >= 0:
            return carry, above * self.left.sign, 0
        if right <= left and lows[1] >= 0:
            return carry, 0, above * self.right.sign
        raise ValueError(f"Term below constant {self.constant!r} must not be negative")

    def side_by_side(self, sources: Sequence[Bounds]) -> bool:
        """Whether the left term, which is not negative, lies below all bits of the right one, or
        of its complement: there is no adder."""
        right = sources[self.right.source]
        apart = self.left.sign > 0 and sources[self.left.source][0] >= 0 and not min(
            self.widths(sources))
        if self.right.sign > 0:
            return apart and not self.constant
        ones = (1 << bits_of(right)) - 1
        return apart and right[0] >= 0 and self.constant == ones << self.right.shift

    def bits(self, sources: Sequence[Bounds]) -> int:
        """Bits that the addition takes, given the bounds of all sources: those of the sum, less
        those that pass."""
        if self.side_by_side(sources):
            return 0
        return bits_of(self.bounds(sources)) - self.passed


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
        """Bits of all additions, and of the negations of outputs: each is a look-up table, and
        each but the highest ones a carry."""
        return sum(self._additions())

    @property
    def inverters(self) -> int:
        """Bits that an iCE40 negates before an adder: of inputs that are subtracted, and of sums
        that others add. Where all subtract a sum, its own adder gives the negative."""
        signs = {1: set[int](), -1: set[int]()}
        for item in self.sums:
            for term in (item.left, item.right):
                signs[term.sign].add(term.source)
        added = signs[1].union(range(len(self.inputs)),
                               (term.source for term in self.outputs if term is not None))
        return sum(bits_of(self.bounds[source]) for source in signs[-1] & added)

    @property
    def cost(self) -> int:
        """Tables and carries of an iCE40 for all additions, as far as they can be foreseen."""
        return self.inverters + sum(2 * bits - 1 for bits in self._additions() if bits)

    def _additions(self) -> list[int]:
        negated = [bits_of(self.bounds[term.source]) + 1 for term in self.outputs
                   if term is not None and term.sign < 0]
        return [item.bits(self.bounds) for item in self.sums] + negated

    def values(self, inputs: Sequence[int]) -> list[int]:
        """Outputs, by the sums, for one number for each input."""
        values = list(inputs)
        for item in self.sums:
            values.append(_of(item.left, values) + _of(item.right, values) + item.constant)
        return [0 if term is None else _of(term, values) for term in self.outputs]


def _of(term: Term, values: Sequence[int]) -> int:
    return term.sign * values[term.source] << term.shift


def bits_of(bounds: Bounds) -> int:
    """Bits of a number, in two's complement if it may be negative."""
    low, high = bounds
    return max(high.bit_length(), (-1 - low).bit_length()) + 1 if low < 0 else high.bit_length()


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
        for item in graph.sums:
            item.split(graph.bounds)
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
        read = [(term, self._stage(number)) for number, item in enumerate(graph.sums, start=count)
                for term in (item.left, item.right)]
        joined = {term.source for term, stage in read if stage == self._stage(term.source)}
        # Registers of an iCE40 start with 0. Yosys makes one that starts with ones of such a
        # register between inverters: these go into the table before and the subtraction behind.
        inverted = ({term.source for term, _ in read if term.sign < 0}
                    - {term.source for term, _ in read if term.sign > 0})

        def value(source: int, stage: int) -> Value:
            if self.elements <= source < count:
                return Value.cast(graph.inputs[source][0])
            if (source, stage) not in at:
                before = value(source, stage - 1)
                register = Signal(before.shape(), name=f"value_{source}_{stage}",
                                  init=_ones(before.shape()) if source in inverted else 0)
                with m.If(advance):
                    m.d.sync += register.eq(before)
                at[source, stage] = register
            return at[source, stage]

        for number, item in enumerate(graph.sums, start=count):
            stage = self._stage(number)
            left, right = value(item.left.source, stage), value(item.right.source, stage)
            at[number, stage] = self._add(m, number, left, right, keep=number in joined)

        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
        for n, term in enumerate(graph.outputs):
            if term is None:
                continue
            shifted = value(term.source, self.latency) << term.shift
            m.d.comb += self.o.payload[n].eq(-shifted if term.sign < 0 else shifted)

        return m

    def _stage(self, source: int) -> int:
        """Registers before ``source`` is made; -1 for an input."""
        return (self.graph.levels[source] - 1) // self.depth

    def _add(self, m: Module, number: int, left: Value, right: Value, *, keep: bool) -> Value:
        """What source ``number`` is, a sum of these."""
        bounds, item = self.graph.bounds, self.graph.sums[number - len(self.graph.inputs)]
        low = item.passed
        width = max(1, bits_of(bounds[number]) - low)
        if item.side_by_side(bounds):
            total = _resized(right if item.right.sign > 0 else ~right, width)
        else:
            carry, *above = item.split(bounds)
            both = ([left >> low, right] if item.left.sign > 0 else
                    [left, right << item.right.shift])
            for n, (bits, constant) in enumerate(zip(item.widths(bounds), above, strict=True)):
                if constant:
                    both[n] = Cat(both[n][:bits], Const(constant % (1 << width), width))
                both[n] = _resized(both[n], width)
            more, less = both if item.left.sign > 0 else reversed(both)
            spare = int(carry != item.subtracts)
            if spare:  # a bit below all others carries 1 in, or keeps a subtraction from it
                more, less = Cat(Const(carry, 1), more), Cat(Const(1, 1), less)
            added = Signal(width + spare, name=f"added_{number}")
            # Yosys would join additions of three and more numbers in a dearer circuit.
            total = Signal(width, name=f"sum_{number}", attrs={"keep": 1} if keep else {})
            m.d.comb += [added.eq(more - less if item.subtracts else more + less),
                         total.eq(added[spare:])]
        result = Cat(_resized(left, low), total)
        return result.as_signed() if bounds[number][0] < 0 else result


def _resized(value: Value, width: int) -> Value:
    """Low ``width`` bits, by the sign or 0 where there are fewer."""
    if len(value) >= width:
        return value[:width]
    above = value[-1] if value.shape().signed else Const(0, 1)
    return Cat(value, above.replicate(width - len(value)))


def _ones(shape: Shape) -> int:
    return -1 if shape.signed else (1 << shape.width) - 1


def _shape(bounds: Bounds) -> Shape:
    return Shape(max(1, bits_of(bounds)), signed=bounds[0] < 0)
