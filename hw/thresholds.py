"""Staircases whose thresholds are any: codes by comparators, or by binary search.

Each takes a stream of vectors of integers and gives the vectors of their codes.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Module, Shape, ShapeLike, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.staircase import constant_rows, take_beats
from nomul.hw.stream import beats, following, vector
from nomul.hw.table import Storage, check_rows, look_up, merge_flags, parity_flag

__all__ = ["Comparators", "Search", "search_tables"]

# Rows of which one LUT4 holds a bit.
_LOGIC_ROWS = 16


def search_tables(rows: Sequence[Sequence[int]], never: int) -> list[list[int]]:
    """What a binary search for the number of thresholds that are passed reads: for each bit of the
    code, the highest first, a table whose address is the row's number above the bits found so far.

    Parameters
    ----------
    rows : sequence of rows of int, shape [rows, codes - 1]
        Each in increasing order.
    never : int
        What no element passes; it stands where a row is too short.
    """
    bits = len(rows[0]).bit_length()
    full = [(*row, *[never] * ((1 << bits) - 1 - len(row))) for row in rows]
    tables = []
    for bit in range(bits):
        span = 1 << bits - bit  # codes still possible before this bit is known
        tables.append([row[prefix * span + span // 2 - 1]
                       for row in full for prefix in range(1 << bit)])
    return tables


class _Thresholds(wiring.Component):
    """Staircases whose thresholds are any: what `Comparators` and `Search` have in common.

    Parameters
    ----------
    shape : shape-like
        Signed shape of an element.
    thresholds : sequence of rows of int, shape [rows, codes - 1]
        Each row in increasing order, within ``shape`` or one above it (never passed);
        a row for each element of a vector, or a single one for all.
    falling : sequence of bool, shape [rows]
        The code counts the thresholds that the element is at most, instead of at least.
    lanes : int
        Elements to a beat; at least 1.
    storage : Storage
        What holds the thresholds, but in logic those of a `Search` that are read by 4 bits.
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

    def __init__(self, shape: ShapeLike, thresholds: Sequence[Sequence[int]], *,
                 falling: Sequence[bool], lanes: int, storage: Storage,
                 parity: bool = False) -> None:
        self.shape = Shape.cast(shape)
        # One bit more, so that one above the largest element is a threshold too.
        self.threshold_shape = signed(self.shape.width + 1)
        self.thresholds = tuple(check_rows(self.threshold_shape, row) for row in thresholds)
        self.falling = tuple(bool(f) for f in falling)
        if not self.thresholds or len({len(row) for row in self.thresholds}) != 1:
            raise ValueError("There must be at least one row of thresholds, all of one length")
        if len(self.falling) != len(self.thresholds) or not self.thresholds[0] or lanes < 1:
            raise ValueError("There must be a direction for each row, at least one threshold "
                             "in a row and at least one lane")
        if any(a > b for row in self.thresholds for a, b in pairwise(row)):
            raise ValueError("Thresholds must be in increasing order")
        self.lanes = lanes
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.codes = len(self.thresholds[0]) + 1
        self.code_shape = Shape.cast(range(self.codes))
        super().__init__({"i": In(vector(self.shape, lanes)),
                          "o": Out(vector(self.code_shape, lanes))})

    def _rising(self, row: int) -> tuple[int, ...]:
        """Thresholds of a row for the inverted element, if it falls: x <= t is ~x >= ~t."""
        if not self.falling[row]:
            return self.thresholds[row]
        return tuple(~t for t in reversed(self.thresholds[row]))


class Comparators(_Thresholds):
    """One comparator for each threshold and lane; the code is the number that are passed.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally
    on ``o.ready``. For many thresholds `Search` is smaller.

    Latency: 1 cycle. Throughput: 1 beat a cycle.
    """

    latency = 1

    def elaborate(self, platform: object) -> Module:
        m = Module()

        width, count = self.threshold_shape.width, self.codes - 1
        rows = [sum(t % (1 << width) << n * width for n, t in enumerate(self._rising(row)))
                | self.falling[row] << count * width for row in range(len(self.thresholds))]
        size = count * width + 1
        m.submodules.constants = constants = constant_rows(rows, size, self.lanes, self.storage,
                                                        self.parity_error)
        take = take_beats(m, self, constants)
        with m.If(take):
            for lane in range(self.lanes):
                row = constants.row.word_select(lane, size)
                element = Signal(self.shape, name=f"element_{lane}")
                m.d.comb += element.eq(
                    self.i.payload[lane] ^ row[-1].replicate(self.shape.width))
                passed = [element >= row.word_select(n, width).as_signed() for n in range(count)]
                m.d.sync += self.o.payload[lane].eq(sum(passed))

        return m


