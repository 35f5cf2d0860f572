"""Torch equals the golden model on every code of networks of images: convolutions, pools,
normalizations, branches, embeddings."""
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nomul.compiler.errors import ModelError
from nomul.compiler.network import (
    Add,
    Conv2d,
    Input,
    Ints,
    Layer,
    MaxPool,
    Network,
    PixelEmbedding,
    Staircase,
    SumPool,
)
from nomul.compiler.quantize import embedding
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.constraints import (
    Binary,
    Constraint,
    Free,
    PowerOfTwo,
    Scale,
    Ternary,
)
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.export import layer_codes, to_network
from nomul.compiler.quantize.nets import ResidualNet, mobile_net, small_net
from nomul.compiler.quantize.norms import GridNorm, Norm
from nomul.compiler.storage import load, save
from nomul.sim import golden

POW2 = PowerOfTwo(bits=4)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def differences(model: nn.Module, network: Network, images: Ints) -> list[str]:
    """Layers in which torch and the golden model differ."""
    codes, trace = layer_codes(model, images), golden.run(network, images)
    assert list(codes) == list(trace)
    return [name for name in codes if not np.array_equal(codes[name], trace[name])]


def quantized(model: nn.Module, constraint: Constraint = POW2, *, shape: tuple[int, int, int],
              bits: int = 4, norm: Norm = Norm.AFFINE, trained: bool = True) -> nn.Module:
    """``model`` with random normalizations, quantized, its statistics those of its images."""
    torch.manual_seed(1)
    height, width, channels = shape
    images = torch.randint(0, 1 << bits, (24, channels, height, width)) / (1 << bits)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            with torch.no_grad():
                module.weight[::3] *= -1
            nn.init.normal_(module.bias, std=0.5)
    for _ in range(20):
        model.train()(images)
    result = quantize_model(model, constraint, entry=QuantizedInput(bits, -bits),
                            calibration=images, norm=norm, activation_bits=3)
    for _ in range(20 if trained else 0):
        result.train()(images)
    return result.eval()


def some_images(shape: tuple[int, int, int], bits: int = 4, count: int = 30) -> Ints:
    return np.random.default_rng(0).integers(0, 1 << bits, (count, *shape))


def head(channels: int, *modules: nn.Module) -> nn.Sequential:
    """``modules``, which give a vector of ``channels``, and a dense layer."""
    return nn.Sequential(*modules, nn.Linear(channels, 4))


SHAPE = (7, 6, 2)
KINDS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: head(60, nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten()),
    "padding": lambda: head(126, nn.Conv2d(2, 3, (5, 3), padding=(2, 1)), nn.ReLU(), nn.Flatten()),
    "stride": lambda: head(36, nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), nn.ReLU(),
                           nn.Flatten()),
    "groups": lambda: head(80, nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(),
                           nn.Flatten()),
    "depthwise": lambda: head(40, nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(), nn.Conv2d(2, 2, 1),
                              nn.ReLU(), nn.Flatten()),
    "norm": lambda: head(60, nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
                         nn.Flatten()),
    "norm1d": lambda: head(5, nn.Flatten(), nn.Linear(84, 5), nn.BatchNorm1d(5), nn.ReLU(),
                           nn.Dropout(0.5)),
    "max pool": lambda: head(12, nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(2, 3, 2), nn.ReLU(),
                             nn.MaxPool2d((2, 1), 1), nn.Flatten()),
    "average pool": lambda: head(6, nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2),
                                 nn.Conv2d(3, 3, 2), nn.ReLU(), nn.AvgPool2d(1), nn.Flatten()),
    "global pool": lambda: head(3, nn.Conv2d(2, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                                nn.Flatten()),
    "signed": lambda: head(8, nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity(),
                           nn.Conv2d(3, 2, 3, padding=1), nn.Identity(), nn.MaxPool2d(3, 3),
                           nn.Flatten()),
}


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_of_each_kind(kind: str, norm: Norm, constraint: Constraint) -> None:
    model = quantized(KINDS[kind](), constraint, shape=SHAPE, norm=norm)
    network = to_network(model, "net", SHAPE)
    assert differences(model, network, some_images(SHAPE)) == []


