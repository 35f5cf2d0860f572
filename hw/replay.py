"""Buffers that give a vector several times."""
from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import count_to
from nomul.hw.table import Storage, leave

__all__ = ["Replay"]


class Replay(wiring.Component):
    """Each vector of ``length`` beats comes out ``repeats`` times.

    A beat of the first pass leaves as soon as it has come in, and its place is free as soon as the
    last pass has read it, or all of its vector where there is room for two: with a depth of
    ``2 * length`` the vectors follow each other without a gap even if they come in at an even
    pace; with ``length``, only if each comes in as fast as it is first read. All paths from ``i``
    to ``o`` are registered; ``i.ready`` depends on registers alone.

    Latency: 1 cycle and ``storage.latency``, from a beat to its first copy. Throughput: 1 beat a
    cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one beat.
    length : int
        Beats of a vector; at least 1.
    repeats : int
        Times that each vector comes out; at least 1.
    depth : int
        Beats that fit in the buffer, which takes the next power of two; at least ``length``.
    storage : Storage
        Block RAM or, for a faster clock, a registered one.

    Members
    -------
    i : In(stream.Signature(shape))
        Vectors.
    o : Out(stream.Signature(shape))
        Each of them ``repeats`` times.
    """

    i: stream.Interface
    o: stream.Interface
    def __init__(self, shape: ShapeLike, *, length: int, repeats: int, depth: int,
                 storage: Storage = Storage.BLOCK) -> None:
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
        self.storage = storage
        self.latency = 1 + storage.latency
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Places are numbered by one bit more than there are of them, so that a full buffer is
        # not an empty one.
        bits = (self.depth - 1).bit_length()
        m.submodules.memory = rows = memory.Memory(
            shape=Shape.cast(self.shape), depth=1 << bits, init=[])
        write, read = rows.write_port(), rows.read_port()

        fill = Signal(bits + 1)  # where the next beat goes
        put, get = self.i.valid & self.i.ready, Signal()
        advance = ~self.o.valid | self.o.ready
        at, base, number, last_pass = self._position(m, bits, get)

        m.d.comb += [
            write.en.eq(put),
            write.addr.eq(fill),
            write.data.eq(self.i.payload),
            get.eq(advance & ((number != 0) | (at != fill))),
            read.en.eq(get),
            read.addr.eq(at),
        ]
        following = (fill + 1)[:bits + 1]
        with m.If(put):
            m.d.sync += fill.eq(following)
        low = (self.length - 1).bit_length()
        if self._aligned and 2 * self.length <= 1 << bits:
            # Room for another vector while one is read: it frees its places all at once.
            m.d.comb += self.i.ready.eq((fill[low:] ^ base[low:]) != 1 << bits - low)
        else:
            # Known a cycle before: no path leads from the positions on to where beats come from.
            ready, freed = Signal(init=1), Mux(last_pass, at, base)
            m.d.comb += self.i.ready.eq(ready)
            m.d.sync += ready.eq(((fill ^ freed) != 1 << bits)
                                 & ~(put & ((following ^ freed) == 1 << bits)))
        leave(m, self.o, read.data, get, advance, self.storage)

        return m

    @property
    def _aligned(self) -> bool:
        """Whether a vector is a power of two."""
        return self.length & (self.length - 1) == 0

    def _position(self, m: Module, bits: int, get: Value) -> tuple[Value, Value, Value, Value]:
        """Where the next beat is read, where its vector begins, the number of the pass, and
        whether it is the last one."""
        if self._aligned:
            # Vectors begin at multiples of their length: counting wraps by itself.
            low = (self.length - 1).bit_length()
            offset, vector = Signal(low, name="offset"), Signal(bits + 1 - low, name="vector")
            number, last_pass = count_to(m, "number", self.repeats, get & offset.all())
            with m.If(get):
                m.d.sync += offset.eq(offset + 1)
                with m.If(offset.all() & last_pass):
                    m.d.sync += vector.eq(vector + 1)
            return Cat(offset, vector), Cat(Const(0, low), vector), number, last_pass
        at, base = Signal(bits + 1, name="at"), Signal(bits + 1, name="base")
        _, pass_ends = count_to(m, "offset", self.length, get)
        number, last_pass = count_to(m, "number", self.repeats, get & pass_ends)
        with m.If(get):
            m.d.sync += at.eq(at + 1)
            with m.If(pass_ends):
                with m.If(last_pass):
                    m.d.sync += base.eq(at + 1)
                with m.Else():
                    m.d.sync += at.eq(base)
        return at, base, number, last_pass
