"""Codebooks as integers, and what they save."""
import math

import pytest
import torch

from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.memory import compression_ratio


def codebook(*entries: float, scale: float = 1.0) -> Codebook:
    return Codebook(entries=torch.tensor(entries, dtype=torch.float64), scale=scale,
                    assignment=torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("scale", [0.037, -12.9, 1.0, 1e-9])
@pytest.mark.parametrize("entries", [(-1.0, 1.0), (-1.0, 0.0, 1.0), (-0.75, 0.25, 1.5)])
def test_a_scale_leaves_the_ratio_of_whole_entries(entries: tuple[float, ...], scale: float,
                                                   ) -> None:
    codes, exponent = codebook(*entries, scale=scale).on_grid(16)
    factor = math.gcd(*codes.tolist())
    ratios = [4 * entry * math.copysign(1, scale) for entry in entries]
    divisor = math.gcd(*map(int, ratios))
    assert codes.tolist() == [factor * int(ratio) // divisor for ratio in ratios]
    assert factor * 2.0 ** exponent == pytest.approx(abs(scale) * divisor / 4, rel=2 ** -12)
    assert codes.abs().max() < 2 ** 15


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_learned_values_are_rounded_to_the_finest_grid(bits: int) -> None:
    values = torch.randn(16, generator=torch.Generator().manual_seed(bits)).double()
    codes, exponent = codebook(*values.tolist()).on_grid(bits)
    half = 2 ** (bits - 1)
    assert half / 2 <= codes.abs().max() < half
    assert (codes * 2.0 ** exponent - values).abs().max() <= 2.0 ** (exponent - 1)


def test_no_grid_is_finer_than_allowed() -> None:
    for entries, scale in (((-0.3, 0.1), 1.0), ((-1.0, 1.0), 0.3)):
        codes, exponent = codebook(*entries, scale=scale).on_grid(16, finest=-4)
        assert exponent == -4
        assert codes.tolist() == [round(entry * scale * 16) for entry in entries]


def test_powers_of_two_and_whole_numbers_stay_as_they_are() -> None:
    for entries in ((-1.0, -2.0 ** -14, 0.0, 1.0), (-3.0, -1.0, 5.0), (0.0,)):
        codes, exponent = codebook(*entries).on_grid(16)
        assert (codes * 2.0 ** exponent).tolist() == [*entries]


def test_weights_are_entries_times_scale_and_corrections() -> None:
    found = Codebook(entries=torch.tensor([-1.0, 1.0]), assignment=torch.tensor([[0, 1, 1]]),
                     scale=0.5, correction=torch.tensor([[0.0, 0.25, 0.0]]))
    assert found.weights().tolist() == [[-0.5, 0.75, 0.5]]
    parts = found.view(torch.Size([3])).split([1, 2])
    assert [part.weights().tolist() for part in parts] == [[-0.5], [0.75, 0.5]]


@pytest.mark.parametrize("entries, ratio", [(2, 30.52), (4, 15.63)])
def test_lenet300_is_compressed_as_in_the_paper(entries: int, ratio: float) -> None:
    found = compression_ratio(weights=266_200, biases=410, codebooks=3, entries=entries)
    assert round(found, 2) == ratio


def test_corrections_take_a_float_and_an_index() -> None:
    found = compression_ratio(weights=1024, biases=0, codebooks=1, entries=2, corrections=10)
    assert found == 32 * 1024 / (1024 + 64 + 10 * (32 + 10))
