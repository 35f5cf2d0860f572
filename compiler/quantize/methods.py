"""How a float net becomes one whose weights are entries of small dictionaries."""
from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from nomul.compiler.network import Network
from nomul.compiler.quantize.constraints import Constraint, Fixed
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.course import Course, cosine

__all__ = ["FloatMethod", "LutqMethod", "Method", "UniformMethod", "converted", "trained"]


class Method(ABC):
    """A way to compress. Frozen dataclasses derive from it; their fields are its settings."""

    kind: ClassVar[str]
    """As a command line names it."""

    continues: ClassVar[bool] = False
    """Whether `trained` can go on from what `compress` gives."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that was chosen, as JSON values; ``method`` is the kind."""

    @abstractmethod
    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        """A compressed model that `nomul.compiler.quantize.export.to_network` takes.

        Parameters
        ----------
        course : Course
            Data and schedule.
        teacher : nn.Module
            The trained float net, placed and in eval mode; stays as it is.

        Returns
        -------
        nn.Module
            In eval mode.
        """

    def finish(self, network: Network) -> Network:
        """What is left to do for ``network``, which a compressed model was exported to.

        Its scores stay as they are.
        """
        return network


def converted(course: Course, teacher: nn.Module, constraint: Constraint, *,
              activation_bits: int | None = None) -> nn.Module:
    """A quantized copy of ``teacher``, placed; bits of activations are the recipe's if omitted."""
    recipe = course.recipe
    return course.placed(quantize_model(
        copy.deepcopy(teacher).cpu(), constraint, calibration=course.some.cpu(),
        entry=course.entry(), norm=recipe.norm, branch_bits=recipe.branch_bits,
        activation_bits=activation_bits or recipe.activation_bits,
        iterations=recipe.iterations, kept=recipe.kept))


def trained(course: Course, teacher: nn.Module, model: nn.Module, stage: str, *,
            newest: bool = False) -> nn.Module:
    """``model``, trained in place with the scores of ``teacher`` in the recipe's cycles.

    Parameters
    ----------
    course, teacher, model, stage
        As `nomul.compiler.quantize.course.Course.learn` takes them.
    newest : bool
        Whether the last epoch is taken, not the best one.
    """
    recipe = course.recipe

    def share(done: float) -> float:
        return cosine(done * recipe.cycles % 1, recipe.warmup)

    course.learn(stage, model, course.distillation_loss(teacher, model), recipe.rate, share=share,
                 newest=newest)
    return model


@dataclass(frozen=True, kw_only=True)
class LutqMethod(Method):
    """Iteratively trained look-up tables (Cardinaux et al., arXiv 1811.05355).

    Parameters
    ----------
    constraint : Constraint
        What a dictionary may hold.
    """

    kind: ClassVar[str] = "lutq"
    continues: ClassVar[bool] = True

    constraint: Constraint

    def settings(self) -> dict[str, Any]:
        return {"method": self.kind, "dictionary": self.constraint.settings()}

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        return trained(course, teacher, converted(course, teacher, self.constraint), self.kind)


@dataclass(frozen=True, kw_only=True)
class UniformMethod(Method):
    """Ordinary quantization-aware training: evenly spaced weights, a power of two apart.

    Parameters
    ----------
    bits : int
        Bits of a weight; 2 to 8.
    """

    kind: ClassVar[str] = "uniform"
    continues: ClassVar[bool] = True

    bits: int

    def settings(self) -> dict[str, Any]:
        return {"method": self.kind, "bits": self.bits}

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        model = converted(course, teacher, Fixed(bits=self.bits))
        return trained(course, teacher, model, self.kind)


@dataclass(frozen=True, kw_only=True)
class FloatMethod(Method):
    """The float net, weights and activations rounded to 8 bits: what other methods start from."""

    kind: ClassVar[str] = "float"

    def settings(self) -> dict[str, Any]:
        return {"method": self.kind}

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        return converted(course, teacher, Fixed(bits=8), activation_bits=8).eval()
