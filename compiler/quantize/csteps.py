"""C steps of LC: the codebook with the least squared error for given weights.

Carreira-Perpinan and Idelbayev, arXiv 1707.04319. Each step finds entries and their scale;
weights then take the nearest entry, of two as near the lower one. A step is exact, which means
that no codebook of its kind has a smaller error, unless its docstring says otherwise.
`nomul.compiler.quantize.additive` has the step with sparse corrections.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.kmeans import nearest
from nomul.compiler.quantize.scales import best_scale
from nomul.compiler.quantize.segments import best_dictionary, lloyd_sorted

__all__ = [
    "Adaptive",
    "CStep",
    "FixedCodebook",
    "PowersOfTwo",
    "ScaledCodebook",
    "Signs",
    "assigned",
]

_MOST_ENTRIES = 256


@dataclass(frozen=True, kw_only=True)
class CStep(ABC):
    """What kind of codebook is wanted. Use one of the classes that derive from it."""

    kind: ClassVar[str] = ""

    @property
    @abstractmethod
    def entries(self) -> int:
        """K, entries of the codebook."""

    def solve(self, weights: Tensor, before: Codebook | None = None) -> Codebook:
        """The codebook for ``weights``.

        Parameters
        ----------
        weights : Tensor, float64, any shape
            What is compressed; at least one number.
        before : Codebook, optional
            What the step gave for earlier weights; one that iterates starts there.

        Raises
        ------
        ModelError
            If the weights hold NaN or infinity.
        """
        if not weights.isfinite().all():
            raise ModelError("weights must be finite, but hold NaN or infinity; train again "
                             "with a lower learning rate")
        flat = weights.detach().double().cpu().flatten()
        return self._solve(flat, before).view(weights.shape).to(weights.device)

    def settings(self) -> dict[str, Any]:
        """All that was chosen, as JSON values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"kind": self.kind, "entries": self.entries, **{
            name: value.settings() if isinstance(value, CStep)
            else [*value] if isinstance(value, tuple) else value
            for name, value in values.items()}}

    @abstractmethod
    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        """As `solve`, of ``weights`` [N] on the CPU."""

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"C step {self.kind!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class Adaptive(CStep):
    """Any K values, all learned.

    Parameters
    ----------
    clusters : int
        K, entries of the codebook; 1 to 256.
    exact : bool
        Whether values are those of the least error, by dynamic programming. Otherwise k-means
        starts with the values it found before, at first with quantiles, and ends in a local
        optimum.
    """

    kind: ClassVar[str] = "adaptive"

    clusters: int
    exact: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.clusters <= _MOST_ENTRIES:
            raise self._fail(f"clusters must be 1 to {_MOST_ENTRIES}, not {self.clusters!r}")

    @property
    def entries(self) -> int:
        return self.clusters

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        numbers = np.sort(weights.numpy())
        if self.exact:
            values = best_dictionary(numbers, self.entries)
        else:
            places = (np.arange(self.entries) + 0.5) / self.entries * len(numbers)
            values = lloyd_sorted(numbers, numbers[places.astype(np.int64)] if before is None
                                  else before.values.cpu().numpy())
        return assigned(weights, torch.from_numpy(values))


@dataclass(frozen=True, kw_only=True)
class _Given(CStep):
    """A codebook whose entries are given.

    Parameters
    ----------
    values : tuple of float
        Its entries, all different; 1 to 256.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.values) <= _MOST_ENTRIES:
            raise self._fail(f"values must be 1 to {_MOST_ENTRIES}, not {len(self.values)}")
        if not all(map(math.isfinite, self.values)):
            raise self._fail(f"values must be finite, not {self.values!r}")
        if len({*self.values}) != len(self.values):
            raise self._fail(f"values must all differ, not {self.values!r}")

    @property
    def entries(self) -> int:
        return len(self.values)

    def _tensor(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class FixedCodebook(_Given):
    """Given values; nothing is learned but which of them a weight takes.

    Parameters
    ----------
    values : tuple of float
        Its entries, all different; 1 to 256.
    """

    kind: ClassVar[str] = "fixed"

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        return assigned(weights, self._tensor())


@dataclass(frozen=True, kw_only=True)
class ScaledCodebook(_Given):
    """Given values times a scale that is learned; it may be negative.

    Parameters
    ----------
    values : tuple of float
        Entries without the scale, all different, not only 0; 1 to 256. If they are whole
        numbers times a power of two, hardware moves the scale out of them exactly.
    """

    kind: ClassVar[str] = "scaled"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.values):
            raise self._fail("values must hold one that is not 0; add it")

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        entries, numbers = np.sort(np.array(self.values, np.float64)), weights.numpy()
        gain, scale = best_scale(numbers, entries)
        if not np.array_equal(entries, -entries[::-1]):
            other, opposite = best_scale(-numbers, entries)
            scale = -opposite if other > gain else scale
        return assigned(weights, self._tensor(), scale)


@dataclass(frozen=True, kw_only=True)
class PowersOfTwo(CStep):
    """0 and the powers of two from ``2**-depth`` to 1, of both signs.

    Parameters
    ----------
    depth : int
        C; 0 to 14, so that an integer of 16 bits holds all of them.
    """

    kind: ClassVar[str] = "pow2"

    depth: int

    def __post_init__(self) -> None:
        if not 0 <= self.depth <= 14:
            raise self._fail(f"depth must be 0 to 14, not {self.depth!r}")

    @property
    def entries(self) -> int:
        return 2 * self.depth + 3

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        powers = [2.0 ** -depth for depth in range(self.depth + 1)]
        values = [*(-power for power in powers), 0.0, *reversed(powers)]
        return assigned(weights, torch.tensor(values, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class Signs(CStep):
    """-1 and 1, perhaps with 0 between them, perhaps times a scale that is learned.

    Parameters
    ----------
    zero : bool
        Whether 0 is an entry.
    scaled : bool
        Whether there is a scale: the mean of the magnitudes, of those that do not become 0.
    """

    kind: ClassVar[str] = "signs"

    zero: bool = False
    scaled: bool = True

    @property
    def entries(self) -> int:
        return 3 if self.zero else 2

    def _solve(self, weights: Tensor, before: Codebook | None) -> Codebook:
        scale = 1.0
        if self.scaled and not self.zero:
            scale = float(weights.abs().mean())
        elif self.scaled:
            sums = weights.abs().sort(descending=True).values.cumsum(dim=0)
            sizes = torch.arange(1, len(sums) + 1, dtype=torch.float64)
            kept = int((sums / sizes.sqrt()).argmax())
            scale = float(sums[kept] / sizes[kept])
        signs = [-1.0, 0.0, 1.0] if self.zero else [-1.0, 1.0]
        return assigned(weights, torch.tensor(signs, dtype=torch.float64), scale)


def assigned(weights: Tensor, entries: Tensor, scale: float = 1.0) -> Codebook:
    """``weights`` with the nearest of ``entries`` times ``scale``."""
    return Codebook(entries=entries, scale=scale, assignment=nearest(weights, scale * entries))
