"""Torch equals the golden model of its export, on every code of every layer."""
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.network import Argmax, Dense, Flatten, Input, Ints, Levels, Network, Staircase
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.constraints import (
    Binary,
    Constraint,
    Free,
    PowerOfTwo,
    Pruned,
    Scale,
    Ternary,
)
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.export import layer_codes, model_input, to_network
from nomul.compiler.quantize.lutq import shadow_of, tied_of
from nomul.compiler.quantize.methods import LutqMethod
from nomul.compiler.quantize.recipes import Recipe
from nomul.compiler.quantize.training import train
from nomul.sim import golden


def differences(codes: Mapping[str, Ints], trace: Mapping[str, Ints]) -> list[str]:
    """Layers in which two runs differ, or that one of them lacks."""
    return [name for name in {**codes, **trace} if name not in codes or name not in trace
            or not np.array_equal(codes[name], trace[name])]


def small(constraint: Constraint, *, channels: int = 1, depth: int = 2, bias: bool = True,
          seed: int = 0) -> nn.Module:
    """An untrained model for images of 4 by 3 pixels, in eval mode."""
    torch.manual_seed(seed)
    sizes = [12 * channels] + [9] * (depth - 1) + [5]
    modules: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        modules += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    model = nn.Sequential(*modules[:-1])
    return quantize_model(model, constraint, entry=QuantizedInput(4, -4),
                          calibration=torch.rand(50, channels, 4, 3)).eval()


def some_images(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (200, 4, 3, channels))


@pytest.mark.train
def test_every_code_of_all_digits(constraint: Constraint, recipe: Recipe) -> None:
    data = load("digits")
    trained = train(recipe, LutqMethod(constraint=constraint), seed=0, epochs=3)
    codes = layer_codes(trained.model, data.images)
    trace = golden.run(trained.network, data.images)
    assert list(codes) == [layer.name for layer in trained.network.layers]
    assert list(codes) == ["pixels", "flatten", "dense1", "dense2", "argmax"]
    assert differences(codes, trace) == []
    # The layers have something to say: many codes occur, and the scores differ.
    assert len(np.unique(codes["dense1"])) > 8
    assert len(np.unique(codes["dense2"])) > 100
    accuracies = trained.provenance["accuracy"]
    right = codes["argmax"][:, 0] == data.labels
    assert right[data.test].mean() == accuracies["quantized_test"]
    assert right[data.validation].mean() == accuracies["quantized_validation"]


