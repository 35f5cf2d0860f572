"""Thresholds on integers that do what a quantizer behind a normalization does, exactly.

All in fractions; needs no torch.
"""
from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from nomul.compiler.network import Ints, Levels, Staircase

__all__ = ["Affine", "Quantizer", "staircase"]

# Thresholds beyond are never reached, and fit a network.
_FAR = 1 << 51
# Bits of a bias that a shared row may ask for.
_LARGEST_BIAS = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Affine:
    """One channel of a normalization, ``y = factor * x + offset``; a constant if it is 0."""

    factor: Fraction
    offset: Fraction


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Makes codes of numbers: code ``i`` from ``starts[i - 1]`` to below ``starts[i]``.

    Parameters
    ----------
    levels : Levels
        What the codes mean.
    starts : tuple of Fraction
        Where each code but the first begins; in increasing order.
    """

    levels: Levels
    starts: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.levels) - 1 or any(
                first > second for first, second in pairwise(self.starts)):
            raise ValueError(f"Starts of codes must be {len(self.levels) - 1} in increasing order")

    @classmethod
    def uniform(cls, low: int, top: int, exponent: int) -> Quantizer:
        """Rounds to ``low * step``, …, ``top * step``, halves upwards; the step is
        ``2**exponent``."""
        step = Fraction(2) ** exponent
        return cls(levels=Levels.uniform(top - low + 1, start=low, exponent=exponent),
                   starts=tuple((level - Fraction(1, 2)) * step
                                for level in range(low + 1, top + 1)))

    @property
    def unit(self) -> Fraction:
        """What a level of 1 stands for."""
        return Fraction(2) ** self.levels.exponent

    def code(self, value: Fraction) -> int:
        """Code of ``value``."""
        return bisect_right(self.starts, value)


def staircase(quantizer: Quantizer, unit: Fraction, channels: Sequence[Affine] = (), *,
              biased: bool = False) -> tuple[Staircase, Ints]:
    """The staircase of ``quantizer`` on integers that count ``unit``, and a bias to add.

    Code i begins where ``factor * (acc * unit) + offset`` reaches ``quantizer.starts``:
    the threshold is the last integer that does so. A negative factor turns the direction
    round, and 0 makes a constant. Channels whose rows differ by no more than a shift share
    one, if the layer has a bias that can take the shift.

    Parameters
    ----------
    quantizer : Quantizer
        What makes codes.
    unit : Fraction
        What an accumulator of 1 stands for; above 0.
    channels : sequence of Affine
        Normalization between the two; none if empty.
    biased : bool
        Whether the layer has a bias.

    Returns
    -------
    Staircase
        Of one row, or one for each channel.
    array of int, shape [channels]
        What to add to the bias; zeros unless ``biased``.
    """
    shift = np.zeros(len(channels), np.int64)
    if not channels:
        row = _row(quantizer, unit, Affine(factor=Fraction(1), offset=Fraction(0)))
        return Staircase(thresholds=np.array([row]), levels=quantizer.levels), shift
    rows = [_row(quantizer, unit, channel) for channel in channels]
    directions = np.array([(channel.factor > 0) - (channel.factor < 0) for channel in channels])
    if (directions == 1).all():
        # The first channel's row without its offset: for powers of two shift and clip makes it.
        base = _row(quantizer, unit, Affine(factor=channels[0].factor, offset=Fraction(0)))
        shifts = [base[0] - row[0] for row in rows]
        fits = all([value + by for value in row] == base
                   for row, by in zip(rows, shifts, strict=True))
        if fits and (not any(shifts) or biased) and max(map(abs, shifts)) <= _LARGEST_BIAS:
            return (Staircase(thresholds=np.array([base]), levels=quantizer.levels),
                    np.array(shifts, np.int64))
    constants = [0 if channel.factor else quantizer.code(channel.offset) for channel in channels]
    return (Staircase(thresholds=np.array(rows), levels=quantizer.levels, directions=directions,
                      constants=np.array(constants)), shift)


def _row(quantizer: Quantizer, unit: Fraction, channel: Affine) -> list[int]:
    """Thresholds of one channel, in increasing order; zeros for a constant."""
    if channel.factor == 0:
        return [0] * len(quantizer.starts)
    bounds = [(start - channel.offset) / (channel.factor * unit) for start in quantizer.starts]
    exact = [math.ceil(bound) if channel.factor > 0 else math.floor(bound) for bound in bounds]
    return sorted(min(max(value, -_FAR), _FAR) for value in exact)
