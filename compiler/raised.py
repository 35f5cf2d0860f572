"""Product tables whose rows are raised by constants, so that their bits take little logic.

What a row of products has too much is a constant of each output, the sum over its weights, and
leaves with the others (see `SumTerms`). So any constants will do: products need no sign, and where
there is a choice, many of their bits read fewer signals than entries and codes have.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np

from nomul.compiler.circuits import SumTerms
from nomul.compiler.coders import moves_of
from nomul.compiler.layers import Conv2d, Dense, SumPool, Weighted
from nomul.compiler.plan import LayerPlan
from nomul.compiler.values import Ints, Staircase
from nomul.hw.circuits import ProductCircuit
from nomul.hw.table import Storage

__all__ = ["RaisedTable", "raised_table", "raised_terms"]

# Quarters of a look-up table that a bit takes which reads so many signals, in front of an adder:
# one alone is a register; 2 move into the carry cell of an ECP5 with 2 others, 3 with one.
_QUARTERS = np.array([0, 0, 1, 2, 4, 8, 16])
_WHOLE = 4

# Largest tables that are searched for simple bits: rows, and entries.
_MOST_ROWS = 64
_MOST_ENTRIES = 8
# Choices of the low bits of all constants that are kept from bit to bit.
_KEPT = 256

# Orders of 4 entries that pair them up differently: words that pair differ in one bit.
_PAIRINGS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2))


@dataclass(frozen=True, kw_only=True)
class RaisedTable:
    """Products, each row plus a constant.

    Parameters
    ----------
    products : array of int, shape [words, codes]
        At least 0.
    words : array of int, shape [entries]
        The row of each entry of the dictionary.
    constants : array of int, shape [entries]
        ``products[words[k]]`` is so much above the products of entry k.
    """

    products: Ints
    words: Ints
    constants: Ints


def raised_table(products: Ints, *, search: bool) -> RaisedTable:
    """``products``, shape [entries, codes], as wide as the row with the widest range takes, no
    more; if ``search``, with rows in an order and by constants that make bits simple, where the
    table is small enough to look for them."""
    least = products - products.min(axis=1, keepdims=True)
    entries, codes = products.shape
    index_bits, code_bits = ((size - 1).bit_length() for size in (entries, codes))
    table, words = least, np.arange(entries)
    if search and 1 < entries <= _MOST_ENTRIES and 1 << index_bits + code_bits <= _MOST_ROWS:
        # Words that stand for no entry, and codes that there are not, are free.
        filled = np.pad(least, ((0, (1 << index_bits) - entries), (0, (1 << code_bits) - codes)),
                        mode="edge")
        order, found = _simple_bits(tuple(map(tuple, filled.tolist())))
        table, words = np.array(found)[:, :codes], np.argsort(order)[:entries]
    return RaisedTable(products=table, words=words,
                       constants=(table[words] - products)[:, 0])


@lru_cache(maxsize=256)
def _simple_bits(least: tuple[tuple[int, ...], ...],
                 ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """An order of the rows, and the rows in that order, each plus what makes the cheapest bits of
    all rows together; found bit by bit, from the lowest."""
    rows, best = np.array(least), None
    orders = _PAIRINGS if len(rows) == 4 else (tuple(range(len(rows))),)
    for order in orders:
        costs, constants = _constants(rows[list(order)])
        # The word of a row may have any of its bits inverted: those of all others have, too.
        first = int(costs.argmin())
        rank = int(costs[first]), int(constants.sum())
        if best is None or rank < best[0]:
            places = np.arange(len(rows)) ^ first
            best = rank, np.array(order)[places], (rows[list(order)]
                                                   + constants[:, None])[places]
    assert best
    return tuple(best[1].tolist()), tuple(map(tuple, best[2].tolist()))


def _constants(rows: Ints) -> tuple[Ints, Ints]:
    """What the bits take, shape [rows], whichever row has the word 0; and constants, shape [rows],
    by which ``rows`` take the fewest."""
    count, width = len(rows), int(rows.max()).bit_length()
    room = (1 << width) - 1 - rows.max(axis=1)
    signals = (rows.size - 1).bit_length()
    choices = np.array(list(product((0, 1), repeat=count)))
    constants, costs = (np.zeros((1, count), dtype=np.int64) for _ in range(2))
    for place in range(width):
        constants = (constants[:, None] + (choices << place)).reshape(-1, count)
        costs = costs.repeat(len(choices), axis=0)
        fits = (constants <= room).all(axis=1)
        constants, costs = constants[fits], costs[fits]
        bits = (rows + constants[:, :, None]) >> place & 1
        cube = bits.reshape(-1, *[2] * signals)
        reads = np.array([(cube.take(0, axis) != cube.take(1, axis)).reshape(len(bits), -1)
                          .any(axis=1) for axis in range(1, signals + 1)]).sum(axis=0)
        quarters = _QUARTERS[reads][:, None]
        # What is not 0 where all signals are 0 stays in front of its register, which starts at 0.
        stays = (quarters > 0) & (bits[:, :, 0] == 1)
        costs += np.where(stays, np.maximum(quarters, _WHOLE), quarters)
        kept = np.lexsort((constants.sum(axis=1), costs.min(axis=1)))[:_KEPT]
        constants, costs = constants[kept], costs[kept]
    return costs[0], constants[0]


def raised_terms(layer: Weighted | SumPool, terms: SumTerms, packed: list[int] | None,
                 plan: LayerPlan) -> tuple[SumTerms, list[int] | None]:
    """``terms`` and ``packed`` (see `packed_terms`) with a `RaisedTable` if the plan looks products
    up; as they are, if constants would take hardware: where nothing is added to the sums so far,
    or the same to all, or where corrections are."""
    if plan.product is not ProductCircuit.TABLE or (
            isinstance(layer, Dense) and layer.corrections is not None):
        return terms, packed
    table = raised_table(terms.products, search=plan.products_in is Storage.LOGIC)
    indices = table.words if packed is None else table.words[packed]
    constants = table.constants if packed is None else table.constants[packed]
    more = (constants[terms.assignment].sum(axis=1)
            + _absent(layer, plan) * int(table.products[0 if packed is None else indices[0], 0]))
    raised = replace(
        terms, products=table.products, offsets=terms.offsets - more, low=terms.low + more,
        high=terms.high + more,
        assignment=indices[terms.assignment] if packed is None else terms.assignment)
    if _added(layer.staircase, raised, plan) > _added(layer.staircase, terms, plan):
        return terms, packed
    return raised, None if packed is None else indices.tolist()


def _absent(layer: Weighted | SumPool, plan: LayerPlan) -> int:
    """Places of each output, in the beats of its inputs, that hold none: weight 0 and code 0."""
    if layer.lanewise:
        return 0
    assert isinstance(layer, Dense | Conv2d)
    vectors, length = (1, layer.fan_in) if isinstance(layer, Dense) else (
        prod(layer.window.kernel), layer.assignment.shape[3])
    return vectors * (-length % plan.inputs)


def _added(staircase: Staircase | None, terms: SumTerms, plan: LayerPlan) -> int:
    """Constants that hardware adds to sums: none, one for all, or one for each output."""
    moves = moves_of(staircase, terms, plan)
    if moves.own or np.ptp(moves.offsets):
        return len(moves.offsets)
    return int(moves.offsets.any())
