"""Making absent elements harmless."""
from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import beats, count_to, vector

__all__ = ["ZeroAbsent"]


class ZeroAbsent(wiring.Component):
    """Lanes of a vector's last beat that hold no element become zero; all others pass.

    All paths from ``i`` to ``o`` are combinational, as is ``i.ready``.

    Latency: 0 cycles. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of an element.
    lanes : int
        Elements to a beat; at least 1.
    length : int
        Elements to a vector; at least 1.

    Members
    -------
    i : In(vector(shape, lanes))
        Vectors.
    o : Out(vector(shape, lanes))
        The same vectors, absent elements zero.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 0

    def __init__(self, shape: ShapeLike, *, lanes: int, length: int) -> None:
        if lanes < 1 or length < 1:
            raise ValueError(f"Lanes and length must be at least 1, not {lanes!r} and {length!r}")
        self.shape = Shape.cast(shape)
        self.lanes = lanes
        self.length = length
        super().__init__({"i": In(vector(self.shape, lanes)), "o": Out(vector(self.shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        present = (self.length - 1) % self.lanes + 1
        transfer = self.i.valid & self.i.ready
        last = 0
        if present < self.lanes:
            _, last = count_to(m, "beat", beats(self.length, self.lanes), transfer)
        m.d.comb += [self.o.valid.eq(self.i.valid), self.i.ready.eq(self.o.ready)]
        for lane in range(self.lanes):
            element = self.i.payload[lane]
            m.d.comb += self.o.payload[lane].eq(Mux(last, 0, element) if lane >= present
                                                else element)

        return m
