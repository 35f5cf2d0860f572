"""Products of weights and codes, without a multiplier.

A weight is an index into a dictionary; a circuit knows only the product of each
dictionary entry with each code, as a table whose column of code 0 is zero. (What a
product is at code 0 belongs into the layer's bias.) Hence an absent input, which
counts as code 0, adds nothing whatever its weight.
"""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.shapes import signed_range
from nomul.hw.table import Storage, look_up

__all__ = ["Products", "ShiftAddProducts", "TableProducts", "shift_add_slopes"]

Table = tuple[tuple[int, ...], ...]


def shift_add_slopes(table: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Slope of each row, if every row is its slope times the code and every slope is zero or
    a signed power of two; else None."""
    slopes = tuple(int(row[1]) if len(row) > 1 else 0 for row in table)
    for row, slope in zip(table, slopes, strict=True):
        if abs(slope) & (abs(slope) - 1) or any(p != slope * c for c, p in enumerate(row)):
            return None
    return slopes


class Products(wiring.Component):
    """``lanes`` times ``inputs`` products: every lane weights all inputs, with its own weights.

    Base of the product circuits, which all have these ports and give the same bits.

    Latency: 1 cycle. Throughput: 1 set of products a cycle.

    Parameters
    ----------
    table : sequence of rows of int, shape [entries, codes]
        Product of each dictionary entry with each code; 0 at code 0.
    lanes, inputs : int
        At least 1.

    Members
    -------
    enable : In(1)
        Take ``indices`` and ``codes``.
    indices : In(ArrayLayout(ArrayLayout(index_shape, inputs), lanes))
        Weights: indices into the dictionary.
    codes : In(ArrayLayout(code_shape, inputs))
        Inputs, the same for all lanes.
    products : Out(ArrayLayout(ArrayLayout(product_shape, inputs), lanes))
        One cycle after ``enable``; held while it is low.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int) -> None:
        self.table: Table = tuple(tuple(int(p) for p in row) for row in table)
        if not self.table or not self.table[0] or len({len(row) for row in self.table}) != 1:
            raise ValueError("Product table must have at least one row and one column, "
                             "and rows of equal length")
        if any(row[0] for row in self.table):
            raise ValueError("Product table must be zero at code 0")
        if lanes < 1 or inputs < 1:
            raise ValueError(f"Lanes and inputs must be at least 1, not {lanes!r} and {inputs!r}")
        self.lanes = lanes
        self.inputs = inputs
        self.index_shape = unsigned(max(1, (len(self.table) - 1).bit_length()))
        self.code_shape = unsigned(max(1, (len(self.table[0]) - 1).bit_length()))
        values = [p for row in self.table for p in row]
        self.product_shape = signed_range(min(values), max(values))
        super().__init__({
            "enable": In(1),
            "indices": In(data.ArrayLayout(data.ArrayLayout(self.index_shape, inputs), lanes)),
            "codes": In(data.ArrayLayout(self.code_shape, inputs)),
            "products": Out(data.ArrayLayout(data.ArrayLayout(self.product_shape, inputs), lanes)),
        })


class ShiftAddProducts(Products):
    """Products with powers of two: a code is shifted and, for a negative weight, negated.

    The negative of a code is made once and shared by all lanes; a lane only selects
    among shifted copies. Needs a table that `shift_add_slopes` accepts.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int) -> None:
        super().__init__(table, lanes=lanes, inputs=inputs)
        slopes = shift_add_slopes(self.table)
        if slopes is None:
            raise ValueError("Shift-add products must be a signed power of two, or zero, times "
                             "the code; use a table")
        self.slopes = slopes

    def elaborate(self, platform: object) -> Module:
        m = Module()

        for n in range(self.inputs):
            negative = Signal(signed(self.code_shape.width + 1), name=f"negative_{n}")
            m.d.comb += negative.eq(-self.codes[n])
            for lane in range(self.lanes):
                product = Signal(self.product_shape, name=f"product_{lane}_{n}")
                with m.Switch(self.indices[lane][n]):
                    for index, slope in enumerate(self.slopes):
                        shift = abs(slope).bit_length() - 1
                        with m.Case(index):
                            if slope > 0:
                                m.d.comb += product.eq(self.codes[n] << shift)
                            elif slope < 0:
                                m.d.comb += product.eq(negative << shift)
                with m.If(self.enable):
                    m.d.sync += self.products[lane][n].eq(product)

        return m


class TableProducts(Products):
    """Products looked up: a table for each lane and input, for any dictionary.

    Parameters
    ----------
    storage : Storage
        Logic, or block RAM with the code as the low and the index as the high address.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int,
                 storage: Storage) -> None:
        super().__init__(table, lanes=lanes, inputs=inputs)
        self.storage = storage

    def elaborate(self, platform: object) -> Module:
        m = Module()

        codes = 1 << self.code_shape.width
        rows = [p for row in self.table for p in (*row, *[0] * (codes - len(row)))]
        for lane in range(self.lanes):
            for n in range(self.inputs):
                address = Signal(range(len(rows)), name=f"address_{lane}_{n}")
                m.d.comb += address.eq((self.indices[lane][n] << self.code_shape.width)
                                       | self.codes[n])
                m.d.comb += self.products[lane][n].eq(
                    look_up(m, f"table_{lane}_{n}", self.product_shape, rows, address,
                            self.enable, self.storage))

        return m
