"""What the values of a dictionary may be: free, powers of two, pruned, binary, ternary, fixed.

The solver (`nomul.compiler.quantize.kmeans`) is the same for all of them; a
constraint says where it starts and what follows each mean (LUT-Q, Cardinaux et al.,
arXiv 1811.05355).

Every value is a fixed-point number, an integer times ``2**grid``, so that a trained
layer is exported without rounding. The grid is chosen once, from the weights that
training starts with, and the integers have ``value_bits`` bits, in two's complement.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.kmeans import lloyd, nearest, squared_error
from nomul.compiler.quantize.rounding import (
    Rounding,
    powers_of_two,
    round_half_up,
    round_to_power,
)

__all__ = [
    "Binary",
    "Clusters",
    "Constraint",
    "Fixed",
    "Free",
    "PowerOfTwo",
    "Pruned",
    "Scale",
    "Ternary",
]


class Scale(Enum):
    """What multiplies the entries of a binary or ternary dictionary."""

    UNIT = "unit"
    """Nothing: entries are -1, 0 and 1."""
    POWER_OF_TWO = "pow2"
    """A power of two, learned."""
    FREE = "free"
    """A fixed-point number, learned; what follows the layer absorbs it."""


def _peak(weights: Tensor) -> Tensor:
    """Largest magnitude; 1 if all weights are 0."""
    peak = weights.abs().max()
    return peak if peak > 0 else torch.ones_like(peak)


def _to_grid(values: Tensor, grid: int, bits: int) -> Tensor:
    """Nearest numbers of ``bits`` bits times ``2**grid``; halves round up."""
    codes = round_half_up(values * math.ldexp(1.0, -grid))
    return codes.clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1) * math.ldexp(1.0, grid)


@dataclass(frozen=True, kw_only=True)
class Constraint(ABC):
    """What the values of a dictionary may be. Use one of the classes that derive from it.

    Parameters
    ----------
    value_bits : int
        B, bits of a dictionary value; 2 to 16.
    """

    kind: ClassVar[str] = ""

    value_bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= 16:
            raise self._fail(f"bits of a value must be 2 to 16, not {self.value_bits!r}")

    @property
    @abstractmethod
    def entries(self) -> int:
        """K, entries of the dictionary."""

    def grid(self, weights: Tensor) -> int:
        """Exponent of the grid: the finest on which all ``weights`` [any shape] fit."""
        largest = 2 ** (self.value_bits - 1) - 1
        return math.ceil(math.log2(float(_peak(weights)) / largest))

    @abstractmethod
    def start(self, weights: Tensor, grid: int) -> Tensor:
        """Dictionary, float64 [K], to start k-means with."""

    def assign(self, weights: Tensor, dictionary: Tensor) -> Tensor:
        """Entry, int64, that each of ``weights`` takes: the nearest."""
        return nearest(weights, dictionary)

    @abstractmethod
    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        """Dictionary, float64 [K], that is allowed: ``means`` [K] of ``counts`` [K] weights."""

    def settings(self) -> dict[str, Any]:
        """All that was chosen, as JSON values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"kind": self.kind, "entries": self.entries,
                **{name: value.value if isinstance(value, Enum) else value
                   for name, value in values.items()}}

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"dictionary {self.kind!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class _Sized(Constraint):
    """A constraint whose dictionary has ``2**bits`` entries; 1 to 8 bits."""

    bits: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= 8:
            raise self._fail(f"bits of a weight must be 1 to 8, not {self.bits!r}")

    @property
    def entries(self) -> int:
        return 1 << self.bits


class _Unconstrained(Constraint):
    """Plain k-means, on the grid."""

    def start(self, weights: Tensor, grid: int) -> Tensor:
        return lloyd(weights, self.entries)

    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        return _to_grid(means, grid, self.value_bits)


@dataclass(frozen=True, kw_only=True)
class Free(_Unconstrained, _Sized):
    """Any ``2**bits`` fixed-point numbers.

    Parameters
    ----------
    bits : int
        Bits of a weight; 1 to 8.
    """

    kind: ClassVar[str] = "free"


@dataclass(frozen=True, kw_only=True)
class Clusters(_Unconstrained):
    """Any number of fixed-point numbers, not only a power of two.

    Parameters
    ----------
    count : int
        Entries of the dictionary; 2 to 256.
    """

    kind: ClassVar[str] = "clusters"

    count: int
    value_bits: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.count <= 256:
            raise self._fail(f"entries must be 2 to 256, not {self.count!r}")

    @property
    def entries(self) -> int:
        return self.count


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo(_Sized):
    """Signed powers of two, ``-2**(B - 1)`` to ``2**(B - 2)`` times the grid.

    Parameters
    ----------
    bits : int
        Bits of a weight; 1 to 8.
    zero : bool
        Whether entry 0 is the number 0, fixed. The other entries are never 0.
    rounding : Rounding
        How a mean becomes a power of two.

    Notes
    -----
    The start takes one allowed value after the other, each time the one that lowers
    the squared error most: rounding means one by one would merge many of them.
    """

    kind: ClassVar[str] = "pow2"

    zero: bool = True
    rounding: Rounding = Rounding.GEOMETRIC

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = 2 * self.value_bits - 1 + self.zero
        if self.entries > allowed:
            raise self._fail(f"{self.entries} entries must be among {allowed} allowed values; "
                             "use fewer bits of a weight or more bits of a value")

    def grid(self, weights: Tensor) -> int:
        return int(round_to_power(_peak(weights), self.rounding)) - (self.value_bits - 2)

    def start(self, weights: Tensor, grid: int) -> Tensor:
        powers = powers_of_two(torch.arange(self.value_bits, device=weights.device) + grid)
        left = torch.cat([powers[:-1], -powers]).unbind()
        taken = [torch.zeros_like(powers[0])] if self.zero else []
        while len(taken) < self.entries:
            errors = [squared_error(weights, torch.stack([*taken, value])) for value in left]
            best = errors.index(min(errors))
            taken.append(left[best])
            left = left[:best] + left[best + 1:]
        return torch.stack(taken)

    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        negative = means < 0
        smallest = math.ldexp(1.0, grid)
        exponents = round_to_power(means.abs().clamp(min=smallest), self.rounding)
        exponents = exponents.minimum(grid + self.value_bits - 2 + negative.long())
        values = torch.where(negative, -1, 1) * powers_of_two(exponents)
        if self.zero:
            values[0] = 0
        return values


