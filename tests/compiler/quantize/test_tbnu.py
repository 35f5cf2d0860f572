# amaranth: UnusedElaboratable=no
"""Table-based neural units: torch equals the golden model, and both are tables alone."""
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nomul.compiler.circuits import tables_of
from nomul.compiler.compactness import activation_table, compactness
from nomul.compiler.errors import ModelError
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Conv2d, Dense, Ints, Layer, Network, PixelEmbedding, Weighted
from nomul.compiler.planner import make_plan
from nomul.compiler.quantize import embedding
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.export import layer_codes, to_network
from nomul.compiler.quantize.nets import ResidualNet
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.recipes import Recipe
from nomul.compiler.quantize.schemes import Scheme
from nomul.compiler.quantize.tables import Tabled
from nomul.compiler.quantize.tbnu import TbnuMethod, table_model
from nomul.compiler.quantize.training import train
from nomul.compiler.storage import load as load_network
from nomul.compiler.storage import save
from nomul.hw.circuits import StaircaseCircuit
from nomul.sim import golden
from nomul.sim.bench import transfer

SHAPE = (7, 6, 2)


def head(channels: int, *modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules, nn.Linear(channels, 4))


class Branches(nn.Module):
    """A shortcut, and a branch of raw sums."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.tanh, self.dense = nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Linear(126, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.tanh(self.norm1(self.conv1(images)))
        scores: torch.Tensor = self.dense(torch.flatten(self.tanh(first + self.conv2(first)), 1))
        return scores


KINDS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: head(7, nn.Flatten(), nn.Linear(84, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh()),
    "relu6": lambda: head(9, nn.Flatten(), nn.Linear(84, 9), nn.BatchNorm1d(9), nn.ReLU6()),
    "conv": lambda: head(27, nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(),
                         nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten()),
    "average": lambda: head(3, nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten()),
    "branches": Branches,
}


def tabled(model: nn.Module, *, codes: int = 7, entries: int = 5, bits: int = 8,
           scheme: Scheme = Scheme.KMEANS, shape: tuple[int, int, int] = SHAPE,
           norm: Norm = Norm.AFFINE) -> tuple[nn.Module, Network]:
    torch.manual_seed(2)
    height, width, channels = shape
    images = torch.randint(0, 1 << bits, (40, channels, height, width)) / (1 << bits)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.normal_(module.bias, std=0.5)
    for _ in range(10):
        model.train()(images)
    result = table_model(model, codes=codes, entries=entries, scheme=scheme, norm=norm,
                         entry=QuantizedInput(bits, -bits), calibration=images)
    for _ in range(10):
        result.train()(images)
    return result.eval(), to_network(result, "net", shape)


def some_images(count: int = 60, bits: int = 8, shape: tuple[int, int, int] = SHAPE) -> Ints:
    return np.random.default_rng(0).integers(0, 1 << bits, (count, *shape))


def differences(model: nn.Module, network: Network, images: Ints) -> list[str]:
    codes, trace = layer_codes(model, images), golden.run(network, images)
    assert list(codes) == list(trace)
    return [name for name in codes if not np.array_equal(codes[name], trace[name])]


@pytest.mark.parametrize("codes, entries", [(7, 5), (4, 9)])
@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_of_each_kind(kind: str, scheme: Scheme, codes: int, entries: int) -> None:
    model, network = tabled(KINDS[kind](), codes=codes, entries=entries, scheme=scheme)
    assert differences(model, network, some_images()) == []
    trace = golden.run(network, some_images())
    for layer in network.layers:
        if isinstance(layer, Weighted):
            assert layer.table is not None and layer.table.shape[0] == entries
            assert layer.table.shape[1] <= codes
            assert len(np.unique(trace[layer.name])) > 1


@pytest.mark.parametrize("norm", [Norm.AFFINE, Norm.FOLD])
def test_every_code_of_a_residual_net(norm: Norm, tmp_path: object) -> None:
    shape = (16, 16, 3)
    model, network = tabled(ResidualNet(blocks=1, width=4, depth=3), shape=shape, norm=norm)
    assert isinstance(network.layers[1], PixelEmbedding) and network.layers[1].name == "embedding"
    assert differences(model, network, some_images(9, shape=shape)) == []
    save(network, f"{tmp_path}/net.nomul")
    assert load_network(f"{tmp_path}/net.nomul") == network


def test_the_comparison_can_fail() -> None:
    model, network = tabled(KINDS["conv"]())
    for layer in network.layers:
        twins: list[Layer] = []
        if isinstance(layer, PixelEmbedding):
            twins = [replace(layer, table=np.roll(layer.table, 40, axis=1))]
        if isinstance(layer, Weighted):
            assert layer.table is not None
            twins = [replace(layer, table=layer.table + (np.arange(5) == 2)[:, None]),
                     replace(layer, table=None), replace(layer, bias=layer.bias + 500)]
        for twin in twins:
            broken = Network(name="broken", layers=tuple(
                twin if other is layer else other for other in network.layers))
            assert layer.name in differences(model, broken, some_images())


def test_the_network_is_the_papers_formula() -> None:
    """Tables of rounded products, rounded biases, and a table behind a shift."""
    model, network = tabled(KINDS["tanh"]())
    trace = golden.run(network, some_images())
    for name, path in (("dense_1", "1"), ("dense_3", "3")):
        dense, module = network[name], model.get_submodule(path)
        source = network.reads(dense)[0]
        assert isinstance(dense, Dense) and isinstance(module, Tabled) and dense.staircase
        levels = source.levels  # type: ignore[union-attr]
        exact = np.outer(dense.dictionary, levels.values) * 2.0 ** (
            dense.exponent + levels.exponent - module.exponent)
        assert dense.table is not None
        assert np.array_equal(dense.table, np.floor(exact + 0.5))
        assert np.abs(dense.table).max() > 50 and (exact != dense.table).any()

        sums = dense.table[dense.assignment, trace[dense.inputs[0]][:, np.newaxis]].sum(axis=2)
        table = activation_table(dense.staircase)
        assert table is not None and table.shift > 2
        index = np.clip((sums + dense.bias + table.offset) >> table.shift, 0,
                        len(table.codes) - 1)
        assert np.array_equal(np.array(table.codes)[index], trace[name])


def test_pixels_become_as_many_codes() -> None:
    _model, network = tabled(KINDS["tanh"](), codes=5)
    layer = network["requantized"]
    assert isinstance(layer, PixelEmbedding)
    assert layer.table.shape == (1, 256, 1) and len(layer.levels) == 5
    assert (np.diff(layer.table[0, :, 0]) >= 0).all()
    _model, network = tabled(KINDS["tanh"](), codes=16, bits=4)
    assert [layer.name for layer in network.layers[:2]] == ["pixels", "flatten_0"]


def test_padding_adds_nothing() -> None:
    _model, network = tabled(KINDS["conv"]())
    for layer in network.layers:
        if isinstance(layer, Conv2d):
            levels = network.reads(layer)[0].levels  # type: ignore[union-attr]
            assert layer.table is not None and levels.zero is not None
            assert not layer.table[:, levels.zero].any()


def test_normalization_leaves_the_weights_shared() -> None:
    _model, network = tabled(KINDS["relu6"](), entries=4)
    dense = network["dense_1"]
    assert isinstance(dense, Dense) and dense.staircase
    assert len(dense.dictionary) == 4 and dense.staircase.per_channel
    assert len(np.unique(dense.staircase.thresholds[:, 0])) > 5


@pytest.mark.parametrize("codes, least", [(16, 60), (5, 12)])
def test_activations_are_looked_up(codes: int, least: int) -> None:
    """The circuit is the paper's: a table of N_x codes at the upper bits of the sums."""
    _model, network = tabled(KINDS["tanh"](), codes=codes, entries=8)
    for entry in make_plan(network).layers[1:3]:
        layer = network[entry.name]
        assert isinstance(layer, Dense) and layer.staircase
        table, found = activation_table(layer.staircase), tables_of(network, layer)
        assert entry.staircase is StaircaseCircuit.TABLE and table and found
        assert found.shift == table.shift and tuple(found.tables[0]) == table.codes
        assert least < len(table.codes) <= found.words <= 256


