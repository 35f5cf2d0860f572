"""How the levels of an activation are chosen: evenly, for a fitted Laplacian, or by k-means."""
from __future__ import annotations

import math
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize.kmeans import cluster_means, nearest
from nomul.compiler.quantize.rounding import round_half_up
from nomul.compiler.quantize.segments import best_dictionary
from nomul.compiler.quantize.stepped import Curve, Stepped, midpoints

__all__ = ["Scheme", "TableActivation", "choose_levels"]

# Quantiles of the values that k-means looks at.
_SAMPLE = 1 << 12
# Lloyd's iterations around a level that must stay 0.
_ITERATIONS = 50
# Steps of an activation table, at most.
_LONGEST = 1024


class Scheme(Enum):
    """How levels are chosen (Covell et al., arXiv 1906.04798)."""

    FIXED = "fixed"
    """Evenly between the ends of the curve, or those of the values where it has none."""
    LAPLACIAN = "laplacian"
    """Parametric: those with the least squared error if what the curve reads has the Laplacian
    distribution that fits the values, between the least and the largest of them."""
    KMEANS = "kmeans"
    """Model-free: k-means on the values, exactly."""


def choose_levels(scheme: Scheme, curve: Curve, count: int, values: Tensor, *, zero: bool,
                  ) -> Levels:
    """Levels for ``curve`` of ``values``: integers of 8 bits times a power of two.

    Parameters
    ----------
    scheme : Scheme
        How they are chosen.
    curve : Curve
        What they approximate.
    count : int
        How many; fewer where the values have no more.
    values : Tensor
        What enters the curve, of any shape.
    zero : bool
        Whether one of them must be 0, which padding needs.
    """
    ordered = values.detach().double().flatten().sort().values
    if not ordered.isfinite().all():
        raise ModelError("values of the calibration images must be finite, but hold NaN or "
                         "infinity; train the float net with a lower learning rate")
    # Quantiles, evenly, with both ends.
    sample = ordered[torch.linspace(0, len(ordered) - 1, min(_SAMPLE, len(ordered))).long()]
    if scheme is Scheme.LAPLACIAN:
        sample = _laplacian(sample).clamp(float(sample[0]), float(sample[-1]))
    results = curve(sample)
    if scheme is Scheme.FIXED:
        low, high = (end if math.isfinite(end) else float(found) for end, found in
                     zip(curve.ends, (results[0], results[-1]), strict=True))
        return _rounded(_evenly(low, high, count, zero=zero))
    levels = torch.from_numpy(best_dictionary(results.numpy(), count))
    for _ in range(_ITERATIONS if zero else 0):
        levels[levels.abs().argmin()] = 0
        levels, _counts = cluster_means(results, nearest(results, levels), levels)
    if zero:
        levels[levels.abs().argmin()] = 0
    return _rounded(levels)


class TableActivation(Stepped):
    """A curve by an activation table: an index, then a code.

    The index counts steps of ``dx = 2**table_exponent``, the code is what the table holds there:
    thresholds are multiples of ``dx``. It is the largest power of two that is at most a quarter
    of the distance of two thresholds, unless the table had more than 1,024 entries then.

    Parameters
    ----------
    curve, levels
        As of `Stepped`.
    grid : float, optional
        What it reads is a multiple of; the step is no smaller.
    """

    def __init__(self, curve: Curve, levels: Levels, *, grid: float | None = None) -> None:
        wanted = midpoints(curve, levels)
        gaps = np.diff(wanted) if len(wanted) > 1 else np.array([0.25])
        step = max(float(gaps.min()) / 4, (wanted[-1] - wanted[0]) / (_LONGEST - 3), grid or 0)
        exponent = math.floor(math.log2(step))
        if (wanted[-1] - wanted[0]) / math.ldexp(1, exponent) > _LONGEST - 3:
            exponent += 1
        super().__init__(curve, levels, [
            math.ldexp(math.floor(math.ldexp(start, -exponent) + 0.5), exponent)
            for start in wanted])
        self.table_exponent = exponent

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dx=2**{self.table_exponent}"


def _laplacian(values: Tensor) -> Tensor:
    """As many quantiles of the Laplacian distribution that fits ``values`` (maximum likelihood:
    their median and mean distance from it)."""
    median = values.median()
    spread = (values - median).abs().mean()
    place = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values) - 0.5
    return median - spread * place.sign() * torch.log1p(-2 * place.abs())


def _evenly(low: float, high: float, count: int, *, zero: bool) -> Tensor:
    """``count`` levels from ``low`` to ``high``; if one of them must be 0, an even number of both
    signs lacks the highest, as two's complement does."""
    if zero and low < 0 < high:
        half = count // 2
        below = torch.arange(half, 0, -1, dtype=torch.float64) / half * low
        above = torch.arange(count - half, dtype=torch.float64) / half * high
        return torch.cat([below, above])
    levels = torch.linspace(low, high, count, dtype=torch.float64)
    if zero:
        levels[levels.abs().argmin()] = 0
    return levels


def _rounded(levels: Tensor) -> Levels:
    """Nearest integers of 8 bits times a power of two, equal ones merged, without common twos.

    If there is only one, another is added.
    """
    low, high = (-128, 127) if levels.min() < 0 else (0, 255)
    peak = float(levels.abs().max()) or 1.0
    exponent = math.ceil(math.log2(peak / max(-low, high)))
    rounded = round_half_up(levels * math.ldexp(1.0, -exponent)).clamp(low, high)
    values = np.unique(rounded.long().numpy())
    if len(values) < 2:
        values = np.unique([*values, 0 if values[0] else high])
    common = int(np.gcd.reduce(values))
    twos = (common & -common).bit_length() - 1
    return Levels(values=values >> twos, exponent=exponent + twos)
