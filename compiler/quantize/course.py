"""What all methods of training one network share: its data, its schedule, its checkpoints."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.captured import Captured
from nomul.compiler.quantize.checkpoints import Checkpoint
from nomul.compiler.quantize.lutq import update_dictionaries
from nomul.compiler.quantize.norms import estimate_norms, settle_norms
from nomul.compiler.quantize.recipes import Recipe

__all__ = ["Course", "Loss", "Part", "Progress", "cosine"]

Progress = Callable[[str, int, int, str], None]
"""Called after each epoch with the stage, epochs done, epochs in all, and a line of text."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of scores [N, classes], the images that gave them, and their labels [N]."""

# Batches that the statistics of normalizations are averaged over before a model is scored.
_ESTIMATED = 32

# Images that a model is given at once when it is scored.
_SCORED = 512


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of a data set.

    Parameters
    ----------
    codes : Tensor, uint8, shape [N, channels, height, width]
        Their codes.
    values : Tensor, float, shape [codes]
        What each code means.
    labels : Tensor, int64, shape [N]
        Classes.
    name : str
        What the progress calls them.
    """

    codes: Tensor
    values: Tensor
    labels: Tensor
    name: str = "validation"

    @classmethod
    def of(cls, codes: NDArray[np.uint8], levels: Levels, labels: NDArray[np.int64],
           device: torch.device) -> Part:
        """Images [N, height, width, channels] of ``levels``, put on ``device``."""
        values = np.ldexp(levels.values.astype(np.float32), levels.exponent)
        return cls(codes=torch.tensor(codes, device=device).permute(0, 3, 1, 2).contiguous(),
                   values=torch.tensor(values, device=device),
                   labels=torch.tensor(labels, device=device))

    def joined(self, other: Part, name: str) -> Part:
        """These images and those of ``other``, whose codes mean the same."""
        return Part(codes=torch.cat((self.codes, other.codes)), values=self.values,
                    labels=torch.cat((self.labels, other.labels)), name=name)

    def images(self, which: Tensor | slice) -> Tensor:
        """Images [n, channels, height, width] as a model reads them."""
        return self.values[self.codes[which].long()]

    @torch.no_grad()
    def score(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy of ``model``, which is put in eval mode, and its mean cross-entropy."""
        model.eval()
        kind = next(model.parameters()).dtype
        right, loss = 0, 0.0
        for start in range(0, len(self.labels), _SCORED):
            part = slice(start, start + _SCORED)
            scores, labels = model(self.images(part).to(kind)), self.labels[part]
            right += int((scores.argmax(dim=1) == labels).sum())
            loss += len(labels) * float(functional.cross_entropy(scores, labels))
        return right / len(self.labels), loss / len(self.labels)


