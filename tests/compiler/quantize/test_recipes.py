"""Names of the command line become recipes and constraints; the papers' memory formula."""
import json
import math
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
from nomul.compiler.quantize.datasets import DATASETS
from nomul.compiler.quantize.memory import memory_bits
from nomul.compiler.quantize.recipes import RECIPES, constraint_from_names, recipe_of
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
    assert str(error.value) == ("recipe 'digit' is unknown; known are: cifar10, "
                                "cifar10_mobile, digits, fashion, lenet300, mnist")


def test_settings_leave_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    assert "Linear(in_features=64, out_features=32" in recipe_of("digits").settings()["model"]
    assert torch.equal(torch.get_rng_state(), state)


def test_settings_of_digits_are_as_they_were() -> None:
    """Settings at their default are left out, so that checkpoints stay valid."""
    assert sorted(recipe_of("digits").settings()) == [
        "activation_bits", "augmentation", "batch", "checkpoint_every", "dataset", "distillation",
        "epochs", "float_rate", "label_smoothing", "model", "name", "rate", "threads",
        "weight_decay"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_json_and_its_name_a_module(name: str) -> None:
    recipe = recipe_of(name)
    assert json.loads(json.dumps(recipe.settings())) == recipe.settings()
    assert recipe.name == name and name.isidentifier()
    assert recipe.dataset in DATASETS


def test_a_dash_is_an_underscore() -> None:
    assert recipe_of("cifar10-mobile") is recipe_of("cifar10_mobile")


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_nets_for_small_chips(name: str) -> None:
    """Weights of 4 bits, and the cycles of layers that compute all outputs at once."""
    recipe = recipe_of(name)
    weights, cycles = 0, {}
    values = torch.zeros(1, 1, 28, 28)
    for path, module in recipe.model().eval().named_children():
        values = module(values)
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            weights += module.weight.numel()
            cycles[path] = module.weight[0].numel() * math.prod(values.shape[2:])
    assert 4 * weights <= 100_000
    assert sum(cycles.values()) < 25_000


def test_the_residual_net_has_twenty_layers_and_shortcuts() -> None:
    net = recipe_of("cifar10").model()
    layers = [module for module in net.modules()
              if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 20 + 2
    assert sum(layer.weight.numel() for layer in layers) < 290_000


@pytest.mark.parametrize("weights, entries, value_bits, bits", [
    (2048, 8, 8, 2048 * 3 + 64), (320, 16, 8, 320 * 4 + 128), (10, 3, 2, 20 + 6), (7, 1, 8, 8),
])
def test_memory_formula(weights: int, entries: int, value_bits: int, bits: int) -> None:
    assert memory_bits(weights, entries, value_bits) == bits


def test_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must each be at least 1, not 0, 4 and 8"):
        memory_bits(0, 4, 8)
