"""The integers behind each circuit: what a layer's hardware multiplies, adds and compares.

Pure functions of networks. They move constants to where they cost least, and say for which
layers a circuit gives exactly the right bits.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.compiler.network import Dense, Ints, Levels, Staircase

__all__ = ["DenseTerms", "ShiftClipTerms", "dense_terms", "shift_clip_terms", "threshold_rows"]


@dataclass(frozen=True, kw_only=True)
class DenseTerms:
    """A dense layer's accumulators, split so that an absent input adds nothing.

    ``accumulator = sum + offset`` where the sum runs over ``products[weight, code]``.
    """

    products: Ints
    """Shape [entries, codes]; zero at code 0."""
    offsets: Ints
    """Shape [outputs]: bias, and what the products are at code 0."""
    low: Ints
    """Shape [outputs]: lowest sum that any input reaches."""
    high: Ints
    """Shape [outputs]: highest sum that any input reaches."""


def dense_terms(layer: Dense, levels: Levels) -> DenseTerms:
    """How the hardware adds up ``layer``, which reads codes of ``levels``."""
    products = layer.products(levels)
    at_zero = products[:, 0]
    moved = at_zero[layer.assignment].sum(axis=1)
    low, high = layer.accumulators(levels)
    offsets = layer.bias + moved
    return DenseTerms(products=products - at_zero[:, None], offsets=offsets,
                      low=low - offsets, high=high - offsets)


@dataclass(frozen=True, kw_only=True)
class ShiftClipTerms:
    """A staircase as a shift: ``code = clip((±accumulator + offset) >> shift, 0, codes - 1)``."""

    shift: int
    negate: bool
    offsets: Ints
    """Shape [outputs]."""


def shift_clip_terms(staircase: Staircase, low: Ints, high: Ints) -> ShiftClipTerms | None:
    """The shift that gives the same codes for every accumulator from ``low`` to ``high``,
    shape [outputs]; None if there is none.

    Only thresholds that an accumulator can lie on both sides of must be an arithmetic
    progression whose step is a power of two.
    """
    outputs, top = len(low), len(staircase.levels) - 1
    thresholds = np.broadcast_to(staircase.thresholds, (outputs, top))
    directions = np.broadcast_to(staircase.directions, outputs)
    constants = np.broadcast_to(staircase.constants, outputs)
    negate = bool((directions < 0).any())
    if negate and (directions > 0).any():
        return None
    if negate:  # x <= t is -x >= -t
        thresholds, low, high = -thresholds[:, ::-1], -high, -low

    # Per row: codes certain, the first threshold that matters, and where it must be.
    below = np.where(directions == 0, constants, (thresholds <= low[:, None]).sum(axis=1))
    above = np.where(directions == 0, constants, (thresholds <= high[:, None]).sum(axis=1))
    index = np.arange(1, top + 1)
    for shift in range(int((high - low).max()).bit_length() + 1):
        step = 1 << shift
        # (acc + offset) >> shift must reach ``below`` at the lowest, and not go above it
        # before the first threshold that matters.
        at_least = below * step - low
        at_most = (below + 1) * step - high - 1
        least = np.where(below == 0, -high - 1, at_least)
        constant = np.where(below == top, least, np.minimum(least, at_most))
        first = np.take_along_axis(thresholds, np.minimum(below, top - 1)[:, None], axis=1)[:, 0]
        offsets = np.where(below == above, constant, (below + 1) * step - first)
        # Verified on every threshold: the shift passes it exactly where the staircase does.
        placed = index * step - offsets[:, None]
        matters = (index > below[:, None]) & (index <= above[:, None])
        right = np.where(matters, placed == thresholds,
                         np.where(index <= below[:, None], placed <= low[:, None],
                                  placed > high[:, None]))
        if right.all():
            return ShiftClipTerms(shift=shift, negate=negate, offsets=offsets)
    return None


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
