"""The circuits there are for one meaning."""
from __future__ import annotations

import enum

__all__ = ["ProductCircuit", "StaircaseCircuit"]


class ProductCircuit(enum.Enum):
    """What makes the products of weights and codes."""

    NONE = "none"
    SHIFT_ADD = "shift-add"
    MASKED = "masked-sums"
    TABLE = "table"
    UNROLLED = "unrolled"


class StaircaseCircuit(enum.Enum):
    """What makes codes of accumulators."""

    NONE = "none"
    SHIFT_CLIP = "shift-clip"
    COMPARATORS = "comparators"
    SEARCH = "search"
