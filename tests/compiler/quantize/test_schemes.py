"""Levels of activations: even, for a Laplacian, or by k-means; thresholds on an even grid."""
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize.schemes import Scheme, TableActivation, choose_levels
from nomul.compiler.quantize.stepped import Curve, Stepped, midpoints


def values_of(seed: int = 0, count: int = 20_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def numbers(levels: Levels) -> list[float]:
    return [math.ldexp(value, levels.exponent) for value in levels.values.tolist()]


def error(levels: Levels, curve: Curve, values: Tensor) -> float:
    """Mean squared distance of the curve to its nearest level."""
    results = curve(values.double())
    found = Stepped(curve, levels, midpoints(curve, levels))(values.double())
    return float((found - results).square().mean())


@pytest.mark.parametrize("curve, count, zero, wanted", [
    (Curve.TANH, 8, True, [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75]),
    (Curve.TANH, 3, True, [-1, 0, 127 / 128]),
    (Curve.TANH, 4, False, [-1, -43 / 128, 43 / 128, 127 / 128]),
    (Curve.RELU6, 4, False, [0, 2, 4, 6]),
    (Curve.RELU6, 4, True, [0, 2, 4, 6]),
    (Curve.RELU, 3, True, [0, 2, 4]),
    (Curve.IDENTITY, 2, False, [-3, 127 / 32]),
])
def test_fixed_levels_lie_evenly(curve: Curve, count: int, zero: bool,
                                 wanted: list[float]) -> None:
    values = torch.tensor([-3.0, 0.0, 1.0, 4.0])
    assert numbers(choose_levels(Scheme.FIXED, curve, count, values, zero=zero)) == wanted


@pytest.mark.parametrize("curve", [Curve.TANH, Curve.RELU, Curve.RELU6])
@pytest.mark.parametrize("count", [4, 7, 32])
def test_adapted_levels_are_nearer(curve: Curve, count: int) -> None:
    values = values_of()
    errors = {scheme: error(choose_levels(scheme, curve, count, values, zero=False), curve, values)
              for scheme in Scheme}
    assert errors[Scheme.KMEANS] <= errors[Scheme.LAPLACIAN] * 1.001
    assert errors[Scheme.KMEANS] < errors[Scheme.FIXED]


def test_k_means_finds_the_best_levels_of_a_gaussian() -> None:
    """Lloyd-Max levels of 2 and 4 codes, from the literature."""
    for count, levels in ((2, [0.798]), (4, [0.453, 1.510])):
        found = numbers(choose_levels(Scheme.KMEANS, Curve.IDENTITY, count, values_of(),
                                      zero=False))
        assert found[count // 2:] == pytest.approx(levels, abs=0.03)


@pytest.mark.parametrize("curve", [Curve.IDENTITY, Curve.TANH])
def test_the_laplacian_levels_are_the_best_for_a_laplacian(curve: Curve) -> None:
    place = (torch.arange(50_000) + 0.5) / 50_000 - 0.5
    values = 0.5 - 0.7 * place.sign() * torch.log(1 - 2 * place.abs())
    found, best = (error(choose_levels(scheme, curve, 6, values, zero=False), curve, values)
                   for scheme in (Scheme.LAPLACIAN, Scheme.KMEANS))
    assert found == pytest.approx(best, rel=0.01)
    # For values of another distribution they are not.
    values = torch.cat([values_of() - 3, values_of(1) + 3])
    found, best = (error(choose_levels(scheme, curve, 6, values, zero=False), curve, values)
                   for scheme in (Scheme.LAPLACIAN, Scheme.KMEANS))
    assert found > 1.2 * best


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("count", [2, 5, 16, 200])
def test_levels_have_8_bits_and_a_zero(curve: Curve, scheme: Scheme, count: int) -> None:
    values = values_of() * 3
    levels = choose_levels(scheme, curve, count, values, zero=True)
    assert levels.zero is not None
    assert 2 <= len(levels) <= count
    low, high = levels.values[0], levels.values[-1]
    assert (-128 <= low and high <= 127) if low < 0 else high <= 255
    assert count > 16 or len(levels) >= count - 1
    assert np.gcd.reduce(levels.values) % 2 == 1
    TableActivation(curve, levels)  # whose thresholds exist


def test_values_that_are_all_alike_have_levels() -> None:
    for scheme in Scheme:
        levels = choose_levels(scheme, Curve.RELU, 4, torch.full((9,), -1.0), zero=True)
        assert len(levels) >= 2 and levels.zero == 0


def test_atoms_do_not_swallow_the_levels() -> None:
    """Pixels: four fifths are 0, the others of all kinds."""
    pixels = torch.cat([torch.zeros(8000), torch.linspace(0.1, 1, 2000)])
    levels = choose_levels(Scheme.KMEANS, Curve.IDENTITY, 8, pixels, zero=True)
    assert len(levels) == 8 and sum(level > 0.1 for level in numbers(levels)) == 7


def test_values_must_be_finite() -> None:
    with pytest.raises(ModelError, match="values of the calibration images must be finite"):
        choose_levels(Scheme.FIXED, Curve.TANH, 4, torch.tensor([0.0, math.nan]), zero=True)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("count", [2, 7, 32, 256])
def test_thresholds_are_steps_of_the_activation_table(count: int, scheme: Scheme) -> None:
    levels = choose_levels(scheme, Curve.TANH, count, values_of(), zero=True)
    module = TableActivation(Curve.TANH, levels)
    wanted = midpoints(Curve.TANH, levels)
    starts = np.array([float(start) for start in module.quantizer().starts])
    step = 2.0 ** module.table_exponent
    assert (starts / step == np.floor(starts / step)).all()
    assert np.abs(starts - wanted).max() <= step / 2
    assert (starts[-1] - starts[0]) / step + 2 <= 1024
    if count in (7, 32) or len(levels) > 256:
        assert step <= np.diff(wanted).min() / 4


def test_steps_are_no_finer_than_what_is_read() -> None:
    levels = Levels.uniform(8, exponent=-3)
    assert TableActivation(Curve.TANH, levels, grid=0.25).table_exponent == -2
    assert TableActivation(Curve.TANH, levels, grid=2.0 ** -20).table_exponent == -5
