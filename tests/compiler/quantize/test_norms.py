"""Batch normalization: torch's own in training, exact in eval, multiplier-less if wanted."""
import copy
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from nomul.compiler.quantize.norms import GridNorm, Norm, estimate_norms, fold, settle_norms

UNIT = 2.0 ** -6


def source(features: int = 5, seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(features)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
    return norm


def images(features: int = 5) -> Tensor:
    return torch.randint(-200, 200, (7, features, 3, 4)).double() * UNIT


def test_training_is_that_of_torch() -> None:
    torchs = source().double()
    norm = GridNorm(torchs, UNIT, Norm.AFFINE).double().train()
    values = images().requires_grad_()
    twin = values.detach().clone().requires_grad_()
    for _ in range(2):
        found, expected = norm(values), torchs.train()(twin)
        torch.testing.assert_close(found, expected)
        weight = torch.randn_like(found)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
    torch.testing.assert_close(values.grad, twin.grad)
    torch.testing.assert_close(norm.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(norm.bias.grad, torchs.bias.grad)
    torch.testing.assert_close(norm.running_mean, torchs.running_mean)
    torch.testing.assert_close(norm.running_var, torchs.running_var)


@pytest.mark.parametrize("norm, bound", [(Norm.AFFINE, 2 ** -12), (Norm.POWER_OF_TWO, 0.42)])
def test_eval_is_near_that_of_torch(norm: Norm, bound: float) -> None:
    torchs = source().double().eval()
    grid = GridNorm(torchs, UNIT, norm).double().eval()
    assert torchs.running_mean is not None and torchs.running_var is not None
    values = images()
    slope = (grid(values + UNIT) - grid(values)) / UNIT
    exact = torchs.weight / (torchs.running_var + torchs.eps).sqrt()
    ratio = (slope / exact.view(1, -1, 1, 1)).detach()
    assert (ratio - 1).abs().max() <= bound
    assert (ratio > 0).all()
    # The offset is right to half a unit of the accumulators.
    offset = torchs.bias - torchs.running_mean * slope[0, :, 0, 0]
    error = (grid(torch.zeros(1, 5, 1, 1)) - offset.view(1, -1, 1, 1)) / slope[:1, :, :1, :1]
    assert error.abs().max() <= UNIT / 2 * 1.001


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.POWER_OF_TWO])
def test_eval_in_float64_is_exact(norm: Norm, seed: int) -> None:
    grid = GridNorm(source(seed=seed), UNIT, norm).eval()
    factors, shifts = (values.tolist() for values in grid.exact())
    twin = copy.deepcopy(grid).double()
    assert [values.tolist() for values in twin.exact()] == [factors, shifts]
    values = images()
    found = twin(values)
    for channel, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
        assert shift == int(shift)
        mantissa = math.frexp(factor)[0]
        bits = 1 if norm is Norm.POWER_OF_TWO else 12
        assert mantissa * 2 ** bits == int(mantissa * 2 ** bits)
        for value, result in zip(values[0, channel].flatten().tolist(),
                                 found[0, channel].flatten().tolist(), strict=True):
            assert Fraction(result) == Fraction(factor) * (
                Fraction(value) + int(shift) * Fraction(UNIT))


@pytest.mark.parametrize("weight", [0.0, 1e-12])
@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.POWER_OF_TWO])
def test_a_channel_without_a_scale_is_constant(norm: Norm, weight: float) -> None:
    torchs = source()
    with torch.no_grad():
        torchs.weight[1], torchs.bias[1] = weight, 0.75
    grid = GridNorm(torchs, UNIT, norm).double().eval()
    factor, offset = grid.exact()
    assert factor[1] == 0 and float(offset[1]) == pytest.approx(0.75)
    assert torch.equal(grid(images())[:, 1], offset[1].expand(7, 3, 4))
    grid.train()(images()).square().sum().backward()
    assert grid.weight.grad is not None and grid.weight.grad.isfinite().all()


