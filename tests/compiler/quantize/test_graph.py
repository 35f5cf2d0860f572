"""Modules with branches become graphs of modules; what cannot is named."""
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.graph import Add, chain, steps, trace


class Net(nn.Module):
    """Runs a function of its modules."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.relu, self.dense = nn.ReLU(), nn.Linear(8, 3)
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, images)


@pytest.mark.parametrize("run", [
    lambda net, x: net.dense(torch.flatten(net.first(x) + net.second(x), 1)),
    lambda net, x: net.dense(torch.add(net.first(x), net.second(x)).flatten(1)),
    lambda net, x: net.dense(net.first(x).add(net.second(x)).flatten(start_dim=1)),
], ids=["+", "torch.add", "method"])
def test_additions_become_modules(run: Callable[[Any, Tensor], Tensor]) -> None:
    net = Net(run)
    traced = trace(net)
    found = steps(traced)
    assert [type(step.module) for step in found] == [
        nn.Conv2d, nn.Conv2d, Add, nn.Flatten, nn.Linear]
    assert [step.inputs for step in found[:3]] == [("",), ("",), ("first", "second")]
    images = torch.randn(3, 2, 2, 2)
    assert torch.equal(traced(images), net(images))
    assert set(net.state_dict()) == set(traced.state_dict())


def test_a_relu_that_runs_twice_has_two_paths() -> None:
    net = Net(lambda net, x: net.relu(net.second(functional.relu(net.relu(net.first(x))).relu())))
    found = steps(trace(net))
    assert [step.path for step in found] == ["first", "relu", "relu_1", "relu_2", "second",
                                             "relu_3"]
    relus = [step.module for step in found if isinstance(step.module, nn.ReLU)]
    assert len(set(map(id, relus))) == 4


def test_the_model_stays_as_it_is() -> None:
    net = Net(lambda net, x: net.relu(net.first(x))).eval()
    traced = trace(net)
    with torch.no_grad():
        for parameter in traced.parameters():
            parameter.zero_()
    assert net.first.weight.abs().min() > 0
    assert not traced.training and set(dict(traced.named_parameters())) == {
        "first.weight", "first.bias"}


@pytest.mark.parametrize("run, message", [
    (lambda net, x: net.first(net.first(x)),
     "layer 'first': a module with weights must run once; give each place a module of its own"),
    (lambda net, x: net.first(x) * 2,
     "layer 'mul': function must be an addition of two layers, relu or flatten(x, 1), "
     "not mul(2,); use those, or modules"),
    (lambda net, x: net.first(x) + 1,
     "layer 'add': function must be an addition of two layers, relu or flatten(x, 1), "
     "not add(1,); use those, or modules"),
    (lambda net, x: net.first(x).view(-1, 8),
     "layer 'view': function must be an addition of two layers, relu or flatten(x, 1), "
     "not view(-1, 8); use those, or modules"),
    (lambda net, x: net.first(x).flatten(2),
     "layer 'flatten': function must be an addition of two layers, relu or flatten(x, 1), "
     "not flatten(2,); use those, or modules"),
    (lambda net, x: x + x, "layer 'add': must read two layers, not 1; rewrite the model's forward"),
    (lambda net, x: net.first(x) if x.sum() > 0 else x,
     "model Net: its forward must be plain calls of modules, additions and flatten, to be traced "
     "by torch.fx (symbolically traced variables cannot be used as inputs to control flow); "
     "write it so"),
])
def test_what_cannot_be_traced(run: Callable[[Any, Tensor], Tensor], message: str) -> None:
    with pytest.raises(ModelError) as error:
        trace(Net(run))
    assert str(error.value) == message


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first + second

    with pytest.raises(ModelError, match="model Two: forward must have one argument, the images"):
        trace(Two())


def test_only_sequentials_are_chains() -> None:
    with pytest.raises(ModelError, match=r"model must be an nn.Sequential, not Linear"):
        list(chain(nn.Linear(2, 2)))
