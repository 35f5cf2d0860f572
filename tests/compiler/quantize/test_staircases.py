"""Thresholds in fractions against the quantizer itself, on every integer."""
from fractions import Fraction

import numpy as np
import pytest

from nomul.compiler.network import Levels, Staircase
from nomul.compiler.quantize.staircases import Affine, Quantizer, staircase
from nomul.sim.golden import apply_staircase

CODES = Quantizer.uniform(0, 7, -1)
SIGNED = Quantizer.uniform(-4, 3, -2)


def affine(factor: Fraction | float, offset: Fraction | float = 0) -> Affine:
    return Affine(factor=Fraction(factor), offset=Fraction(offset))


def wanted(quantizer: Quantizer, unit: Fraction, channel: Affine, acc: int) -> int:
    """The code of one accumulator, by the definition."""
    value = channel.factor * acc * unit + channel.offset
    level = (value / quantizer.unit + Fraction(1, 2)).__floor__()
    low, top = int(quantizer.levels.values[0]), int(quantizer.levels.values[-1])
    return min(max(level, low), top) - low


def differences(made: Staircase, bias: np.ndarray, quantizer: Quantizer, unit: Fraction,
                channels: list[Affine]) -> int:
    accs = np.arange(-400, 400)
    found = apply_staircase(made, accs[:, np.newaxis] + bias)
    return sum(code != wanted(quantizer, unit, channel, acc)
               for acc, row in zip(accs.tolist(), found.tolist(), strict=True)
               for channel, code in zip(channels, row, strict=True))


@pytest.mark.parametrize("unit", [Fraction(1, 64), Fraction(23, 512), Fraction(3), Fraction(1)])
@pytest.mark.parametrize("quantizer", [CODES, SIGNED], ids=["unsigned", "signed"])
def test_thresholds_are_where_the_code_changes(quantizer: Quantizer, unit: Fraction) -> None:
    made, bias = staircase(quantizer, unit)
    assert made.thresholds.shape == (1, 7) and not len(bias)
    assert differences(made, np.zeros(1, np.int64), quantizer, unit, [affine(1)]) == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("quantizer", [CODES, SIGNED], ids=["unsigned", "signed"])
def test_every_channel_of_a_normalization(quantizer: Quantizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unit = Fraction(int(rng.integers(1, 9)), 64)
    channels = [affine(float(rng.normal()), float(rng.normal())) for _ in range(6)]
    channels += [affine(0, float(rng.normal())), affine(-1, Fraction(1, 4)), affine(2)]
    made, bias = staircase(quantizer, unit, channels, biased=True)
    assert made.per_channel and {-1, 0, 1} == set(made.directions.tolist())
    assert differences(made, bias, quantizer, unit, channels) == 0
    # A broken twin: one threshold of one channel, moved by one.
    thresholds = made.thresholds.copy()
    thresholds[7] += 1
    broken = Staircase(thresholds=thresholds, levels=made.levels, directions=made.directions,
                       constants=made.constants)
    assert differences(broken, bias, quantizer, unit, channels) > 0


def test_channels_of_one_factor_share_their_row() -> None:
    unit = Fraction(1, 64)
    channels = [affine(Fraction(1, 2), Fraction(shift, 128)) for shift in (0, 7, -90, 300)]
    made, bias = staircase(CODES, unit, channels, biased=True)
    assert made.thresholds.tolist() == [[32, 96, 160, 224, 288, 352, 416]]
    assert bias.tolist() == [0, 7, -90, 300]
    assert differences(made, bias, CODES, unit, channels) == 0
    assert differences(made, bias + 1, CODES, unit, channels) > 0


@pytest.mark.parametrize("channels, biased", [
    ([affine(1), affine(1, Fraction(1, 8))], False),  # nowhere to put the shift
    ([affine(1), affine(2)], True),  # another step
    ([affine(1), affine(-1)], True),  # another direction
    ([affine(Fraction(1, 3)), affine(Fraction(1, 3), Fraction(1, 7))], True),  # uneven rounding
])
def test_other_channels_do_not_share(channels: list[Affine], biased: bool) -> None:
    unit = Fraction(5, 64)
    made, bias = staircase(CODES, unit, channels, biased=biased)
    assert len(made.thresholds) == 2 and not bias.any()
    assert differences(made, bias, CODES, unit, channels) == 0


def test_equal_channels_share_without_a_bias() -> None:
    made, bias = staircase(CODES, Fraction(1, 64), [affine(1), affine(1)])
    assert not made.per_channel and not bias.any()


def test_single_thresholds_always_share() -> None:
    binary = Quantizer.uniform(0, 1, 0)
    channels = [affine(0.3, 0.2), affine(1.7, -3)]
    made, bias = staircase(binary, Fraction(1, 16), channels, biased=True)
    assert not made.per_channel
    assert differences(made, bias, binary, Fraction(1, 16), channels) == 0


def test_thresholds_out_of_reach_stay_integers_of_a_network() -> None:
    channels = [affine(Fraction(1, 1 << 70), 1), affine(Fraction(1, 1 << 70), -1)]
    made, bias = staircase(CODES, Fraction(1, 64), channels, biased=True)
    assert abs(made.thresholds).max() == 1 << 51
    assert differences(made, bias, CODES, Fraction(1, 64), channels) == 0


def test_starts_that_are_not_uniform() -> None:
    levels = Levels(values=np.array([-7, -1, 0, 9]), exponent=-3)
    starts = (Fraction(-3, 2), Fraction(-3, 2), Fraction(7, 3))
    quantizer = Quantizer(levels=levels, starts=starts)
    unit = Fraction(1, 6)
    channels = [affine(1), affine(-1), affine(Fraction(1, 2), Fraction(1, 9))]
    made, _bias = staircase(quantizer, unit, channels)
    assert made.levels == levels
    accs = np.arange(-60, 60)
    found = apply_staircase(made, accs[:, np.newaxis].repeat(3, axis=1))
    for acc, row in zip(accs.tolist(), found.tolist(), strict=True):
        values = [channel.factor * acc * unit + channel.offset for channel in channels]
        assert row == [sum(value >= start for start in starts) for value in values]


@pytest.mark.parametrize("starts", [(Fraction(1),), (Fraction(2), Fraction(1))])
def test_starts_must_belong_to_the_levels(starts: tuple[Fraction, ...]) -> None:
    with pytest.raises(ValueError, match="Starts of codes must be 2 in increasing order"):
        Quantizer(levels=Levels.uniform(3), starts=starts)