class Branches(nn.Module):
    """Two branches of other steps, one of them without a layer, and a sum that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.norm3, self.relu = nn.BatchNorm2d(3), nn.ReLU()
        self.dense = nn.Linear(126, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.relu(self.norm1(self.conv1(images)))
        second = self.relu(self.norm3(first + self.norm2(self.conv2(first))))
        scores: Tensor = self.dense(torch.flatten(self.relu(second + first), 1))
        return scores


@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.POWER_OF_TWO])
def test_every_code_of_branches(norm: Norm, constraint: Constraint) -> None:
    model = quantized(Branches(), constraint, shape=SHAPE, norm=norm)
    network = to_network(model, "net", SHAPE)
    assert sum(isinstance(layer, Add) for layer in network.layers) == 2
    assert differences(model, network, some_images(SHAPE)) == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_every_code_of_embeddings(shared: bool, fixed: bool) -> None:
    model = quantized(
        head(120, embedding.PixelEmbedding(3, 2, channels=2, shared=shared, fixed=fixed),
             nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1),
             nn.Flatten()), shape=SHAPE, bits=8)
    network = to_network(model, "net", SHAPE)
    table = network.layers[1]
    assert isinstance(table, PixelEmbedding)
    assert table.table.shape == (1 if shared else 2, 256, 3)
    assert differences(model, network, some_images(SHAPE, 8)) == []


@pytest.mark.parametrize("make, shape, bits, norm", [
    (lambda: small_net((4, 5, 6)), (28, 28, 1), 4, Norm.FOLD),
    (lambda: ResidualNet(blocks=1, width=4, depth=3), (32, 32, 3), 8, Norm.POWER_OF_TWO),
    (lambda: mobile_net(4, 3), (32, 32, 3), 8, Norm.POWER_OF_TWO),
], ids=["small", "residual", "mobile"])
def test_every_code_of_the_recipes_nets(make: Callable[[], nn.Module], shape: tuple[int, int, int],
                                        bits: int, norm: Norm, tmp_path: object) -> None:
    model = quantized(make(), shape=shape, bits=bits, norm=norm)
    network = to_network(model, "net", shape)
    images = some_images(shape, bits, 6)
    assert differences(model, network, images) == []
    varied = [len(np.unique(values)) > 3 for values in golden.run(network, images).values()]
    assert sum(varied) >= len(varied) - 1  # all but the argmax have something to say
    save(network, f"{tmp_path}/net.nomul")
    assert load(f"{tmp_path}/net.nomul") == network


def replaced(network: Network, name: str, layer: Layer) -> Network:
    return Network(name="broken", layers=tuple(
        layer if old.name == name else old for old in network.layers))


def moved(made: Staircase | None) -> Staircase:
    """A staircase whose rows are a little higher."""
    assert made is not None
    rise = 1 + (made.thresholds[:, -1:] - made.thresholds[:, :1]) // 8
    return replace(made, thresholds=made.thresholds + rise)


def test_the_comparison_can_fail() -> None:
    model = quantized(ResidualNet(blocks=1, width=4, depth=3), shape=(32, 32, 3), bits=8)
    network, images = to_network(model, "net", (32, 32, 3)), some_images((32, 32, 3), 8, 6)
    broken = 0
    for layer in network.layers:
        twins: list[Layer] = []
        match layer:
            case Conv2d():
                shifted = (layer.padding[0] + 1, layer.padding[1], layer.padding[2] - 1,
                           layer.padding[3])
                twins = [replace(layer, staircase=moved(layer.staircase)),
                         replace(layer, assignment=layer.assignment[..., ::-1])]
                if layer.padding[2]:
                    twins.append(replace(layer, padding=shifted))
            case Add():
                twins = [replace(layer, shifts=(layer.shifts[0] + 1, layer.shifts[1])),
                         replace(layer, staircase=moved(layer.staircase))]
            case SumPool():
                twins = [replace(layer, staircase=moved(layer.staircase))]
            case PixelEmbedding():
                twins = [replace(layer, table=layer.table[:, ::-1])]
        for twin in twins:
            assert layer.name in differences(model, replaced(network, layer.name, twin), images)
        broken += len(twins)
    assert broken > 20


def test_padding_pools_and_shapes_are_those_of_torch() -> None:
    model = quantized(KINDS["max pool"](), shape=SHAPE)
    network = to_network(model, "net", SHAPE)
    assert [(type(layer), layer.name) for layer in network.layers[:4]] == [
        (Input, "pixels"), (MaxPool, "pool_0"), (Conv2d, "conv_1"), (MaxPool, "pool_3")]
    assert [network.wires[layer.name].shape for layer in network.layers[:4]] == [
        (7, 6, 2), (4, 3, 2), (3, 2, 3), (2, 2, 3)]


def test_channels_of_one_power_of_two_share_their_thresholds() -> None:
    model = quantized(KINDS["norm"](), shape=SHAPE, norm=Norm.POWER_OF_TWO, trained=False)
    norm = model.get_submodule("1")
    assert isinstance(norm, GridNorm)
    with torch.no_grad():
        norm.weight.copy_(norm.running_var.sqrt() * torch.tensor([0.9, 1.1, 1.2]))
    network = to_network(model, "net", SHAPE)
    conv = network["conv_0"]
    assert isinstance(conv, Conv2d) and conv.staircase
    assert not conv.staircase.per_channel and conv.bias.any()
    steps = np.diff(conv.staircase.thresholds[0])
    assert (steps == steps[0]).all() and steps[0] & (steps[0] - 1) == 0
    assert differences(model, network, some_images(SHAPE)) == []
    with torch.no_grad():
        norm.weight[0] *= 2
    network = to_network(model, "net", SHAPE)
    conv = network["conv_0"]
    assert isinstance(conv, Conv2d) and conv.staircase
    assert conv.staircase.per_channel and not conv.bias.any()
    assert differences(model, network, some_images(SHAPE)) == []


@pytest.mark.parametrize("weights", [(0.0, 1.0, -1.0), (0.0, 0.0, 0.0), (-2.0, -1.0, -3.0)])
@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.POWER_OF_TWO])
def test_channels_that_are_constant_or_turned_round(norm: Norm,
                                                    weights: tuple[float, ...]) -> None:
    model = quantized(KINDS["norm"](), shape=SHAPE, norm=norm)
    with torch.no_grad():
        module = model.get_submodule("1")
        assert isinstance(module, GridNorm)
        module.weight.copy_(torch.tensor(weights))
        module.bias.copy_(torch.tensor([0.4, 0.9, -0.2]))
    network = to_network(model, "net", SHAPE)
    conv = network["conv_0"]
    assert isinstance(conv, Conv2d) and conv.staircase
    assert conv.staircase.directions.tolist() == np.sign(weights).astype(int).tolist()
    assert differences(model, network, some_images(SHAPE)) == []


@pytest.mark.parametrize("kind", [Binary, Ternary])
def test_normalization_takes_up_the_gain_of_unit_dictionaries(kind: type[Binary | Ternary]) -> None:
    model = quantized(Branches(), kind(scale=Scale.UNIT), shape=SHAPE)
    assert differences(model, to_network(model, "net", SHAPE), some_images(SHAPE)) == []


class Gains(nn.Module):
    """A sum whose branches grow differently under dictionaries without a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.dense = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(84, 3)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.dense(torch.flatten(self.relu(self.conv(images) + images), 1))
        return scores


