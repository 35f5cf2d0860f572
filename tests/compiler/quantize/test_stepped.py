"""Monotone functions of few levels: exact thresholds forward, the smooth gradient backward."""
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Dense, Levels, Network
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.constraints import Binary, Constraint, Free, Scale
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.export import layer_codes, to_network
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.staircases import Affine, staircase
from nomul.compiler.quantize.stepped import Curve, QuantizedTanh, Stepped, midpoints
from nomul.sim import golden

UNEVEN = Levels(values=np.array([-9, -4, 0, 1, 6]), exponent=-3)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_level_of_tanh_begins_at_the_midpoint(bits: int) -> None:
    tanh, half = QuantizedTanh(bits), 2 ** (bits - 1)
    assert (tanh.step, tanh.signed) == (1 / half, True)
    for level in range(1 - half, half):
        start = math.atanh((level - 0.5) / half)
        values = torch.tensor([math.nextafter(start, -9), start], dtype=torch.float64)
        assert tanh(values).tolist() == [(level - 1) / half, level / half]
    far = torch.tensor([-math.inf, -9, 9, math.inf])
    assert tanh(far).tolist() == [-1, -1, 1 - 1 / half, 1 - 1 / half]


def test_levels_are_the_nearest_to_tanh() -> None:
    values = torch.linspace(-4, 4, 4001)
    error = (QuantizedTanh(5)(values) - torch.tanh(values)).abs()
    assert error[torch.tanh(values) < 15 / 16].max() <= 1 / 32 + 1e-6


@pytest.mark.parametrize("curve", Curve)
def test_the_gradient_is_that_of_the_smooth_curve(curve: Curve) -> None:
    levels = Levels.uniform(5, exponent=-3)
    stepped = Stepped(curve, levels, midpoints(curve, levels), gain=2)
    values = torch.linspace(-14, 14, 57).requires_grad_()
    twin = values.detach().clone().requires_grad_()
    weight = torch.randn(57)
    (stepped(values) * weight).sum().backward()
    (curve(twin / 2) * weight).sum().backward()
    assert values.grad is not None and twin.grad is not None
    assert torch.equal(values.grad, twin.grad)
    assert values.grad.any()


def test_what_a_curve_never_reaches_has_no_threshold() -> None:
    with pytest.raises(ValueError, match=r"Value of tanh must lie between -1\.0 and 1\.0, not 1"):
        midpoints(Curve.TANH, Levels.uniform(3, step=1, exponent=1))


def test_thresholds_stay_when_the_type_changes() -> None:
    tanh = QuantizedTanh(4)
    starts = tanh.quantizer().starts
    assert any(Fraction(float(np.float32(float(start)))) != start for start in starts)
    assert copy.deepcopy(tanh).bfloat16().double().quantizer().starts == starts
    other = QuantizedTanh(4, gain=3)
    other.load_state_dict(tanh.state_dict())
    assert other.quantizer() == tanh.quantizer()
    values = torch.linspace(-2, 2, 9)
    assert torch.equal(tanh(values.bfloat16()), tanh(values).bfloat16())


@pytest.mark.parametrize("unit", [Fraction(1, 256), Fraction(23, 4096), Fraction(1)])
@pytest.mark.parametrize("gain", [1.0, 0.37, 12.5])
def test_thresholds_are_exact_on_every_accumulator(unit: Fraction, gain: float) -> None:
    module = QuantizedTanh(4, gain=gain)
    made, _bias = staircase(module.quantizer(), unit)
    reach = math.ceil(2 * gain / unit)
    accs = np.arange(-reach, reach + 1)
    wanted = module(torch.from_numpy(accs).double() * float(unit)) * 8 + 8
    found = golden.apply_staircase(made, accs[:, np.newaxis])[:, 0]
    assert np.array_equal(found, wanted.numpy())
    assert len(np.unique(found)) == min(16, len(accs))
    if len(accs) > 16:  # the broken twin
        moved = replace(made, thresholds=made.thresholds + (np.arange(15) == 7))
        assert (golden.apply_staircase(moved, accs[:, np.newaxis])[:, 0] != found).sum() == 1


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_thresholds_an_ulp_from_an_accumulator(off: int) -> None:
    unit = Fraction(3, 64)
    starts = [float(acc * unit) for acc in (-21, -4, 5, 90)]
    starts = [math.nextafter(start, off * math.inf) if off else start for start in starts]
    module = Stepped(Curve.IDENTITY, UNEVEN, starts)
    made, _bias = staircase(module.quantizer(), unit)
    assert made.thresholds.tolist() == [[acc + (off > 0) for acc in (-21, -4, 5, 90)]]
    channel = Affine(factor=Fraction(-3, 2), offset=Fraction(9, 64))
    turned, _bias = staircase(module.quantizer(), unit, [channel])
    accs = np.arange(-99, 99)
    for staircase_, values in ((made, accs * float(unit)),
                               (turned, accs * float(unit) * -1.5 + 9 / 64)):
        found = golden.apply_staircase(staircase_, accs[:, np.newaxis])[:, 0]
        assert np.array_equal(found, module.codes(torch.from_numpy(values)).numpy())


