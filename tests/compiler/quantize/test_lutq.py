"""LUT-Q's loop: tied weights forward and backward, shadow weights for the optimizer."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.constraints import Constraint, Free, Ternary
from nomul.compiler.quantize.lutq import (
    GridBias,
    LutQ,
    grid_bias_of,
    shadow_of,
    tied_of,
    update_dictionaries,
)


def quantized(layer: nn.Linear | nn.Conv2d, constraint: Constraint) -> LutQ:
    weights = LutQ(layer.weight, constraint)
    register_parametrization(layer, "weight", weights)
    return weights


@pytest.mark.parametrize("make", [lambda: nn.Linear(12, 7), lambda: nn.Conv2d(3, 5, 3)],
                         ids=["linear", "conv2d"])
def test_the_loop_of_the_paper(make: object, constraint: Constraint) -> None:
    torch.manual_seed(0)
    assert callable(make)
    layer = make()
    images = torch.randn(9, 12) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 6, 6)
    shadow = layer.weight.detach().clone()
    weights = quantized(layer, constraint)
    tied = weights.dictionary[weights.assignment]
    assert torch.equal(layer.weight, tied)  # to the last bit
    assert torch.equal(shadow_of(layer, "weight"), shadow)

    # Forward and backward of an ordinary layer that holds the tied weights.
    twin = make()
    twin.load_state_dict({"weight": tied, "bias": layer.bias})
    layer(images).square().sum().backward()
    twin(images).square().sum().backward()
    gradient = shadow_of(layer, "weight").grad
    assert gradient is not None and twin.weight.grad is not None
    assert torch.equal(gradient, twin.weight.grad)
    assert not weights.dictionary.requires_grad

    # The optimizer moves the shadow weights; k-means then follows them.
    rate = 0.01
    torch.optim.SGD(layer.parameters(), lr=rate).step()
    moved = shadow - rate * gradient
    torch.testing.assert_close(shadow_of(layer, "weight"), moved)
    before = weights.dictionary.double()
    update_dictionaries(layer)
    shadow = shadow_of(layer, "weight").detach().double()
    assignment = constraint.assign(shadow, before)
    assert torch.equal(weights.assignment, assignment)
    means = torch.stack([
        shadow[assignment == entry].mean() if (assignment == entry).any() else before[entry]
        for entry in range(constraint.entries)])
    counts = torch.bincount(assignment.flatten(), minlength=constraint.entries).double()
    expected = constraint.project(means, counts, int(weights.exponent))
    assert torch.equal(weights.dictionary.double(), expected)


def test_the_gradient_of_the_tied_weights_arrives_unchanged() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    quantized(layer, Free(bits=1))
    wanted = torch.randn(4, 6)
    (layer.weight * wanted).sum().backward()
    gradient = shadow_of(layer, "weight").grad
    assert gradient is not None and torch.equal(gradient, wanted)


def test_more_iterations_are_more_steps() -> None:
    torch.manual_seed(0)
    start, moved = torch.randn(50), torch.randn(50)
    once = LutQ(start, Free(bits=3))
    thrice = LutQ(start, Free(bits=3), iterations=3)
    thrice.step(moved)
    for _ in range(3):
        once.step(moved)
    assert torch.equal(once.dictionary, thrice.dictionary)
    assert torch.equal(once.assignment, thrice.assignment)
    with pytest.raises(ValueError, match="iterations must be at least 1, not 0"):
        LutQ(start, Free(bits=3), iterations=0)


def test_a_settled_dictionary_stays_and_assignments_follow(constraint: Constraint) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 7)
    weights = quantized(layer, constraint)
    dictionary, assignment = weights.dictionary.clone(), weights.assignment.clone()
    with torch.no_grad():
        shadow_of(layer, "weight").mul_(-0.5)
    update_dictionaries(layer, settled=True)
    assert torch.equal(weights.dictionary, dictionary)
    expected = constraint.assign(shadow_of(layer, "weight").detach().double(), dictionary.double())
    assert torch.equal(weights.assignment, expected)
    assert not torch.equal(weights.assignment, assignment)


def test_k_means_lowers_the_error() -> None:
    torch.manual_seed(0)
    weights = torch.randn(500)
    errors = [float((LutQ(weights, Free(bits=bits))(weights) - weights).square().mean())
              for bits in range(1, 7)]
    # A Gaussian's Lloyd-Max quantizer of 1 bit has the error 0.3634, of 4 bits 0.0095.
    assert errors[0] == pytest.approx(0.3634, rel=0.1)
    assert errors[3] == pytest.approx(0.0095, rel=0.3)
    assert errors == sorted(errors, reverse=True)


def test_the_state_comes_back(constraint: Constraint) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 5), nn.Linear(8, 5)]
    for layer in layers:
        weights = quantized(layer, constraint)
        register_parametrization(layer, "bias", GridBias(weights, 0.25))
    assert not torch.equal(layers[0].weight, layers[1].weight)
    layers[1].load_state_dict(copy.deepcopy(layers[0].state_dict()))
    images = torch.randn(3, 8)
    assert torch.equal(layers[0](images), layers[1](images))
    for layer in layers:
        functional.mse_loss(layer(images), torch.ones(3, 5)).backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        update_dictionaries(layer)
    assert torch.equal(layers[0](images), layers[1](images))


def test_a_bias_is_an_integer_of_the_accumulators() -> None:
    layer = nn.Linear(2, 4)
    weights = quantized(layer, Ternary())
    step = 0.5
    unit = weights.unit() * step
    assert weights.unit() == weights.dictionary.max()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-1.5, -0.51, 0.49, 2.5], dtype=torch.float64) * unit)
    register_parametrization(layer, "bias", GridBias(weights, step))
    bias = grid_bias_of(layer)
    assert bias is not None and tied_of(layer) is weights
    assert bias.integers(shadow_of(layer, "bias")) == [-1, -1, 0, 3]
    assert torch.equal(layer.bias.double(), unit * torch.tensor([-1.0, -1, 0, 3]).double())
    layer.bias.sum().backward()
    assert shadow_of(layer, "bias").grad is not None

    with torch.no_grad():
        shadow_of(layer, "weight").mul_(4)
    update_dictionaries(layer)
    assert float(bias.unit) == weights.unit() * step != unit


def test_an_ordinary_layer_is_left_alone() -> None:
    layer = nn.Linear(2, 2)
    before = copy.deepcopy(layer.state_dict())
    update_dictionaries(layer)
    assert tied_of(layer) is None and grid_bias_of(layer) is None
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_diverged_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    quantized(model[1], Free(bits=1))
    with torch.no_grad():
        shadow_of(model[1], "weight").fill_(float("nan"))
    with pytest.raises(ModelError, match=r"layer '1': weights must be finite, but hold NaN"):
        update_dictionaries(model)


@pytest.mark.parametrize("codes", [[0], [0, 0, 0], [6, -9], [8, 0, -12, 20, 4], [-7, 7, 7], [5]])
def test_the_unit_divides_every_entry(codes: list[int]) -> None:
    weights = LutQ(torch.randn(50), Free(bits=3))
    weights.dictionary = torch.tensor(codes) * 2.0 ** weights.exponent
    assert float(weights.unit()) == (math.gcd(*codes) or 1) * 2.0 ** weights.exponent


def test_weights_are_looked_at_only_if_asked() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    register_parametrization(model[0], "weight", LutQ(model[0].weight, Free(bits=2)))
    with torch.no_grad():
        shadow_of(model[0], "weight")[0, 0] = math.nan
    update_dictionaries(model, checked=False)
    with pytest.raises(ModelError, match="must be finite"):
        update_dictionaries(model)
