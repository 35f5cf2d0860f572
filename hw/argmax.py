"""The class of a vector of scores."""
from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import beats, count_to, vector

__all__ = ["Argmax"]


class Argmax(wiring.Component):
    """Index of the largest element of each vector; the first one of equals.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally
    on ``o.ready``.

    Latency: ``latency`` cycles, from the last beat to the index. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of an element.
    lanes : int
        Elements to a beat; at least 1.
    length : int
        Elements of a vector; at least 1.

    Members
    -------
    i : In(vector(shape, lanes))
        Vectors.
    o : Out(vector(index_shape, 1))
        Indices.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, *, lanes: int, length: int) -> None:
        if lanes < 1 or length < 1:
            raise ValueError(f"There must be at least 1 lane and 1 element, "
                             f"not {lanes!r} and {length!r}")
        self.shape = Shape.cast(shape)
        self.lanes = lanes
        self.length = length
        self.index_shape = Shape.cast(range(max(2, length)))
        self.latency = 1 + (lanes > 1)
        super().__init__({"i": In(vector(self.shape, lanes)),
                          "o": Out(vector(self.index_shape, 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        beat, ends = count_to(m, "beat", beats(self.length, self.lanes), self.i.valid & advance)

        # The best of a beat; lanes of the last beat without an element never win.
        present = (self.length - 1) % self.lanes + 1
        best: Value = self.i.payload[0]
        lane: Value = Signal(range(self.lanes))
        for n in range(1, self.lanes):
            wins = (self.i.payload[n] > best) & (~ends if n >= present else 1)
            best, lane = Mux(wins, self.i.payload[n], best), Mux(wins, n, lane)
        valid, first = self.i.valid, beat == 0
        index: Value = beat
        if self.lanes > 1:
            position = Signal(self.index_shape)
            with m.Switch(beat):
                for n in range(beats(self.length, self.lanes)):
                    with m.Case(n):
                        m.d.comb += position.eq(n * self.lanes + lane)
            staged = [Signal(self.shape, name="best_of_beat"), Signal(self.index_shape, name="at"),
                      *(Signal(name=f"beat_{name}") for name in ("valid", "first", "ends"))]
            with m.If(advance):
                m.d.sync += [s.eq(v) for s, v in
                             zip(staged, (best, position, valid, first, ends), strict=True)]
            best, index, valid, first, ends = staged

        leader = Signal(self.shape)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid & ends)
            with m.If(valid & (first | (best > leader))):
                m.d.sync += [leader.eq(best), self.o.payload[0].eq(index)]

        return m
