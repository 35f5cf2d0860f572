"""Training: exact to the figure, deterministic, and resumable after any interruption."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.quantize.augment import Augmentation
from nomul.compiler.quantize.constraints import Free, PowerOfTwo, Pruned
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.methods import FloatMethod, LutqMethod
from nomul.compiler.quantize.recipes import Recipe, recipe_of
from nomul.compiler.quantize.training import train
from nomul.sim import golden

pytestmark = pytest.mark.train

FREE = LutqMethod(constraint=Free(bits=4))


class Interrupted(Exception):
    pass


def test_digits_with_eight_powers_of_two() -> None:
    """The figure of the documentation: seed 0, chosen by validation alone."""
    trained = train(recipe_of("digits"), LutqMethod(constraint=PowerOfTwo(bits=3)), seed=0)
    data = load("digits")
    accuracy = trained.provenance["accuracy"]
    classes = golden.run(trained.network, data.images[data.test]).classes
    assert (classes == data.labels[data.test]).mean() == accuracy["quantized_test"]
    assert accuracy["quantized_test"] >= 0.975
    assert accuracy["quantized_test"] >= accuracy["float_test"] - 0.01


@pytest.mark.parametrize("stage, epoch", [("float", 2), ("float", 3), ("lutq", 2), ("lutq", 3)])
def test_an_interrupted_training_ends_alike(recipe: Recipe, tmp_path: Path, stage: str,
                                            epoch: int) -> None:
    """Interrupted before the checkpoint of an epoch is written, it repeats that epoch."""
    method = LutqMethod(constraint=Pruned(bits=3, fraction=0.5))
    path = tmp_path / "digits.ckpt"
    whole = train(recipe, method, seed=3, epochs=3)

    def interrupt(at: str, done: int, total: int, text: str) -> None:
        assert total == 3 and text.startswith("validation ")
        if (at, done) == (stage, epoch):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(recipe, method, seed=3, epochs=3, progress=interrupt, checkpoint=path)
    done: list[tuple[str, int]] = []
    again = train(recipe, method, seed=3, epochs=3, checkpoint=path,
                  progress=lambda at, epochs, total, text: done.append((at, epochs)))
    order = [(at, epochs) for at in ("float", "lutq") for epochs in (1, 2, 3)]
    assert done == order[order.index((stage, epoch)):]
    assert again.network == whole.network
    assert again.provenance == whole.provenance


def test_training_is_deterministic_and_leaves_torch_as_it_was(recipe: Recipe) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train(recipe, FREE, seed=1, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    second = train(recipe, FREE, seed=1, epochs=1)
    other = train(recipe, FREE, seed=2, epochs=1)
    assert first.network == second.network != other.network


def test_provenance_tells_it_all(recipe: Recipe) -> None:
    provenance = train(recipe, FREE, seed=1, epochs=1).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert sorted(provenance) == ["accuracy", "data", "dictionary", "epochs", "libraries",
                                  "method", "recipe", "seed"]
    assert provenance["data"] == {"name": "digits", "digest": load("digits").digest,
                                  "sizes": {"train": 1257, "validation": 180, "test": 360}}
    assert provenance["dictionary"] == {"kind": "free", "entries": 16, "bits": 4, "value_bits": 8}
    assert provenance["method"] == "lutq"
    assert sorted(provenance["accuracy"]) == ["float_test", "float_validation",
                                              "quantized_test", "quantized_validation"]
    assert sorted(provenance["libraries"]) == ["nomul", "numpy", "torch"]


def test_the_checkpoint_of_another_training_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "digits.ckpt"
    train(recipe, FREE, seed=1, epochs=1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="must belong to this training, but has other settings"):
        train(recipe, FREE, seed=2, epochs=1, checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["digits.ckpt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half of one"])
def test_a_damaged_checkpoint_is_refused(recipe: Recipe, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "digits.ckpt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be a whole file of nomul; remove it"):
        train(recipe, FREE, epochs=1, checkpoint=path)


def test_a_cut_checkpoint_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "digits.ckpt"
    train(recipe, FREE, epochs=1, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(DataError, match="must be a whole file of nomul; remove it"):
        train(recipe, FREE, epochs=1, checkpoint=path)


def test_a_training_that_diverges_says_so(recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="stage 'float': loss must be finite"):
        train(replace(recipe, float_rate=1e30), FREE, epochs=1)


def test_no_epochs_are_refused(recipe: Recipe) -> None:
    for given in ({"epochs": 0}, {"epochs": 1, "float_epochs": 0}):
        with pytest.raises(ModelError, match="recipe 'digits': epochs must be at least 1, not 0"):
            train(recipe, FREE, **given)


def test_epochs_of_the_float_net_alone(recipe: Recipe) -> None:
    done: list[tuple[str, int]] = []
    provenance = train(recipe, FREE, epochs=1, float_epochs=2, progress=lambda at, epoch, *_:
                       done.append((at, epoch))).provenance
    assert done == [("float", 1), ("float", 2), ("lutq", 1)]
    assert (provenance["epochs"], provenance["float_epochs"]) == (1, 2)


def test_a_final_training_learns_from_the_validation_images_too(recipe: Recipe, tmp_path: Path,
                                                                ) -> None:
    seen: list[tuple[str, int, str]] = []

    def note(stage: str, epoch: int, _epochs: int, text: str) -> None:
        seen.append((stage, epoch, text.split(" ")[0]))

    chosen = train(recipe, FREE, epochs=2).provenance
    path = tmp_path / "digits.ckpt"
    trained = train(recipe, FREE, epochs=2, final_epochs=3, progress=note, checkpoint=path)
    assert seen[-4:] == [("lutq", 2, "validation"), ("final", 1, "seen"), ("final", 2, "seen"),
                         ("final", 3, "seen")]
    # What was chosen, and is reported as such, had not learned from the validation images.
    accuracy = trained.provenance["accuracy"]
    assert accuracy["quantized_validation"] == chosen["accuracy"]["quantized_validation"]
    assert trained.provenance["final_epochs"] == 3 and "final_epochs" not in chosen
    # The figure of the test images is that of the network that is exported.
    data = load("digits")
    classes = golden.run(trained.network, data.images[data.test]).classes
    assert (classes == data.labels[data.test]).mean() == accuracy["quantized_test"]
    assert trained.network.digest != train(recipe, FREE, epochs=2).network.digest
    again = train(recipe, FREE, epochs=2, final_epochs=3, checkpoint=path)
    assert again.network.digest == trained.network.digest


def test_a_method_with_a_loss_of_its_own_has_no_final_training(recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="method 'float': has no final training, because"):
        train(recipe, FloatMethod(), epochs=1, final_epochs=1)
    with pytest.raises(ModelError, match="final epochs must be at least 0, not -1"):
        train(recipe, FREE, epochs=1, final_epochs=-1)


def test_augmentation_moves_by_whole_and_half_pixels() -> None:
    images = torch.zeros(64, 1, 8, 8)
    images[:, :, 4, 4] = 1.0
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(Augmentation()(images, generator), images, atol=1e-6)
    moved = Augmentation(shift=2)(images, generator)
    assert torch.allclose(moved.sum(dim=(1, 2, 3)), torch.ones(64), atol=1e-5)
    rows = (moved.sum(dim=(1, 3)) * torch.arange(8)).sum(dim=1) - 4
    columns = (moved.sum(dim=(1, 2)) * torch.arange(8)).sum(dim=1) - 4
    for offsets in (rows, columns):
        assert 1.5 < offsets.abs().max() <= 2.001
        assert offsets.min() < -1 and offsets.max() > 1
    noisy = Augmentation(noise=0.5)(torch.zeros(64, 1, 8, 8), generator)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05)
