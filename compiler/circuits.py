"""The integers behind each circuit: what a layer's hardware multiplies, adds and compares.

Pure functions of networks. They move constants to where they cost least, and say for which
layers a circuit gives exactly the right bits.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.code_tables import TableTerms, table_terms
from nomul.compiler.layers import Add, Dense, Layer, SumPool, Weighted
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Ints, Levels, Staircase
from nomul.hw.buckets import drain_steps
from nomul.hw.circuits import ProductCircuit, StaircaseCircuit
from nomul.hw.product import masks_of, shift_add_slopes, slopes_of

__all__ = [
    "ShiftClipTerms",
    "SparseTerms",
    "SumTerms",
    "bucket_steps",
    "legal_circuits",
    "packed_terms",
    "shift_clip_terms",
    "sparse_terms",
    "sum_terms",
    "tables_of",
    "threshold_rows",
    "unrolled_matrix",
]

_LUT4_ROWS = 16
# Sums that a lane may make of masked codes; for more a table is smaller.
_MOST_SUMS = 7
# A table of codes of so many words is smaller in logic than what compares: it changes at few of
# them.
_LOGIC_WORDS = 1024


@dataclass(frozen=True, kw_only=True)
class SumTerms:
    """A layer's accumulators, split so that an absent input adds nothing, or a constant.

    ``accumulator = sum + offset`` where the sum runs over ``products[weight, code]``, and over the
    corrections' `sparse_terms` if there are any.
    """

    products: Ints
    """Shape [entries, codes]; zero at code 0, or raised (`nomul.compiler.raised`)."""
    assignment: Ints
    """Shape [outputs, fan in]."""
    offsets: Ints
    """Shape [outputs]: bias, and what the products are at code 0."""
    low: Ints
    """Shape [outputs]: lowest sum that any input reaches."""
    high: Ints
    """Shape [outputs]: highest sum that any input reaches."""


def sum_terms(network: Network, layer: Layer) -> SumTerms:
    """How the hardware adds up ``layer``: a dense layer, convolution, sum pooling or addition.

    The sums of an addition have no products: they are exact as they are.
    """
    wire = network.reads(layer)[0]
    assert isinstance(wire, Codes)
    if isinstance(layer, Weighted):
        products, bias = layer.products(wire.levels), layer.bias
        assignment = layer.assignment.reshape(layer.outputs, -1)
    elif isinstance(layer, SumPool):
        # A depthwise convolution whose weights are all 1.
        channels, taps = wire.shape[-1], prod(layer.window_in(wire).kernel)
        products, bias = wire.levels.values[None], np.zeros(channels, dtype=np.int64)
        assignment = np.zeros((channels, taps), dtype=np.int64)
    elif isinstance(layer, Add):
        low, high = _add_range(network, layer)
        channels = wire.shape[-1]
        return SumTerms(products=np.zeros((1, 1), dtype=np.int64),
                        assignment=np.zeros((channels, 1), dtype=np.int64),
                        offsets=np.zeros(channels, dtype=np.int64),
                        low=np.full(channels, low), high=np.full(channels, high))
    else:
        raise TypeError(f"{type(layer).__name__} adds nothing up")
    at_zero = products[:, 0]
    if isinstance(layer, Dense) and layer.corrections is not None:
        weights, values = layer.weights, wire.levels.values
        ends = weights * (values[-1] - values[0])
        return SumTerms(products=products - at_zero[:, None], assignment=assignment,
                        offsets=bias + weights.sum(axis=1) * values[0],
                        low=np.minimum(ends, 0).sum(axis=1), high=np.maximum(ends, 0).sum(axis=1))
    low, high = (extreme[assignment].sum(axis=1) for extreme in (
        products.min(axis=1) - at_zero, products.max(axis=1) - at_zero))
    return SumTerms(products=products - at_zero[:, None], assignment=assignment,
                    offsets=bias + at_zero[assignment].sum(axis=1), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class SparseTerms:
    """What the corrections of a dense layer add to its sums, nothing of it at code 0.

    ``sum(weight * table[x[place]] for place, weight in rows[o])`` for output o.
    """

    table: list[int]
    rows: list[list[tuple[int, int]]]

    def range(self) -> tuple[int, int]:
        """Lowest and highest of these sums that any input reaches."""
        ends = [[sorted((weight * self.table[-1], 0)) for _, weight in row] for row in self.rows]
        return (min(sum(low for low, _ in row) for row in ends),
                max(sum(high for _, high in row) for row in ends))


def sparse_terms(layer: Dense, levels: Levels) -> SparseTerms | None:
    """The corrections of ``layer``, which reads ``levels``, for `nomul.hw.sparse`; None if it has
    none. The step of uniform levels moves into the weights, so that the table is the codes."""
    if layer.corrections is None:
        return None
    table, step = levels.values - levels.values[0], 1
    if not np.diff(table, n=2).any():
        step = int(table[1])
    rows: list[list[tuple[int, int]]] = [[] for _ in range(layer.outputs)]
    for output, place, value in layer.corrections.tolist():
        rows[output].append((place, value * step))
    return SparseTerms(table=(table // step).tolist(), rows=rows)


def unrolled_matrix(network: Network, layer: Dense) -> Ints | None:
    """What ``layer`` multiplies codes by, corrections included, shape [outputs, inputs]; its sums
    are without their offsets. None if its products are not multiples of the codes."""
    terms = sum_terms(network, layer)
    slopes = terms.products[:, 1]
    if (terms.products != np.outer(slopes, np.arange(terms.products.shape[1]))).any():
        return None
    matrix: Ints = slopes[terms.assignment]
    if layer.corrections is not None:
        wire = network.reads(layer)[0]
        assert isinstance(wire, Codes)
        steps = np.diff(wire.levels.values)
        if np.ptp(steps):
            return None
        outputs, inputs, values = layer.corrections.T
        matrix[outputs, inputs] += steps[0] * values
    return matrix


def bucket_steps(layer: Weighted, levels: Levels) -> int:
    """Cycles that the buckets of ``layer``, which reads ``levels``, take to become a sum; 0 if it
    can have none: its products are not slopes times the code, or all 0."""
    products = layer.products(levels)
    slopes = slopes_of((products - products[:, :1]).tolist())
    return len(drain_steps(slopes)) if slopes and any(slopes) else 0


def packed_terms(layer: Layer, terms: SumTerms) -> tuple[SumTerms, list[int] | None]:
    """``terms`` as the hardware stores them, and for each stored number the row of its products.

    Where outputs have widths of their own, a weight is numbered as `nomul.hw.packed` stores it: a
    1, and below it the index within its segment. 0 is no weight. Segments share equal rows of
    products. Other layers store indices: they are given back as they are, and None.
    """
    if not isinstance(layer, Weighted) or layer.widths is None:
        return terms, None
    numbers = np.zeros(len(layer.dictionary), dtype=np.int64)
    for width, segment in layer.segments.items():
        numbers[segment] = (1 << width) + np.arange(len(segment))
    products, row = np.unique(terms.products, axis=0, return_inverse=True)
    rows = np.zeros(2 << max(layer.segments), dtype=np.int64)
    rows[numbers] = row.reshape(-1)
    return (replace(terms, products=products, assignment=numbers[terms.assignment]),
            rows.tolist())


def _add_range(network: Network, layer: Add) -> tuple[int, int]:
    values = [wire.levels.values << shift
              for wire, shift in zip(network.reads(layer), layer.shifts, strict=True)
              if isinstance(wire, Codes)]
    return sum(int(v[0]) for v in values), sum(int(v[-1]) for v in values)


def legal_circuits(network: Network, layer: Layer,
                   ) -> tuple[list[ProductCircuit], list[StaircaseCircuit]]:
    """Circuits that give exactly the layer's bits, the smallest first, but those behind the table
    are for some plans alone: a layer has buckets that computes one input at once, is unrolled that
    computes all of its outputs and inputs at once, and has multipliers that are asked for."""
    staircase: Staircase | None = getattr(layer, "staircase", None)
    if not isinstance(layer, Weighted | SumPool | Add):
        return [ProductCircuit.NONE], [StaircaseCircuit.NONE]
    terms = sum_terms(network, layer)
    products = [ProductCircuit.NONE]
    if not isinstance(layer, Add):
        products = [ProductCircuit.TABLE]
        masks = None if layer.lanewise else masks_of(terms.products.tolist())
        if masks is not None and len(masks.steps) <= _MOST_SUMS:
            # A table of 4 address bits is a LUT4 for each bit of a product.
            products.insert(0 if terms.products.size > _LUT4_ROWS else 1, ProductCircuit.MASKED)
        if shift_add_slopes(terms.products.tolist()) is not None:
            products.insert(0, ProductCircuit.SHIFT_ADD)
        if _has_buckets(network, layer):
            products.append(ProductCircuit.BUCKETS)
        if isinstance(layer, Dense) and unrolled_matrix(network, layer) is not None:
            products.append(ProductCircuit.UNROLLED)
        if isinstance(layer, Weighted) and slopes_of(terms.products.tolist()) is not None:
            products.append(ProductCircuit.MULTIPLY)
    if staircase is None:
        return products, [StaircaseCircuit.NONE]
    staircases = [StaircaseCircuit.COMPARATORS, StaircaseCircuit.SEARCH]
    if len(staircase.levels) > 4:
        staircases.reverse()
    low, high = terms.low + terms.offsets, terms.high + terms.offsets
    if tables := table_terms(staircase, low, high):
        width = 1 + int(max(high.max(), -low.min())).bit_length()
        staircases.insert(0 if _small(staircase, tables, width) else 2, StaircaseCircuit.TABLE)
    if shift_clip_terms(staircase, low, high):
        staircases.insert(0, StaircaseCircuit.SHIFT_CLIP)
    return products, staircases


def _small(staircase: Staircase, found: TableTerms, width: int) -> bool:
    """Whether tables take fewer cells than anything that compares sums of ``width`` bits: one
    that is not long, or several of no more bits than the thresholds."""
    if len(found.tables) == 1:
        return found.words <= _LOGIC_WORDS
    return found.words * staircase.levels.bits <= staircase.thresholds.size * width


def tables_of(network: Network, layer: Layer) -> TableTerms | None:
    """The staircase of ``layer`` as tables; None if it has none that is."""
    staircase: Staircase | None = getattr(layer, "staircase", None)
    if staircase is None:
        return None
    terms = sum_terms(network, layer)
    return table_terms(staircase, terms.low + terms.offsets, terms.high + terms.offsets)


def _has_buckets(network: Network, layer: Layer) -> bool:
    wire = network.reads(layer)[0]
    return (isinstance(layer, Weighted) and isinstance(wire, Codes) and not layer.lanewise
            and bucket_steps(layer, wire.levels) > 0)


@dataclass(frozen=True, kw_only=True)
class ShiftClipTerms:
    """A staircase as shifts: ``code = clip((±accumulator + offset) >> shift, 0, codes - 1)``."""

    shifts: Ints
    """Shape [outputs]."""
    negate: Ints
    """Shape [outputs]: 1 where the accumulator is subtracted."""
    offsets: Ints
    """Shape [outputs]."""

    @property
    def common(self) -> bool:
        """Whether shift and sign are the same for all outputs."""
        return not np.ptp(self.shifts) and not np.ptp(self.negate)


def shift_clip_terms(staircase: Staircase, low: Ints, high: Ints) -> ShiftClipTerms | None:
    """Shifts that give the same codes for every accumulator from ``low`` to ``high``,
    shape [outputs]; None if there are none.

    Only thresholds that an accumulator can lie on both sides of must be an arithmetic
    progression whose step is a power of two: one for each output, as behind a batch normalization
    that multiplies with powers of two (arXiv 1811.05355). The shifts found lie as near together
    as can be.
    """
    outputs, top = len(low), len(staircase.levels) - 1
    thresholds = np.broadcast_to(staircase.thresholds, (outputs, top))
    directions = np.broadcast_to(staircase.directions, outputs)
    constants = np.broadcast_to(staircase.constants, outputs)
    falling = directions < 0
    negate = falling | ((directions == 0) & falling.any() & ~(directions > 0).any())
    # x <= t is -x >= -t
    thresholds = np.where(negate[:, None], -thresholds[:, ::-1], thresholds)
    low, high = np.where(negate, -high, low), np.where(negate, -low, high)

    # Per row: codes certain, the first threshold that matters, and where it must be.
    below = np.where(directions == 0, constants, (thresholds <= low[:, None]).sum(axis=1))
    above = np.where(directions == 0, constants, (thresholds <= high[:, None]).sum(axis=1))
    first = np.take_along_axis(thresholds, np.minimum(below, top - 1)[:, None], axis=1)[:, 0]
    index = np.arange(1, top + 1)
    right, offsets = [], []
    for shift in range(int((high - low).max()).bit_length() + 1):
        step = 1 << shift
        # (acc + offset) >> shift must reach ``below`` at the lowest, and not go above it
        # before the first threshold that matters.
        at_least = below * step - low
        at_most = (below + 1) * step - high - 1
        least = np.where(below == 0, -high - 1, at_least)
        constant = np.where(below == top, least, np.minimum(least, at_most))
        offset = np.where(below == above, constant, (below + 1) * step - first)
        # Verified on every threshold: the shift passes it exactly where the staircase does.
        placed = index * step - offset[:, None]
        matters = (index > below[:, None]) & (index <= above[:, None])
        right.append(np.where(matters, placed == thresholds,
                              np.where(index <= below[:, None], placed <= low[:, None],
                                       placed > high[:, None])).all(axis=1))
        offsets.append(offset)
    chosen = _near_together(np.array(right))
    if chosen is None:
        return None
    return ShiftClipTerms(shifts=chosen, negate=negate.astype(np.int64),
                          offsets=np.array(offsets)[chosen, np.arange(outputs)])


def _near_together(legal: NDArray[np.bool_]) -> Ints | None:
    """For each column of ``legal`` a row where it is true, the rows as near to each other as can
    be; None if a column has none."""
    rows = np.arange(len(legal))[:, None]
    best: Ints | None = None
    for lowest in range(len(legal)):
        at_least = legal & (rows >= lowest)
        if not at_least.any(axis=0).all():
            break
        chosen = at_least.argmax(axis=0)
        if best is None or np.ptp(chosen) < np.ptp(best):
            best = chosen
    return best


def threshold_rows(staircase: Staircase, offsets: Ints, low: int, high: int,
                   ) -> tuple[Ints, list[bool]]:
    """Thresholds for sums between ``low`` and ``high`` that lack their ``offsets``.

    One row if all offsets and all rows are equal, else one for each output, shape
    [rows, codes - 1]; and for each row whether it falls. Constants become thresholds that
    are always or never passed; others are brought within reach.
    """
    rows = max(len(staircase.thresholds), len(offsets) if np.ptp(offsets) else 1)
    directions = np.broadcast_to(staircase.directions, rows)
    constants = np.broadcast_to(staircase.constants, rows)
    moved = staircase.thresholds - np.broadcast_to(offsets, max(rows, len(offsets)))[:rows, None]
    rising = np.clip(moved, low, high + 1)
    falling = np.clip(moved, low - 1, high)
    index = np.arange(moved.shape[1])
    constant = np.where(index < constants[:, None], low, high + 1)
    chosen = np.where(directions[:, None] > 0, rising,
                      np.where(directions[:, None] < 0, falling, constant))
    return chosen, (directions < 0).tolist()
