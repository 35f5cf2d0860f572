"""How much each filter matters to the classes, and the widths that follow (arXiv 2211.14928)."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.graph import steps, trace

__all__ = ["Widths", "class_scores", "search_widths", "widths_of"]

# A neuron whose activation times gradient is smaller does not matter to an image.
_MATTERS = 1e-10
_AT_ONCE = 256


def class_scores(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Class score of each filter of ``model``, by the path of its layer; not of the last layer.

    For a class, a neuron's score is the share of the class's images for which its activation
    times the gradient of their loss is not 0. A filter's score is the largest, over its
    positions, of the sums over all classes: 0 where it matters to none, the number of classes
    where it always matters to all.

    Parameters
    ----------
    model : nn.Module
        Trained float net, in eval mode; stays as it is.
    images : Tensor, shape [N, channels, height, width]
        As the model reads them.
    labels : Tensor, int64, shape [N]
        Their classes; at least one image of each.

    Raises
    ------
    ModelError
        Naming the layer, if no ReLU or tanh follows it.
    """
    traced = (model if isinstance(model, nn.Sequential) else trace(model)).eval()
    places = _activations(traced)
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, result: Tensor) -> None:
            seen[path] = result
        return hook

    hooks = [traced.get_submodule(path).register_forward_hook(keep(path))
             for path in {*places.values()}]
    totals: dict[str, Tensor] = {}
    try:
        for label in torch.unique(labels).tolist():
            which = images[labels == label]
            for part in torch.split(which, _AT_ONCE):
                scores = traced(part)
                loss = functional.cross_entropy(
                    scores, torch.full((len(part),), label, device=part.device), reduction="sum")
                paths = [*seen]
                slopes = torch.autograd.grad(loss, [seen[path] for path in paths])
                for path, slope in zip(paths, slopes, strict=True):
                    matters = (seen[path].detach() * slope).abs() > _MATTERS
                    share = matters.double().sum(dim=0) / len(which)
                    totals[path] = totals.get(path, torch.zeros_like(share)) + share
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: totals[path].flatten(1).amax(dim=1) if totals[path].ndim > 1 else totals[path]
            for layer, path in places.items()}


def _activations(model: nn.Module) -> dict[str, str]:
    """For each layer with weights but the last one, the activation that its sums reach."""
    order = steps(model)
    readers: dict[str, list[str]] = {}
    for step in order:
        for source in step.inputs:
            readers.setdefault(source, []).append(step.path)
    modules = {step.path: step.module for step in order}
    weighted = [step.path for step in order if isinstance(step.module, nn.Linear | nn.Conv2d)]
    places = {}
    for path in weighted[:-1]:
        at = path
        while not isinstance(modules[at], nn.ReLU | nn.ReLU6 | nn.Tanh):
            after = readers.get(at, [])
            if len(after) != 1 or after[0] in weighted:
                raise ModelError(f"layer {path!r}: must reach one ReLU or tanh before it is read "
                                 "again, to be scored; put one behind it")
            at = after[0]
        places[path] = at
    return places


def widths_of(scores: Mapping[str, Tensor], thresholds: list[float]) -> dict[str, Tensor]:
    """Bits of each filter: how many ``thresholds`` its score reaches."""
    return {path: sum((score >= threshold).long() for threshold in thresholds)
            + torch.zeros_like(score, dtype=torch.long) for path, score in scores.items()}


@dataclass(frozen=True, kw_only=True)
class Widths:
    """What a search found.

    Parameters
    ----------
    filters : dict
        Bits of each filter, int64, by the path of its layer.
    thresholds : tuple of float
        On the scores, ascending.
    average : float
        Bits of a weight.
    """

    filters: dict[str, Tensor]
    thresholds: tuple[float, ...]
    average: float


def search_widths(scores: Mapping[str, Tensor], sizes: Mapping[str, int], *, bits: int,
                  budget: float, accuracy: Callable[[dict[str, Tensor]], float],
                  other: tuple[int, int] = (0, 0), step: float = 0.2,
                  patience: float = 0.01) -> Widths:
    """Raise thresholds on the scores until weights have ``budget`` bits on average.

    All thresholds start at 0, where each filter has all ``bits``. They rise in small steps, the
    highest one first, while the accuracy stays above a target, which falls where none can rise.

    Parameters
    ----------
    scores : mapping
        Of `class_scores`.
    sizes : mapping
        Weights of one filter of each layer.
    bits : int
        Most bits of a filter.
    budget : float
        Average bits of a weight; above 0.
    accuracy : callable
        Of the model with filters of such widths, on images that are not trained on.
    other : tuple of int
        Weights, and their bits in all, that are not searched but count.
    step : float
        How far a threshold rises.
    patience : float
        How far the target falls; above 0.

    Raises
    ------
    ModelError
        If even without any filter the average is above the budget.
    """
    weights = other[0] + sum(sizes[path] * len(score) for path, score in scores.items())

    def average(widths: Mapping[str, Tensor]) -> float:
        return (other[1] + sum(sizes[path] * int(width.sum())
                               for path, width in widths.items())) / weights

    if other[1] / weights > budget:
        raise ModelError(f"average of {budget} bits must be reached by the filters that are "
                         f"searched, but the other weights alone take {other[1] / weights:.2f}; "
                         "give those fewer bits")
    thresholds = [0.0] * bits
    widths = widths_of(scores, thresholds)
    best = accuracy(widths)
    known: dict[tuple[float, ...], float] = {}
    top = max(float(score.max()) for score in scores.values()) + 2 * step
    for fall in count(1):
        target = best - fall * patience
        moved = True
        while moved and average(widths) > budget:
            moved = False
            for number in range(bits - 1, -1, -1):
                ceiling = thresholds[number + 1] if number + 1 < bits else top
                tried = [*thresholds]
                tried[number] = min(thresholds[number] + step, ceiling)
                if tried == thresholds:
                    continue
                found = widths_of(scores, tried)
                same = all(torch.equal(found[path], widths[path]) for path in found)
                if not same:
                    reached = known.get(tuple(tried)) or accuracy(found)
                    known[tuple(tried)] = reached
                    if reached < target:
                        continue
                thresholds, widths, moved = tried, found, True
                if average(widths) <= budget:
                    break
        if average(widths) <= budget:
            break
    return Widths(filters=widths, thresholds=tuple(thresholds), average=average(widths))
