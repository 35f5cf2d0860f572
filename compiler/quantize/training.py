"""Trains a recipe: first the float net, then LUT-Q from it; deterministic, resumable."""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import nomul
from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels, Network
from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.captured import Captured, exact_convolutions, gpu_stream
from nomul.compiler.quantize.checkpoints import Checkpoint
from nomul.compiler.quantize.constraints import Constraint
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.datasets import Dataset, load
from nomul.compiler.quantize.export import to_network
from nomul.compiler.quantize.lutq import update_dictionaries
from nomul.compiler.quantize.recipes import Recipe

__all__ = ["Fitted", "Part", "Progress", "Trained", "fit", "train"]

Progress = Callable[[str, int, int, str], None]
"""Called after each epoch with the stage, epochs done, epochs in all, and a line of text."""

_Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, images, labels

# Images that a model is given at once when it is scored.
_SCORED = 512


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training gave.

    Parameters
    ----------
    provenance : dict
        How it came to be, and its accuracies, as JSON values.
    model : nn.Module
        The LUT-Q model in torch, in eval mode, on the CPU.
    """

    provenance: dict[str, Any]
    model: nn.Module


@dataclass(frozen=True, kw_only=True)
class Trained(Fitted):
    """A trained model as the integer network that a compiler reads.

    Parameters
    ----------
    network : Network
        The integer network, exported from ``model``.
    provenance, model
        As of `Fitted`.
    """

    network: Network


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
    """

    codes: Tensor
    values: Tensor
    labels: Tensor

    @classmethod
    def of(cls, codes: NDArray[np.uint8], levels: Levels, labels: NDArray[np.int64],
           device: torch.device) -> Part:
        """Images [N, height, width, channels] of ``levels``, put on ``device``."""
        values = np.ldexp(levels.values.astype(np.float32), levels.exponent)
        return cls(codes=torch.tensor(codes, device=device).permute(0, 3, 1, 2).contiguous(),
                   values=torch.tensor(values, device=device),
                   labels=torch.tensor(labels, device=device))

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


