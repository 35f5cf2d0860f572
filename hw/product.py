"""Products of weights and codes, without a multiplier.

A weight is an index into a dictionary; a circuit knows only the product of each
dictionary entry with each code, as a table. What is the same for all codes of an entry belongs
into the layer's bias; products are 0 at code 0 where a circuit multiplies, and where they are
looked up, whatever takes the least logic.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.affine import signed_digits
from nomul.hw.shapes import signed_range
from nomul.hw.table import Storage, look_up, merge_flags, parity_flag

__all__ = [
    "MaskedProducts",
    "Masks",
    "Products",
    "ShiftAddProducts",
    "TableProducts",
    "add_product",
    "add_with_one",
    "masks_of",
    "shift_add_slopes",
    "slopes_of",
]

Table = tuple[tuple[int, ...], ...]


def slopes_of(table: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Slope of each row, if every row is its slope times the code; else None."""
    slopes = tuple(int(row[1]) if len(row) > 1 else 0 for row in table)
    if any(p != slope * code for row, slope in zip(table, slopes, strict=True)
           for code, p in enumerate(row)):
        return None
    return slopes


def shift_add_slopes(table: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Slope of each row, if every row is its slope times the code and every slope is zero or
    a signed power of two; else None."""
    slopes = tuple(int(row[1]) if len(row) > 1 else 0 for row in table)
    for row, slope in zip(table, slopes, strict=True):
        if abs(slope) & (abs(slope) - 1) or any(p != slope * c for c, p in enumerate(row)):
            return None
    return slopes


def add_with_one(total: Value, term: Value, one: Value, place: int) -> Value:
    """``total + term + (one << place)`` of signed values that are multiples of ``1 << place``.

    The 1 enters as the carry of a bit below: one adder, where tools would take two or have to
    bring the carry in from outside.
    """
    upper = (Cat(Const(1, 1), total >> place).as_signed()
             + Cat(one, term >> place).as_signed())[1:]
    return Cat(Const(0, place), upper).as_signed()


def add_product(total: Value, product: Value, complement: int | None) -> Value:
    """``total`` and a product, with what it lacks if it is in one's complement (see `Products`)."""
    if complement is None:
        return total + product
    return add_with_one(total, product, product[-1], complement)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Slopes of a table, split: ``base + sum(steps[j] * counts[j][k] for j)`` for entry k.

    Parameters
    ----------
    base : int
    steps : tuple of int
        At least one.
    counts : tuple of tuple of int, shape [steps, entries]
        At least 0; for each step an entry whose count is 0, and one whose count is not.
    """

    base: int
    steps: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


def masks_of(table: Sequence[Sequence[int]]) -> Masks | None:
    """The `Masks` of a table whose rows are slopes times the code; None if they are not, or if
    all slopes are equal.

    An arithmetic progression has one step, whose count goes up or down to the base that is the
    sum of fewer powers of two. Other slopes have a step for each but the base, which is 0 if that
    is one of them: their sums are buckets.
    """
    slopes = [int(row[1]) if len(row) > 1 else 0 for row in table]
    if any(p != slope * c for row, slope in zip(table, slopes, strict=True)
           for c, p in enumerate(row)):
        return None
    values = sorted(set(slopes), key=lambda slope: (len(signed_digits(slope)), slope))
    if len(values) == 1:
        return None
    lowest, highest = min(values), max(values)
    step = gcd(*(slope - lowest for slope in slopes))
    if len(range(lowest, highest + 1, step)) <= 2 * len(values):
        base, step = min(((lowest, step), (highest, -step)),
                         key=lambda pair: len(signed_digits(pair[0])))
        return Masks(base=base, steps=(step,),
                     counts=(tuple((slope - base) // step for slope in slopes),))
    base, *others = values
    return Masks(base=base, steps=tuple(value - base for value in others),
                 counts=tuple(tuple(int(slope == value) for slope in slopes) for value in others))


class Products(wiring.Component):
    """``lanes`` times ``inputs`` products: every lane weights all inputs, with its own weights.

    Base of the product circuits, which all have these ports and give the same bits.

    Latency: ``latency`` cycles, 1 but for tables in registered block RAM. Throughput: 1 set of
    products a cycle.

    Parameters
    ----------
    table : sequence of rows of int, shape [entries, codes]
        Product of each dictionary entry with each code.
    lanes, inputs : int
        At least 1.
    sums : int
        Products of which each lane makes a sum of its own.

    Members
    -------
    enable : In(1)
        Take ``indices`` and ``codes``.
    indices : In(ArrayLayout(ArrayLayout(index_shape, inputs), lanes))
        Weights: ``encoding[k]`` for entry k of the dictionary.
    codes : In(ArrayLayout(code_shape, inputs))
        Inputs, the same for all lanes.
    products : Out(ArrayLayout(ArrayLayout(product_shape, inputs), lanes * sums))
        ``latency`` cycles of ``enable`` later; held while it is low.

    Attributes
    ----------
    complement : int or None
        If not None, products are multiples of ``1 << complement`` in one's complement: one whose
        sign bit is 1 lacks that much. `add_product` and `add_with_one` bring it in.
    """

    latency = 1
    parity_error: Signal | None = None  # see `TableProducts`

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int,
                 sums: int = 1) -> None:
        self.table: Table = tuple(tuple(int(p) for p in row) for row in table)
        if not self.table or not self.table[0] or len({len(row) for row in self.table}) != 1:
            raise ValueError("Product table must have at least one row and one column, "
                             "and rows of equal length")
        if lanes < 1 or inputs < 1:
            raise ValueError(f"Lanes and inputs must be at least 1, not {lanes!r} and {inputs!r}")
        self.lanes = lanes
        self.inputs = inputs
        self.sums = sums
        self.index_shape = unsigned(max(1, (len(self.table) - 1).bit_length()))
        self.encoding = tuple(range(len(self.table)))
        self.code_shape = unsigned(max(1, (len(self.table[0]) - 1).bit_length()))
        self.complement = self._complement()
        self.product_shape = self._product_shape(min(map(min, self.table)),
                                                 max(map(max, self.table)))
        super().__init__({
            "enable": In(1),
            "indices": In(data.ArrayLayout(data.ArrayLayout(self.index_shape, inputs), lanes)),
            "codes": In(data.ArrayLayout(self.code_shape, inputs)),
            "products": Out(data.ArrayLayout(
                data.ArrayLayout(self.product_shape, inputs), lanes * sums)),
        })

    def _complement(self) -> int | None:
        return None

    def _product_shape(self, least: int, largest: int) -> Shape:
        lacking = 0 if self.complement is None else 1 << self.complement
        return signed_range(least - lacking, largest)


class ShiftAddProducts(Products):
    """Products with powers of two: a code is shifted and, for a negative weight, inverted.

    Products are in one's complement where a weight may be negative: the 1 that they lack enters
    where they are added up anyway, as a carry. A weight is held as a sign and a shift where they
    take no more bits than an index, as they do unless the powers of the dictionary lie far apart.
    Needs a table that `shift_add_slopes` accepts.
    """

    def _complement(self) -> int | None:
        slopes = shift_add_slopes(self.table)
        if slopes is None:
            raise ValueError("Shift-add products must be a signed power of two, or zero, times "
                             "the code; use a table")
        self.slopes = slopes
        shifts = [abs(slope).bit_length() - 1 for slope in slopes if slope]
        self.least_shift = min(shifts, default=0)
        reach = max(shifts, default=0) - self.least_shift
        self.size_width = self.code_shape.width + reach
        self.shift_width = reach.bit_length()
        self.signed = any(slope < 0 for slope in slopes)
        self.split = bool(shifts) and self.shift_width + self.signed <= self.index_shape.width
        if self.split:
            self.encoding = tuple(self.zero if slope == 0 else self._word(slope)
                                  for slope in slopes)
        return self.least_shift if self.signed else None

    def _word(self, slope: int) -> int:
        """A sign and a shift, beyond the least one."""
        return (slope < 0) << self.shift_width | abs(slope).bit_length() - 1 - self.least_shift

    @property
    def zero(self) -> int:
        """The word of the slope 0: the highest one that no other slope has. With `split` there is
        one, because there are at least as many words as entries."""
        used = {self._word(slope) for slope in self.slopes if slope}
        return max(set(range(1 << self.index_shape.width)) - used)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        for lane in range(self.lanes):
            for n in range(self.inputs):
                word, code = self.indices[lane][n], self.codes[n]
                value = self._shift(word, code) if self.split else self._select(
                    m, f"{lane}_{n}", word, code)
                product = Signal(self.product_shape, name=f"product_{lane}_{n}")
                m.d.comb += product.eq(value << self.least_shift)
                with m.If(self.enable):
                    m.d.sync += self.products[lane][n].eq(product)

        return m

    def _shift(self, word: Value, code: Value) -> Value:
        """A product, beyond the least shift, for a sign and a shift."""
        # Zero comes in where the shift is short, the sign before the last choice: each takes the
        # input that a table has to spare, and what an adder reads depends on three signals.
        size = code if 0 not in self.slopes else Mux(word == self.zero, 0, code)
        for place in range(self.shift_width - 1):
            size = Mux(word[place], size << (1 << place), size)
        sign = word[self.shift_width] if self.signed else Const(0)
        value = Cat(size ^ sign.replicate(len(size)), sign).as_signed() if self.signed else size
        if self.shift_width:
            last = self.shift_width - 1
            shifted = Cat(sign.replicate(1 << last), value)
            value = Mux(word[last], shifted.as_signed() if self.signed else shifted, value)
        return value

    def _select(self, m: Module, place: str, index: Value, code: Value) -> Value:
        """The same for the number of an entry."""
        size, sign = Signal(self.size_width, name=f"size_{place}"), Signal(name=f"sign_{place}")
        with m.Switch(index):
            for number, slope in enumerate(self.slopes):
                with m.Case(number):
                    m.d.comb += sign.eq(slope < 0)
                    if slope:
                        m.d.comb += size.eq(code << abs(slope).bit_length() - 1 - self.least_shift)
        if not self.signed:
            return size
        return Cat(size ^ sign.replicate(len(size)), sign).as_signed()


class MaskedProducts(Products):
    """Codes that are taken or not: no product at all.

    A product ``(base + sum(steps[j] * counts[j][k])) * code`` is split (see `Masks`). What comes
    out for each step is ``counts[j][k] * code``, and the sums of these take the factors, once for
    all inputs: ``base * sum(codes) + sum(steps[j] * sums[j])``. Needs a table that `masks_of`
    accepts.

    Attributes
    ----------
    masks : Masks
        The factors.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int) -> None:
        found = masks_of(table)
        if found is None:
            raise ValueError("Masked products must be at least two slopes times the code; "
                             "use a table")
        self.masks, codes = found, range(len(table[0]))
        # An index is the count of the only step, or the number of the step whose count is 1.
        numbers = [sum((number + 1) * bool(count[k]) for number, count in enumerate(found.counts))
                   for k in range(len(table))]
        encoding = found.counts[0] if len(found.steps) == 1 else tuple(numbers)
        most = max(max(count) for count in found.counts)
        super().__init__([[min(index, most) * code for code in codes]
                          for index in range(max(encoding) + 1)],
                         lanes=lanes, inputs=inputs, sums=len(found.steps))
        self.encoding = encoding

    def elaborate(self, platform: object) -> Module:
        m = Module()

        for place in range(self.lanes * self.sums):
            lane, step = divmod(place, self.sums)
            for n in range(self.inputs):
                index, code = self.indices[lane][n], self.codes[n]
                bits = index if self.sums == 1 else [index == step + 1]
                terms = [Mux(bit, code, 0) << power for power, bit in enumerate(bits)]
                product = Signal(self.product_shape, name=f"product_{place}_{n}")
                m.d.comb += product.eq(sum(terms[1:], start=terms[0]))
                with m.If(self.enable):
                    m.d.sync += self.products[place][n].eq(product)

        return m


