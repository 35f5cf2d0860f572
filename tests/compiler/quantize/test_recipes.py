"""Names of the command line become recipes and constraints; the papers' memory formula."""
from typing import Any

import pytest
import torch

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.quantize.constraints import (
    Binary,
    Constraint,
    Fixed,
    Free,
    PowerOfTwo,
    Pruned,
    Scale,
    Ternary,
)
from nomul.compiler.quantize.memory import memory_bits
from nomul.compiler.quantize.recipes import constraint_from_names, recipe_of
from nomul.compiler.quantize.rounding import Rounding


@pytest.mark.parametrize("arguments, expected", [
    ({"dictionary": "free"}, Free(bits=4)),
    ({"dictionary": "free", "bits": 2, "value_bits": 6}, Free(bits=2, value_bits=6)),
    ({"dictionary": "pow2", "bits": 3}, PowerOfTwo(bits=3)),
    ({"dictionary": "pow2", "bits": 3, "zero": False, "rounding": "arithmetic"},
     PowerOfTwo(bits=3, zero=False, rounding=Rounding.ARITHMETIC)),
    ({"dictionary": "pruned"}, Pruned(bits=4, fraction=0.7)),
    ({"dictionary": "pruned", "fraction": 0.0}, Pruned(bits=4, fraction=0.0)),
    ({"dictionary": "binary"}, Binary()),
    ({"dictionary": "binary", "bits": 1, "scale": "unit"}, Binary(scale=Scale.UNIT)),
    ({"dictionary": "ternary", "scale": "pow2"}, Ternary(scale=Scale.POWER_OF_TWO)),
    ({"dictionary": "fixed", "bits": 3}, Fixed(bits=3)),
])
def test_names_make_constraints(arguments: dict[str, Any], expected: Constraint) -> None:
    assert constraint_from_names(**arguments) == expected


@pytest.mark.parametrize("arguments, message", [
    ({"dictionary": "pow3"}, "dictionary 'pow3' is unknown; known are: "
                             "free, pow2, pruned, binary, ternary, fixed"),
    ({"dictionary": "binary", "bits": 4}, "dictionary 'binary': bits of a weight must be 1, "
                                          "not 4; leave them out"),
    ({"dictionary": "free", "fraction": 0.5}, "dictionary 'free': has no setting 'fraction'; "
                                              "leave it out"),
    ({"dictionary": "pow2", "zero": False, "scale": "unit"},
     "dictionary 'pow2': has no setting 'scale'; leave it out"),
    ({"dictionary": "ternary", "scale": "big"},
     "dictionary 'ternary': scale must be one of unit, pow2, free, not 'big'"),
    ({"dictionary": "pow2", "rounding": "up"},
     "dictionary 'pow2': rounding must be one of geometric, arithmetic, not 'up'"),
    ({"dictionary": "free", "bits": 0}, "dictionary 'free': bits of a weight must be 1 to 8, "
                                        "not 0"),
])
def test_wrong_names_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        constraint_from_names(**arguments)
    assert str(error.value) == message


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(DataError) as error:
        recipe_of("digit")
    assert str(error.value) == "recipe 'digit' is unknown; known are: digits"


def test_settings_leave_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    assert "Linear(in_features=64, out_features=32" in recipe_of("digits").settings()["model"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("weights, entries, value_bits, bits", [
    (2048, 8, 8, 2048 * 3 + 64), (320, 16, 8, 320 * 4 + 128), (10, 3, 2, 20 + 6), (7, 1, 8, 8),
])
def test_memory_formula(weights: int, entries: int, value_bits: int, bits: int) -> None:
    assert memory_bits(weights, entries, value_bits) == bits


def test_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must each be at least 1, not 0, 4 and 8"):
        memory_bits(0, 4, 8)
