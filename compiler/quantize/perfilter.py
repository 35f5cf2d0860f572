"""Weights whose filters are integers of different widths, each with a step of its own."""
from __future__ import annotations

import torch
from torch import Tensor

from nomul.compiler.quantize.lutq import Tied
from nomul.compiler.quantize.rounding import round_half_up

__all__ = ["PerFilter", "filter_range", "filter_steps", "rounded"]

# Steps that are tried for a filter, as shares of the one that just reaches its largest weight.
_SHARES = 40


def filter_range(width: int) -> tuple[int, int]:
    """Lowest and highest integer of a weight of ``width`` bits; -1 and 1, without 0, for one."""
    if width < 2:
        return -width, width
    return -(1 << width - 1), (1 << width - 1) - 1


def rounded(weights: Tensor, widths: Tensor) -> Tensor:
    """The integers nearest to ``weights`` [filters, ...] that ``widths`` [filters] bits hold."""
    shape = (-1, *[1] * (weights.ndim - 1))
    half = (2.0 ** (widths - 1)).to(weights).view(shape)
    codes = torch.minimum(torch.maximum(round_half_up(weights), -half), half - 1)
    signs = torch.where(weights < 0, -1, 1).to(weights)
    width = widths.view(shape)
    return torch.where(width > 1, codes, torch.where(width == 1, signs, 0))


def filter_steps(weights: Tensor, widths: Tensor) -> Tensor:
    """Step of each filter with the least squared error, of a uniform quantizer.

    Parameters
    ----------
    weights : Tensor, float64, shape [filters, ...]
        In float.
    widths : Tensor, int64, shape [filters]
        Bits; a filter of 0 bits has the step 1.
    """
    flat = weights.flatten(1)
    reach = (2.0 ** (widths - 1)).clamp(min=1)  # the largest magnitude among the integers
    largest = flat.abs().amax(dim=1) / reach
    best, step = torch.full_like(largest, torch.inf), torch.ones_like(largest)
    for share in range(1, _SHARES + 1):
        tried = torch.where((widths > 0) & (largest > 0), largest * share * 1.5 / _SHARES, 1)
        error = (rounded(flat / tried[:, None], widths) * tried[:, None] - flat).square().sum(dim=1)
        step = torch.where(error < best, tried, step)
        best = torch.minimum(best, error)
    return step


class PerFilter(Tied):
    """A weight whose filters are integers of different widths; a normalization takes their steps.

    The dictionary is a segment for each width that occurs, in increasing order: all integers of
    `filter_range`.

    Parameters
    ----------
    weights : Tensor, shape [filters, ...]
        In steps of each filter.
    widths : Tensor, int64, shape [filters]
        Bits of each filter; 0 makes its weights 0.

    Attributes
    ----------
    widths : Tensor, int64, shape [filters]
        As given.
    starts : Tensor, int64, shape [filters]
        Where in the dictionary the integer 0 of each filter is, or would be.
    """

    widths: Tensor
    starts: Tensor

    def __init__(self, weights: Tensor, widths: Tensor) -> None:
        entries: list[int] = []
        starts = torch.zeros_like(widths)
        for width in torch.unique(widths).tolist():
            low, high = filter_range(width)
            starts[widths == width] = len(entries) - low
            entries += [low, high] if width == 1 else range(low, high + 1)
        super().__init__(torch.tensor(entries).to(weights),
                         torch.zeros_like(weights, dtype=torch.long), 0)
        self.register_buffer("widths", widths)
        self.register_buffer("starts", starts)
        self.step(weights)

    @torch.no_grad()
    def step(self, weights: Tensor, *, settled: bool = False, checked: bool = True) -> None:
        """Take the integers nearest to the shadow ``weights``."""
        shape = (-1, *[1] * (weights.ndim - 1))
        codes = rounded(weights, self.widths)
        # A segment of one bit lacks the 0: 1 stands where 0 would.
        missing = ((self.widths == 1).view(shape) & (codes > 0)).long()
        self.assignment.copy_(codes.long() + self.starts.view(shape) - missing)