def train(recipe: Recipe, constraint: Constraint, *, data: Dataset | None = None,
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
    fitted = fit(recipe, constraint, data=data, **options)
    return Trained(network=to_network(fitted.model, recipe.name, data.shape),
                   model=fitted.model, provenance=fitted.provenance)


def fit(recipe: Recipe, constraint: Constraint, *, seed: int = 0, epochs: int | None = None,
        progress: Progress | None = None, checkpoint: Path | None = None,
        data: Dataset | None = None, cache: Path | None = None,
        device: torch.device | None = None) -> Fitted:
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
        Of all that is random. Equal arguments give equal networks on one machine's CPU.
    epochs : int, optional
        Epochs of each of the two trainings, instead of the recipe's.
    progress : callable, optional
        See `Progress`; stages are ``float`` and ``lutq``.
    checkpoint : Path, optional
        File to go on from if it exists, and to write every few epochs. A training
        that went on gives the same network as one that ran through.
    data : Dataset, optional
        What to learn from, instead of the recipe's data set.
    cache : Path, optional
        Folder for data sets that must be fetched.
    device : torch.device, optional
        Where it runs. If omitted the CPU; a GPU, if the recipe wants one and there is one.

    Raises
    ------
    DataError
        If the checkpoint is damaged, or belongs to another training; if data is damaged.
    ModelError
        If the training diverges, or the number of epochs is below 1.
    ToolError
        If the package that holds the data is missing, or cannot be fetched.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise ModelError(f"recipe {recipe.name!r}: epochs must be at least 1, not {epochs!r}")
    data = load(recipe.dataset, cache=cache) if data is None else data
    if device is None:
        gpu = recipe.accelerate and torch.cuda.is_available()
        device = torch.device("cuda" if gpu else "cpu")
    identity = {
        "recipe": recipe.settings(), "method": "lutq", "dictionary": constraint.settings(),
        "seed": seed, "epochs": epochs,
        "data": {"name": data.name, "digest": data.digest, "sizes": data.sizes}}
    levels = _input_levels(recipe, data)
    codes = data.codes(levels)
    training, validation, test = (
        Part.of(codes[index], levels, data.labels[index], device)
        for index in (data.train, data.validation, data.test))
    learn = _Fit(recipe=recipe, training=training, validation=validation, epochs=epochs,
                 generator=torch.Generator().manual_seed(seed), progress=progress,
                 checkpoint=Checkpoint(checkpoint, identity))

    with _deterministic(seed, recipe.threads), gpu_stream(device):
        teacher = _placed(recipe.model(), recipe, device)
        learn("float", teacher, _label_loss(recipe), recipe.float_rate)
        some = training.images(slice(recipe.calibration))
        model = _placed(quantize_model(
            copy.deepcopy(teacher).cpu(), constraint, calibration=some.cpu(),
            entry=QuantizedInput(levels.bits, levels.exponent), norm=recipe.norm,
            activation_bits=recipe.activation_bits, branch_bits=recipe.branch_bits,
            iterations=recipe.iterations, kept=recipe.kept), recipe, device)
        learn("lutq", model, _distillation_loss(recipe, teacher, model, some), recipe.rate)
        exact = copy.deepcopy(model).double()  # as the network counts
        with exact_convolutions():
            accuracy = {f"{kind}_{name}": part.score(net)[0]
                        for kind, net in (("float", teacher), ("quantized", exact))
                        for name, part in (("validation", validation), ("test", test))}
    libraries = {"nomul": nomul.__version__, "numpy": np.__version__,
                 "torch": str(torch.__version__)}
    return Fitted(model=model.cpu(),
                  provenance={**identity, "accuracy": accuracy, "libraries": libraries})


def _input_levels(recipe: Recipe, data: Dataset) -> Levels:
    """What the codes mean that images enter as: those of the data, or fewer over their range."""
    bits = recipe.input_bits
    if bits is None or bits == data.levels.bits:
        return data.levels
    if not 1 <= bits <= data.levels.bits:
        raise ModelError(f"recipe {recipe.name!r}: bits of the input must be 1 to "
                         f"{data.levels.bits}, as the data set has, not {bits!r}")
    return Levels.uniform(1 << bits, exponent=data.levels.exponent + data.levels.bits - bits)


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
        device = self.training.labels.device
        optimizer = self.recipe.optimizer(model, rate, device)
        first = 0
        best: dict[str, Any] = {"accuracy": -1.0, "loss": math.inf}
        state = self.checkpoint.stage(stage)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # read from the file to the CPU
                    group["lr"] = group["lr"].to(device)
            self.generator.set_state(state["generator"])
            first, best = state["epoch"], state["best"]
        steps = {settled: Captured(self._step(model, optimizer, loss, settled=settled))
                 for settled in (False, True)}
        for epoch in range(first, self.epochs):
            self._epoch(epoch, model, optimizer, steps, rate)
            accuracy, value = self.validation.score(model)
            if not math.isfinite(value):
                raise ModelError(f"stage {stage!r}: loss must be finite, but is not after epoch "
                                 f"{epoch + 1}; train with a lower learning rate")
            if (accuracy, -value) > (best["accuracy"], -best["loss"]):
                best = {"accuracy": accuracy, "loss": value, "model": _copy(model)}
            if self.progress:
                self.progress(stage, epoch + 1, self.epochs,
                              f"validation {accuracy:.2%}, best {best['accuracy']:.2%}")
            if (epoch + 1) % self.recipe.checkpoint_every == 0 or epoch + 1 == self.epochs:
                self.checkpoint.keep(stage, {
                    "epoch": epoch + 1, "model": _copy(model), "best": best,
                    "optimizer": optimizer.state_dict(),
                    "generator": self.generator.get_state()})
        model.load_state_dict(best["model"])
        model.eval()

    def _epoch(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer,
               steps: dict[bool, Captured], rate: float) -> None:
        model.train()
        order = torch.randperm(len(self.training.labels), generator=self.generator)
        batches = torch.split(order.to(self.training.labels.device), self.recipe.batch)
        for step, batch in enumerate(batches):
            done = (epoch + step / len(batches)) / self.epochs
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * self._share(done))
                else:
                    group["lr"] = rate * self._share(done)
            images = self.recipe.augmentation(self.training.images(batch), self.generator)
            images = images.to(memory_format=_layout(self.recipe))
            steps[done >= 1 - self.recipe.settled](images, self.training.labels[batch])

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: _Loss, *,
              settled: bool) -> Callable[[Tensor, Tensor], None]:
        """What one batch of images and labels changes."""
        def step(images: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad()
            with self._numbers(images.device):
                value = loss(model(images), images, labels)
            torch.autograd.backward(value)
            optimizer.step()
            update_dictionaries(model, settled=settled, checked=not images.is_cuda)
        return step

    def _numbers(self, device: torch.device) -> torch.autocast:
        """What a batch is computed in: float32, or a mixture."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.recipe.mixed)

    def _share(self, done: float) -> float:
        """Learning rate when so much of the training is done, as a share of the highest."""
        warmup = self.recipe.warmup
        if done < warmup:
            return max(done, 1e-3) / warmup
        return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


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


def _placed(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """``model``, changed in place, where and as the recipe's training wants it."""
    placed: nn.Module = model.to(  # type: ignore[call-overload]  # which torch knows
        device, memory_format=_layout(recipe))
    return placed


def _layout(recipe: Recipe) -> torch.memory_format:
    """Where the numbers of a model lie: channels last is faster, but sums in another order."""
    return torch.channels_last if recipe.mixed else torch.preserve_format


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
