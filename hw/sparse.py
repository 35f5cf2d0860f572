"""Dot products with a few weights, a shifted input a cycle: sparse corrections of dense layers."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats, count_to, vector
from nomul.hw.table import Cycle, Storage, parity_flag

__all__ = ["Entry", "SparseDots", "signed_digits", "walk"]

Row = Sequence[tuple[int, int]]
"""Places of inputs, and their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a cycle adds to a sum: ``(-1)**negative * 2**shift`` times the input at ``place``.

    Parameters
    ----------
    place : int
        Index of an input.
    shift : int
    negative : bool
    empty : bool
        Whether it adds nothing: the only entry of a sum without weights.
    last : bool
        Whether the sum is complete.
    """

    place: int = 0
    shift: int = 0
    negative: bool = False
    empty: bool = False
    last: bool


def signed_digits(value: int) -> list[tuple[int, bool]]:
    """Canonical signed digits of ``value``: shift, and whether it is negative, of each power of
    two; the fewest that there are. None of 0."""
    digits, shift = [], 0
    while value:
        if value % 2:
            digit = 2 - value % 4  # 1 or -1, so that the next bit is 0
            digits.append((shift, digit < 0))
            value -= digit
        value //= 2
        shift += 1
    return digits


def walk(rows: Sequence[Row]) -> list[Entry]:
    """The entries of sums with ``rows`` of weights, in order: a cycle each."""
    entries = []
    for row in rows:
        digits = [(place, digit) for place, weight in row for digit in signed_digits(weight)]
        if not digits:
            entries.append(Entry(empty=True, last=True))
        for number, (place, (shift, negative)) in enumerate(digits, 1):
            entries.append(Entry(place=place, shift=shift, negative=negative,
                                 last=number == len(digits)))
    return entries


class SparseDots(wiring.Component):
    """Dot products of a vector with rows of a few weights each, without a multiplier.

    Each weight is split into signed powers of two, the fewest that there are. The vector is kept
    in a memory with room for two: one comes in while the other is used. A table that is read in
    order names an input, a shift and a sign for each power of two: an `Entry` a cycle. A row
    without weights takes one entry, which adds nothing.

    The sums are exact if ``acc_shape`` holds every one of them: sums in between wrap around, and
    wrap back. All paths from ``i`` to ``o`` are registered; ``i.ready`` is registered too.

    Latency: 5 cycles, from the last beat of a vector to its first sum, and 1 more for each of
    that sum's entries but the first. Throughput: an entry a cycle, hence ``len(entries)`` cycles a
    vector, or ``chunks`` if they are more.

    Parameters
    ----------
    table : sequence of int
        The integer that each code stands for; 0 for code 0. The codes themselves take no hardware.
    rows : sequence of rows of pairs of int, shape [outputs, weights, 2]
        Places of inputs and their weights; any number in a row, also none.
    inputs : int
        Codes of a vector; at least 1.
    lanes : int
        Codes to a beat; at least 1.
    acc_shape : shape-like
        Signed shape that holds every sum.
    storage : Storage
        What holds the entries.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(code_shape, lanes))
        Vectors, in ``chunks`` beats each; lanes past the last input are ignored.
    o : Out(vector(acc_shape, 1))
        Their dot products, one after the other.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 5

    def __init__(self, table: Sequence[int], rows: Sequence[Row], *, inputs: int, lanes: int,
                 acc_shape: ShapeLike, storage: Storage, parity: bool = False) -> None:
        self.table = tuple(int(value) for value in table)
        self.rows = tuple(tuple((int(place), int(weight)) for place, weight in row)
                          for row in rows)
        self.inputs = inputs
        self.lanes = lanes
        self.acc_shape = Shape.cast(acc_shape)
        self.storage = storage
        self.parity_error = parity_flag(parity)
        if not self.table or self.table[0]:
            raise ValueError("Table must hold 0 for code 0, and at least that")
        if not self.rows:
            raise ValueError("There must be at least one row of weights")
        if min(inputs, lanes) < 1:
            raise ValueError(f"Inputs and lanes must be at least 1, not {inputs!r} and {lanes!r}")
        for place in (place for row in self.rows for place, _ in row):
            if not 0 <= place < inputs:
                raise ValueError(f"Place must be that of one of {inputs} inputs, not {place!r}")
        if not self.acc_shape.signed:
            raise ValueError(f"Accumulator shape must be signed, not {self.acc_shape!r}")
        self.code_shape = unsigned(max(1, (len(self.table) - 1).bit_length()))
        self.entries = tuple(walk(self.rows))
        self.chunks = beats(inputs, lanes)
        self._widths = [max(column).bit_length()  # of each field of a word; none of only zeros
                        for column in zip(*map(self._fields, self.entries), strict=True)]
        super().__init__({"i": In(vector(self.code_shape, lanes)),
                          "o": Out(vector(self.acc_shape, 1))})

    def _fields(self, entry: Entry) -> list[int]:
        """The fields of a word of the table, from the lowest."""
        chunk, lane = divmod(entry.place, self.lanes)
        return [chunk, lane, entry.shift, int(entry.negative), int(entry.empty), int(entry.last)]

    def words(self) -> list[int]:
        """Contents of the table of entries."""
        starts = [*accumulate(self._widths, initial=0)]
        return [sum(field << start
                    for field, start in zip(self._fields(entry), starts, strict=False))
                for entry in self.entries]

    def elaborate(self, platform: object) -> Module:
        m = Module()

        bits, chunk_width = self.code_shape.width, (self.chunks - 1).bit_length()
        m.submodules.memory = vectors = memory.Memory(
            shape=unsigned(self.lanes * bits), depth=2 << chunk_width, init=[])
        write, read = vectors.write_port(), vectors.read_port()
        m.submodules.entries = entries = Cycle(max(1, sum(self._widths)), self.words(),
                                               storage=self.storage,
                                               flag=self.parity_error)

        # Each half of the memory holds a vector; the entries take them in turns.
        whole = Signal(range(3))
        write_half, read_half = Signal(name="write_half"), Signal(name="read_half")
        put, step, advance = Signal(), Signal(), Signal()
        chunk, put_ends = count_to(m, "chunk", self.chunks, put)
        starts = accumulate(self._widths, initial=0)
        place, lane, shift, negative, empty, last = (
            entries.row[start:start + width] if width else Const(0)
            for start, width in zip(starts, self._widths, strict=False))
        word = Signal(chunk_width)
        _, walk_ends = count_to(m, "output", len(self.rows), step & last)
        come, gone = put & put_ends, step & last & walk_ends
        m.d.comb += [
            word.eq(place),
            self.i.ready.eq(whole != 2),
            put.eq(self.i.valid & self.i.ready),
            write.en.eq(put),
            write.addr.eq(Cat(Value.cast(chunk)[:chunk_width], write_half)),
            write.data.eq(self.i.payload),
            advance.eq(~self.o.valid | self.o.ready),
            step.eq(advance & entries.valid & (whole != 0)),
            entries.next.eq(step),
            read.en.eq(step),
            read.addr.eq(Cat(word, read_half)),
        ]
        m.d.sync += [
            whole.eq(whole + come - gone),
            write_half.eq(write_half ^ come),
            read_half.eq(read_half ^ gone),
        ]

        # Behind the memory: the integer of the code, then a shifted copy, then the sum.
        def later(name: str, value: Value) -> Value:
            register = Signal(len(value), name=name)
            with m.If(advance):
                m.d.sync += register.eq(value)
            return register

        lane, empty, negative_1, shift_1 = (
            later(name, value) for name, value in (("lane", lane), ("empty", empty),
                                                   ("negative_1", negative), ("shift_1", shift)))
        code = Signal(bits)
        integer = Signal(signed_range(min(self.table), max(self.table)))
        m.d.comb += code.eq(read.data.word_select(lane, bits))
        with m.If(advance):
            m.d.sync += integer.eq(Mux(empty, 0, self._integer(m, code)))
        negative_2, shift_2 = later("negative_2", negative_1), later("shift_2", shift_1)

        width = self.acc_shape.width
        most = max(entry.shift for entry in self.entries)
        term = Signal(signed(min(width, len(integer) + 1 + most)))
        with m.If(advance):
            m.d.sync += term.eq(Mux(negative_2, -integer, integer) << shift_2)

        valid, ends = step, last
        for stage in range(3):
            valid, ends = later(f"valid_{stage}", valid), later(f"last_{stage}", ends)
        acc, total = (Signal(signed(width), name=name) for name in ("acc", "total"))
        m.d.comb += total.eq(acc + term)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance & valid):
            m.d.sync += acc.eq(Mux(ends, 0, total))
            with m.If(ends):
                m.d.sync += [self.o.payload[0].eq(total), self.o.valid.eq(1)]

        return m

    def _integer(self, m: Module, code: Signal) -> Value:
        if self.table == tuple(range(len(self.table))):
            return code
        integer = Signal(signed_range(min(self.table), max(self.table)), name="level")
        with m.Switch(code):
            for number, value in enumerate(self.table):
                with m.Case(number):
                    m.d.comb += integer.eq(value)
        return integer