class TableProducts(Products):
    """Products looked up: a table for each lane and input, for any dictionary.

    They are unsigned if none of them is negative.

    Parameters
    ----------
    storage : Storage
        Logic, or block RAM with the code as the low and the index as the high address.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int,
                 storage: Storage, parity: bool = False) -> None:
        super().__init__(table, lanes=lanes, inputs=inputs)
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.latency = storage.latency

    def _product_shape(self, least: int, largest: int) -> Shape:
        return super()._product_shape(least, largest) if least < 0 else unsigned(
            max(1, largest.bit_length()))

    def elaborate(self, platform: object) -> Module:
        m = Module()

        codes = 1 << self.code_shape.width
        rows = [p for row in self.table for p in (*row, *row[-1:] * (codes - len(row)))]
        flags = [parity_flag(self.parity_error is not None)
                 for _ in range(self.lanes * self.inputs)]
        merge_flags(m, self.parity_error, flags)
        for lane in range(self.lanes):
            for n in range(self.inputs):
                address = Signal(range(len(rows)), name=f"address_{lane}_{n}")
                m.d.comb += address.eq((self.indices[lane][n] << self.code_shape.width)
                                       | self.codes[n])
                m.d.comb += self.products[lane][n].eq(
                    look_up(m, f"table_{lane}_{n}", self.product_shape, rows, address,
                            self.enable, self.storage, flags[lane * self.inputs + n]))

        return m
