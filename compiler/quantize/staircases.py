"""Thresholds on integers that do what a quantizer behind a normalization does, exactly.

All in fractions; needs no torch.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

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
    """Rounds to ``low * step``, …, ``top * step``, halves upwards.

    Parameters
    ----------
    low, top : int
        Lowest and highest level, in steps.
    exponent : int
        Exponent of the step, a power of two.
    """

    low: int
    top: int
    exponent: int

    @property
    def step(self) -> Fraction:
        """Distance of two levels."""
        return Fraction(2) ** self.exponent

    @property
    def levels(self) -> Levels:
        """What the codes mean."""
        return Levels.uniform(self.top - self.low + 1, start=self.low, exponent=self.exponent)

    def starts(self) -> list[Fraction]:
        """Where each code but the first begins."""
        return [(level - Fraction(1, 2)) * self.step for level in range(self.low + 1, self.top + 1)]

    def code(self, value: Fraction) -> int:
        """Code of ``value``."""
        nearest = math.floor(value / self.step + Fraction(1, 2))
        return min(max(nearest, self.low), self.top) - self.low


def staircase(quantizer: Quantizer, unit: Fraction, channels: Sequence[Affine] = (), *,
              biased: bool = False) -> tuple[Staircase, Ints]:
    """The staircase of ``quantizer`` on integers that count ``unit``, and a bias to add.

    Code i begins where ``factor * (acc * unit) + offset`` reaches ``quantizer.starts()``:
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
    starts = quantizer.starts()
    if channel.factor == 0:
        return [0] * len(starts)
    bounds = [(start - channel.offset) / (channel.factor * unit) for start in starts]
    exact = [math.ceil(bound) if channel.factor > 0 else math.floor(bound) for bound in bounds]
    return sorted(min(max(value, -_FAR), _FAR) for value in exact)