class Twice(Gains):
    """Raw sums that two modules read."""

    def forward(self, images: Tensor) -> Tensor:
        sums = self.conv(images)
        scores: Tensor = self.dense(torch.flatten(self.relu(sums + self.relu(sums)), 1))
        return scores


@pytest.mark.parametrize("make, constraint, norm, message", [
    (Gains, Binary(scale=Scale.UNIT), Norm.AFFINE,
     "layer 'add': branches must have one scale, which dictionaries without a scale of their own "
     "do not keep; use another scale, or batch normalization"),
    (Twice, POW2, Norm.AFFINE,
     "layer 'add': reads the raw sums of 'conv', which must then be read once; put an nn.Identity "
     "behind that layer, and read it at all places"),
    (lambda: head(84, nn.BatchNorm2d(2), nn.Flatten()), POW2, Norm.AFFINE,
     "layer '0': must read a Linear, a Conv2d or an addition; move it behind one"),
    (lambda: head(84, nn.BatchNorm2d(2), nn.Flatten()), POW2, Norm.FOLD,
     "layer '0': must read a Linear or a Conv2d that nothing else reads, to be folded into it; "
     "use another normalization"),
    (lambda: head(84, nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False),
                  nn.ReLU(), nn.Flatten()), POW2, Norm.AFFINE,
     "layer '1': must have running statistics; use track_running_stats=True"),
    (lambda: head(84, nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()), POW2,
     Norm.AFFINE, "layer '1': must read codes, but the layer before it gives raw integers; "
                  "put a ReLU between them"),
    (lambda: head(84, nn.AvgPool2d(2, 1), nn.Flatten()), POW2, Norm.AFFINE,
     "layer '0': windows must be square and side by side, without padding; use nn.AvgPool2d(size)"),
    (lambda: head(84, nn.AdaptiveAvgPool2d(2), nn.Flatten()), POW2, Norm.AFFINE,
     "layer '0': output must be one value for each channel; use nn.AdaptiveAvgPool2d(1)"),
    (lambda: head(84, nn.Conv2d(2, 2, 1), nn.Identity(), nn.AvgPool2d(1), nn.Flatten()), POW2,
     Norm.AFFINE, "layer '2': must read codes that are not negative; put a ReLU before it"),
    (lambda: head(84, embedding.PixelEmbedding(1, 2, channels=2), nn.Flatten()), POW2, Norm.AFFINE,
     "layer '0': must read pixels of 8 bits, but the input's step is 0.0625; change pixel_bits or "
     "the input"),
    (lambda: head(84, nn.ReLU(), embedding.PixelEmbedding(1, 2, channels=2), nn.Flatten()), POW2,
     Norm.AFFINE, "layer '1': must read the input; put it first"),
])
def test_models_that_cannot_be_converted(make: Callable[[], nn.Module], constraint: Constraint,
                                         norm: Norm, message: str) -> None:
    model = make()
    with pytest.raises(ModelError) as error:
        quantize_model(model, constraint, entry=QuantizedInput(4, -4), norm=norm,
                       calibration=torch.rand(9, 2, 7, 6))
    assert str(error.value) == message


