"""Streams that part and meet again: copies, queues, sums."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.shapes import signed_range
from nomul.hw.stream import following, vector

__all__ = ["AddStreams", "AddSums", "Fork", "Queue"]


class Fork(wiring.Component):
    """Every reader gets every beat, each at its own time.

    A reader that is ready takes a beat at once, whether the others are or not; the beat
    is consumed when all have it, so the readers are never more than a beat apart (a
    `Queue` behind an output parts them further). Each ``valid`` depends combinationally
    on ``i.valid`` and on no ``ready``; ``i.ready`` on the ``ready`` of all outputs.

    Latency: 0 cycles. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one beat.
    count : int
        Number of readers; at least 1.

    Members
    -------
    i : In(stream.Signature(shape))
        Beats.
    o_0, o_1, … : Out(stream.Signature(shape))
        The same beats, for each reader; also as the tuple ``outputs``.
    """

    i: stream.Interface
    latency = 0

    def __init__(self, shape: ShapeLike, count: int) -> None:
        if count < 1:
            raise ValueError(f"Number of readers must be at least 1, not {count!r}")
        self.shape = shape
        self.count = count
        super().__init__({"i": In(stream.Signature(shape)),
                          **{f"o_{n}": Out(stream.Signature(shape)) for n in range(count)}})

    @property
    def outputs(self) -> tuple[stream.Interface, ...]:
        return tuple(getattr(self, f"o_{n}") for n in range(self.count))

    def elaborate(self, platform: object) -> Module:
        m = Module()

        served = Signal(self.count)  # readers that have the present beat already
        taking = Signal(self.count)

        m.d.comb += self.i.ready.eq((served | taking).all())
        for n, output in enumerate(self.outputs):
            m.d.comb += [
                output.payload.eq(self.i.payload),
                output.valid.eq(self.i.valid & ~served[n]),
                taking[n].eq(output.ready),
            ]
        with m.If(self.i.valid):
            m.d.sync += served.eq(Mux(self.i.ready, 0, served | taking))

        return m


class Queue(wiring.Component):
    """First in, first out: room for exactly ``depth`` beats, the one at the output included.

    A queue of up to ``registers`` beats lies in registers, a deeper one in a memory with a
    synchronous read port, which may be block RAM. All paths from ``i`` to ``o`` are registered;
    ``i.ready`` is registered too, but in a queue of one beat depends combinationally on
    ``o.ready``.

    Latency: ``latency`` cycles: 1 in registers, 2 through a memory. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one beat.
    depth : int
        Beats that fit in; at least 1.

    Members
    -------
    i : In(stream.Signature(shape))
        Beats.
    o : Out(stream.Signature(shape))
        The same beats.
    """

    i: stream.Interface
    o: stream.Interface
    registers = 4

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"Queue must have room for at least 1 beat, not {depth!r}")
        self.shape = shape
        self.depth = depth
        self.latency = 1 if depth <= self.registers else 2
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.depth <= self.registers:
            self._in_registers(m)
        else:
            self._in_memory(m)
        return m

    def _in_registers(self, m: Module) -> None:
        # The places that hold a beat are the first ones. Each is filled from the one behind it,
        # or with what comes in; in an empty place lies anything.
        filled = Signal(self.depth)
        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        arriving = Value.cast(self.i.payload)
        beats = [Signal(len(arriving), name=f"beat_{n}") for n in range(self.depth)]

        for n, (beat, behind) in enumerate(pairwise([*beats, arriving])):
            with m.If(self.o.ready | ~filled[n]):
                m.d.sync += beat.eq(Mux(filled[n + 1:n + 2].any(), behind, arriving))

        full = filled[-1]
        m.d.comb += [
            self.i.ready.eq(~full | self.o.ready if self.depth == 1 else ~full),
            self.o.valid.eq(filled[0]),
            Value.cast(self.o.payload).eq(beats[0]),
        ]
        with m.If(push & ~pop):
            m.d.sync += filled.eq(Cat(1, filled[:-1]))
        with m.Elif(pop & ~push):
            m.d.sync += filled.eq(filled >> 1)

    def _in_memory(self, m: Module) -> None:
        m.submodules.memory = rows = memory.Memory(
            shape=Shape.cast(self.shape), depth=self.depth, init=[])
        write, read = rows.write_port(), rows.read_port()

        free = Signal(range(self.depth + 1), init=self.depth)
        unread = Signal(range(self.depth + 1))
        put, get = self.i.valid & self.i.ready, Signal()
        advance = ~self.o.valid | self.o.ready

        m.d.comb += [
            self.i.ready.eq(free != 0),
            write.en.eq(put),
            write.data.eq(self.i.payload),
            get.eq(advance & (unread != 0)),
            read.en.eq(get),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            free.eq(free + (self.o.valid & self.o.ready) - put),
            unread.eq(unread + put - get),
        ]
        with m.If(put):
            m.d.sync += write.addr.eq(following(write.addr, self.depth))
        with m.If(get):
            m.d.sync += read.addr.eq(following(read.addr, self.depth))
        with m.If(advance):
            m.d.sync += self.o.valid.eq(get)


class AddStreams(wiring.Component):
    """Sums of the elements of two streams of vectors: of the integers that their codes stand for.

    The sums are exact. A table in even steps of a power of two is a shift; any other one
    is looked up in logic. A code past the end of its table gives any sum. Takes a beat
    of both streams, or of none: ``i_0.ready`` depends combinationally on ``i_1.valid``,
    ``i_1.ready`` on ``i_0.valid``, both on ``o.ready``; all paths from inputs to ``o`` are
    registered.

    Latency: 1 cycle. Throughput: 1 beat a cycle.

    Parameters
    ----------
    tables : two sequences of int
        The integer that each code of the first and of the second stream stands for; each
        at least one.
    lanes : int
        Elements to a beat; at least 1.

    Members
    -------
    i_0, i_1 : In(vector(code_shapes[n], lanes))
        Codes.
    o : Out(vector(sum_shape, lanes))
        Sums; ``sum_shape`` is signed.
    """

    i_0: stream.Interface
    i_1: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, tables: Sequence[Sequence[int]], *, lanes: int) -> None:
        self.tables = tuple(tuple(int(value) for value in table) for table in tables)
        if len(self.tables) != 2 or not all(self.tables):
            raise ValueError("There must be two tables of at least one integer each")
        if lanes < 1:
            raise ValueError(f"Number of lanes must be at least 1, not {lanes!r}")
        self.lanes = lanes
        self.code_shapes = tuple(unsigned(max(1, (len(table) - 1).bit_length()))
                                 for table in self.tables)
        self.sum_shape = signed_range(sum(min(table) for table in self.tables),
                                      sum(max(table) for table in self.tables))
        super().__init__({**{f"i_{n}": In(vector(shape, lanes))
                             for n, shape in enumerate(self.code_shapes)},
                          "o": Out(vector(self.sum_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        with m.If(_take_both(m, self)):
            for lane in range(self.lanes):
                terms, constants = zip(*(
                    _term(m, f"term_{n}_{lane}", table, codes.payload[lane])
                    for n, (table, codes) in
                    enumerate(zip(self.tables, (self.i_0, self.i_1), strict=True))), strict=True)
                m.d.sync += self.o.payload[lane].eq(terms[0] + terms[1] + sum(constants))

        return m


class AddSums(wiring.Component):
    """Sums of the elements of two streams of vectors of integers.

    They are exact if ``o_shape`` holds them; the elements may have wrapped around within it, and
    wrap back. Takes a beat of both streams, or of none: ``i_0.ready`` depends combinationally on
    ``i_1.valid``, ``i_1.ready`` on ``i_0.valid``, both on ``o.ready``; all paths from inputs to
    ``o`` are registered.

    Latency: 1 cycle. Throughput: 1 beat a cycle.

    Parameters
    ----------
    i_shapes : two shape-likes
        Signed shapes of the elements.
    o_shape : shape-like
        Signed shape of the sums.
    lanes : int
        Elements to a beat; at least 1.

    Members
    -------
    i_0, i_1 : In(vector(i_shapes[n], lanes))
        Elements.
    o : Out(vector(o_shape, lanes))
        Sums.
    """

    i_0: stream.Interface
    i_1: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, i_shapes: Sequence[ShapeLike], o_shape: ShapeLike, *, lanes: int) -> None:
        self.i_shapes = tuple(Shape.cast(shape) for shape in i_shapes)
        self.o_shape = Shape.cast(o_shape)
        self.lanes = lanes
        if len(self.i_shapes) != 2:
            raise ValueError(f"There must be two shapes of elements, not {len(self.i_shapes)}")
        for shape in (*self.i_shapes, self.o_shape):
            if not shape.signed:
                raise ValueError(f"Shapes of integers must be signed, not {shape!r}")
        if lanes < 1:
            raise ValueError(f"Number of lanes must be at least 1, not {lanes!r}")
        super().__init__({**{f"i_{n}": In(vector(shape, lanes))
                             for n, shape in enumerate(self.i_shapes)},
                          "o": Out(vector(self.o_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        with m.If(_take_both(m, self)):
            for lane in range(self.lanes):
                total = Signal(self.o_shape, name=f"total_{lane}")
                m.d.comb += total.eq(self.i_0.payload[lane] + self.i_1.payload[lane])
                m.d.sync += self.o.payload[lane].eq(total)

        return m


def _take_both(m: Module, unit: AddStreams | AddSums) -> Signal:
    """Take a beat of both streams whenever the register of the output is free: when that is."""
    advance, take = Signal(name="advance"), Signal(name="take")
    m.d.comb += [
        advance.eq(~unit.o.valid | unit.o.ready),
        take.eq(unit.i_0.valid & unit.i_1.valid & advance),
        unit.i_0.ready.eq(unit.i_1.valid & advance),
        unit.i_1.ready.eq(unit.i_0.valid & advance),
    ]
    with m.If(unit.o.ready):
        m.d.sync += unit.o.valid.eq(0)
    with m.If(take):
        m.d.sync += unit.o.valid.eq(1)
    return take


def _term(m: Module, name: str, table: Sequence[int], code: Value) -> tuple[Value, int]:
    """What a table says of a code: a value, and a constant to be added."""
    step = table[1] - table[0] if len(table) > 1 else 0
    even = all(value == table[0] + step * n for n, value in enumerate(table))
    size = abs(step)
    if even and size and not size & (size - 1):
        shifted = code << size.bit_length() - 1
        return (shifted if step > 0 else -shifted), table[0]

    term = Signal(signed_range(min(table), max(table)), name=name)
    with m.Switch(code):
        for n, value in enumerate(table):
            with m.Case(n):
                m.d.comb += term.eq(value)
    return term, 0
