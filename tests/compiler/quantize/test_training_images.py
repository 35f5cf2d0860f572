"""Training of nets of images, on a few made-up ones: every recipe runs, goes on, and exports."""
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize import course
from nomul.compiler.quantize.augment import Augmentation, CropAndFlip
from nomul.compiler.quantize.constraints import PowerOfTwo
from nomul.compiler.quantize.datasets import Dataset
from nomul.compiler.quantize.export import layer_codes
from nomul.compiler.quantize.methods import LutqMethod
from nomul.compiler.quantize.nets import ResidualNet, mobile_net, small_net
from nomul.compiler.quantize.recipes import Recipe, recipe_of
from nomul.compiler.quantize.training import fit, train
from nomul.sim import golden

pytestmark = pytest.mark.train

POW2 = LutqMethod(constraint=PowerOfTwo(bits=4))


def made_up(side: int, channels: int, count: int = 60) -> Dataset:
    """Images of noise that get brighter with their class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    images = rng.integers(0, 100, (count, side, side, channels)) + 15 * labels[:, None, None, None]
    train_, validation, test = np.split(np.arange(count), [count // 2, 3 * count // 4])
    return Dataset(name="made_up", images=images.astype(np.uint8), labels=labels,
                   levels=Levels.uniform(256, exponent=-8), classes=tuple("0123456789"),
                   train=train_, validation=validation, test=test, licence="none")


def tiny(name: str, model: Callable[[], nn.Module]) -> Recipe:
    return replace(recipe_of(name), model=model, batch=10, calibration=20, threads=1,
                   accelerate=False, checkpoint_every=1)


RECIPES = {
    "mnist": (tiny("mnist", lambda: small_net((4, 4, 6))), made_up(28, 1)),
    "fashion": (tiny("fashion", lambda: small_net((4, 4, 6))), made_up(28, 1)),
    "cifar10": (tiny("cifar10", lambda: ResidualNet(blocks=1, width=4, depth=2)), made_up(32, 3)),
    "cifar10_mobile": (tiny("cifar10-mobile", lambda: mobile_net(4, 2)), made_up(32, 3)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_to_an_exact_network(name: str) -> None:
    recipe, data = RECIPES[name]
    trained = train(recipe, POW2, epochs=2, data=data)
    images = data.codes(trained.network.input.levels)
    codes, trace = layer_codes(trained.model, images), golden.run(trained.network, images)
    assert list(codes) == list(trace)
    for layer, values in codes.items():
        assert np.array_equal(values, trace[layer]), layer
    right = (trace.classes == data.labels)
    accuracy = trained.provenance["accuracy"]
    assert right[data.test].mean() == accuracy["quantized_test"]
    assert right[data.validation].mean() == accuracy["quantized_validation"]
    assert trained.provenance["data"]["name"] == "made_up"


@pytest.mark.parametrize("name, stage", [("cifar10", "float"), ("cifar10", "lutq"),
                                         ("mnist", "lutq")])
def test_an_interrupted_training_ends_alike(name: str, stage: str, tmp_path: Path) -> None:
    """With running statistics, momentum and a pixel embedding in the checkpoint."""
    recipe, data = RECIPES[name]
    whole = train(recipe, POW2, epochs=3, data=data)

    class Interrupted(Exception):
        pass

    def interrupt(at: str, done: int, total: int, text: str) -> None:
        if (at, done) == (stage, 2):
            raise Interrupted

    path = tmp_path / "a.ckpt"
    with pytest.raises(Interrupted):
        train(recipe, POW2, epochs=3, data=data, progress=interrupt, checkpoint=path)
    again = train(recipe, POW2, epochs=3, data=data, checkpoint=path)
    assert again.network == whole.network
    assert again.provenance == whole.provenance


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files cannot grow beyond ``size`` bytes: a write that would fails half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    recipe, data = RECIPES["mnist"]
    path = tmp_path / "a.ckpt"
    kept: list[bytes] = []

    def after_two_epochs(stage: str, done: int, total: int, text: str) -> None:
        if (stage, done) == ("float", 3):
            kept.append(path.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (
                len(kept[0]) // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with disk_of(resource.RLIM_INFINITY), pytest.raises(DataError) as error:
        train(recipe, POW2, epochs=4, data=data, checkpoint=path, progress=after_two_epochs)
    assert str(error.value) == (f"file '{path}' cannot be written (File too large); "
                                "free space or choose another place")
    assert path.read_bytes() == kept[0]
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
    whole = train(recipe, POW2, epochs=4, data=data)
    assert train(recipe, POW2, epochs=4, data=data, checkpoint=path).network == whole.network


@pytest.mark.parametrize("settled, moves", [(0.0, [1, 1, 1, 1]), (0.5, [1, 1, 0, 0]),
                                            (1.0, [0, 0, 0, 0])])
def test_dictionaries_settle(settled: float, moves: list[int],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = RECIPES["mnist"]
    seen: list[bool] = []
    original = course.update_dictionaries

    def spy(model: nn.Module, *, settled: bool = False, checked: bool = True) -> None:
        seen.append(settled)
        original(model, settled=settled, checked=checked)

    monkeypatch.setattr(course, "update_dictionaries", spy)
    train(replace(recipe, settled=settled), POW2, epochs=4, data=data)
    assert seen[12:] == [not move for move in moves for _ in range(3)]


def test_statistics_are_averaged_anew_before_each_score(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = RECIPES["mnist"]
    steps: list[str] = []
    estimate, score = course.estimate_norms, course.Part.score

    def spy(model: nn.Module, batches: Iterable[Tensor]) -> None:
        steps.append("estimate")
        estimate(model, batches)

    def spied(part: course.Part, model: nn.Module) -> tuple[float, float]:
        steps.append("score")
        return score(part, model)

    monkeypatch.setattr(course, "estimate_norms", spy)
    monkeypatch.setattr(course.Part, "score", spied)
    train(recipe, POW2, epochs=3, data=data)
    assert steps[:12] == ["estimate", "score"] * 6


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_that_the_data_has_not_are_refused(bits: int) -> None:
    recipe, data = RECIPES["mnist"]
    with pytest.raises(ModelError, match="recipe 'mnist': bits of the input must be 1 to 8, as "
                                         f"the data set has, not {bits}"):
        train(replace(recipe, input_bits=bits), POW2, epochs=1, data=data)


def test_the_input_has_the_recipes_bits() -> None:
    recipe, data = RECIPES["mnist"]
    network = train(replace(recipe, input_bits=2), POW2, epochs=1, data=data).network
    assert network.input.levels == Levels.uniform(4, exponent=-2)


def test_crops_and_flips_are_whole_pixels() -> None:
    images = torch.arange(1.0, 13).reshape(1, 1, 3, 4).repeat(400, 2, 1, 1)
    images[:, 1] *= 100
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(CropAndFlip()(images, generator), images)
    found = CropAndFlip(crop=1, flip=True)(images, generator)
    assert torch.equal(found[:, 1], 100 * found[:, 0])
    padded = torch.nn.functional.pad(images[0, 0], [1] * 4)
    views = {tuple(view.flatten().tolist()) for down in range(3) for right in range(3)
             for view in (padded[down:down + 3, right:right + 4],
                          padded[down:down + 3, right:right + 4].flip(1))}
    assert {tuple(image.flatten().tolist()) for image in found[:, 0]} == views


def test_augmentation_without_noise_draws_none() -> None:
    generator = torch.Generator().manual_seed(0)
    Augmentation()(torch.zeros(3, 1, 4, 4), generator)
    twin = torch.Generator().manual_seed(0)
    torch.rand(5, 3, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_layers_kept_in_float_are_trained_but_not_exported() -> None:
    recipe, data = RECIPES["cifar10"]
    compared = replace(recipe, model=lambda: ResidualNet(blocks=1, width=4, depth=0),
                       kept=("conv", "norm"))
    fitted = fit(compared, POW2, epochs=1, data=data)
    first = fitted.model.get_submodule("conv").weight
    assert len(first.unique()) == first.numel()
    second = fitted.model.get_submodule("blocks.0.conv1").weight
    assert len(second.unique()) <= 16
    assert fitted.provenance["recipe"]["kept"] == ("conv", "norm")
    with pytest.raises(ModelError) as error:
        train(compared, POW2, epochs=1, data=data)
    assert str(error.value) == (
        "recipe 'cifar10': layers must all be quantized, but conv, norm stay in float; "
        "use fit, which exports nothing")
    with pytest.raises(ModelError, match="layer 'first': must be one of the model's, to be kept"):
        fit(replace(compared, kept=("first",)), POW2, epochs=1, data=data)


def test_mixed_numbers_change_the_training_not_its_exactness() -> None:
    recipe, data = RECIPES["cifar10"]
    assert recipe.mixed
    seen: list[torch.dtype] = []

    def model() -> nn.Module:
        net = ResidualNet(blocks=1, width=4, depth=2)
        net.conv.register_forward_hook(lambda _m, _i, result: seen.append(result.dtype))
        return net

    train(replace(recipe, model=model), POW2, epochs=1, data=data)
    assert {torch.bfloat16, torch.float32, torch.float64} == {*seen}
    seen.clear()
    train(replace(recipe, model=model, mixed=False), POW2, epochs=1, data=data)
    assert {torch.float32, torch.float64} == {*seen}