@pytest.mark.parametrize("module, message", [
    (nn.Conv2d(2, 2, 1, dilation=2), "dilation must be 1, the stride equal"),
    (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "dilation must be 1, the stride equal"),
    (nn.Conv2d(2, 2, 1, stride=(1, 2)), "dilation must be 1, the stride equal"),
    (nn.MaxPool2d(2, ceil_mode=True), "dilation must be 1, the stride equal in both directions, "
                                      "and ceil_mode off"),
])
def test_windows_that_cannot_be_exported(module: nn.Module, message: str) -> None:
    model = quantize_model(nn.Sequential(module, nn.ReLU()) if isinstance(module, nn.Conv2d)
                           else nn.Sequential(module), Free(bits=2), entry=QuantizedInput(4, -4),
                           calibration=torch.rand(9, 2, 7, 6)).eval()
    with pytest.raises(ModelError, match=f"layer '0': {message}"):
        to_network(model, "net", SHAPE)


def test_sums_too_large_for_float64_are_refused() -> None:
    model = quantized(KINDS["norm"](), Free(bits=4, value_bits=16), shape=SHAPE)
    norm = model.get_submodule("1")
    assert isinstance(norm, GridNorm)
    norm.unit.mul_(2.0 ** -30)
    with pytest.raises(ModelError, match="have at most 41 bits, to be exact in float64"):
        to_network(model, "net", SHAPE)


def test_names_of_nested_modules() -> None:
    inner = nn.Sequential(OrderedDict([("conv", nn.Conv2d(2, 2, 1)), ("relu", nn.ReLU())]))
    model = quantized(head(84, inner, nn.Flatten()), shape=SHAPE)
    assert [layer.name for layer in to_network(model, "net", SHAPE).layers] == [
        "pixels", "conv_0_conv", "flatten_1", "dense_2", "argmax"]
