"""Trains a recipe: first the float net, then a method from it; deterministic, resumable."""
from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import nomul
from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels, Network
from nomul.compiler.quantize.allocator import keep_freed_memory
from nomul.compiler.quantize.captured import exact_convolutions, gpu_stream
from nomul.compiler.quantize.checkpoints import Checkpoint
from nomul.compiler.quantize.course import Course, Part, Progress
from nomul.compiler.quantize.datasets import Dataset, load
from nomul.compiler.quantize.export import to_network
from nomul.compiler.quantize.methods import Method, trained
from nomul.compiler.quantize.recipes import Recipe

__all__ = ["Fitted", "Teacher", "Trained", "fit", "train"]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained float net, to go on from with several methods.

    Parameters
    ----------
    state : dict
        Its parameters and buffers.
    generator : Tensor
        State of the generator of the images' order when it was trained.
    """

    state: dict[str, Tensor]
    generator: Tensor


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training gave.

    Parameters
    ----------
    provenance : dict
        How it came to be, and its accuracies, as JSON values.
    model : nn.Module
        The compressed model in torch, in eval mode, on the CPU.
    teacher : Teacher
        The float net that it came from.
    """

    provenance: dict[str, Any]
    model: nn.Module
    teacher: Teacher


@dataclass(frozen=True, kw_only=True)
class Trained(Fitted):
    """A trained model as the integer network that a compiler reads.

    Parameters
    ----------
    network : Network
        The integer network, exported from ``model``.
    provenance, model, teacher
        As of `Fitted`.
    """

    network: Network


def train(recipe: Recipe, method: Method, *, data: Dataset | None = None,
          cache: Path | None = None, **options: Any) -> Trained:
    """`fit`, with the same parameters and errors, and the network that comes of it.

    Raises
    ------
    ModelError
        Also if the recipe keeps layers in float, which no network can hold.
    """
    if recipe.kept:
        raise ModelError(f"recipe {recipe.name!r}: layers must all be quantized, but "
                         f"{', '.join(recipe.kept)} stay in float; use fit, which exports nothing")
    data = load(recipe.dataset, cache=cache) if data is None else data
    fitted = fit(recipe, method, data=data, **options)
    network = method.finish(to_network(fitted.model, recipe.name, data.shape))
    return Trained(network=network, model=fitted.model, provenance=fitted.provenance,
                   teacher=fitted.teacher)