@pytest.mark.parametrize("kind", ["tanh", "average"])
def test_hardware_is_golden(kind: str) -> None:
    _model, network = tabled(KINDS[kind](), codes=4, entries=3)
    network = Network(name="net", layers=network.layers[:-1])
    body = lower_body(network, make_plan(network))
    lanes = body.i.payload.shape().length
    images = some_images(3)
    flat = images.reshape(-1, lanes)
    got = transfer(body, flat.tolist(), 3 * -(-4 // body.o.payload.shape().length), seed=1)
    found = np.array([list(beat) for beat in got]).reshape(3, -1)[:, :4]
    assert np.array_equal(found, golden.run(network, images).output)


@pytest.mark.train
def test_digits_are_learned(recipe: Recipe) -> None:
    data, teacher = load("digits"), None
    for codes, entries, least in ((16, 16, 0.93), (4, 4, 0.86)):
        method = TbnuMethod(codes=codes, entries=entries)
        trained = train(replace(recipe, rate=3e-3), method, epochs=6, data=data, teacher=teacher)
        teacher = trained.teacher
        assert trained.provenance["method"] == "tbnu"
        trace = golden.run(trained.network, data.images)
        accuracy = (trace.classes == data.labels)[data.test].mean()
        assert accuracy == trained.provenance["accuracy"]["quantized_test"]
        assert accuracy > least
        assert differences(trained.model, trained.network, data.images.astype(np.int64)) == []
        assert compactness(trained.network).largest <= codes * entries


def test_settings_are_values_of_json() -> None:
    assert TbnuMethod(codes=4, entries=10, scheme=Scheme.FIXED).settings() == {
        "method": "tbnu", "codes": 4, "entries": 10, "scheme": "fixed"}


@pytest.mark.parametrize("options, message", [
    ({"codes": 1}, "values of an activation must be 2 to 256, not 1"),
    ({"entries": 300}, "layer '1': dictionary 'clusters': entries must be 2 to 256, not 300"),
])
def test_impossible_tables_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError) as error:
        tabled(KINDS["tanh"](), **options)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_models_that_cannot_be_converted() -> None:
    model = head(3, nn.Flatten(), nn.Linear(84, 3), nn.Tanh())
    with torch.no_grad():
        model[1].bias[0] = float("nan")  # type: ignore[index, operator]
    with pytest.raises(ModelError, match="layer '1': biases must be finite"):
        tabled(model)
    named = nn.Sequential(OrderedDict(requantized=nn.Flatten(), dense=nn.Linear(84, 3)))
    with pytest.raises(ModelError, match="layer 'requantized': its name must be left to the input"):
        tabled(named)


def test_a_table_for_other_levels_is_refused() -> None:
    model, _network = tabled(KINDS["tanh"]())
    module = model.get_submodule("3")
    assert isinstance(module, Tabled)
    module.levels += 1
    with pytest.raises(ModelError, match="layer '3': must read the levels that its table was made"):
        to_network(model, "net", SHAPE)


def test_embeddings_are_not_requantized() -> None:
    net = head(120, embedding.PixelEmbedding(3, 2, channels=2), nn.Conv2d(6, 6, 3), nn.Tanh(),
               nn.Flatten())
    model, network = tabled(net)
    assert network.layers[1].name == "embedding_0"
    assert differences(model, network, some_images()) == []
