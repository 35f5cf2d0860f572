"""Rounding at its boundaries, where a float sum or a logarithm would be wrong."""
import math

import pytest
import torch
from torch import Tensor

from nomul.compiler.quantize.rounding import (
    Rounding,
    powers_of_two,
    round_half_up,
    round_to_power,
)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("exponent", [-7, 0, 3])
@pytest.mark.parametrize("rounding", Rounding)
def test_rounding_to_a_power_turns_at_its_boundary(rounding: Rounding, exponent: int) -> None:
    middle = math.sqrt(2) if rounding is Rounding.GEOMETRIC else 1.5
    # sqrt(2) is no float: the nearest one lies above the true boundary, and rounds up.
    boundary = middle * 2.0 ** exponent
    if rounding is Rounding.GEOMETRIC:
        boundary = math.sqrt(0.5) * 2.0 ** (exponent + 1)
    values = float64(2.0 ** exponent, math.nextafter(boundary, 0), boundary,
                     2.0 ** (exponent + 1))
    expected = [exponent, exponent, exponent + 1, exponent + 1]
    assert round_to_power(values, rounding).tolist() == expected
    assert round_to_power(-values, rounding).tolist() == expected


def test_the_two_roundings_differ() -> None:
    assert round_to_power(float64(1.45), Rounding.GEOMETRIC).tolist() == [1]
    assert round_to_power(float64(1.45), Rounding.ARITHMETIC).tolist() == [0]


def test_powers_are_exact_over_the_whole_range() -> None:
    exponents = torch.arange(-1074, 1024)
    assert powers_of_two(exponents).tolist() == [2.0 ** n for n in range(-1074, 1024)]
    assert powers_of_two(torch.tensor([-1075, 1024])).tolist() == [0.0, math.inf]
    assert round_to_power(powers_of_two(exponents), Rounding.GEOMETRIC).equal(exponents)


@pytest.mark.parametrize("whole", [-3, -1, 0, 1, 100])
def test_halves_round_up_and_their_neighbours_do_not(whole: int) -> None:
    half = whole + 0.5
    values = float64(math.nextafter(half, -math.inf), half, math.nextafter(half, math.inf))
    assert round_half_up(values).tolist() == [whole, whole + 1, whole + 1]
    assert round_half_up(float64(whole)).tolist() == [whole]


def test_the_plain_sum_would_be_wrong() -> None:
    below = float64(math.nextafter(0.5, 0))
    assert torch.floor(below + 0.5).tolist() == [1]
    assert round_half_up(below).tolist() == [0]
