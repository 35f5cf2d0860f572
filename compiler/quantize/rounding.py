"""Rounding, exact at every boundary in any floating-point type."""
from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

__all__ = ["Rounding", "powers_of_two", "round_half_up", "round_to_power"]


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
    """Two to the power of each of ``exponents`` [K], float64; exact, as torch.pow need not be."""
    powers = [math.ldexp(1.0, exponent) for exponent in exponents.tolist()]
    return torch.tensor(powers, dtype=torch.float64, device=exponents.device)


def round_half_up(values: Tensor) -> Tensor:
    """``floor(values + 1/2)``, of any shape, without the rounding of that sum.

    The float below 1/2, plus 1/2, is 1 after rounding; here it goes to 0.
    """
    below = values.floor()
    return below + (values - below >= 0.5)
