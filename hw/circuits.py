"""The circuits there are for one meaning."""
from __future__ import annotations

import enum

__all__ = ["CodeMemory", "ProductCircuit", "StaircaseCircuit", "WeightMemory"]


class ProductCircuit(enum.Enum):
    """What makes the products of weights and codes."""

    NONE = "none"
    SHIFT_ADD = "shift-add"
    MASKED = "masked-sums"
    TABLE = "table"
    BUCKETS = "bucket-accumulate"
    UNROLLED = "unrolled"
    MULTIPLY = "decode-multiply"
    """The only one with multipliers; never chosen unless it is asked for."""


class StaircaseCircuit(enum.Enum):
    """What makes codes of accumulators."""

    NONE = "none"
    SHIFT_CLIP = "shift-clip"
    COMPARATORS = "comparators"
    SEARCH = "search"
    TABLE = "table"


class CodeMemory(enum.Enum):
    """What codes lie in between the layers of an engine."""

    BLOCK = "block"
    """One memory that reads and writes at the same time: block RAM."""
    SINGLE_PORT = "single-port"
    """Two or three memories that do one at a time: SPRAM, where a chip has it."""


class WeightMemory(enum.Enum):
    """What the weights of an engine lie in."""

    BLOCK = "block"
    """Block RAM, filled by the bitstream."""
    SPRAM = "spram"
    """One memory of one port that no bitstream fills: SPRAM. A stream does, after reset."""
