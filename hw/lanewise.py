"""Sums and maxima of windows, where every lane only sees its own element of each beat.

A lane computes one channel: depthwise convolutions and pools. The channels of a position come
word after word, ``lanes`` of them to a word, each word in as many beats as the kernel has taps.
"""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.packed import PackedCycle
from nomul.hw.product import Products, add_product
from nomul.hw.stream import beats, count_to, vector
from nomul.hw.table import Cycle, Storage, merge_flags, parity_flag

__all__ = ["LanewiseMax", "LanewiseSums"]


class LanewiseSums(wiring.Component):
    """Sums over windows, with weights of its own for each channel.

    For depthwise convolutions, and with a dictionary of a single entry for sum pools.
    The weights come from a table that is read in order, and that takes no memory if they
    are all the same.

    The sums are exact if ``acc_shape`` holds every one of them: sums in between wrap
    around, and wrap back. All paths from ``i`` to ``o`` are registered; ``i.ready``
    depends combinationally on ``o.ready``.

    Latency: 2 cycles, from the last beat of a word to its sums. Throughput: 1 beat a cycle.

    Parameters
    ----------
    products : sequence of Products
        The product circuit of each lane: alike, of one lane and one input.
    rows : sequence of rows of int, shape [channels, taps]
        Weights: indices into the dictionary.
    acc_shape : shape-like
        Signed shape that holds every sum.
    storage : Storage
        What holds the weights.
    packed : sequence of int, optional
        Where each row has a width of its own: the rows then hold numbers, of which the bits below
        the leading 1 are stored (`PackedCycle`), and this their indices into the dictionary. All
        numbers of a row have as many bits.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(code_shape, lanes))
        At each position, for each word of channels: ``taps`` beats.
    o : Out(vector(acc_shape, lanes))
        At each position: the sums of each word of channels. Lanes past the last channel
        hold anything.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 2

    def __init__(self, products: Sequence[Products], rows: Sequence[Sequence[int]], *,
                 acc_shape: ShapeLike, storage: Storage,
                 packed: Sequence[int] | None = None, parity: bool = False) -> None:
        self.products = tuple(products)
        self.rows = tuple(tuple(int(index) for index in row) for row in rows)
        self.acc_shape = Shape.cast(acc_shape)
        self.storage = storage
        self.packed = None if packed is None else tuple(int(index) for index in packed)
        self.parity_error = parity_flag(parity)
        if not self.products or any((p.lanes, p.inputs) != (1, 1) for p in self.products):
            raise ValueError("There must be at least one product circuit, each of one lane "
                             "and one input")
        if any(p.latency != 1 for p in self.products):
            raise ValueError("Product circuits must have a latency of 1 cycle; use a table that is "
                             "not registered")
        if len({(p.code_shape, p.index_shape, p.product_shape) for p in self.products}) != 1:
            raise ValueError("Product circuits must have codes, indices and products of one shape")
        if len({len(row) for row in self.rows}) != 1 or not self.rows[0]:
            raise ValueError("Rows of weights must be of one length, at least 1")
        entries = min(len(p.table) for p in self.products) if self.packed is None else (
            len(self.packed))
        for index in (index for row in self.rows for index in row):
            if not 0 <= index < entries:
                raise ValueError(f"Weight must be within the dictionary of {entries}, "
                                 f"not {index!r}")
        if not self.acc_shape.signed:
            raise ValueError(f"Accumulator shape must be signed, not {self.acc_shape!r}")
        self.lanes = len(self.products)
        self.channels, self.taps = len(self.rows), len(self.rows[0])
        super().__init__({"i": In(vector(self.products[0].code_shape, self.lanes)),
                          "o": Out(vector(self.acc_shape, self.lanes))})

    def fields(self) -> list[list[int]]:
        """For each word of channels and tap, the weights of all lanes, 0 where there is none; a
        single row if all are the same."""
        fields = []
        for word in range(beats(self.channels, self.lanes)):
            rows = self.rows[word * self.lanes:(word + 1) * self.lanes]
            absent = [0] * (self.lanes - len(rows))
            fields += [[*(row[tap] for row in rows), *absent] for tap in range(self.taps)]
        return fields if len(set(map(tuple, fields))) > 1 else fields[:1]

    def words(self) -> list[int]:
        """Contents of the weight table: `fields` as they go to the product circuits."""
        width, indices = self.products[0].index_shape.width, self.packed
        return [sum(products.encoding[field if indices is None else indices[field]] << lane * width
                    for lane, (products, field) in enumerate(zip(self.products, row, strict=True)))
                for row in self.fields()]

    def weights(self, flag: Signal | None = None) -> Cycle | PackedCycle:
        """The weight table."""
        width, fields = self.products[0].index_shape.width, self.fields()
        if self.packed is None or len(fields) == 1:
            return Cycle(self.lanes * width, self.words(), storage=self.storage, flag=flag)
        return PackedCycle(fields, run=self.taps, width=width, storage=self.storage,
                           encoding=[self.products[0].encoding[index] for index in self.packed],
                           flag=flag)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        for lane, products in enumerate(self.products):
            m.submodules[f"products_{lane}"] = products
        flag = parity_flag(self.parity_error is not None)
        m.submodules.weights = weights = self.weights(flag)
        merge_flags(m, self.parity_error,
                    [flag, *(products.parity_error for products in self.products)])

        advance, take = Signal(), Signal()
        valid, ends = Signal(name="valid"), Signal(name="ends")  # of the products
        _, last_tap = count_to(m, "tap", self.taps, take)

        m.d.comb += [
            Cat(products.indices for products in self.products).eq(weights.row),
            weights.next.eq(take),
            self.i.ready.eq(weights.valid & advance),
            take.eq(self.i.valid & self.i.ready),
            advance.eq(~(valid & ends) | ~self.o.valid | self.o.ready),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance):
            m.d.sync += [valid.eq(take), ends.eq(last_tap)]
        with m.If(advance & valid & ends):
            m.d.sync += self.o.valid.eq(1)

        for lane, products in enumerate(self.products):
            acc = Signal(signed(self.acc_shape.width), name=f"acc_{lane}")
            total = Signal(signed(self.acc_shape.width), name=f"total_{lane}")
            m.d.comb += [
                products.codes[0].eq(self.i.payload[lane]),
                products.enable.eq(advance),
                total.eq(add_product(acc, products.products[0][0], products.complement)),
            ]
            with m.If(advance & valid):
                m.d.sync += acc.eq(Mux(ends, 0, total))
                with m.If(ends):
                    m.d.sync += self.o.payload[lane].eq(total)

        return m


class LanewiseMax(wiring.Component):
    """The largest code of each lane in every ``taps`` beats.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` depends combinationally
    on ``o.ready``.

    Latency: 1 cycle, from the last beat of a word to its maxima. Throughput: 1 beat a cycle.

    Parameters
    ----------
    code_shape : shape-like
        Unsigned shape of a code.
    lanes : int
        Codes to a beat; at least 1.
    taps : int
        Beats of a window; at least 1.

    Members
    -------
    i : In(vector(code_shape, lanes))
        At each position, for each word of channels: ``taps`` beats.
    o : Out(vector(code_shape, lanes))
        At each position: the maxima of each word of channels.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, code_shape: ShapeLike, *, lanes: int, taps: int) -> None:
        self.code_shape = Shape.cast(code_shape)
        self.lanes = lanes
        self.taps = taps
        if self.code_shape.signed:
            raise ValueError(f"Code shape must be unsigned, not {self.code_shape!r}")
        if lanes < 1 or taps < 1:
            raise ValueError(f"There must be at least 1 lane and 1 tap, not {lanes!r} and {taps!r}")
        super().__init__({"i": In(vector(self.code_shape, lanes)),
                          "o": Out(vector(self.code_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        take = Signal()
        _, ends = count_to(m, "tap", self.taps, take)

        # Between windows the leaders are 0, which no code is below.
        for lane in range(self.lanes):
            leader = Signal(self.code_shape, name=f"leader_{lane}")
            largest = Signal(self.code_shape, name=f"largest_{lane}")
            code = self.i.payload[lane]
            m.d.comb += largest.eq(Mux(code > leader, code, leader))
            with m.If(take):
                m.d.sync += leader.eq(Mux(ends, 0, largest))
                with m.If(ends):
                    m.d.sync += self.o.payload[lane].eq(largest)

        m.d.comb += [
            self.i.ready.eq(~ends | ~self.o.valid | self.o.ready),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(take & ends):
            m.d.sync += self.o.valid.eq(1)

        return m