def head(channels: int, *modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules, nn.Linear(channels, 4))


SHAPE = (7, 6, 2)
KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: head(9, nn.Flatten(), nn.Linear(84, 9), nn.Tanh()),
    "norm1d": lambda: head(9, nn.Flatten(), nn.Linear(84, 9), nn.BatchNorm1d(9), nn.Tanh()),
    "conv": lambda: head(126, nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(),
                         nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(1), nn.Flatten()),
    "norm": lambda: head(60, nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(),
                         nn.Flatten()),
    "relu6": lambda: head(60, nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU6(), nn.Conv2d(3, 3, 1),
                          nn.ReLU6(), nn.Flatten()),
}


def quantized(make: Callable[[], nn.Module], constraint: Constraint, norm: Norm,
              ) -> tuple[nn.Module, Network]:
    torch.manual_seed(3)
    model, images = make(), torch.randint(0, 16, (24, 2, 7, 6)) / 16
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.normal_(module.bias)
    for _ in range(10):
        model.train()(images)
    result = quantize_model(model, constraint, entry=QuantizedInput(4, -4), calibration=images,
                            activation_bits=3, norm=norm).eval()
    return result, to_network(result, "net", SHAPE)


@pytest.mark.parametrize("constraint", [Free(bits=4), Binary(scale=Scale.UNIT)], ids=repr)
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_of_each_kind(kind: str, norm: Norm, constraint: Constraint) -> None:
    model, network = quantized(KINDS[kind], constraint, norm)
    images = np.random.default_rng(0).integers(0, 16, (200, *SHAPE))
    codes, trace = layer_codes(model, images), golden.run(network, images)
    assert [name for name in codes if not np.array_equal(codes[name], trace[name])] == []
    coded = [name for name in trace.accumulators]
    assert all(len(np.unique(codes[name])) > 3 for name in coded)
    # A broken twin: one row of thresholds, moved.
    layer = next(layer for layer in network.layers if layer.name == coded[0])
    made = layer.staircase  # type: ignore[attr-defined]
    moved = replace(made, thresholds=made.thresholds + 1 + np.ptp(made.thresholds) // 8)
    broken = Network(name="broken", layers=tuple(
        replace(item, staircase=moved) if item is layer else item  # type: ignore[call-arg]
        for item in network.layers))
    assert not np.array_equal(golden.run(broken, images)[coded[0]], codes[coded[0]])


def test_unit_dictionaries_do_not_change_what_tanh_reads() -> None:
    """Sums of -1 and 1 are many times too large; the thresholds are, too."""
    model, network = quantized(KINDS["linear"], Binary(scale=Scale.UNIT), Norm.AFFINE)
    tanh, dense = model.get_submodule("2"), network["dense_1"]
    assert isinstance(tanh, QuantizedTanh) and isinstance(dense, Dense) and dense.staircase
    assert tanh.gain > 5
    assert np.abs(golden.run(network, np.full((1, *SHAPE), 9)).accumulators["dense_1"]).max() > 100
    top = float(tanh.quantizer().starts[-1])
    assert top == math.atanh(5 / 8) * tanh.gain


def test_relu6_has_no_level_above_6() -> None:
    _model, network = quantized(KINDS["relu6"], Free(bits=4), Norm.AFFINE)
    for layer in network.layers[1:3]:
        levels = layer.staircase.levels  # type: ignore[attr-defined]
        values = levels.values * 2.0 ** levels.exponent
        assert values[-1] <= 6


@pytest.mark.parametrize("bits", [1, 9])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits of a code must be 2 to 8, not {bits}"):
        QuantizedTanh(bits)


def test_tanh_needs_a_sign() -> None:
    with pytest.raises(ModelError, match=r"layer '2': codes of a tanh must have at least 2 bits"):
        quantize_model(KINDS["linear"](), Free(bits=4), entry=QuantizedInput(4, -4),
                       calibration=torch.rand(9, 2, 7, 6), activation_bits=1)
