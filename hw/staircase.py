"""Staircases: monotone step functions from integers to codes.

Each takes a stream of vectors of integers and gives the vectors of their codes. Before
it stands, where there is something to add, an `Offset`.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import beats, following, vector
from nomul.hw.table import Cycle, Storage, check_rows, look_up, merge_flags, parity_flag

__all__ = ["Comparators", "Offset", "Search", "ShiftClip", "ShiftClipRows"]

# Rows of which one LUT4 holds a bit.
_LOGIC_ROWS = 16


def _constants(rows: Sequence[int], size: int, lanes: int, storage: Storage,
               flag: Signal | None) -> Cycle:
    """A row of ``size`` bits for each lane of each beat; a single row is the same for all."""
    if len(rows) == 1:
        words = [sum(rows[0] << lane * size for lane in range(lanes))]
    else:
        words = [sum(row << lane * size for lane, row in enumerate(rows[n:n + lanes]))
                 for n in range(0, len(rows), lanes)]
    return Cycle(unsigned(size * lanes), words, storage=storage, flag=flag)


def _handshake(m: Module, unit: Offset | Comparators, constants: Cycle) -> Signal:
    """Take a beat with its constants whenever the register of the output is free: when that is."""
    take = Signal(name="take")
    m.d.comb += [
        unit.i.ready.eq(constants.valid & (~unit.o.valid | unit.o.ready)),
        take.eq(unit.i.valid & unit.i.ready),
        constants.next.eq(take),
    ]
    with m.If(unit.o.ready):
        m.d.sync += unit.o.valid.eq(0)
    with m.If(take):
        m.d.sync += unit.o.valid.eq(1)
    return take


class Offset(wiring.Component):
    """A constant for each element is added to it, or it is subtracted from the constant.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally
    on ``o.ready``.

    Latency: 1 cycle. Throughput: 1 beat a cycle.

    Parameters
    ----------
    i_shape, o_shape : shape-like
        Signed shapes of an element; ``o_shape`` must hold every result.
    offsets : sequence of int
        One for each element of a vector, or a single one for all.
    lanes : int
        Elements to a beat; at least 1.
    negate : bool
        Subtract the elements.
    storage : Storage
        What holds the offsets.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(i_shape, lanes))
        Elements.
    o : Out(vector(o_shape, lanes))
        Elements, offset.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, i_shape: ShapeLike, o_shape: ShapeLike, *, offsets: Sequence[int],
                 lanes: int, negate: bool, storage: Storage, parity: bool = False) -> None:
        self.i_shape, self.o_shape = Shape.cast(i_shape), Shape.cast(o_shape)
        self.offset_shape = signed(max(self.i_shape.width, self.o_shape.width) + 1)
        self.offsets = check_rows(self.offset_shape, offsets)
        if not self.offsets or lanes < 1:
            raise ValueError("There must be at least one offset and one lane")
        self.lanes = lanes
        self.negate = negate
        self.storage = storage
        self.parity_error = parity_flag(parity)
        super().__init__({"i": In(vector(self.i_shape, lanes)),
                          "o": Out(vector(self.o_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Only as wide as the sum: what an offset would add above that wraps back.
        width = self.o_shape.width
        m.submodules.constants = constants = _constants(
            [offset % (1 << width) for offset in self.offsets], width, self.lanes, self.storage,
            self.parity_error)
        take = _handshake(m, self, constants)
        with m.If(take):
            for lane in range(self.lanes):
                offset = constants.row.word_select(lane, width).as_signed()
                element = self.i.payload[lane]
                total = offset - element if self.negate else element + offset
                m.d.sync += self.o.payload[lane].eq(total)

        return m


class ShiftClip(wiring.Component):
    """A right shift that rounds down, then clipped to the codes: for thresholds that are
    ``2**shift, 2 * 2**shift, …``.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally
    on ``o.ready``.

    Latency: 1 cycle. Throughput: 1 beat a cycle.

    Parameters
    ----------
    shape : shape-like
        Signed shape of an element.
    shift : int
        Logarithm of the step; at least 0.
    codes : int
        Number of codes; at least 2.
    lanes : int
        Elements to a beat; at least 1.

    Members
    -------
    i : In(vector(shape, lanes))
        Elements.
    o : Out(vector(code_shape, lanes))
        Codes.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, shape: ShapeLike, *, shift: int, codes: int, lanes: int) -> None:
        self.shape = Shape.cast(shape)
        if shift < 0:
            raise ValueError(f"Shift must be at least 0, not {shift!r}")
        if codes < 2 or lanes < 1:
            raise ValueError(f"There must be at least 2 codes and 1 lane, "
                             f"not {codes!r} and {lanes!r}")
        self.shift = shift
        self.codes = codes
        self.lanes = lanes
        self.code_shape = Shape.cast(range(codes))
        super().__init__({"i": In(vector(self.shape, lanes)),
                          "o": Out(vector(self.code_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
            for lane in range(self.lanes):
                steps = self.i.payload[lane] >> self.shift
                code = Mux(steps >= self.codes - 1, self.codes - 1, steps)
                m.d.sync += self.o.payload[lane].eq(Mux(steps < 0, 0, code))

        return m


class ShiftClipRows(wiring.Component):
    """Offset, sign and right shift of each element's own, then clipped to the codes:
    ``clip((±element + offset) >> shift, 0, codes - 1)``.

    Batch normalization whose factors are powers of two is one of these. All paths from ``i`` to
    ``o`` are registered; ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 3 cycles. Throughput: 1 beat a cycle.

    Parameters
    ----------
    i_shape, sum_shape : shape-like
        Signed shapes: of an element; of it, or its negative, and its offset.
    offsets, shifts, negate : sequence of int, shape [rows]
        A row for each element of a vector, or a single one for all; shifts at least 0,
        ``negate`` 0 or 1.
    codes : int
        Number of codes; at least 2.
    lanes : int
        Elements to a beat; at least 1.
    storage : Storage
        What holds the rows.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(i_shape, lanes))
        Elements.
    o : Out(vector(code_shape, lanes))
        Codes.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 3

    def __init__(self, i_shape: ShapeLike, sum_shape: ShapeLike, *, offsets: Sequence[int],
                 shifts: Sequence[int], negate: Sequence[int], codes: int, lanes: int,
                 storage: Storage, parity: bool = False) -> None:
        self.i_shape, self.sum_shape = Shape.cast(i_shape), Shape.cast(sum_shape)
        self.offsets = check_rows(signed(max(self.i_shape.width, self.sum_shape.width) + 1),
                                  offsets)
        self.shifts, self.negate = tuple(shifts), check_rows(1, negate)
        if not self.offsets or {len(self.shifts), len(self.negate)} != {len(self.offsets)}:
            raise ValueError("There must be an offset, a shift and a sign for each row, and at "
                             "least one row")
        if min(self.shifts) < 0:
            raise ValueError(f"Shifts must be at least 0, not {min(self.shifts)!r}")
        if codes < 2 or lanes < 1:
            raise ValueError(f"There must be at least 2 codes and 1 lane, "
                             f"not {codes!r} and {lanes!r}")
        self.codes = codes
        self.lanes = lanes
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.code_shape = Shape.cast(range(codes))
        super().__init__({"i": In(vector(self.i_shape, lanes)),
                          "o": Out(vector(self.code_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # A row: the offset, the shift beyond the least one, and the sign. -x is ~x + 1, so that
        # the adder needs no other carry.
        width, least = self.sum_shape.width, min(self.shifts)
        more = (max(self.shifts) - least).bit_length()
        size = width + more + 1
        m.submodules.constants = constants = _constants(
            [(offset + sign) % (1 << width) | shift - least << width | sign << width + more
             for offset, shift, sign in zip(self.offsets, self.shifts, self.negate, strict=True)],
            size, self.lanes, self.storage, self.parity_error)

        advance, summed, shifted = (Signal(name=name) for name in ("advance", "summed", "shifted"))
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(constants.valid & advance),
            constants.next.eq(self.i.valid & self.i.ready),
        ]
        with m.If(advance):
            m.d.sync += [summed.eq(constants.next), shifted.eq(summed), self.o.valid.eq(shifted)]
            for lane in range(self.lanes):
                row = constants.row.word_select(lane, size)
                offset, shift, sign = row[:width].as_signed(), row[width:width + more], row[-1]
                total = Signal(signed(width), name=f"total_{lane}")
                by = Signal(more, name=f"by_{lane}")
                steps = Signal(signed(max(1, width - least)), name=f"steps_{lane}")
                element = (self.i.payload[lane].as_unsigned()
                           ^ sign.replicate(self.i_shape.width)).as_signed()
                code = Mux(steps >= self.codes - 1, self.codes - 1, steps)
                m.d.sync += [
                    total.eq(element + offset),
                    by.eq(shift),
                    steps.eq(total >> least >> by),
                    self.o.payload[lane].eq(Mux(steps < 0, 0, code)),
                ]

        return m


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
        m.submodules.constants = constants = _constants(rows, size, self.lanes, self.storage,
                                                        self.parity_error)
        take = _handshake(m, self, constants)
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
        never = (1 << self.shape.width - 1)
        full = [(*self._rising(row), *[never] * ((1 << bits) - self.codes))
                for row in range(len(self.thresholds))]
        steps = beats(len(full), self.lanes)
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
            span = 1 << bits - bit  # codes still possible before this bit is known
            fetched = []
            for lane in range(self.lanes):
                table = [full[min(n * self.lanes + lane, len(full) - 1) if len(full) > 1 else 0]
                         [prefix * span + span // 2 - 1]
                         for n in range(steps) for prefix in range(1 << bit)]
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
