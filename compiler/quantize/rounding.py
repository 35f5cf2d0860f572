"""Rounding, exact at every boundary in any floating-point type."""
from __future__ import annotations

import math
from enum import Enum
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rounding", "powers_of_two", "round_half_up", "round_to_power", "straight_through"]


class Rounding(Enum):
    """Where rounding to a power of two changes from ``2**e`` to ``2**(e + 1)``."""

    GEOMETRIC = "geometric"
    """At ``sqrt(2) * 2**e``: the exponent is round(log2(abs(x)))."""
    ARITHMETIC = "arithmetic"
    """At ``1.5 * 2**e``, which rounds up: the nearest value."""


# No float64 lies between the square root of 1/2 and its nearest float64, which is above it:
# comparing a mantissa in [1/2, 1) with these is exact.
_TURNS = {Rounding.GEOMETRIC: math.sqrt(0.5), Rounding.ARITHMETIC: 0.75}


def round_to_power(values: Tensor, rounding: Rounding) -> Tensor:
    """Exponents of the powers of two that ``values`` round to; their sign is ignored.

    Parameters
    ----------
    values : Tensor, float64, any shape
        Numbers other than 0.
    rounding : Rounding
        Where rounding turns.

    Returns
    -------
    Tensor, int64, shape of ``values``
        Exponents.
    """
    mantissa, exponent = torch.frexp(values.abs())
    return exponent.long() - (mantissa < _TURNS[rounding]).long()


def powers_of_two(exponents: Tensor) -> Tensor:
    """Two to the power of each of ``exponents``, float64; exact, as torch.pow need not be.

    The product of two powers, each made from its bits in float64: both are normal numbers for
    exponents from -2044 to 2046, so that what is below or above float64 comes out right too.
    """
    half = exponents.div(2, rounding_mode="floor")
    return _normal_powers(half) * _normal_powers(exponents - half)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shadow: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(shadow: Tensor, quantized: Tensor) -> Tensor:
    """``quantized``, whose gradient goes to ``shadow`` of the same shape as it is."""
    result: Tensor = _StraightThrough.apply(shadow, quantized)  # type: ignore[no-untyped-call]
    return result


def _normal_powers(exponents: Tensor) -> Tensor:
    return (exponents.long() + 1023 << 52).view(torch.float64)


def round_half_up(values: Tensor) -> Tensor:
    """``floor(values + 1/2)``, of any shape, without the rounding of that sum.

    The float below 1/2, plus 1/2, is 1 after rounding; here it goes to 0.
    """
    below = values.floor()
    return below + (values - below >= 0.5)
