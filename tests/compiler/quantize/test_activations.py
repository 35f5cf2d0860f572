"""Codes of activations: exact at every threshold, straight through inside the range."""
import math
from fractions import Fraction

import pytest
import torch

from nomul.compiler.quantize.activations import (
    QuantizedAverage,
    QuantizedIdentity,
    QuantizedInput,
    QuantizedReLU,
    QuantizedReLU6,
)


@pytest.mark.parametrize("exponent", [-4, 0, 2])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_code_begins_exactly_at_its_threshold(bits: int, exponent: int) -> None:
    relu = QuantizedReLU(bits, exponent)
    step = relu.step
    assert step == 2.0 ** exponent
    for code in range(1, 2 ** bits):
        threshold = (code - 0.5) * step
        values = torch.tensor([math.nextafter(threshold, 0), threshold], dtype=torch.float64)
        assert relu(values).tolist() == [(code - 1) * step, code * step]
    far = torch.tensor([-math.inf, -step, 1e9, math.inf])
    assert relu(far).tolist() == [0, 0, (2 ** bits - 1) * step, (2 ** bits - 1) * step]


def test_the_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    relu = QuantizedReLU(2, -1)  # 0, 0.5, 1, 1.5
    values = torch.tensor([-0.1, 0.0, 0.1, 0.74, 1.49, 1.5, 2.0], requires_grad=True)
    (relu(values) * torch.arange(7)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 2, 3, 4, 0, 0]


def test_the_input_gives_back_its_own_levels() -> None:
    levels = torch.arange(16) / 16
    assert torch.equal(QuantizedInput(4, -4)(levels), levels)
    assert QuantizedInput(4, -4)(torch.tensor([1.0])).tolist() == [15 / 16]


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_calibration_takes_the_step_with_the_least_error(scale: float) -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * scale
    relu = QuantizedReLU(4)
    relu.calibrate(values)
    wanted = values.clamp(min=0).double()
    errors = {exponent: float((QuantizedReLU(4, exponent)(wanted) - wanted).square().sum())
              for exponent in range(-20, 20)}
    assert int(relu.exponent) == min(errors, key=errors.__getitem__)


def test_calibration_keeps_the_step_where_nothing_passes() -> None:
    relu = QuantizedReLU(4, -3)
    relu.calibrate(-torch.ones(5))
    assert int(relu.exponent) == -3


def test_the_step_is_part_of_the_state() -> None:
    relu = QuantizedReLU(4)
    relu.load_state_dict(QuantizedReLU(4, -5).state_dict())
    assert relu.step == 2.0 ** -5
    assert repr(relu) == "QuantizedReLU(bits=4, step=2**-5)"


@pytest.mark.parametrize("bits", [2, 4])
def test_signed_codes_begin_exactly_at_their_thresholds(bits: int) -> None:
    codes = QuantizedIdentity(bits, -3)
    half = 2 ** (bits - 1)
    assert (codes.low, codes.top) == (-half, half - 1)
    for level in range(-half + 1, half):
        threshold = (level - 0.5) / 8
        values = torch.tensor([math.nextafter(threshold, -9), threshold], dtype=torch.float64)
        assert codes(values).tolist() == [(level - 1) / 8, level / 8]
    values = torch.tensor([-99.0, -0.1, 0.1, 99.0], requires_grad=True)
    codes(values).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="bits of a code must be 2 to 8, not 1"):
        QuantizedIdentity(1)


def test_signed_codes_are_calibrated_on_both_sides() -> None:
    codes = QuantizedIdentity(3)
    codes.calibrate(torch.tensor([-3.9, -1.0, 0.0, 1.1, 2.9]))
    assert codes.step == 1.0


@pytest.mark.parametrize("kernel", [2, 3, None])
def test_an_average_is_rounded_once(kernel: int | None) -> None:
    """Every sum of a window against fractions; 9 and 42 values are no power of two."""
    module = QuantizedAverage(3, kernel, exponent=-1)
    count = 42 if kernel is None else kernel ** 2
    for total in range(count * 15 + 1):
        image = torch.zeros(1, 1, 6, 7, dtype=torch.float64)
        image[0, 0, 0, 0] = total / 4
        mean = Fraction(total, 4 * count)
        level = min(math.floor(mean / Fraction(1, 2) + Fraction(1, 2)), 7)
        assert float(module(image)[0, 0, 0, 0]) == level / 2


def test_the_gradient_of_an_average_is_shared_out() -> None:
    values = torch.full((1, 2, 4, 4), 0.6, requires_grad=True)
    QuantizedAverage(4, 2, exponent=-3)(values).sum().backward()
    assert values.grad is not None and torch.allclose(values.grad, torch.tensor(0.25))


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_relu6_stops_at_its_limit(bits: int) -> None:
    relu = QuantizedReLU6(bits)
    relu.calibrate(torch.linspace(-3, 30, 500))
    top = float(relu(torch.tensor([99.0])))
    assert top == relu.top * relu.step <= 6
    assert top > 6 - relu.step or relu.top == 2 ** bits - 1
    values = torch.tensor([-0.1, 0.1, top - 0.1, 6.1], requires_grad=True)
    relu(values).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits of a code must be 1 to 8, not {bits}"):
        QuantizedReLU(bits)