def cosine(done: float, warmup: float = 0.0) -> float:
    """Share of the highest learning rate when a share ``done`` of a training is done.

    It rises during the share ``warmup``, then falls to 0 along a cosine.
    """
    if done < warmup:
        return max(done, 1e-3) / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training, whatever its method.

    Parameters
    ----------
    recipe : Recipe
        What is learned.
    levels : Levels
        What the codes mean that images enter as.
    training, validation : Part
        Images to learn from, and to choose by.
    epochs : int
        Epochs of each stage, if it says nothing else.
    generator : torch.Generator
        Of the order of images, and of their changes.
    progress : callable or None
        See `Progress`.
    checkpoint : Checkpoint
        Where stages are kept.
    """

    recipe: Recipe
    levels: Levels
    training: Part
    validation: Part
    epochs: int
    generator: torch.Generator
    progress: Progress | None
    checkpoint: Checkpoint

    @property
    def device(self) -> torch.device:
        """Where the images are, and models must be."""
        return self.training.labels.device

    @property
    def some(self) -> Tensor:
        """The recipe's images [N, channels, height, width] to calibrate with."""
        return self.training.images(slice(self.recipe.calibration))

    def entry(self) -> QuantizedInput:
        """A module that images enter a quantized model by."""
        return QuantizedInput(self.levels.bits, self.levels.exponent)

    def placed(self, model: nn.Module) -> nn.Module:
        """``model``, changed in place, where and as the training wants it."""
        placed: nn.Module = model.to(  # type: ignore[call-overload]  # which torch knows
            self.device, memory_format=self._layout)
        return placed

    def learn(self, stage: str, model: nn.Module, loss: Loss, rate: float, *,
              epochs: int | None = None, share: Callable[[float], float] | None = None,
              before_epoch: Callable[[int], bool] | None = None,
              scored: nn.Module | None = None, newest: bool = False) -> None:
        """Train ``model``; it ends in eval mode, in the state of its best epoch.

        That is the one with the best accuracy on the validation images, of equals the one with
        the lowest loss. After each step of the optimizer dictionaries follow their weights.

        Parameters
        ----------
        stage : str
            Names the training in progress and checkpoints.
        model : nn.Module
            Placed. All that changes during a stage must be in its state.
        loss : callable
            See `Loss`.
        rate : float
            Highest learning rate.
        epochs : int, optional
            Instead of the course's.
        share : callable, optional
            Share of the highest rate, from the share of the training that is done; the recipe's
            `cosine` if omitted.
        before_epoch : callable, optional
            Called with the number of epochs done; may change the model's state in place. The
            stage ends if it is true.
        scored : nn.Module, optional
            What is scored on the validation images instead of ``model``; shares its state.
        newest : bool
            Whether the last epoch is taken, not the best one.

        Raises
        ------
        ModelError
            If the loss is not finite.
        DataError
            If a checkpoint cannot be written.
        """
        recipe = self.recipe
        epochs = self.epochs if epochs is None else epochs
        optimizer = recipe.optimizer(model, rate, self.device)
        first = 0
        best: dict[str, Any] = {"accuracy": -1.0, "loss": math.inf}
        state = self.checkpoint.stage(stage)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # read from the file to the CPU
                    group["lr"] = group["lr"].to(self.device)
            self.generator.set_state(state["generator"])
            first, best = state["epoch"], state["best"]
        steps = {settled: Captured(self._step(model, optimizer, loss, settled=settled))
                 for settled in (False, True)}
        for epoch in range(first, epochs):
            if before_epoch and before_epoch(epoch):
                break
            self._epoch(epoch, epochs, model, optimizer, steps, rate, share)
            estimate_norms(scored or model, self._plain_batches())
            accuracy, value = self.validation.score(scored or model)
            if not math.isfinite(value):
                raise ModelError(f"stage {stage!r}: loss must be finite, but is not after epoch "
                                 f"{epoch + 1}; train with a lower learning rate")
            if newest or (accuracy, -value) > (best["accuracy"], -best["loss"]):
                best = {"accuracy": accuracy, "loss": value, "model": _copy(model)}
            if self.progress:
                self.progress(stage, epoch + 1, epochs, f"{self.validation.name} {accuracy:.2%}, "
                              f"best {best['accuracy']:.2%}")
            if (epoch + 1) % recipe.checkpoint_every == 0 or epoch + 1 == epochs:
                self.checkpoint.keep(stage, {
                    "epoch": epoch + 1, "model": _copy(model), "best": best,
                    "optimizer": optimizer.state_dict(),
                    "generator": self.generator.get_state()})
        model.load_state_dict(best["model"])
        model.eval()

    def label_loss(self) -> Loss:
        """Cross-entropy with the labels."""
        def loss(scores: Tensor, _images: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(scores, labels,
                                            label_smoothing=self.recipe.label_smoothing)
        return loss

    def distillation_loss(self, teacher: nn.Module, model: nn.Module) -> Loss:
        """Labels and the scores of ``teacher``, in the recipe's mixture.

        Dictionaries without a scale give scores of another size; a power of two, found on some
        images, brings those of ``model`` back to the teacher's before the loss.
        """
        with torch.no_grad():
            ratio = float(teacher(self.some).std() / model(self.some).std())
        scale = 2.0 ** round(math.log2(ratio))
        label_loss, share = self.label_loss(), self.recipe.distillation
        if not share:
            return lambda scores, images, labels: label_loss(scores * scale, images, labels)

        def loss(scores: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = teacher(images).softmax(dim=1)
            return ((1 - share) * label_loss(scores * scale, images, labels)
                    + share * functional.cross_entropy(scores * scale, wanted))
        return loss

    @property
    def _layout(self) -> torch.memory_format:
        """Where numbers lie: channels last is faster, but adds up in another order."""
        return torch.channels_last if self.recipe.mixed else torch.preserve_format

    def _plain_batches(self) -> Iterator[Tensor]:
        """Training images as they are, in some batches of the training's size."""
        for n in range(_ESTIMATED):
            part = slice(n * self.recipe.batch, (n + 1) * self.recipe.batch)
            if len(self.training.labels[part]) == self.recipe.batch:
                yield self.training.images(part).to(memory_format=self._layout)

    def _epoch(self, epoch: int, epochs: int, model: nn.Module, optimizer: torch.optim.Optimizer,
               steps: dict[bool, Captured], rate: float,
               share: Callable[[float], float] | None) -> None:
        recipe = self.recipe
        model.train()
        order = torch.randperm(len(self.training.labels), generator=self.generator)
        batches = torch.split(order.to(self.device), recipe.batch)
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / epochs
            lr = rate * (share(done) if share else cosine(done, recipe.warmup))
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr
            images = recipe.augmentation(self.training.images(batch), self.generator)
            images = images.to(memory_format=self._layout)
            steps[done >= 1 - recipe.settled](images, self.training.labels[batch])

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, *,
              settled: bool) -> Callable[[Tensor, Tensor], None]:
        """What one batch of images and labels changes."""
        def step(images: Tensor, labels: Tensor) -> None:
            settle_norms(model, settled)
            optimizer.zero_grad()
            with torch.autocast(images.device.type, dtype=torch.bfloat16,
                                enabled=self.recipe.mixed):
                value = loss(model(images), images, labels)
            torch.autograd.backward(value)
            optimizer.step()
            update_dictionaries(model, settled=settled, checked=not images.is_cuda)
        return step


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
