"""One-dimensional k-means: the only solver that LUT-Q needs, whatever the constraint."""
from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cluster_means", "lloyd", "nearest", "squared_error"]


def nearest(weights: Tensor, dictionary: Tensor) -> Tensor:
    """Index of the dictionary entry nearest to each weight.

    A weight midway between two values takes the lower one. Where entries are
    equal, weights below them take the first and weights above them the last: the
    distance is the same, and entries that merged part again at the next mean.

    Parameters
    ----------
    weights : Tensor, float64, any shape
        What to assign.
    dictionary : Tensor, float64, shape [K]
        Entries, in any order.

    Returns
    -------
    Tensor, int64, shape of ``weights``
        Indices into ``dictionary``.
    """
    values, order = torch.sort(dictionary, stable=True)
    return order[torch.bucketize(weights.contiguous(), (values[:-1] + values[1:]) / 2)]


def cluster_means(weights: Tensor, assignment: Tensor, dictionary: Tensor,
                  ) -> tuple[Tensor, Tensor]:
    """Mean of the weights assigned to each entry, and their number.

    Parameters
    ----------
    weights : Tensor, float64, any shape
        What was assigned.
    assignment : Tensor, int64, shape of ``weights``
        Indices into ``dictionary``.
    dictionary : Tensor, float64, shape [K]
        Entries; one that no weight takes keeps its value.

    Returns
    -------
    tuple of Tensor, float64, each of shape [K]
        Means and counts.
    """
    index, flat = assignment.flatten(), weights.flatten()
    counts = torch.zeros_like(dictionary).scatter_add_(0, index, torch.ones_like(flat))
    sums = torch.zeros_like(dictionary).scatter_add_(0, index, flat)
    return torch.where(counts > 0, sums / counts.clamp(min=1), dictionary), counts


def lloyd(weights: Tensor, entries: int, *, iterations: int = 50) -> Tensor:
    """Dictionary of plain k-means, started from the quantiles; float64, ascending, shape [K]."""
    flat = weights.flatten().sort().values
    where = (torch.arange(entries, dtype=torch.float64) + 0.5) / entries * len(flat)
    dictionary = flat[where.long().to(flat.device)]
    for _ in range(iterations):
        dictionary, _counts = cluster_means(weights, nearest(weights, dictionary), dictionary)
    return dictionary


def squared_error(weights: Tensor, dictionary: Tensor) -> float:
    """Sum of the squared distances to the nearest entry."""
    return float((weights - dictionary[nearest(weights, dictionary)]).square().sum())
