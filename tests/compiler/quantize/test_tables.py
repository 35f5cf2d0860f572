"""Layers by product tables: exact integers forward, the products' gradient backward."""
import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from nomul.compiler.network import Levels
from nomul.compiler.quantize.constraints import Clusters
from nomul.compiler.quantize.lutq import shadow_of, update_dictionaries
from nomul.compiler.quantize.rounding import round_half_up
from nomul.compiler.quantize.tables import (
    TableBias,
    Tabled,
    product_table,
    table_bias_of,
    table_exponent,
)

LEVELS = Levels(values=np.array([-50, -9, 0, 4, 31, 90]), exponent=-6)


@pytest.mark.parametrize("shift", [-9, -4, -1, 0, 3])
def test_a_product_is_rounded_once(shift: int) -> None:
    weights, levels = torch.arange(-40, 41), torch.tensor([-7, -1, 0, 1, 2, 8])
    table = product_table(weights, levels, shift)
    for weight, row in zip(weights.tolist(), table.tolist(), strict=True):
        for level, entry in zip(levels.tolist(), row, strict=True):
            exact = weight * level * Fraction(2) ** shift
            assert entry == math.floor(exact + Fraction(1, 2))


def tabled(layer: nn.Linear | nn.Conv2d, entries: int, exponent: int = -5,
           levels: Levels = LEVELS) -> Tabled:
    return Tabled(layer, Clusters(count=entries), levels=levels, exponent=exponent)


def draw(shape: tuple[int, ...], levels: Levels = LEVELS) -> tuple[Tensor, Tensor]:
    codes = torch.randint(0, len(levels), shape)
    values = torch.tensor(levels.values)[codes] * 2.0 ** levels.exponent
    return codes, values


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("entries", [3, 9])  # fewer and more than the codes
def test_sums_are_those_of_the_table(entries: int, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    module = tabled(nn.Linear(40, 7), entries).to(kind).eval()
    codes, values = draw((30, 40))
    table, assignment = module.table().numpy(), module.weights.assignment.numpy()
    bias = table_bias_of(module.layer)
    assert bias is not None
    wanted = np.array([[sum(table[assignment[o, i], x[i]] for i in range(40)) for o in range(7)]
                       for x in codes.tolist()])
    wanted = wanted + np.array(bias.integers(shadow_of(module.layer, "bias")))
    found = module(values.to(kind)) * 32
    assert torch.equal(found, torch.from_numpy(wanted).to(kind))
    with torch.no_grad():
        assert torch.equal(module(values.to(kind)) * 32, found)
    # The broken twin: the products themselves are other numbers.
    exact = nn.functional.linear(values.to(kind), module.layer.weight, module.layer.bias) * 32
    assert not torch.equal(exact, found)
    assert (exact - found).abs().max() < 20


@pytest.mark.parametrize("entries", [3, 9])
@pytest.mark.parametrize("groups, stride, padding", [(1, 1, 1), (2, 2, (2, 1)), (4, 1, 0)])
def test_convolutions(groups: int, stride: int, padding: int | tuple[int, int],
                      entries: int) -> None:
    """An image's windows, unfolded and looked up one by one; padding is the level 0."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 8, 3, groups=groups, stride=stride, padding=padding, bias=False)
    module = tabled(conv, entries).double().eval()
    codes, values = draw((2, 4, 6, 5))
    found = module(values.double()) * 32
    down, across = padding if isinstance(padding, tuple) else (padding, padding)
    padded = np.pad(codes.numpy(), ((0, 0), (0, 0), (down, down), (across, across)),
                    constant_values=2)
    table, assignment = module.table().numpy(), module.weights.assignment.numpy()
    assert not table[:, 2].any()
    each = 4 // groups
    for (n, o, y, x), value in np.ndenumerate(found.detach().numpy()):
        first = o // (8 // groups) * each
        window = padded[n, first:first + each, y * stride:y * stride + 3,
                        x * stride:x * stride + 3]
        assert value == table[assignment[o], window].sum()


@pytest.mark.parametrize("make", [lambda: nn.Linear(12, 5), lambda: nn.Conv2d(3, 5, 3)],
                         ids=["linear", "conv2d"])
def test_the_gradient_is_that_of_the_products(make: object) -> None:
    torch.manual_seed(0)
    assert callable(make)
    layer = make()
    module = tabled(layer, 4)
    twin = copy.deepcopy(layer)
    shape = (9, 12) if isinstance(layer, nn.Linear) else (2, 3, 6, 6)
    values = draw(shape)[1].requires_grad_()
    other = values.detach().clone().requires_grad_()
    weight = torch.randn_like(module(values))
    (module(values) * weight).sum().backward()
    (twin(other) * weight).sum().backward()
    assert values.grad is not None and other.grad is not None
    torch.testing.assert_close(values.grad, other.grad)
    for tensor in ("weight", "bias"):
        found, wanted = shadow_of(layer, tensor).grad, shadow_of(twin, tensor).grad
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, wanted)
        assert found.any()


def test_tables_follow_the_weights() -> None:
    torch.manual_seed(0)
    module = tabled(nn.Linear(12, 5), 4)
    before, bias = module.table(), module.layer.bias
    assert bias is not None
    with torch.no_grad():
        shadow_of(module.layer, "weight").mul_(1.5)
    update_dictionaries(module)
    assert not torch.equal(module.table(), before)
    found = module.layer.bias
    assert found is not None and torch.equal(found, bias)
    other = tabled(nn.Linear(12, 5), 4, exponent=-9)
    other.load_state_dict(module.state_dict())
    values = draw((3, 12))[1]
    assert torch.equal(other(values), module(values))
    assert other.unit == 2 ** -5 and other.input_levels() == LEVELS


def test_mixed_precision_keeps_the_integers() -> None:
    torch.manual_seed(0)
    module = tabled(nn.Linear(200, 5, bias=False), 4, exponent=-9)
    values = draw((30, 200))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = module(values)
    with torch.no_grad():
        assert torch.equal(found, module(values))


def test_a_bias_is_rounded_to_the_unit() -> None:
    layer = nn.Linear(2, 64)
    shadow = layer.bias.detach().clone()
    register_parametrization(layer, "bias", TableBias(-4))
    assert torch.equal(layer.bias, round_half_up(shadow.double() * 16).float() / 16)
    bias = table_bias_of(layer)
    assert bias is not None
    assert bias.integers(shadow) == [round(16 * value) for value in layer.bias.tolist()]
    layer.bias.sum().backward()
    gradient = shadow_of(layer, "bias").grad
    assert gradient is not None and torch.equal(gradient, torch.ones(64))
    assert table_bias_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("fan_in", [20, 784])
def test_the_unit_makes_rounding_a_256th_of_the_spread(fan_in: int, scale: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(fan_in, 9)
    with torch.no_grad():
        layer.weight.mul_(scale)
    levels = Levels.uniform(33, start=-16, exponent=-4)
    values = draw((1000, fan_in), levels)[1]
    sums = layer(values).detach()
    module = tabled(copy.deepcopy(layer), 256, table_exponent(sums, fan_in), levels).double()
    with torch.no_grad():
        weight, bias = module.layer.weight, module.layer.bias
        error = module(values.double()) - nn.functional.linear(values.double(), weight, bias)
    spread = float(sums.std(dim=0).median())
    assert spread / 256 / 3 < float(error.std(dim=0).median()) < spread / 256 * 1.2