def test_factors_of_the_multiplierless_one_are_powers_of_two_in_training() -> None:
    torchs = source().double()
    with torch.no_grad():
        torchs.weight.copy_(torch.tensor([1.0, -1.0, 0.3, -3.0, 0.0]))
    grid = GridNorm(torchs, UNIT, Norm.POWER_OF_TWO).double().train()
    values = images()
    found = grid(values)
    var = values.var(dim=(0, 2, 3), unbiased=False)
    factor = torchs.weight.detach() / (var + torchs.eps).sqrt()
    slope = (found[1] - found[0]).detach() / (values[1] - values[0])
    for channel in range(4):
        slopes = slope[channel][values[1, channel] != values[0, channel]]
        exponent = round(math.log2(abs(float(factor[channel]))))
        sign = 1 if factor[channel] > 0 else -1
        torch.testing.assert_close(slopes, torch.full_like(slopes, sign * 2.0 ** exponent))
    assert torch.equal(found[:, 4], torchs.bias[4].expand(7, 3, 4))

    # The gradient goes straight through the rounding: that of the weight is as if the factor
    # had not been rounded.
    wanted = torch.randn_like(found)
    (found * wanted).sum().backward()
    mean = values.mean(dim=(0, 2, 3))
    normal = (values - mean.view(1, -1, 1, 1)) / (var + torchs.eps).sqrt().view(1, -1, 1, 1)
    torch.testing.assert_close(grid.weight.grad, (wanted * normal).sum(dim=(0, 2, 3)))
    torch.testing.assert_close(grid.bias.grad, wanted.sum(dim=(0, 2, 3)))


def test_settled_powers_of_two_stay_whatever_the_batch_is() -> None:
    grid = GridNorm(source(), UNIT, Norm.POWER_OF_TWO).double().train()
    model = nn.Sequential(nn.Identity(), grid)
    settle_norms(model, True)
    factor = grid.exact()[0]
    for size in (5, 0.2, 40):
        values = (size * images()).requires_grad_()
        centred = values - values.mean(dim=(0, 2, 3), keepdim=True)
        twin = factor.view(1, -1, 1, 1) * centred + grid.bias.detach().view(1, -1, 1, 1)
        found = model(values)
        torch.testing.assert_close(found, twin)
        (gradient,) = torch.autograd.grad(found.square().sum(), values, retain_graph=True)
        (expected,) = torch.autograd.grad(twin.square().sum(), values)
        torch.testing.assert_close(gradient, expected)
        grid.bias.grad = None
        found.square().sum().backward()
        assert grid.weight.grad is None and grid.bias.grad is not None
        torch.testing.assert_close(grid.bias.grad, 2 * found.detach().sum(dim=(0, 2, 3)))
        assert torch.equal(grid.exact()[0], factor)

    settle_norms(model, False)
    for _ in range(40):
        model(40 * images()).sum().backward()
    assert grid.weight.grad is not None
    assert not torch.equal(grid.exact()[0], factor)


def test_the_layer_before_a_settled_one_learns_how_far_its_values_spread() -> None:
    grid = GridNorm(source(), UNIT, Norm.POWER_OF_TWO).double().train()
    settle_norms(grid, True)
    gain = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    grid(gain * images()).square().sum().backward()
    assert gain.grad is not None and gain.grad > 1

    # Divided by the deviation of the batch, it would not.
    settle_norms(grid, False)
    gain.grad = None
    grid(gain * images()).square().sum().backward()
    assert gain.grad is not None and gain.grad.abs() < 1e-2


def test_statistics_are_estimated_anew() -> None:
    grid = GridNorm(source(), UNIT, Norm.AFFINE).double().eval()
    model = nn.Sequential(nn.Identity(), grid)
    parts = [(n + 1) * images() for n in range(3)]
    estimate_norms(model, parts)
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts])
    variances = torch.stack([part.var(dim=(0, 2, 3)) for part in parts])
    torch.testing.assert_close(grid.running_mean, means.mean(dim=0))
    torch.testing.assert_close(grid.running_var, variances.mean(dim=0))
    assert grid.momentum == 0.1


def test_estimating_keeps_settled_powers_of_two() -> None:
    grid = GridNorm(source(), UNIT, Norm.POWER_OF_TWO).double()
    factor = grid.exact()[0]
    settle_norms(grid, True)
    estimate_norms(grid, [50 * images()])
    assert torch.equal(grid.exact()[0], factor)
    assert grid.running_var.min() > 1


def test_only_powers_of_two_settle() -> None:
    twins = [GridNorm(source(), UNIT, Norm.AFFINE).double().train() for _ in range(2)]
    settle_norms(twins[0], True)
    values = images()
    assert torch.equal(twins[0](values), twins[1](values))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_folding_changes_nothing(bias: bool, affine: bool) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(2, 5, 3, bias=bias)
    norm = source() if affine else nn.BatchNorm2d(5, affine=False)
    values = torch.randn(3, 2, 6, 6)
    expected = norm.eval()(conv(values))
    fold(conv, norm)
    torch.testing.assert_close(conv(values), expected)
