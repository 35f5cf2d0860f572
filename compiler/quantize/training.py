"""Trains a recipe: first the float net, then LUT-Q from it; deterministic, resumable."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import nomul
from nomul.compiler.errors import ModelError
from nomul.compiler.network import Network
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.checkpoints import Checkpoint
from nomul.compiler.quantize.constraints import Constraint
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.export import model_input, to_network
from nomul.compiler.quantize.lutq import update_dictionaries
from nomul.compiler.quantize.recipes import Recipe

__all__ = ["Part", "Progress", "Trained", "train"]

Progress = Callable[[str, int, int, str], None]
"""Called after each epoch with the stage, epochs done, epochs in all, and a line of text."""

_Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, images, labels


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gave.

    Parameters
    ----------
    network : Network
        The integer network.
    provenance : dict
        How it came to be, as JSON values.
    model : nn.Sequential
        The LUT-Q model in torch that the network was exported from, in eval mode.
    """

    network: Network
    provenance: dict[str, Any]
    model: nn.Sequential


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images [N, channels, height, width] with their labels [N]."""

    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def score(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy of ``model``, which is put in eval mode, and its mean cross-entropy."""
        model.eval()
        scores = model(self.images)
        right = int((scores.argmax(dim=1) == self.labels).sum())
        return right / len(self.labels), float(functional.cross_entropy(scores, self.labels))


def train(recipe: Recipe, constraint: Constraint, *, seed: int = 0, epochs: int | None = None,
          progress: Progress | None = None, checkpoint: Path | None = None) -> Trained:
    """Learn ``recipe`` with dictionaries under ``constraint``.

    In both trainings the epoch with the best accuracy on the validation images is
    taken, of equals the one with the lowest loss. The test images are looked at once,
    when all is chosen.

    Parameters
    ----------
    recipe : Recipe
        What is learned, and how.
    constraint : Constraint
        What the dictionaries may hold.
    seed : int
        Of all that is random. Equal arguments give equal networks on one machine.
    epochs : int, optional
        Epochs of each of the two trainings, instead of the recipe's.
    progress : callable, optional
        See `Progress`; stages are ``float`` and ``lutq``.
    checkpoint : Path, optional
        File to go on from if it exists, and to write every few epochs. A training
        that went on gives the same network as one that ran through.

    Raises
    ------
    DataError
        If the checkpoint is damaged, or belongs to another training.
    ModelError
        If the training diverges, or the number of epochs is below 1.
    ToolError
        If the package that holds the data is missing.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise ModelError(f"recipe {recipe.name!r}: epochs must be at least 1, not {epochs!r}")
    data = load(recipe.dataset)
    identity = {
        "recipe": recipe.settings(), "method": "lutq", "dictionary": constraint.settings(),
        "seed": seed, "epochs": epochs,
        "data": {"name": data.name, "digest": data.digest, "sizes": data.sizes}}
    images, labels = model_input(data.images, data.levels), torch.from_numpy(data.labels.copy())
    training, validation, test = (
        Part(images=images[part], labels=labels[part])
        for part in (torch.from_numpy(index.copy())
                     for index in (data.train, data.validation, data.test)))
    fit = _Fit(recipe=recipe, training=training, validation=validation, epochs=epochs,
               generator=torch.Generator().manual_seed(seed), progress=progress,
               checkpoint=Checkpoint(checkpoint, identity))

    with _deterministic(seed, recipe.threads):
        teacher = recipe.model()
        fit("float", teacher, _label_loss(recipe), recipe.float_rate)
        model = quantize_model(
            teacher, constraint, entry=QuantizedInput(data.levels.bits, data.levels.exponent),
            calibration=training.images, activation_bits=recipe.activation_bits)
        fit("lutq", model, _distillation_loss(recipe, teacher, model, training.images),
            recipe.rate)
        accuracy = {f"{kind}_{name}": part.score(net)[0]
                    for kind, net in (("float", teacher), ("quantized", model))
                    for name, part in (("validation", validation), ("test", test))}
    libraries = {"nomul": nomul.__version__, "numpy": np.__version__,
                 "torch": str(torch.__version__)}
    return Trained(network=to_network(model, recipe.name, data.shape), model=model,
                   provenance={**identity, "accuracy": accuracy, "libraries": libraries})


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Trains one model after the other; what they share."""

    recipe: Recipe
    training: Part
    validation: Part
    epochs: int
    generator: torch.Generator
    progress: Progress | None
    checkpoint: Checkpoint

    def __call__(self, stage: str, model: nn.Module, loss: _Loss, rate: float) -> None:
        """Train ``model``; it ends in eval mode, in the state of its best epoch."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate,
                                      weight_decay=self.recipe.weight_decay)
        first = 0
        best: dict[str, Any] = {"accuracy": -1.0, "loss": math.inf}
        state = self.checkpoint.stage(stage)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            first, best = state["epoch"], state["best"]
        for epoch in range(first, self.epochs):
            self._epoch(epoch, model, optimizer, loss, rate)
            accuracy, value = self.validation.score(model)
            if math.isfinite(value) and (accuracy, -value) > (best["accuracy"], -best["loss"]):
                best = {"accuracy": accuracy, "loss": value, "model": _copy(model)}
            if self.progress:
                self.progress(stage, epoch + 1, self.epochs,
                              f"validation {accuracy:.2%}, best {best['accuracy']:.2%}")
            if (epoch + 1) % self.recipe.checkpoint_every == 0 or epoch + 1 == self.epochs:
                self.checkpoint.keep(stage, {
                    "epoch": epoch + 1, "model": _copy(model), "best": best,
                    "optimizer": optimizer.state_dict(),
                    "generator": self.generator.get_state()})
        if "model" not in best:
            raise ModelError(f"stage {stage!r}: loss must be finite; train with a lower "
                             "learning rate")
        model.load_state_dict(best["model"])
        model.eval()

    def _epoch(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer,
               loss: _Loss, rate: float) -> None:
        model.train()
        order = torch.randperm(len(self.training.labels), generator=self.generator)
        batches = torch.split(order, self.recipe.batch)
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / self.epochs
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
            images = self.recipe.augmentation(self.training.images[batch], self.generator)
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(images), images, self.training.labels[batch]))
            optimizer.step()
            update_dictionaries(model)


def _label_loss(recipe: Recipe) -> _Loss:
    def loss(scores: Tensor, _images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    return loss


def _distillation_loss(recipe: Recipe, teacher: nn.Module, model: nn.Module, images: Tensor,
                       ) -> _Loss:
    """Labels and the float net's scores, in the recipe's mixture.

    Dictionaries without a scale give scores of another size; a power of two, found on
    ``images``, brings them back to the float net's before the loss.
    """
    with torch.no_grad():
        ratio = float(teacher(images).std() / model(images).std())
    scale = 2.0 ** round(math.log2(ratio))
    label_loss = _label_loss(recipe)

    def loss(scores: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(images).softmax(dim=1)
        return ((1 - recipe.distillation) * label_loss(scores * scale, images, labels)
                + recipe.distillation * functional.cross_entropy(scores * scale, wanted))
    return loss


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Torch's global generator and threads, set for the block and put back after it."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