def fit(recipe: Recipe, method: Method, *, seed: int = 0, epochs: int | None = None,
        float_epochs: int | None = None, final_epochs: int = 0,
        progress: Progress | None = None, checkpoint: Path | None = None,
        data: Dataset | None = None, cache: Path | None = None,
        device: torch.device | None = None, teacher: Teacher | None = None) -> Fitted:
    """Learn ``recipe`` in float, and compress it with ``method``.

    Epochs are chosen on the validation images. Once all is chosen, a final training may learn
    from these too: the validation accuracy is of the network before it. The test images are
    looked at once, at the end.

    Parameters
    ----------
    recipe : Recipe
        What is learned, and how.
    method : Method
        How it is compressed.
    seed : int
        Of all that is random. Equal arguments give equal networks on one machine's CPU.
    epochs : int, optional
        Epochs of the float training, and of those of the method, instead of the recipe's.
    float_epochs : int, optional
        Epochs of the float training alone.
    final_epochs : int
        Epochs of one more cycle with the validation images among the training's, whose last
        epoch is taken; dictionaries that had settled stay. 0: none.
    progress : callable, optional
        See `Progress`; the first stage is ``float``, others are the method's.
    checkpoint : Path, optional
        File to go on from if it exists, and to write every few epochs. A training
        that went on gives the same network as one that ran through.
    data : Dataset, optional
        What to learn from, instead of the recipe's data set.
    cache : Path, optional
        Folder for data sets that must be fetched.
    device : torch.device, optional
        Where it runs. If omitted the CPU; a GPU, if the recipe wants one and there is one.
    teacher : Teacher, optional
        The float net, if it is trained already, with the same recipe, seed and data.

    Raises
    ------
    DataError
        If the checkpoint is damaged, or belongs to another training; if data is damaged.
    ModelError
        If the training diverges, if the number of epochs is below 1, or if the method's own
        training cannot be followed by a final one.
    ToolError
        If the package that holds the data is missing, or cannot be fetched.
    """
    epochs = recipe.epochs if epochs is None else epochs
    float_epochs = epochs if float_epochs is None else float_epochs
    if (least := min(epochs, float_epochs)) < 1:
        raise ModelError(f"recipe {recipe.name!r}: epochs must be at least 1, not {least!r}")
    if final_epochs < 0:
        raise ModelError(f"recipe {recipe.name!r}: final epochs must be at least 0, "
                         f"not {final_epochs!r}")
    if final_epochs and not method.continues:
        raise ModelError(f"method {method.kind!r}: has no final training, because the "
                         "recipe's cannot go on from what it gives; leave out the final epochs")
    data = load(recipe.dataset, cache=cache) if data is None else data
    if device is None:
        gpu = recipe.accelerate and torch.cuda.is_available()
        device = torch.device("cuda" if gpu else "cpu")
    identity = {
        "recipe": recipe.settings(), **method.settings(), "seed": seed, "epochs": epochs,
        **({} if float_epochs == epochs else {"float_epochs": float_epochs}),
        **({"final_epochs": final_epochs} if final_epochs else {}),
        "data": {"name": data.name, "digest": data.digest, "sizes": data.sizes}}
    levels = _input_levels(recipe, data)
    codes = data.codes(levels)
    training, validation, test = (
        Part.of(codes[index], levels, data.labels[index], device)
        for index in (data.train, data.validation, data.test))
    course = Course(recipe=recipe, levels=levels, training=training, validation=validation,
                    epochs=epochs, generator=torch.Generator().manual_seed(seed),
                    progress=progress, checkpoint=Checkpoint(checkpoint, identity))

    with _deterministic(seed, recipe.threads), gpu_stream(device):
        net = course.placed(recipe.model())
        if teacher is None:
            course.learn("float", net, course.label_loss(), recipe.float_rate,
                         epochs=float_epochs)
            teacher = Teacher(state={key: value.detach().cpu().clone()
                                     for key, value in net.state_dict().items()},
                              generator=course.generator.get_state())
        else:
            net.load_state_dict(teacher.state)
            course.generator.set_state(teacher.generator)
        model = method.compress(course, net.eval())
        with exact_convolutions():
            chosen = {"float_validation": validation.score(net)[0],
                      "quantized_validation": validation.score(_exact(model))[0]}
        if final_epochs:
            _finish(course, net, model, final_epochs)
        with exact_convolutions():
            accuracy = {**chosen, "float_test": test.score(net)[0],
                        "quantized_test": test.score(_exact(model))[0]}
    libraries = {"nomul": nomul.__version__, "numpy": np.__version__,
                 "torch": str(torch.__version__)}
    return Fitted(model=model.cpu(), teacher=teacher,
                  provenance={**identity, "accuracy": accuracy, "libraries": libraries})


def _finish(course: Course, teacher: nn.Module, model: nn.Module, epochs: int) -> None:
    """Train ``model`` in one more cycle of the training and the validation images."""
    recipe = course.recipe
    seen = course.training.joined(course.validation, "seen images")
    trained(replace(course, training=seen, epochs=epochs,
                    validation=replace(course.validation, name="seen images"),
                    recipe=replace(recipe, cycles=1, settled=1.0 if recipe.settled else 0.0)),
            teacher, model, "final", newest=True)


def _exact(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that counts as the network does."""
    return copy.deepcopy(model).double()


def _input_levels(recipe: Recipe, data: Dataset) -> Levels:
    """What the codes mean that images enter as: those of the data, or fewer over their range."""
    bits = recipe.input_bits
    if bits is None or bits == data.levels.bits:
        return data.levels
    if not 1 <= bits <= data.levels.bits:
        raise ModelError(f"recipe {recipe.name!r}: bits of the input must be 1 to "
                         f"{data.levels.bits}, as the data set has, not {bits!r}")
    return Levels.uniform(1 << bits, exponent=data.levels.exponent + data.levels.bits - bits)


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Torch's global generator and threads, set for the block and put back after it."""
    keep_freed_memory()
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