@dataclass(frozen=True, kw_only=True)
class Pruned(_Sized):
    """Entry 0 is the number 0, and takes the smallest weights; the others are free.

    Parameters
    ----------
    bits : int
        Bits of a weight; 1 to 8.
    fraction : float
        Share of the weights of a layer that become 0; at least 0, below 1.
    """

    kind: ClassVar[str] = "pruned"

    fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction < 1:
            raise self._fail("share of pruned weights must be at least 0 and below 1, "
                             f"not {self.fraction!r}")

    def start(self, weights: Tensor, grid: int) -> Tensor:
        kept = weights[~self._smallest(weights)]
        return torch.cat([torch.zeros_like(kept[:1]), lloyd(kept, self.entries - 1)])

    def assign(self, weights: Tensor, dictionary: Tensor) -> Tensor:
        return (1 + nearest(weights, dictionary[1:])).masked_fill(self._smallest(weights), 0)

    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        values = _to_grid(means, grid, self.value_bits)
        values[0] = 0
        return values

    def _smallest(self, weights: Tensor) -> Tensor:
        """Mask of the pruned weights: round(fraction * N) of them, the first ones of equals."""
        order = weights.abs().flatten().sort(stable=True).indices
        mask = torch.zeros_like(order, dtype=torch.bool)
        pruned = min(math.floor(self.fraction * len(order) + 0.5), len(order) - 1)
        mask.index_fill_(0, order[:pruned], True)
        return mask.view(weights.shape)


@dataclass(frozen=True, kw_only=True)
class _Signs(Constraint):
    """A few signs times one scale.

    The scale follows from the means by least squares, as in XNOR-Net and ternary
    weight networks: the mean magnitude of the weights that are not 0.
    """

    signs: ClassVar[tuple[int, ...]]  # evenly from -1 to 1
    scale: Scale = Scale.FREE
    rounding: Rounding = Rounding.GEOMETRIC

    @property
    def entries(self) -> int:
        return len(self.signs)

    def grid(self, weights: Tensor) -> int:
        match self.scale:
            case Scale.UNIT:
                return 0
            case Scale.POWER_OF_TWO:
                top = int(round_to_power(_peak(weights), self.rounding))
                return top - (self.value_bits - 2)
            case Scale.FREE:
                return super().grid(weights)

    def start(self, weights: Tensor, grid: int) -> Tensor:
        magnitude = weights.abs().mean() * (1.5 if 0 in self.signs else 1.0)
        means = magnitude * self._signs(weights)
        return self.project(means, torch.ones_like(means), grid)

    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        signs = self._signs(means)
        if self.scale is Scale.UNIT:
            return signs
        weight = counts * signs.abs()
        # If every weight is nearest to 0, the scale stays as it was.
        weight = torch.where(weight.any(), weight, signs.abs())
        scale = (weight * signs * means).sum() / weight.sum()
        scale = scale.clamp(min=math.ldexp(1.0, grid))
        if self.scale is Scale.FREE:
            return signs * _to_grid(scale, grid, self.value_bits)
        exponent = round_to_power(scale, self.rounding).clamp(max=grid + self.value_bits - 2)
        return signs * powers_of_two(exponent)

    def _signs(self, like: Tensor) -> Tensor:
        return torch.linspace(-1, 1, self.entries, dtype=torch.float64, device=like.device)


@dataclass(frozen=True, kw_only=True)
class Binary(_Signs):
    """-1 and 1, times a scale.

    Parameters
    ----------
    scale : Scale
        What multiplies both.
    rounding : Rounding
        How a scale becomes a power of two, if it must.
    """

    kind: ClassVar[str] = "binary"
    signs: ClassVar[tuple[int, ...]] = (-1, 1)


@dataclass(frozen=True, kw_only=True)
class Ternary(_Signs):
    """-1, 0 and 1, times a scale; parameters as of `Binary`."""

    kind: ClassVar[str] = "ternary"
    signs: ClassVar[tuple[int, ...]] = (-1, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Fixed(_Sized):
    """Ordinary uniform quantization: all numbers of ``bits`` bits, times the grid.

    The grid is the power of two with the least squared error at the start; nothing
    of the dictionary is learned.

    Parameters
    ----------
    bits : int
        Bits of a weight, and of a dictionary value; 2 to 8.
    """

    kind: ClassVar[str] = "fixed"

    value_bits: int = field(init=False, default=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value_bits", self.bits)
        super().__post_init__()

    def grid(self, weights: Tensor) -> int:
        coarsest = super().grid(weights)
        grids = range(coarsest, coarsest - self.bits, -1)
        return min(grids, key=lambda grid: squared_error(weights, self.start(weights, grid)))

    def start(self, weights: Tensor, grid: int) -> Tensor:
        half = self.entries // 2
        codes = torch.arange(-half, half, dtype=torch.float64, device=weights.device)
        return codes * math.ldexp(1.0, grid)

    def project(self, means: Tensor, counts: Tensor, grid: int) -> Tensor:
        return self.start(means, grid)
