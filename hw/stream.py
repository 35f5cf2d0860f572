"""Streams that carry vectors: joining them, and changing how many elements a beat carries.

A vector of ``length`` elements travels in ``beats(length, lanes)`` beats, in order;
lanes of its last beat that hold no element hold anything.
"""
from __future__ import annotations

from fractions import Fraction

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Regroup", "beats", "count_to", "following", "pipe", "vector"]


def pipe(m: Module, source: stream.Interface, sink: stream.Interface) -> None:
    """Connect ``source`` to ``sink``, whose payloads must have one shape.

    ``wiring.connect`` of Amaranth 0.5 compares widths alone: it would join signed
    to unsigned, or one struct to another whose fields are in another order.
    """
    if source.payload.shape() != sink.payload.shape():
        raise TypeError(f"Stream of {source.payload.shape()!r} cannot feed "
                        f"a stream of {sink.payload.shape()!r}")
    wiring.connect(m, source, sink)


def vector(shape: ShapeLike, lanes: int) -> stream.Signature:
    """Stream whose beats carry ``lanes`` elements of ``shape``."""
    return stream.Signature(data.ArrayLayout(Shape.cast(shape), lanes))


def beats(length: int, lanes: int) -> int:
    """Beats that carry a vector of ``length`` elements, ``lanes`` to a beat."""
    return -(-length // lanes)


def count_to(m: Module, name: str, length: int, enable: Value) -> tuple[Value, Value]:
    """Counter 0, 1, …, ``length - 1``, 0, … that steps on ``enable``: its value, and if it is last.

    A counter of length 1 takes no hardware.
    """
    if length == 1:
        return Const(0), Const(1)
    count = Signal(range(length), name=name)
    last = count == length - 1
    with m.If(enable):
        m.d.sync += count.eq(following(count, length))
    return count, last


def following(position: Signal, length: int) -> Value:
    """What comes after ``position`` among 0, 1, …, ``length - 1``, 0, …"""
    if length == 1 << len(position):
        return position + 1  # it wraps by itself
    return Mux(position == length - 1, 0, position + 1)


class Regroup(wiring.Component):
    """Vectors in beats of ``i_lanes`` elements become vectors in beats of ``o_lanes``: the same
    ones, or several joined into a longer one, or each cut into several shorter ones.

    Three circuits: a beat is split by a multiplexer, or gathered in registers, or, where
    beats of one side would straddle those of the other, passes a buffer with two shifters.
    ``i.ready`` depends combinationally on ``o.ready``, except in the buffer.

    Latency: ``latency`` cycles, from the beat that completes one: 0 (split, equal) or 1
    (gathered, buffer). Throughput: one beat a cycle on the side that has more beats.

    Parameters
    ----------
    shape : shape-like
        Shape of one element.
    i_lanes, o_lanes : int
        Elements to a beat; at least 1.
    length : int
        Elements of an input vector; at least 1.
    o_length : int, optional
        Elements of an output vector, a multiple or a divisor of ``length``; the same if
        omitted.

    Members
    -------
    i : In(vector(shape, i_lanes))
        Vectors.
    o : Out(vector(shape, o_lanes))
        The same elements in the same order.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, *, i_lanes: int, o_lanes: int, length: int,
                 o_length: int | None = None) -> None:
        o_length = length if o_length is None else o_length
        for name, value in (("input lanes", i_lanes), ("output lanes", o_lanes),
                            ("elements", length), ("output elements", o_length)):
            if value < 1:
                raise ValueError(f"Number of {name} must be at least 1, not {value!r}")
        if length % o_length and o_length % length:
            raise ValueError(f"Number of output elements must be a multiple or a divisor of the "
                             f"{length} input elements, not {o_length!r}")
        self.shape = Shape.cast(shape)
        self.i_lanes = i_lanes
        self.o_lanes = o_lanes
        self.length = length
        self.o_length = o_length
        # Lanes that ever hold an element.
        self._i_used = min(i_lanes, length)
        self._o_used = min(o_lanes, o_length)
        self.latency = 0 if self._fits(length, self._i_used, self._o_used) else 1
        super().__init__({"i": In(vector(self.shape, i_lanes)),
                          "o": Out(vector(self.shape, o_lanes))})

    def _fits(self, length: int, large: int, small: int) -> bool:
        """Whether each beat of ``small`` elements on one side lies in one beat of ``large``
        on the other side, whose vectors have ``length``, whole beats from its start."""
        whole = length == large or large % small == 0
        ends = self.length == self.o_length or min(self.length, self.o_length) % small == 0
        return whole and ends

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._fits(self.length, self._i_used, self._o_used):
            self._split(m)
        elif self._fits(self.o_length, self._o_used, self._i_used):
            self._gather(m)
        else:
            self._buffer(m)
        return m

    def _split(self, m: Module) -> None:
        # Output beats of a whole input beat, and of an input vector.
        ratio = beats(self._i_used, self._o_used)
        total = beats(self.length, self._o_used)
        transfer = self.o.valid & self.o.ready
        _, vector_ends = count_to(m, "beat", total, transfer)
        part = Signal(range(ratio))
        part_ends = (part == ratio - 1) | vector_ends
        with m.If(transfer):
            m.d.sync += part.eq(Mux(part_ends, 0, part + 1))

        width = self._o_used * self.shape.width
        words = Signal(ratio * width)
        m.d.comb += [
            words.eq(self.i.payload.as_value()),
            self.o.payload.as_value().eq(words.word_select(part, width)),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & part_ends),
        ]

    def _gather(self, m: Module) -> None:
        # Input beats of a whole output beat, and of an output vector.
        ratio = beats(self._o_used, self._i_used)
        total = beats(self.o_length, self._i_used)
        transfer = self.i.valid & self.i.ready
        _, vector_ends = count_to(m, "beat", total, transfer)
        part = Signal(range(ratio))
        part_ends = (part == ratio - 1) | vector_ends

        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(transfer):
            words, width = self.o.payload.as_value(), self._i_used * self.shape.width
            end = self._o_used * self.shape.width
            with m.Switch(part):
                for n in range(ratio):
                    with m.Case(n):
                        word = words[n * width:min((n + 1) * width, end)]
                        m.d.sync += word.eq(self.i.payload)
            m.d.sync += [part.eq(Mux(part_ends, 0, part + 1)), self.o.valid.eq(part_ends)]

    def _capacity(self) -> int:
        """Elements that the buffer must hold so that the side with more beats never waits."""
        i_beats, o_beats = beats(self.length, self._i_used), beats(self.o_length, self._o_used)
        # How far each side runs ahead of or behind its mean rate, since last beats are short.
        i_swing = Fraction((i_beats - 1) * (i_beats * self._i_used - self.length), i_beats)
        o_swing = Fraction((o_beats - 1) * (o_beats * self._o_used - self.o_length), o_beats)
        i_rate, o_rate = Fraction(self.length, i_beats), Fraction(self.o_length, o_beats)
        slower = [used for used, rate in ((self._i_used, i_rate), (self._o_used, o_rate))
                  if rate == min(i_rate, o_rate)]
        return self._i_used + self._o_used + min(slower) - 1 + int(i_swing + o_swing)

    def _buffer(self, m: Module) -> None:
        width = self.shape.width
        capacity = self._capacity()
        stored = Signal(capacity * width)
        fill = Signal(range(capacity + 1))
        after = Signal(range(capacity + 1))
        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready

        def elements(length: int, used: int, last: Value) -> Value:
            return Mux(last, (length - 1) % used + 1, used)

        _, i_last = count_to(m, "i_beat", beats(self.length, self._i_used), push)
        _, o_last = count_to(m, "o_beat", beats(self.o_length, self._o_used), pop)
        taken = Signal(range(self._o_used + 1))
        given = Signal(range(self._i_used + 1))
        wanted = elements(self.o_length, self._o_used, o_last)
        m.d.comb += [
            self.o.valid.eq(fill >= wanted),
            self.i.ready.eq(fill <= capacity - self._i_used),
            taken.eq(Mux(pop, wanted, 0)),
            given.eq(Mux(push, elements(self.length, self._i_used, i_last), 0)),
            after.eq(fill - taken),
        ]

        # Behind the last element of a vector lies the next one, which may come while stalled.
        present = (self.o_length - 1) % self._o_used + 1
        for n in range(self._o_used):
            element = stored.word_select(n, width)
            m.d.comb += self.o.payload.as_value().word_select(n, width).eq(
                Mux(o_last, 0, element) if n >= present else element)

        kept = Cat(Mux(n < after, 1, 0).replicate(width) for n in range(capacity))
        left = Signal(capacity * width)
        with m.Switch(taken):
            for n in range(self._o_used + 1):
                with m.Case(n):
                    m.d.comb += left.eq(stored >> n * width)
        used = self.i.payload.as_value()[:self._i_used * width]
        entering = Signal(capacity * width)
        with m.Switch(after):
            for n in range(capacity - self._i_used + 1):
                with m.Case(n):
                    m.d.comb += entering.eq(used << n * width)
        m.d.sync += [fill.eq(after + given), stored.eq((left & kept) | Mux(push, entering, 0))]
