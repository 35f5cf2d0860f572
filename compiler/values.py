"""What networks are made of: exact integers, the meaning of codes, step functions, wires."""
from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nomul.compiler.errors import ModelError

__all__ = ["LIMIT", "Codes", "Integers", "Ints", "Levels", "Staircase", "Value", "Wire", "integers"]

Ints = NDArray[np.int64]

# Largest magnitude of any integer in a network: sums of a few fit int64 and float64 exactly.
LIMIT = 1 << 52


def integers(what: str, values: ArrayLike, dimensions: int) -> Ints:
    """Read-only int64 copy of ``values``; `ModelError` naming ``what`` if they are no integers."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ModelError(f"{what} must be finite, but hold NaN or infinity; "
                             "train or export the network again")
        if (array != np.floor(array)).any():
            raise ModelError(f"{what} must be integers; export the network with exact scales")
    elif array.dtype.kind not in "iub":
        raise ModelError(f"{what} must be integers, not {array.dtype}")
    if array.ndim != dimensions:
        raise ModelError(f"{what} must have {dimensions} dimensions, not {array.ndim}")
    if array.size and (array.max() > LIMIT or array.min() < -LIMIT):
        raise ModelError(f"{what} must lie within +-2**52; reduce the precision of the values")
    array = array.astype(np.int64)  # always a copy
    array.flags.writeable = False
    return array


class Value:
    """Equality and hash by content, also of arrays, for frozen dataclasses without slots."""

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        def key(value: Any) -> Any:
            return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        return (type(self), *(key(getattr(self, field.name)) for field in fields(self)))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels(Value):
    """What codes mean: code ``c`` stands for ``values[c] * 2**exponent``.

    Parameters
    ----------
    values : array of int, shape [codes]
        Strictly increasing.
    exponent : int
        Power of two that scales all of them.
    """

    values: Ints
    exponent: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", integers("levels", self.values, 1))
        if len(self.values) < 2 or (np.diff(self.values) <= 0).any():
            raise ModelError("levels must be two or more and strictly increasing")

    @classmethod
    def uniform(cls, codes: int, *, start: int = 0, step: int = 1, exponent: int = 0) -> Levels:
        """``codes`` levels ``start, start + step, …``."""
        return cls(values=start + step * np.arange(codes), exponent=exponent)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bits(self) -> int:
        """Width of a code on a wire."""
        return max(1, (len(self) - 1).bit_length())

    @property
    def zero(self) -> int | None:
        """Code whose level is 0: what padding inserts. None if there is none."""
        where = np.flatnonzero(self.values == 0)
        return int(where[0]) if len(where) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Staircase(Value):
    """Monotone step functions from integers to codes: a code counts the thresholds passed.

    A threshold ``t`` is passed by ``acc >= t`` where the direction is +1, and by
    ``acc <= t`` where it is -1. Direction 0 makes a constant. The most extreme
    integers serve as thresholds that are always or never passed.

    Parameters
    ----------
    thresholds : array of int, shape [rows, codes - 1]
        Each row in increasing order; equal neighbours skip a code. One row for a
        whole layer, or one for each output channel.
    levels : Levels
        What the codes mean.
    directions : array of int, shape [rows]
        +1, -1 or 0; all +1 if omitted.
    constants : array of int, shape [rows]
        Code of the rows whose direction is 0; zero elsewhere, and if omitted.
    """

    thresholds: Ints
    levels: Levels
    directions: Ints = None  # type: ignore[assignment]
    constants: Ints = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        thresholds = integers("thresholds", self.thresholds, 2)
        rows = len(thresholds)
        directions = np.ones(rows) if self.directions is None else self.directions
        constants = np.zeros(rows) if self.constants is None else self.constants
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "directions", integers("directions", directions, 1))
        object.__setattr__(self, "constants", integers("constants", constants, 1))
        if rows < 1:
            raise ModelError("staircase must have at least one row of thresholds")
        if thresholds.shape[1] != len(self.levels) - 1:
            raise ModelError(f"staircase must have one threshold fewer than its "
                             f"{len(self.levels)} levels, not {thresholds.shape[1]}")
        if (np.diff(thresholds, axis=1) < 0).any():
            raise ModelError("thresholds must be in increasing order within each row")
        if len(self.directions) != rows or not np.isin(self.directions, (-1, 0, 1)).all():
            raise ModelError("directions must be +1, -1 or 0, one for each row of thresholds")
        if (len(self.constants) != rows or (self.constants < 0).any()
                or (self.constants >= len(self.levels)).any()
                or self.constants[self.directions != 0].any()):
            raise ModelError("constants must be codes where the direction is 0, and 0 elsewhere")

    @property
    def per_channel(self) -> bool:
        """Whether each channel has a row of its own (a single row counts as shared)."""
        return len(self.thresholds) > 1


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A wire that carries codes."""

    shape: tuple[int, ...]
    levels: Levels


@dataclass(frozen=True, kw_only=True)
class Integers:
    """A wire that carries signed integers between ``low`` and ``high``: scores, or a class."""

    shape: tuple[int, ...]
    low: int
    high: int


Wire = Codes | Integers