@pytest.mark.parametrize("scale", Scale)
@pytest.mark.parametrize("kind", [Binary, Ternary])
def test_every_code_with_each_scale(kind: type[Binary | Ternary], scale: Scale) -> None:
    model = small(kind(scale=scale), depth=3)
    network = to_network(model, "net", (4, 3, 1))
    assert differences(layer_codes(model, some_images()),
                       golden.run(network, some_images())) == []
    for layer in network.layers:
        if isinstance(layer, Dense):
            assert set(layer.dictionary.tolist()) <= {-1, 0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_every_code_with_channels_and_without_bias(seed: int) -> None:
    model = small(Free(bits=3), channels=3, bias=False, seed=seed)
    network = to_network(model, "net", (4, 3, 3))
    assert differences(layer_codes(model, some_images(3)),
                       golden.run(network, some_images(3))) == []


def perturbed_threshold(dense: Dense) -> Dense:
    assert dense.staircase
    thresholds = dense.staircase.thresholds.copy()
    thresholds[0, 0] += 1
    return replace(dense, staircase=Staircase(thresholds=thresholds,
                                              levels=dense.staircase.levels))


def perturbed_assignment(dense: Dense) -> Dense:
    assignment = dense.assignment.copy()
    assignment[4, 30] = (assignment[4, 30] + 1) % len(dense.dictionary)
    return replace(dense, assignment=assignment)


def perturbed_bias(dense: Dense) -> Dense:
    return replace(dense, bias=dense.bias + (np.arange(dense.outputs) == 0))


@pytest.mark.train
def test_the_comparison_can_fail(recipe: Recipe) -> None:
    data = load("digits")
    trained = train(recipe, LutqMethod(constraint=Ternary()), seed=0, epochs=1)
    codes = layer_codes(trained.model, data.images)
    for perturb in (perturbed_threshold, perturbed_assignment, perturbed_bias):
        layers = tuple(perturb(layer) if layer.name == "dense1" and isinstance(layer, Dense)
                       else layer for layer in trained.network.layers)
        trace = golden.run(Network(name="broken", layers=layers), data.images)
        assert "dense1" in differences(codes, trace), perturb.__name__


def test_the_network_has_the_layers_of_the_model() -> None:
    model = small(PowerOfTwo(bits=3))
    network = to_network(model, "net", (4, 3, 1))
    assert [(type(layer), layer.name, layer.inputs) for layer in network.layers] == [
        (Input, "pixels", ()), (Flatten, "flatten_0", ("pixels",)),
        (Dense, "dense_1", ("flatten_0",)), (Dense, "dense_3", ("dense_1",)),
        (Argmax, "argmax", ("dense_3",))]
    assert network.input.levels == Levels.uniform(16, exponent=-4)
    first = network["dense_1"]
    assert isinstance(first, Dense) and first.staircase
    assert not first.staircase.per_channel
    # Entry times 2**exponent is the weight itself, and no factor is left in the entries.
    weight = model.get_submodule("1").weight
    assert np.array_equal(first.weights * 2.0 ** first.exponent, weight.detach().numpy())
    assert (np.diff(first.dictionary) > 0).all()
    assert np.gcd.reduce(first.dictionary) == 1


def test_equal_entries_are_merged() -> None:
    model = small(Free(bits=2))
    module = model.get_submodule("1")
    weights = tied_of(module)
    assert weights is not None
    unit = 2.0 ** int(weights.exponent)
    weights.dictionary.copy_(torch.tensor([3.0, -1, 3, 2]) * unit)
    network = to_network(model, "net", (4, 3, 1))
    dense = network["dense_1"]
    assert isinstance(dense, Dense)
    assert dense.dictionary.tolist() == [-1, 2, 3]
    assert differences(layer_codes(model, some_images()),
                       golden.run(network, some_images())) == []


def test_names_of_modules_become_identifiers() -> None:
    inner = nn.Sequential(OrderedDict([("fc", nn.Linear(12, 4)), ("act", nn.ReLU())]))
    model = nn.Sequential(nn.Flatten(), inner, nn.Linear(4, 3))
    converted = quantize_model(model, Free(bits=2), entry=QuantizedInput(4, -4),
                               calibration=torch.rand(9, 1, 4, 3)).eval()
    network = to_network(converted, "net", (4, 3, 1))
    assert [layer.name for layer in network.layers] == [
        "pixels", "flatten_0", "dense_1_fc", "dense_2", "argmax"]


def test_a_shared_relu_is_quantized_at_each_place() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), relu, nn.Linear(6, 6), relu,
                          nn.Linear(6, 3))
    converted = quantize_model(model, Free(bits=4), entry=QuantizedInput(4, -4),
                               calibration=torch.rand(50, 1, 4, 3)).eval()
    network = to_network(converted, "net", (4, 3, 1))
    assert len(network.layers) == 6
    assert differences(layer_codes(converted, some_images()),
                       golden.run(network, some_images())) == []


def test_the_float_model_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    before = model.get_submodule("1").weight.detach().clone()
    quantize_model(model, Binary(scale=Scale.UNIT), entry=QuantizedInput(4, -4),
                   calibration=torch.rand(9, 1, 4, 3))
    assert torch.equal(model.get_submodule("1").weight, before)
    assert tied_of(model.get_submodule("1")) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_weights_that_are_not_finite_are_refused(tensor: str, value: float) -> None:
    model = small(Free(bits=4))
    with torch.no_grad():
        shadow_of(model.get_submodule("3"), tensor)[0] = value
    with pytest.raises(ModelError, match="layer '3': weights, dictionary and biases must be "
                                         "finite, but hold NaN or infinity"):
        to_network(model, "net", (4, 3, 1))


