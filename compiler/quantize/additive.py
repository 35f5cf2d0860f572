"""The C step of a codebook and a sparse correction."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.csteps import Adaptive, CStep, assigned
from nomul.compiler.quantize.segments import best_trimmed_dictionary, trimmed_size

__all__ = ["Additive"]

_MOST_CELLS = 1 << 24  # of the table of an exact step: 400 MB
_ALTERNATIONS = 100


@dataclass(frozen=True, kw_only=True)
class Additive(CStep):
    """Another codebook, and a correction of a few weights, which become what they are.

    With a codebook whose values are given it is exact. Otherwise two steps alternate, neither
    of which makes the error larger, and end in a local optimum: the corrections go to the
    weights that are farthest from their entry, and the codebook is solved for the others. A
    codebook from before is where they start. An `Adaptive` base may be solved exactly, in time
    and memory that grow with the product of weights, entries and corrections.

    Parameters
    ----------
    base : CStep
        Of the codebook; not another `Additive`.
    share : float
        Share of the weights that are corrected; at least 0, below 1.
    exact : bool
        Whether the least error there is must be found; for small vectors.
    """

    kind: ClassVar[str] = "additive"

    base: CStep
    share: float
    exact: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.base, Additive):
            raise self._fail("base must be a codebook without corrections")
        if not 0 <= self.share < 1:
            raise self._fail(f"share must be at least 0 and below 1, not {self.share!r}")
        if self.exact and not isinstance(self.base, Adaptive):
            raise self._fail("an exact step needs an adaptive base; leave exact out")

    @property
    def entries(self) -> int:
        return self.base.entries

    def corrections(self, weights: int) -> int:
        """How many of so many ``weights`` are corrected: the nearest number, but never all."""
        return min(math.floor(self.share * weights + 0.5), weights - 1)

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        count = self.corrections(len(weights))
        found = self._exact(weights, count) if self.exact else self._alternate(
            weights, count, before)
        places = _farthest(weights, found, count)
        correction = torch.zeros_like(weights)
        correction[places] = (weights - found.weights())[places]
        return replace(found, correction=correction)

    def _exact(self, weights: Tensor, count: int) -> Codebook:
        if trimmed_size(len(weights), self.entries, count) > _MOST_CELLS:
            raise self._fail(f"{len(weights)} weights, {self.entries} entries and {count} "
                             "corrections are too many for an exact step; leave exact out")
        values = best_trimmed_dictionary(np.sort(weights.numpy()), self.entries, count)
        return assigned(weights, torch.from_numpy(values))

    def _alternate(self, weights: Tensor, count: int, before: Codebook | None) -> Codebook:
        found = self.base.solve(weights) if before is None else assigned(
            weights, before.entries.cpu(), before.scale)
        places = _farthest(weights, found, count)
        for _ in range(_ALTERNATIONS):
            kept = torch.ones_like(weights, dtype=torch.bool)
            kept[places] = False
            part = self.base.solve(weights[kept], found)
            found = assigned(weights, part.entries, part.scale)
            last, places = places, _farthest(weights, found, count)
            if torch.equal(places, last):
                break
        return found


def _farthest(weights: Tensor, found: Codebook, count: int) -> Tensor:
    """Indices of the ``count`` weights farthest from their entry, increasing."""
    distances = (weights - found.weights()).abs()
    return distances.sort(stable=True, descending=True).indices[:count].sort().values
