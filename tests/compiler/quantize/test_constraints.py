"""What each constraint makes of the means of its clusters."""
import pytest
import torch
from torch import Tensor

from nomul.compiler.errors import ModelError
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
from nomul.compiler.quantize.kmeans import squared_error

SIX: list[Constraint] = [
    Free(bits=4), PowerOfTwo(bits=4), PowerOfTwo(bits=3, zero=False),
    Pruned(bits=4, fraction=0.7), Fixed(bits=4),
    *(kind(scale=scale) for kind in (Binary, Ternary) for scale in Scale)]


def weights(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 25, generator=generator, dtype=torch.float64) / 5


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("constraint", SIX, ids=lambda constraint: constraint.kind)
def test_values_are_integers_of_their_bits_on_the_grid(constraint: Constraint) -> None:
    values = weights()
    grid = constraint.grid(values)
    start = constraint.start(values, grid)
    counts = torch.bincount(constraint.assign(values, start).flatten(),
                            minlength=constraint.entries).double()
    dictionary = constraint.project(start, counts, grid)
    codes = dictionary / 2.0 ** grid
    half = 2 ** (constraint.value_bits - 1)
    assert dictionary.shape == (constraint.entries,)
    assert torch.equal(codes, codes.round())
    assert -half <= codes.min() and codes.max() < half
    assert torch.equal(constraint.project(dictionary, counts, grid), dictionary)


def test_free_rounds_to_the_nearest_and_clips() -> None:
    means = float64(-99, -0.375, -0.374, 0.125, 0.124, 99)
    projected = Free(bits=3, value_bits=4).project(means, torch.ones(6), -2)
    assert projected.tolist() == [-2.0, -0.25, -0.25, 0.25, 0.0, 1.75]


def test_the_grid_is_the_finest_that_holds_all_weights() -> None:
    assert Free(bits=2).grid(float64(-127 / 128, 0.5)) == -7
    assert Free(bits=2).grid(float64(-127.5 / 128, 0.5)) == -6
    assert Free(bits=2).grid(float64(0, 0)) == -6


def test_powers_of_two_clip_their_exponent_and_keep_the_zero() -> None:
    constraint = PowerOfTwo(bits=3, value_bits=4)  # -8 … 4 times the grid
    means = float64(0.2, 1e-9, -1e-9, 99, -99, 1.5, -2.9, 0)
    projected = constraint.project(means, torch.ones(8), 0)
    assert projected.tolist() == [0, 1, -1, 4, -8, 2, -4, 1]


def test_powers_of_two_start_with_values_that_differ() -> None:
    constraint = PowerOfTwo(bits=4)
    values = weights()
    start = constraint.start(values, constraint.grid(values))
    assert start[0] == 0
    assert len(start.unique()) == 16


def test_pruning_takes_the_smallest_weights() -> None:
    constraint = Pruned(bits=2, fraction=0.5)
    values = float64(0.1, -0.5, 0.3, -0.2, 0.4, 0.2, 0.9, -0.7)
    dictionary = constraint.start(values, -7)
    pruned = constraint.assign(values, dictionary) == 0
    # Of the two weights of size 0.2 both are among the four smallest; 0.3 is the fourth.
    assert pruned.tolist() == [True, False, True, True, False, True, False, False]
    assert constraint.project(dictionary + 1, torch.ones(4), -7)[0] == 0


@pytest.mark.parametrize("fraction, pruned", [(0.0, 0), (0.7, 700), (0.9994, 999), (0.9999, 999)])
def test_pruning_takes_its_share(fraction: float, pruned: int) -> None:
    constraint = Pruned(bits=4, fraction=fraction)
    values = weights()
    dictionary = constraint.project(constraint.start(values, -7), torch.ones(16), -7)
    assert int((constraint.assign(values, dictionary) == 0).sum()) == pruned


def test_the_scale_is_the_mean_magnitude_of_what_is_not_zero() -> None:
    means, counts = float64(-0.5, 0.01, 1.0), float64(3, 100, 1)
    scale = (3 * 0.5 + 1 * 1.0) / 4
    free = Ternary(scale=Scale.FREE).project(means, counts, -10)
    assert free.tolist() == [-127 / 1024, 0, 127 / 1024]  # clipped
    free = Ternary(scale=Scale.FREE).project(means, counts, -5)
    assert free.tolist() == [-scale, 0, scale]
    power = Ternary(scale=Scale.POWER_OF_TWO).project(means, counts, -5)
    assert power.tolist() == [-0.5, 0, 0.5]
    assert Ternary(scale=Scale.UNIT).project(means, counts, 0).tolist() == [-1, 0, 1]
    assert Binary(scale=Scale.UNIT).project(means[::2], counts[::2], 0).tolist() == [-1, 1]


def test_the_scale_stays_where_all_weights_are_zero() -> None:
    means, counts = float64(-0.5, 0.0, 0.5), float64(0, 9, 0)
    assert Ternary().project(means, counts, -5).tolist() == [-0.5, 0, 0.5]


def test_the_fixed_grid_is_the_power_of_two_with_the_least_error() -> None:
    constraint = Fixed(bits=4)
    values = weights()
    errors = {grid: squared_error(values, 2.0 ** grid * torch.arange(-8, 8).double())
              for grid in range(-12, 4)}
    grid = constraint.grid(values)
    assert grid == min(errors, key=errors.__getitem__)
    moved = constraint.project(constraint.start(values, grid) + 1, torch.ones(16), grid)
    assert moved.tolist() == [code * 2.0 ** grid for code in range(-8, 8)]
    assert constraint.value_bits == 4


def test_settings_are_json_values() -> None:
    assert PowerOfTwo(bits=3).settings() == {
        "kind": "pow2", "entries": 8, "bits": 3, "value_bits": 8, "zero": True,
        "rounding": "geometric"}


@pytest.mark.parametrize("make, message", [
    (lambda: Free(bits=9), "dictionary 'free': bits of a weight must be 1 to 8, not 9"),
    (lambda: Fixed(bits=1), "dictionary 'fixed': bits of a value must be 2 to 16, not 1"),
    (lambda: Binary(value_bits=17),
     "dictionary 'binary': bits of a value must be 2 to 16, not 17"),
    (lambda: Pruned(bits=4, fraction=1),
     "dictionary 'pruned': share of pruned weights must be at least 0 and below 1, not 1"),
    (lambda: PowerOfTwo(bits=4, zero=False),
     "dictionary 'pow2': 16 entries must be among 15 allowed values; "
     "use fewer bits of a weight or more bits of a value"),
])
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ModelError) as error:
        make()
    assert str(error.value) == message
