"""Class-based quantization: scores, the search for widths, per-filter weights, their export."""
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.errors import ModelError
from nomul.compiler.layers import Weighted
from nomul.compiler.network import Network
from nomul.compiler.quantize.cq import CqMethod
from nomul.compiler.quantize.datasets import Dataset
from nomul.compiler.quantize.export import layer_codes, to_network
from nomul.compiler.quantize.nets import ResidualNet, small_net
from nomul.compiler.quantize.perfilter import PerFilter, filter_range, filter_steps, rounded
from nomul.compiler.quantize.recipes import Recipe, recipe_of
from nomul.compiler.quantize.scores import class_scores, search_widths, widths_of
from nomul.compiler.quantize.training import train
from nomul.compiler.values import Levels
from nomul.sim import golden


def scored_by_hand(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Scores of the filters of ``model[0]``, neuron by neuron and image by image."""
    totals: dict[int, Tensor] = {}
    for label in sorted(set(labels.tolist())):
        which = images[labels == label]
        shares = []
        for image in which:
            activation = model[1](model[0](image[None])).detach().requires_grad_()
            loss = functional.cross_entropy(model[2:](activation), torch.tensor([label]))
            slope, = torch.autograd.grad(loss, activation)
            shares.append(((activation * slope).abs() > 1e-10).double()[0])
        totals[label] = torch.stack(shares).mean(dim=0)
    gamma = torch.stack([*totals.values()]).sum(dim=0)
    return gamma.flatten(1).max(dim=1).values


def test_scores_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(5 * 2 * 2, 3))
    images, labels = torch.randn(12, 1, 6, 6), torch.arange(12) % 3
    with torch.no_grad():
        model[0].bias[0] = -100.0  # a filter that is always 0
    scores = class_scores(model, images, labels)
    assert [*scores] == ["0"]
    torch.testing.assert_close(scores["0"], scored_by_hand(model, images, labels))
    assert float(scores["0"][0]) == 0
    assert float(scores["0"].max()) > 0


def test_a_filter_scores_the_classes_it_matters_to() -> None:
    """Each input feeds one hidden neuron, which is on for one class or for all."""
    model = nn.Sequential(OrderedDict(one=nn.Linear(4, 4), relu=nn.ReLU(), two=nn.Linear(4, 3)))
    images = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    with torch.no_grad():
        model.one.weight.copy_(torch.eye(4))
        model.one.bias.zero_()
        model.two.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    scores = class_scores(model, images, torch.arange(3))
    assert scores["one"].tolist() == [1, 1, 1, 3]


def test_scores_of_branches_and_nets_without_activations() -> None:
    net = ResidualNet(blocks=1, width=4, depth=2).eval()
    images = torch.rand(20, 3, 32, 32).mul(256).floor() / 256
    scores = class_scores(net, images, torch.arange(20) % 10)
    assert {path: len(score) for path, score in scores.items()}["blocks.1.shortcut.0"] == 8
    assert "dense" not in scores
    with pytest.raises(ModelError, match="layer '0': must reach one ReLU or tanh before"):
        class_scores(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.rand(2, 4),
                     torch.arange(2))


def test_bits_count_the_thresholds_that_a_score_reaches() -> None:
    widths = widths_of({"a": torch.tensor([0.0, 0.4, 0.5, 1.0, 9.0])}, [0.5, 0.5, 2.0])
    assert widths["a"].tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize("budget", [3.5, 2.0, 1.0, 0.5])
def test_the_search_meets_its_budget_with_the_scores_order(budget: float) -> None:
    rng = torch.Generator().manual_seed(1)
    scores = {"a": 10 * torch.rand(16, generator=rng), "b": 10 * torch.rand(24, generator=rng)}
    sizes = {"a": 9, "b": 30}
    asked: list[float] = []

    def accuracy(widths: dict[str, Tensor]) -> float:
        asked.append(1 - 0.01 * sum(float((4 - width).sum()) for width in widths.values()))
        return asked[-1]

    found = search_widths(scores, sizes, bits=4, budget=budget, accuracy=accuracy)
    stored = sum(sizes[path] * int(found.filters[path].sum()) for path in sizes)
    assert found.average == stored / (16 * 9 + 24 * 30) <= budget
    assert found.average > budget - 0.5  # it stops there
    assert [*found.thresholds] == sorted(found.thresholds)
    for path, score in scores.items():
        order = score.argsort()
        assert (found.filters[path][order].diff() >= 0).all()
    assert len(asked) < 2 * 4 * 50


def test_a_budget_that_other_weights_alone_exceed() -> None:
    with pytest.raises(ModelError, match=r"but the other weights alone take 2\.00"):
        search_widths({"a": torch.ones(2)}, {"a": 1}, bits=4, budget=1.5,
                      accuracy=lambda _widths: 1.0, other=(2, 8))


@pytest.mark.parametrize("width", range(6))
def test_rounding_is_to_the_nearest_integer_of_its_width(width: int) -> None:
    low, high = filter_range(width)
    allowed = [low, high] if width == 1 else [*range(low, high + 1)]
    values = torch.linspace(low - 1.3, high + 1.7, 97, dtype=torch.float64)[None]
    nearest = [min(allowed, key=lambda entry: (abs(entry - value), -entry))
               for value in values[0].tolist()]
    assert rounded(values, torch.tensor([width]))[0].tolist() == nearest


def test_steps_have_the_least_error_of_those_tried() -> None:
    weights = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    widths = torch.tensor([0, 1, 2, 3, 4, 8])

    def errors(step: Tensor) -> Tensor:
        return (rounded(weights / step[:, None], widths) * step[:, None]
                - weights).square().sum(dim=1)

    step = filter_steps(weights, widths)
    assert float(step[0]) == 1
    assert (errors(step)[1:].diff() < 0).all()
    for other in (0.8, 1.25):
        assert (errors(step)[1:] <= errors(step * other)[1:]).all()


def test_weights_are_looked_up_in_the_segment_of_their_filter() -> None:
    widths = torch.tensor([3, 0, 1, 2, 1])
    weights = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    filters = PerFilter(weights, widths)
    assert filters.integers() == [0, -1, 1, -2, -1, 0, 1, *range(-4, 4)]
    assert torch.equal(filters(weights), rounded(weights, widths))
    segments = {0: range(1), 1: range(1, 3), 2: range(3, 7), 3: range(7, 15)}
    for row, width in zip(filters.assignment, widths.tolist(), strict=True):
        assert set(row.tolist()) <= set(segments[width])


def made_up(side: int, channels: int, count: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    images = rng.integers(0, 100, (count, side, side, channels)) + 15 * labels[:, None, None, None]
    parts = np.split(np.arange(count), [count // 2, 3 * count // 4])
    return Dataset(name="made_up", images=images.astype(np.uint8), labels=labels,
                   levels=Levels.uniform(256, exponent=-8), classes=tuple("0123456789"),
                   train=parts[0], validation=parts[1], test=parts[2], licence="none")


def tiny(name: str, model: Callable[[], nn.Module]) -> Recipe:
    return replace(recipe_of(name), model=model, batch=10, calibration=20, threads=1,
                   accelerate=False, checkpoint_every=1)


@pytest.mark.train
@pytest.mark.parametrize("recipe, data", [
    (tiny("fashion", lambda: small_net((6, 6, 8))), made_up(28, 1)),
    (tiny("cifar10", lambda: ResidualNet(blocks=1, width=4, depth=2)), made_up(32, 3)),
], ids=["fashion", "cifar10"])
def test_trained_widths_are_exported_exactly(recipe: Recipe, data: Dataset) -> None:
    trained = train(recipe, CqMethod(budget=1.6), epochs=2, data=data)
    whole = to_network(trained.model, recipe.name, data.shape)
    layers = [layer for layer in whole.layers if isinstance(layer, Weighted)]
    stored = sum(layer.stored_bits for layer in layers)
    assert stored <= 1.6 * sum(layer.assignment.size for layer in layers)
    assert stored >= sum(layer.stored_bits for layer in trained.network.layers
                         if isinstance(layer, Weighted))
    assert layers[-1].widths is None
    assert all(layer.widths is not None for layer in layers[:-1])
    images = data.codes(trained.network.input.levels)
    codes, trace = layer_codes(trained.model, images), golden.run(whole, images)
    assert all(np.array_equal(codes[name], trace[name]) for name in trace)
    assert np.array_equal(golden.run(trained.network, images).classes, trace.classes)


@pytest.mark.train
def test_filters_of_no_bits_leave_the_network() -> None:
    recipe, data = tiny("fashion", lambda: small_net((12, 12, 8))), made_up(28, 1)
    trained = train(recipe, CqMethod(budget=0.6, last_bits=2), epochs=1, data=data)
    whole = to_network(trained.model, recipe.name, data.shape)

    def filters(network: Network) -> int:
        return sum(layer.outputs for layer in network.layers if isinstance(layer, Weighted))

    assert filters(trained.network) < filters(whole)
    images = data.codes(whole.input.levels)
    assert np.array_equal(golden.run(trained.network, images).classes,
                          golden.run(whole, images).classes)


@pytest.mark.train
def test_layers_without_a_normalization_of_their_own_are_refused(recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="must be read by a batch normalization alone"):
        train(recipe, CqMethod(budget=2.5), epochs=1)


@pytest.mark.parametrize("settings, message", [
    ({"bits": 9}, "method 'cq': bits must be 2 to 8, not 9"),
    ({"last_bits": 1}, "method 'cq': last_bits must be 2 to 8, not 1"),
    ({"budget": 0.0}, "method 'cq': budget must be above 0 bits, not 0.0"),
])
def test_settings_that_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CqMethod(**settings)  # type: ignore[arg-type]
