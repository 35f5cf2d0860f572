"""Batch normalization that is exact: a factor of few bits, or none but its shift.

In eval mode a normalization is ``y = a * (x + k * unit)`` with ``a`` of 12 significant
bits, or a signed power of two, and an integer ``k`` for each channel; ``unit`` is what
the accumulators before it count. In float64 nothing of that is ever rounded, so torch
and the thresholds that the export derives cannot disagree.
"""
from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.quantize.rounding import (
    Rounding,
    powers_of_two,
    round_half_up,
    round_to_power,
    straight_through,
)

__all__ = ["Folded", "GridNorm", "Norm", "estimate_norms", "fold", "settle_norms"]

_MANTISSA = 12
_LARGEST_SHIFT = 1 << 30


class Norm(Enum):
    """What batch normalization multiplies with."""

    AFFINE = "affine"
    """Any factor of 12 significant bits; it vanishes into the thresholds."""
    POWER_OF_TWO = "pow2"
    """Signed powers of two: multiplier-less batch normalization (arXiv 1811.05355)."""
    FOLD = "fold"
    """Nothing: it is folded into the weights before they are quantized. All channels of a
    layer then share their thresholds."""


class Folded(nn.Module):
    """What is left of a normalization that was folded into the layer before it: nothing."""

    def forward(self, values: Tensor) -> Tensor:
        """``values``."""
        return values