class Search(_Thresholds):
    """Binary search among the thresholds: one bit of the code after the other, pipelined.

    A code of n bits takes n comparators, whatever the number of thresholds. All paths
    from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 1 cycle and ``storage.latency`` for each bit of the code, and 1 more. Throughput: 1
    beat a cycle.
    """

    @property
    def latency(self) -> int:
        return (1 + self.storage.latency) * int(self.code_shape.width) + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()

        bits = self.code_shape.width
        full = [self._rising(row) for row in range(len(self.thresholds))]
        steps = beats(len(full), self.lanes)
        tables = [search_tables([full[min(n * self.lanes + lane, len(full) - 1)]
                                 for n in range(steps)], 1 << self.shape.width - 1)
                  for lane in range(self.lanes)]
        row_width = (steps - 1).bit_length()

        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        valid: Value = self.i.valid
        row = Signal(range(steps))
        with m.If(advance & valid):
            m.d.sync += row.eq(following(row, steps))

        def register(name: str, value: Value) -> Signal:
            stage = Signal(Value.cast(value).shape(), name=name)
            with m.If(advance):
                m.d.sync += stage.eq(value)
            return stage

        # Stage 0 inverts falling elements; then each bit takes a read and a comparison.
        elements = []
        for lane in range(self.lanes):
            flips = [self.falling[n * self.lanes + lane] if len(full) > 1
                     and n * self.lanes + lane < len(full) else self.falling[0]
                     for n in range(steps)]
            flip = Signal(name=f"flip_{lane}")
            with m.Switch(row):
                for n, value in enumerate(flips):
                    with m.Case(n):
                        m.d.comb += flip.eq(int(value))
            elements.append(register(
                f"element_{lane}",
                (self.i.payload[lane].as_unsigned()
                 ^ flip.replicate(self.shape.width)).as_signed()))
        at: Value = register("row_in", row)
        valid = register("valid_in", valid)
        flags: list[Signal | None] = []
        codes: list[Value] = [Signal(0, name=f"none_{lane}") for lane in range(self.lanes)]

        for bit in range(bits):
            fetched = []
            for lane in range(self.lanes):
                table = tables[lane][bit]
                storage = self.storage if len(table) > _LOGIC_ROWS else Storage.LOGIC
                address = Signal(range(max(2, len(table))), name=f"address_{bit}_{lane}")
                m.d.comb += address.eq(Cat(codes[lane], at[:row_width] if row_width else Signal(0)))
                flags.append(parity_flag(self.parity_error is not None))
                threshold = look_up(m, f"thresholds_{bit}_{lane}", self.threshold_shape, table,
                                    address, advance, storage, flags[-1])
                for n in range(self.storage.latency - storage.latency):
                    threshold = register(f"threshold_{bit}_{lane}_{n}", threshold)
                fetched.append(threshold)
            for n in range(self.storage.latency):
                elements = [register(f"fetched_{bit}_{lane}_{n}", e)
                            for lane, e in enumerate(elements)]
                codes = [register(f"prefix_{bit}_{lane}_{n}", c) for lane, c in enumerate(codes)]
                at, valid = register(f"row_{bit}_a{n}", at), register(f"valid_{bit}_a{n}", valid)

            passed = [elements[lane] >= fetched[lane].as_signed() for lane in range(self.lanes)]
            codes = [register(f"code_{bit}_{lane}", Cat(passed[lane], codes[lane]))
                     for lane in range(self.lanes)]
            elements = [register(f"compared_{bit}_{lane}", e) for lane, e in enumerate(elements)]
            at = register(f"row_{bit}_b", at)
            valid = register(f"valid_{bit}_b", valid)

        merge_flags(m, self.parity_error, flags)
        m.d.comb += self.o.valid.eq(valid)
        for lane in range(self.lanes):
            m.d.comb += self.o.payload[lane].eq(codes[lane])
        return m
