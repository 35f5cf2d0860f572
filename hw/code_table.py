"""Staircases by a table: codes looked up at the upper bits of sums.

Takes a stream of vectors of integers and gives the vectors of their codes.
"""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.staircase import constant_rows
from nomul.hw.stream import beats, following, vector
from nomul.hw.table import Storage, check_rows, look_up, merge_flags, parity_flag

__all__ = ["CodeTable", "table_size"]


def table_size(words: int) -> int:
    """Places that a table of so many words takes: a power of two, and at least 2."""
    return 1 << max(1, (words - 1).bit_length())


class CodeTable(wiring.Component):
    """Codes looked up at the upper bits of an element, which are clipped to the table:
    ``table[clip(element >> shift, 0, len(table) - 1)]``.

    Makes any codes of any elements whose upper bits are few: not only rising ones, nor only
    falling ones. For codes of which each spans as many elements as the next one, `ShiftClip` is
    smaller. Each lane has a table of its own, of what its elements need. All paths from ``i`` to
    ``o`` are registered; ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 1 cycle and ``tables_in.latency``. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Signed shape of an element.
    tables : sequence of rows of int, shape [tables, words]
        Codes, all rows of one length. Each takes a power of two of places, by its last word.
    which : sequence of int, shape [rows]
        The number of the table, for each element of a vector or a single one for all.
    shift : int
        Bits of an element below its index in the table; at least 0.
    codes : int
        Number of codes; at least 2.
    lanes : int
        Elements to a beat; at least 1.
    tables_in : Storage
        What holds the tables. One table of codes that rise is small in logic, where it takes some
        look-up tables for each place at which they do.
    storage : Storage
        What holds the numbers of tables, where lanes have fewer tables than elements.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(shape, lanes))
        Elements.
    o : Out(vector(code_shape, lanes))
        Codes.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, tables: Sequence[Sequence[int]], *, which: Sequence[int],
                 shift: int, codes: int, lanes: int, tables_in: Storage, storage: Storage,
                 parity: bool = False) -> None:
        self.shape = Shape.cast(shape)
        if shift < 0:
            raise ValueError(f"Shift must be at least 0, not {shift!r}")
        if codes < 2 or lanes < 1:
            raise ValueError(f"There must be at least 2 codes and 1 lane, "
                             f"not {codes!r} and {lanes!r}")
        self.code_shape = Shape.cast(range(codes))
        self.tables = tuple(check_rows(self.code_shape, table) for table in tables)
        self.which = tuple(which)
        if len({len(table) for table in self.tables}) != 1 or not self.tables[0] or not self.which:
            raise ValueError("There must be at least one table, all of one length, a word in each, "
                             "and the number of one for each row")
        for number in self.which:
            if not 0 <= number < len(self.tables):
                raise ValueError(f"Number of a table must be 0 to {len(self.tables) - 1}, "
                                 f"not {number!r}")
        self.shift = shift
        self.codes = codes
        self.lanes = lanes
        self.tables_in = tables_in
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.size = table_size(len(self.tables[0]))
        super().__init__({"i": In(vector(self.shape, lanes)),
                          "o": Out(vector(self.code_shape, lanes))})

    @property
    def latency(self) -> int:
        return 1 + self.tables_in.latency

    def _kept(self) -> list[list[int]]:
        """For each lane the numbers of its tables, as they lie in its memory."""
        mine = [[*self.which[lane::self.lanes]] or [self.which[0]] for lane in range(self.lanes)]
        if all(len(set(row)) == len(row) for row in mine):
            # In the order of use. A lane without an element in the last beat has any table.
            steps = beats(len(self.which), self.lanes)
            return [[*row, *row[:1] * (steps - len(row))] for row in mine]
        return [list(dict.fromkeys(row)) for row in mine]

    def elaborate(self, platform: object) -> Module:
        m = Module()

        kept = self._kept()
        flags = [parity_flag(self.parity_error is not None) for _ in range(self.lanes + 1)]
        advance, take = Signal(), Signal()
        ready, numbers = self._numbers(m, kept, take, flags[-1])
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & ready),
            take.eq(self.i.valid & self.i.ready),
        ]

        # An index is clipped by its upper bits, since there is a power of two of them.
        bits = (self.size - 1).bit_length()
        width = max(self.shape.width - self.shift, bits + 1)
        for lane in range(self.lanes):
            steps = Signal(signed(width), name=f"steps_{lane}")
            index = Signal(bits, name=f"index_{lane}")
            number = Signal(len(numbers[lane]), name=f"number_{lane}")
            beyond = steps[bits:-1].any()
            m.d.comb += steps.eq(self.i.payload[lane] >> self.shift)
            with m.If(advance):
                m.d.sync += [
                    index.eq(Mux(steps[-1], 0, steps[:bits] | beyond.replicate(bits))),
                    number.eq(numbers[lane]),
                ]
            words = [word for table in kept[lane] for word in self._filled(table)]
            address = Signal(range(len(words)), name=f"address_{lane}")
            m.d.comb += address.eq(Cat(index, number))
            m.d.comb += self.o.payload[lane].eq(look_up(
                m, f"table_{lane}", self.code_shape, words, address, advance, self.tables_in,
                flags[lane]))

        merge_flags(m, self.parity_error, flags)
        valid: Value = take
        with m.If(advance):
            for n in range(self.latency - 1):
                stage = Signal(name=f"valid_{n}")
                m.d.sync += stage.eq(valid)
                valid = stage
            m.d.sync += self.o.valid.eq(valid)

        return m

    def _filled(self, number: int) -> list[int]:
        """A table with all of its places."""
        table = self.tables[number]
        return [*table, *[table[-1]] * (self.size - len(table))]

    def _numbers(self, m: Module, kept: Sequence[Sequence[int]], take: Value, flag: Signal | None,
                 ) -> tuple[Value, list[Value]]:
        """For each lane the number, among those that it keeps, of its element's table; and whether
        they are there."""
        bits = [(len(tables) - 1).bit_length() for tables in kept]
        steps = beats(len(self.which), self.lanes)
        if not any(bits):
            return Value.cast(1), [Signal(0, name=f"none_{lane}") for lane in range(self.lanes)]
        if all(len(tables) == steps for tables in kept):  # in the order of use
            beat = Signal(range(steps))
            with m.If(take):
                m.d.sync += beat.eq(following(beat, steps))
            return Value.cast(1), [beat] * self.lanes
        width = max(bits)
        rows = [kept[n % self.lanes].index(number) for n, number in enumerate(self.which)]
        m.submodules.constants = constants = constant_rows(rows, width, self.lanes, self.storage,
                                                        flag)
        m.d.comb += constants.next.eq(take)
        return constants.valid, [constants.row.word_select(lane, width)[:bits[lane]]
                                 for lane in range(self.lanes)]
