"""Shapes of integers."""
from __future__ import annotations

from amaranth.hdl import Shape, signed

__all__ = ["signed_range"]


def signed_range(low: int, high: int) -> Shape:
    """The smallest signed shape that holds ``low`` to ``high``; at least 1 bit wide."""
    shape = Shape.cast(range(min(low, high), max(low, high) + 1))
    return signed(max(1, shape.width + (not shape.signed)))