@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_a_float_model_that_is_not_finite_is_refused(tensor: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        model.get_submodule("1").get_parameter(tensor)[0] = float("nan")
    with pytest.raises(ModelError, match=r"layer '1': .* must be finite, but hold NaN"):
        quantize_model(model, Pruned(bits=2, fraction=0.5), entry=QuantizedInput(4, -4),
                       calibration=torch.rand(9, 1, 4, 3))


@pytest.mark.parametrize("modules, message", [
    ([nn.Flatten(), nn.Linear(12, 3), nn.Sigmoid()],
     "layer '2': module must be one of Flatten, Linear, Conv2d, BatchNorm1d, BatchNorm2d, ReLU, "
     "ReLU6, Tanh, Identity, Dropout, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Add, "
     "PixelEmbedding, not Sigmoid; replace or remove it"),
    ([nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 3)],
     "layer '2': must read codes, but the layer before it gives raw integers; "
     "put a ReLU between them"),
])
def test_models_that_cannot_be_converted(modules: list[nn.Module], message: str) -> None:
    with pytest.raises(ModelError) as error:
        quantize_model(nn.Sequential(*modules), Free(bits=2), entry=QuantizedInput(4, -4),
                       calibration=torch.rand(9, 1, 4, 3))
    assert str(error.value) == message


def test_models_that_cannot_be_exported() -> None:
    entry, model = QuantizedInput(4, -4), small(Free(bits=2))
    flatten, dense = model.get_submodule("0"), model.get_submodule("1")
    cases: list[tuple[nn.Module, str]] = [
        (nn.Linear(2, 2).eval(), "model must be an nn.Sequential, not Linear; "
                                 "put its modules into one"),
        (nn.Sequential(nn.Flatten()).train(),
         "model must be in eval mode to be exported; call model.eval()"),
        (nn.Sequential(nn.Flatten()), "layer '0': a QuantizedInput must be the first module, "
                                      "and no other; convert the model with quantize_model"),
        (nn.Sequential(entry, nn.Flatten(), nn.Linear(12, 2)),
         "layer '2': weights must be LutQ and biases GridBias; "
         "convert the model with quantize_model"),
        (nn.Sequential(entry, nn.Flatten(), nn.Tanh()),
         "layer '2': module must be one of QuantizedInput, Flatten, Linear, Conv2d, "),
        (nn.Sequential(entry, nn.Flatten(2)),
         "layer '1': all dimensions but the first must be flattened; use nn.Flatten()"),
        (nn.Sequential(entry, nn.Flatten(), nn.Flatten()),
         "layer '2': must read an image; remove it where a vector is read"),
        (nn.Sequential(entry, flatten), "last module must be a Linear, whose accumulators are "
                                        "the scores; put one at the end of the model"),
        (nn.Sequential(entry, flatten, dense, dense),
         "layer '3': must read codes, but layer 'dense_2' gives raw integers; "
         "put a ReLU between them"),
        (nn.Sequential(entry, flatten, model.get_submodule("2")),
         "layer '2': must read a Linear, a Conv2d or an addition; remove it, or put one before it"),
        (nn.Sequential(QuantizedInput(4, -5), flatten, dense),
         "layer '2': biases must be on the grid of the accumulators"),
    ]
    for broken, message in cases:
        if not message.startswith("model must be in eval"):
            broken.eval()
        with pytest.raises(ModelError) as error:
            to_network(broken, "net", (4, 3, 1))
        assert str(error.value).startswith(message)


def test_codes_that_there_are_not_are_refused() -> None:
    with pytest.raises(DataError, match="images must hold codes 0 to 15, not 0 to 16"):
        model_input(np.array([0, 16]).reshape(2, 1, 1, 1), Levels.uniform(16))
