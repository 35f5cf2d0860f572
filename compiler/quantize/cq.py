"""CQ: filters that matter to few classes get fewer bits (Sun et al., arXiv 2211.14928)."""
from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nomul.compiler.constants import fold_constants
from nomul.compiler.errors import ModelError
from nomul.compiler.network import Network
from nomul.compiler.quantize.constraints import Fixed
from nomul.compiler.quantize.course import Course
from nomul.compiler.quantize.graph import steps
from nomul.compiler.quantize.lutq import LutQ, grid_bias_of, shadow_of, tied_of
from nomul.compiler.quantize.methods import Method, converted, trained
from nomul.compiler.quantize.norms import GridNorm
from nomul.compiler.quantize.perfilter import PerFilter, filter_steps, rounded
from nomul.compiler.quantize.scores import class_scores, search_widths

__all__ = ["CqMethod"]

@dataclass(frozen=True, kw_only=True)
class CqMethod(Method):
    """CQ: class scores, a search for the bits of each filter, and refinement with distillation.

    Each filter has a uniform quantizer of its own, whose step goes into the thresholds behind
    it. The last layer, whose scores are compared, has one step, a power of two.

    Parameters
    ----------
    budget : float
        Average bits of a weight, over all layers; above 0.
    bits : int
        Most bits of a filter; 2 to 8.
    last_bits : int
        Bits of the weights of the last layer; 2 to 8.
    images : int
        Training images that filters are scored with, and validation images of the search.
    """

    kind: ClassVar[str] = "cq"
    continues: ClassVar[bool] = True

    budget: float = 2.0
    bits: int = 4
    last_bits: int = 2
    images: int = 2000

    def __post_init__(self) -> None:
        for name, value in (("bits", self.bits), ("last_bits", self.last_bits)):
            if not 2 <= value <= 8:
                raise self._fail(f"{name} must be 2 to 8, not {value!r}")
        if not self.budget > 0:
            raise self._fail(f"budget must be above 0 bits, not {self.budget!r}")

    def settings(self) -> dict[str, Any]:
        return {"method": self.kind, **{item.name: getattr(self, item.name)
                                        for item in fields(self)}}

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        widths = self.widths(course, teacher)
        model = converted(course, teacher, Fixed(bits=self.last_bits))
        for path, norm in self._layers(model):
            _per_filter(model.get_submodule(path), norm, widths[path])
        return trained(course, teacher, course.placed(model), self.kind)

    def finish(self, network: Network) -> Network:
        """Fold filters of 0 bits, which are constants, into the layers that read them."""
        return fold_constants(network)

    def widths(self, course: Course, teacher: nn.Module) -> dict[str, Tensor]:
        """Bits of each filter, int64, by the path of its layer; not of the last layer."""
        part = slice(self.images)
        scores = class_scores(teacher, course.training.images(part), course.training.labels[part])
        layers = {path: module for path, module in teacher.named_modules()
                  if isinstance(module, nn.Linear | nn.Conv2d)}
        last, = layers.keys() - scores.keys()
        images, labels = course.validation.images(part), course.validation.labels[part]
        trial = deepcopy(teacher)

        @torch.no_grad()
        def accuracy(filters: Mapping[str, Tensor]) -> float:
            for path, width in filters.items():
                weights = layers[path].weight.detach().double()
                step = filter_steps(weights, width).view(-1, *[1] * (weights.ndim - 1))
                trial.get_submodule(path).weight.copy_(  # type: ignore[operator]
                    rounded(weights / step, width) * step)
            return float((trial(images).argmax(dim=1) == labels).double().mean())

        count = layers[last].weight.numel()
        return search_widths(
            scores, {path: layers[path].weight[0].numel() for path in scores}, bits=self.bits,
            budget=self.budget, accuracy=accuracy, other=(count, count * self.last_bits)).filters

    def _layers(self, model: nn.Module) -> list[tuple[str, GridNorm]]:
        """Paths of the layers of a converted ``model`` but the last, and what normalizes each."""
        order = steps(model)
        weighted = [step.path for step in order if tied_of(step.module) is not None]
        found = []
        for path in weighted[:-1]:
            readers = [step.module for step in order if path in step.inputs]
            norm = readers[0] if len(readers) == 1 else None
            if not isinstance(norm, GridNorm):
                raise ModelError(f"layer {path!r}: must be read by a batch normalization alone, "
                                 "which takes the steps of its filters; put one behind it, and "
                                 "do not fold it")
            found.append((path, norm))
        return found

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"method {self.kind!r}: {message}")


@torch.no_grad()
def _per_filter(layer: nn.Module, norm: GridNorm, widths: Tensor) -> None:
    """Give ``layer`` filters of ``widths`` bits, in their steps, and ``norm`` the rest."""
    before = tied_of(layer)
    assert isinstance(before, LutQ)
    shadow = shadow_of(layer, "weight").detach()
    widths = widths.to(shadow.device)
    step = filter_steps(shadow.double(), widths)
    weights = (shadow.double() / step.view(-1, *[1] * (shadow.ndim - 1))).to(shadow)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    layer.weight.copy_(weights)  # type: ignore[operator]
    filters = PerFilter(weights, widths)
    parametrize.register_parametrization(layer, "weight", filters)
    bias = grid_bias_of(layer)
    if bias is not None:
        shadow_of(layer, "bias").div_(step)
        bias.follow(filters)
    # What the sums counted was the dictionary's grid times the input's step.
    norm.unit.mul_(2.0 ** -before.exponent)
    norm.running_mean.div_(step)
    norm.running_var.div_(step ** 2)