@torch.no_grad()
def fold(layer: nn.Linear | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Change weights and bias of ``layer`` so that it does what ``norm`` behind it would."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight
    bias = -norm.running_mean * factor if layer.bias is None else (
        (layer.bias - norm.running_mean) * factor)
    layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(bias + norm.bias if norm.affine else bias)


class _Centred(torch.autograd.Function):
    """``factor * (values - mean) + bias``, of whose gradient the mean takes its part."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mean: Tensor, factor: Tensor, bias: Tensor,
                eps: float) -> Tensor:
        ctx.save_for_backward(factor)
        return functional.batch_norm(values, mean, torch.full_like(mean, 1 - eps), factor, bias,
                                     training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        gradient, (factor,) = gradients[0], ctx.saved_tensors
        shape = (1, -1, *[1] * (gradient.ndim - 2))
        bias = gradient.sum((0, *range(2, gradient.ndim)), dtype=factor.dtype)
        mean = bias * (gradient.shape[1] / gradient.numel())
        inner = (gradient - mean.to(gradient).view(shape)) * factor.to(gradient).view(shape)
        return inner, None, None, bias, None


class GridNorm(nn.Module):
    """Batch normalization of `nn.BatchNorm1d` and `nn.BatchNorm2d`, made exact.

    Training uses the statistics of the batch and moves the running ones, as torch does.
    With `Norm.POWER_OF_TWO` the factor ``a = weight / sqrt(var + eps)`` is then already
    rounded, to ``sign(a) * 2**round(log2(abs(a)))``: torch's normalization, with another weight
    to which the gradient goes straight through. A factor near the border of two powers so takes
    one or the other, as the batch happens to be; at the end of a training it is to be `settled`.

    Parameters
    ----------
    source : nn.BatchNorm1d or nn.BatchNorm2d
        With running statistics; its parameters and statistics are copied.
    unit : float
        What the accumulators count.
    norm : Norm
        What it may multiply with.

    Attributes
    ----------
    settled : bool
        Whether the powers of two of eval mode stay as they are. In training nothing is then
        divided by the deviation of the batch, so that the layer before learns how far its values
        spread; the weight follows the running variance, and does not learn. `settle_norms`
        changes it.
    """

    running_mean: Tensor
    running_var: Tensor
    unit: Tensor

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d, unit: float, norm: Norm) -> None:
        super().__init__()
        assert source.running_mean is not None and source.running_var is not None
        features = source.num_features
        like = source.running_mean
        self.eps, self.momentum, self.norm = source.eps, source.momentum or 0.1, norm
        self.settled = False
        self.weight = nn.Parameter(source.weight.detach().clone() if source.affine
                                   else torch.ones(features, device=like.device))
        self.bias = nn.Parameter(source.bias.detach().clone() if source.affine
                                 else torch.zeros(features, device=like.device))
        self.register_buffer("running_mean", like.detach().clone())
        self.register_buffer("running_var", source.running_var.detach().clone())
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Normalized ``values`` [N, channels, …]."""
        shape = (1, -1, *[1] * (values.ndim - 2))
        if not self.training:
            factor, offset = self.exact()
            shift = torch.where(factor == 0, 0, offset)
            constant = torch.where(factor == 0, offset, 0)
            moved = values + (shift * self.unit.double()).to(values).view(shape)
            return factor.to(values).view(shape) * moved + constant.to(values).view(shape)
        if self.settled and self.norm is Norm.POWER_OF_TWO:
            return self._settled(values)
        weight: Tensor = self.weight
        if self.norm is Norm.POWER_OF_TWO:
            weight = straight_through(weight, weight.detach() * self._rounding(values))
        return functional.batch_norm(values, self.running_mean, self.running_var, weight,
                                     self.bias, training=True, momentum=self.momentum,
                                     eps=self.eps)

    def _settled(self, values: Tensor) -> Tensor:
        """``values`` of training, centred, times the powers of two of eval mode."""
        with torch.no_grad():
            factor = self._factor()
            mean, _var = torch.batch_norm_update_stats(values, self.running_mean,
                                                       self.running_var, self.momentum)
            self.weight.copy_(factor * self._deviation())
        result: Tensor = _Centred.apply(  # type: ignore[no-untyped-call]
            values, mean, factor.to(self.bias), self.bias, self.eps)
        return result

    @torch.no_grad()
    def _rounding(self, values: Tensor) -> Tensor:
        """What each channel's factor is multiplied by to become a power of two."""
        _mean, var = torch.batch_norm_update_stats(values.detach(), None, None, 0.0)
        weight = self.weight
        factor = weight.double() / (var.double() + self.eps).sqrt()
        dead = factor == 0
        return torch.where(dead, 1, _to_power(factor) / torch.where(dead, 1, factor)).to(weight)

    @torch.no_grad()
    def exact(self) -> tuple[Tensor, Tensor]:
        """Factor ``a`` and integer ``k`` of each channel in eval mode, float64.

        Where ``a`` is 0, or so small that ``k`` would leave 2**30, the channel is a
        constant: then ``a`` is 0 and in the place of ``k`` stands that constant.
        """
        bias, factor = self.bias.double(), self._factor()
        safe = torch.where(factor == 0, 1, factor)
        constant = bias - factor * self.running_mean.double()
        shift = round_half_up(constant / safe / self.unit.double())
        dead = (factor == 0) | (shift.abs() > _LARGEST_SHIFT)
        return torch.where(dead, 0, factor), torch.where(dead, constant, shift)

    @torch.no_grad()
    def _factor(self) -> Tensor:
        """Factor of each channel in eval mode, float64."""
        factor = self.weight.double() / self._deviation()
        return (_to_power if self.norm is Norm.POWER_OF_TWO else _to_mantissa)(factor)

    def _deviation(self) -> Tensor:
        """What each channel is divided by in eval mode, float64."""
        return (self.running_var.double() + self.eps).sqrt()

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, norm={self.norm.value}"


def settle_norms(model: nn.Module, settled: bool) -> None:
    """Set `GridNorm.settled` in all of ``model``."""
    for module in model.modules():
        if isinstance(module, GridNorm):
            module.settled = settled


@torch.no_grad()
def estimate_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make the statistics of every `GridNorm` the means over ``batches`` of images
    [N, channels, height, width]; puts ``model`` in train mode.

    While weights hop between entries of a dictionary, running averages lag behind what a layer
    gives now (Nagel et al., arXiv 2203.11086). Averaging anew closes the gap.
    """
    norms = [module for module in model.modules() if isinstance(module, GridNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.train()
    for number, images in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _to_mantissa(values: Tensor) -> Tensor:
    """Nearest numbers of 12 significant bits."""
    mantissa, exponent = torch.frexp(values)
    powers = powers_of_two(exponent.long() - _MANTISSA)
    return round_half_up(mantissa * 2 ** _MANTISSA) * powers


def _to_power(values: Tensor) -> Tensor:
    """Signed powers of two nearest on a logarithmic scale; 0 stays 0."""
    dead = values == 0
    exponents = round_to_power(torch.where(dead, 1, values), Rounding.GEOMETRIC)
    return torch.where(dead, 0, values.sign() * powers_of_two(exponents))
