"""Learning-compression: training alternates with compression until both agree.

Carreira-Perpinan and Idelbayev, arXiv 1707.04319: the augmented Lagrangian for the least loss
of weights ``w`` that are ``Delta(Theta)``, the decompressed codebooks, and two baselines.

An L step trains the weights in float, but activations, input and biases are rounded as in the
network that is exported, their gradients going straight through. So training sees everything
but the codebooks. A C step rounds its values to integers times a power of two; Delta(Theta)
is always what is exported.
"""
from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.additive import Additive
from nomul.compiler.quantize.compressed import Compressed, Layers, Scored
from nomul.compiler.quantize.constraints import Free
from nomul.compiler.quantize.course import Course, Loss
from nomul.compiler.quantize.csteps import CStep
from nomul.compiler.quantize.lutq import shadow_of, tied_of
from nomul.compiler.quantize.methods import Method, converted

__all__ = ["DcMethod", "IdcMethod", "LcMethod"]

# What a normalization behind a layer counts in: integers of so many bits hold the float weights.
_GRID_BITS = 16


@dataclass(frozen=True, kw_only=True)
class _Compression(Method):
    """A method with C steps.

    Parameters
    ----------
    step : CStep
        What kind of codebook.
    shared : bool
        Whether all layers share one codebook; otherwise each layer has its own.
    value_bits : int
        Bits of a dictionary value, or of its scale where entries are whole numbers; 2 to 16.
    """

    step: CStep
    shared: bool = False
    value_bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= 16:
            raise self._fail(f"bits of a value must be 2 to 16, not {self.value_bits!r}")

    def settings(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"method": self.kind, "codebook": values.pop("step").settings(),
                "settings": values}

    def _start(self, course: Course, teacher: nn.Module) -> tuple[nn.Module, Layers]:
        """A copy of ``teacher`` whose activations are rounded, after one C step."""
        model = converted(course, teacher, Free(bits=8, value_bits=_GRID_BITS))
        modules = []
        for path, module in model.named_modules():
            tied = tied_of(module)
            if tied is None:
                continue
            if isinstance(self.step, Additive) and not isinstance(module, nn.Linear):
                raise self._fail(f"layer {path!r} must be a Linear to have sparse corrections; "
                                 "use a codebook without them")
            weights = shadow_of(module, "weight").detach()
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            parametrize.register_parametrization(
                module, "weight", Compressed(weights, self.step.entries, tied.exponent))
            modules.append(module)
        layers = Layers(modules=modules, step=self.step, shared=self.shared,
                         value_bits=self.value_bits)
        layers.compress()
        return model, layers

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"method {self.kind!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class DcMethod(_Compression):
    """DC: one C step on the trained weights, and no more.

    Parameters
    ----------
    step, shared, value_bits
        As of `LcMethod`.
    """

    kind: ClassVar[str] = "dc"

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        return self._start(course, teacher)[0].eval()


@dataclass(frozen=True, kw_only=True)
class _Alternation(_Compression):
    """A method whose C steps follow trainings.

    Parameters
    ----------
    steps : int
        L steps; at least 1.
    epochs : int
        Epochs of an L step; at least 1. The first one takes twice as many.
    rate : float
        Highest learning rate of the first L step.
    decay : float
        What multiplies the learning rate after each L step; above 0, at most 1.
    """

    steps: int = 40
    epochs: int = 3
    rate: float = 0.09
    decay: float = 0.96

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.epochs) < 1:
            raise self._fail("steps and epochs must be at least 1, "
                             f"not {self.steps!r} and {self.epochs!r}")
        if self.rate <= 0:
            raise self._fail(f"rate must be above 0, not {self.rate!r}")
        if not 0 < self.decay <= 1:
            raise self._fail(f"decay must be above 0 and at most 1, not {self.decay!r}")

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        model, layers = self._start(course, teacher)
        epochs = self.epochs * (self.steps + 1)

        def before_epoch(epoch: int) -> bool:
            number = self.number(epoch)
            if epoch and number == self.number(epoch - 1):
                return False
            if number:
                layers.compress()
            return self._begin(number, layers)

        with layers.loose():
            loss = self._loss(course.distillation_loss(teacher, model), layers)
            course.learn(self.kind, model, loss, self.rate, epochs=epochs,
                         share=lambda done: self.share(self.number(int(done * epochs + 1e-6))),
                         before_epoch=before_epoch, scored=Scored(model, layers), newest=True)
        layers.compress()
        return model.eval()

    @abstractmethod
    def _begin(self, number: int, layers: Layers) -> bool:
        """Prepare L step ``number``, behind a C step; whether it is not needed any more."""

    def _loss(self, loss: Loss, layers: Layers) -> Loss:
        """What an L step makes small."""
        return loss

    def number(self, epoch: int) -> int:
        """The L step that an epoch belongs to."""
        return max(0, epoch // self.epochs - 1)

    def share(self, number: int) -> float:
        """Share of the highest learning rate that L step ``number`` has."""
        return self.decay ** number


@dataclass(frozen=True, kw_only=True)
class IdcMethod(_Alternation):
    """iDC: trains on from the compressed weights without a penalty, and compresses again.

    Parameters
    ----------
    step, shared, value_bits, steps, epochs, rate, decay
        As of `LcMethod`.
    """

    kind: ClassVar[str] = "idc"

    def _begin(self, number: int, layers: Layers) -> bool:
        layers.restart()
        return False


@dataclass(frozen=True, kw_only=True)
class LcMethod(_Alternation):
    """LC: L steps that pull the weights to their compressed values, harder each time.

    The learning rate is never above ``1 / mu``, where the pull alone would overshoot. The
    defaults are for LeNet300 in 123 epochs; the authors take 20 epochs a step, a mu of 9e-5 and
    a decay of 0.98.

    Parameters
    ----------
    step : CStep
        What kind of codebook.
    shared : bool
        Whether all layers share one codebook; otherwise each layer has its own.
    value_bits : int
        Bits of a dictionary value, or of its scale where entries are whole numbers; 2 to 16.
    steps : int
        L steps; at least 1.
    epochs : int
        Epochs of an L step; at least 1. The first one takes twice as many.
    rate : float
        Highest learning rate of the first L step.
    decay : float
        What multiplies the learning rate after each L step; above 0, at most 1.
    mu : float
        Of the first L step; above 0.
    growth : float
        What multiplies mu after each L step; at least 1.
    tolerance : float
        Training ends where ``|w - Delta(Theta)|``, divided by ``|w|``, is less.
    """

    kind: ClassVar[str] = "lc"

    mu: float = 6e-4
    growth: float = 1.1
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mu <= 0 or self.growth < 1:
            raise self._fail("mu must be above 0 and its growth at least 1, "
                             f"not {self.mu!r} and {self.growth!r}")

    def penalty(self, number: int) -> float:
        """Mu of L step ``number``."""
        return self.mu * self.growth ** number

    def share(self, number: int) -> float:
        return min(super().share(number), 1 / (self.penalty(number) * self.rate))

    def _begin(self, number: int, layers: Layers) -> bool:
        if number:
            layers.multiply()
        layers.penalize(self.penalty(number))
        return number > 0 and layers.gap() < self.tolerance

    def _loss(self, loss: Loss, layers: Layers) -> Loss:
        def penalized(scores: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return loss(scores, images, labels) + layers.distance()
        return penalized
