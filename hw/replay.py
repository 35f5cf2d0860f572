"""Buffers that give a vector several times."""
from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import count_to

__all__ = ["Replay"]


class Replay(wiring.Component):
    """Each vector of ``length`` beats comes out ``repeats`` times.

    A beat of the first pass leaves as soon as it has come in, and its place is free
    as soon as the last pass has read it: with a depth of ``2 * length`` the vectors
    follow each other without a gap even if they come in at an even pace; with
    ``length``, only if each comes in as fast as it is first read. All paths from ``i``
    to ``o`` are registered; ``i.ready`` is registered too.

    Latency: 2 cycles, from a beat to its first copy. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one beat.
    length : int
        Beats of a vector; at least 1.
    repeats : int
        Times that each vector comes out; at least 1.
    depth : int
        Beats that fit in the buffer; at least ``length``.

    Members
    -------
    i : In(stream.Signature(shape))
        Vectors.
    o : Out(stream.Signature(shape))
        Each of them ``repeats`` times.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 2

    def __init__(self, shape: ShapeLike, *, length: int, repeats: int, depth: int) -> None:
        if length < 1:
            raise ValueError(f"Vector must have at least 1 beat, not {length!r}")
        if repeats < 1:
            raise ValueError(f"Number of repeats must be at least 1, not {repeats!r}")
        if depth < max(length, 2):
            raise ValueError(f"Buffer depth must be at least {max(length, 2)}, not {depth!r}")
        self.shape = shape
        self.length = length
        self.repeats = repeats
        self.depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.memory = rows = memory.Memory(
            shape=Shape.cast(self.shape), depth=self.depth, init=[])
        write, read = rows.write_port(), rows.read_port()

        free = Signal(range(self.depth + 1), init=self.depth)
        fresh = Signal(range(self.depth + 1))  # beats not yet read for the first time
        base = Signal(range(self.depth))       # first beat of the vector being read
        put, get = self.i.valid & self.i.ready, Signal()
        advance = ~self.o.valid | self.o.ready

        _, pass_ends = count_to(m, "offset", self.length, get)
        number, last_pass = count_to(m, "number", self.repeats, get & pass_ends)
        first_pass = number == 0

        def after(position: Signal) -> Mux:
            return Mux(position == self.depth - 1, 0, position + 1)

        m.d.comb += [
            self.i.ready.eq(free != 0),
            write.en.eq(put),
            write.data.eq(self.i.payload),
            get.eq(advance & (~first_pass | (fresh != 0))),
            read.en.eq(get),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            free.eq(free + (get & last_pass) - put),
            fresh.eq(fresh + put - (get & first_pass)),
        ]
        with m.If(put):
            m.d.sync += write.addr.eq(after(write.addr))
        with m.If(advance):
            m.d.sync += self.o.valid.eq(get)
        with m.If(get):
            m.d.sync += read.addr.eq(after(read.addr))
            with m.If(pass_ends):
                with m.If(last_pass):
                    m.d.sync += base.eq(after(read.addr))
                with m.Else():
                    m.d.sync += read.addr.eq(base)

        return m
