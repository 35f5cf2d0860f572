"""Streams that carry vectors: joining them, and changing how many elements a beat carries.

A vector of ``length`` elements travels in ``beats(length, lanes)`` beats, in order;
lanes of its last beat that hold no element hold anything.
"""
from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Regroup", "beats", "count_to", "pipe", "vector"]


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
        m.d.sync += count.eq(Mux(last, 0, count + 1))
    return count, last


class Regroup(wiring.Component):
    """Vectors in beats of ``i_lanes`` elements become the same vectors in beats of ``o_lanes``.

    Three circuits: a beat is split by a multiplexer, or gathered in registers, or,
    where neither number divides the other, passes a buffer with two shifters.
    ``i.ready`` depends combinationally on ``o.ready``, except in the buffer.

    Latency: 0 cycles (split, equal), 1 cycle after the beat that completes one
    (gathered, buffer). Throughput: one beat a cycle on the side that has more beats.

    Parameters
    ----------
    shape : shape-like
        Shape of one element.
    i_lanes, o_lanes : int
        Elements to a beat; at least 1.
    length : int
        Elements of a vector; at least 1.

    Members
    -------
    i : In(vector(shape, i_lanes))
        Vectors.
    o : Out(vector(shape, o_lanes))
        The same vectors.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, *, i_lanes: int, o_lanes: int, length: int) -> None:
        for name, value in (("input lanes", i_lanes), ("output lanes", o_lanes),
                            ("elements", length)):
            if value < 1:
                raise ValueError(f"Number of {name} must be at least 1, not {value!r}")
        self.shape = Shape.cast(shape)
        self.i_lanes = i_lanes
        self.o_lanes = o_lanes
        self.length = length
        super().__init__({"i": In(vector(self.shape, i_lanes)),
                          "o": Out(vector(self.shape, o_lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.i_lanes % self.o_lanes == 0:
            self._split(m)
        elif self.o_lanes % self.i_lanes == 0:
            self._gather(m)
        else:
            self._buffer(m)
        return m

    def _split(self, m: Module) -> None:
        # Output beats of a whole input beat, and of the last one of a vector.
        ratio = self.i_lanes // self.o_lanes
        total = beats(self.length, self.o_lanes)
        transfer = self.o.valid & self.o.ready
        _, vector_ends = count_to(m, "beat", total, transfer)
        part = Signal(range(ratio))
        part_ends = (part == ratio - 1) | vector_ends
        with m.If(transfer):
            m.d.sync += part.eq(Mux(part_ends, 0, part + 1))

        words = self.i.payload.as_value()
        width = self.o.payload.as_value().shape().width
        m.d.comb += [
            self.o.payload.as_value().eq(words.word_select(part, width)),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & part_ends),
        ]

    def _gather(self, m: Module) -> None:
        ratio = self.o_lanes // self.i_lanes
        transfer = self.i.valid & self.i.ready
        _, vector_ends = count_to(m, "beat", beats(self.length, self.i_lanes), transfer)
        part = Signal(range(ratio))
        part_ends = (part == ratio - 1) | vector_ends

        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(transfer):
            words, width = self.o.payload.as_value(), self.i.payload.as_value().shape().width
            with m.Switch(part):
                for n in range(ratio):
                    with m.Case(n):
                        m.d.sync += words[n * width:(n + 1) * width].eq(self.i.payload)
            m.d.sync += [part.eq(Mux(part_ends, 0, part + 1)), self.o.valid.eq(part_ends)]

    def _buffer(self, m: Module) -> None:
        width = self.shape.width
        capacity = self.i_lanes + self.o_lanes + min(self.i_lanes, self.o_lanes) - 1
        stored = Signal(capacity * width)
        fill = Signal(range(capacity + 1))
        after = Signal(range(capacity + 1))
        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready

        def elements(lanes: int, last: Value) -> Value:
            return Mux(last, (self.length - 1) % lanes + 1, lanes)

        _, i_last = count_to(m, "i_beat", beats(self.length, self.i_lanes), push)
        _, o_last = count_to(m, "o_beat", beats(self.length, self.o_lanes), pop)
        taken = Signal(range(self.o_lanes + 1))
        given = Signal(range(self.i_lanes + 1))
        m.d.comb += [
            self.o.valid.eq(fill >= elements(self.o_lanes, o_last)),
            self.i.ready.eq(fill <= capacity - self.i_lanes),
            taken.eq(Mux(pop, elements(self.o_lanes, o_last), 0)),
            given.eq(Mux(push, elements(self.i_lanes, i_last), 0)),
            after.eq(fill - taken),
        ]

        # Behind the last element of a vector lies the next one, which may come while stalled.
        present = (self.length - 1) % self.o_lanes + 1
        for n in range(self.o_lanes):
            element = stored.word_select(n, width)
            m.d.comb += self.o.payload.as_value().word_select(n, width).eq(
                Mux(o_last, 0, element) if n >= present else element)

        kept = Cat(Mux(n < after, 1, 0).replicate(width) for n in range(capacity))
        left = Signal(capacity * width)
        with m.Switch(taken):
            for n in range(self.o_lanes + 1):
                with m.Case(n):
                    m.d.comb += left.eq(stored >> n * width)
        entering = Signal(capacity * width)
        with m.Switch(after):
            for n in range(capacity - self.i_lanes + 1):
                with m.Case(n):
                    m.d.comb += entering.eq(self.i.payload.as_value() << n * width)
        m.d.sync += [fill.eq(after + given), stored.eq((left & kept) | Mux(push, entering, 0))]
