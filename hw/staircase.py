"""Staircases: monotone step functions from integers to codes.

Each takes a stream of vectors of integers and gives the vectors of their codes. Before
it stands, where there is something to add, an `Offset`.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import vector
from nomul.hw.table import Cycle, Storage, check_rows, parity_flag

__all__ = ["Offset", "ShiftClip", "ShiftClipRows", "constant_rows", "take_beats"]


def constant_rows(rows: Sequence[int], size: int, lanes: int, storage: Storage,
                  flag: Signal | None) -> Cycle:
    """A row of ``size`` bits for each lane of each beat; a single row is the same for all."""
    if len(rows) == 1:
        words = [sum(rows[0] << lane * size for lane in range(lanes))]
    else:
        words = [sum(row << lane * size for lane, row in enumerate(rows[n:n + lanes]))
                 for n in range(0, len(rows), lanes)]
    return Cycle(unsigned(size * lanes), words, storage=storage, flag=flag)


def take_beats(m: Module, unit: Any, constants: Cycle) -> Signal:
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
        m.submodules.constants = constants = constant_rows(
            [offset % (1 << width) for offset in self.offsets], width, self.lanes, self.storage,
            self.parity_error)
        take = take_beats(m, self, constants)
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
        m.submodules.constants = constants = constant_rows(
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
