"""Layers whose products are read from a table of rounded integers (Covell et al., 1906.04798).

The entry of weight ``w`` and input level ``a`` is ``round(a * w / unit)``, halves upwards, and
``unit`` a power of two. Sums, biases and thresholds count that unit: in eval mode and float64
torch gives exactly these integers, times the unit.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from nomul.compiler.network import Levels
from nomul.compiler.quantize.constraints import Constraint
from nomul.compiler.quantize.lutq import LutQ, Tied, tied_of
from nomul.compiler.quantize.rounding import round_half_up, straight_through

__all__ = ["TableBias", "Tabled", "product_table", "table_bias_of", "table_exponent"]

# The rounding of a sum, against the spread of the sums: one part in so many.
_FINE = 256


def product_table(weights: Tensor, levels: Tensor, shift: int) -> Tensor:
    """``round(weights[k] * levels[a] * 2**shift)``, halves upwards; int64 [entries, codes].

    Parameters
    ----------
    weights : Tensor, int64, shape [entries]
        Dictionary.
    levels : Tensor, int64, shape [codes]
        Levels of the input.
    shift : int
        Exponent of both together, less that of the unit.
    """
    products = torch.outer(weights, levels)
    if shift >= 0:
        return products << shift
    return (products + (1 << -shift - 1)) >> -shift


def table_exponent(sums: Tensor, fan_in: int) -> int:
    """Exponent of a unit in which the rounding of a table costs nothing noticeable.

    Each product is off by half a unit at most, evenly spread: a sum of ``fan_in`` then by
    ``sqrt(fan_in / 12)`` units, as a standard deviation. The unit is the largest power of two for
    which that is at most 1/256 of the standard deviation of ``sums`` [N, channels, ...], that of
    the channel in the middle.
    """
    spread = float(sums.double().transpose(0, 1).flatten(1).std(dim=1).median())
    return math.floor(math.log2((spread or 1.0) / _FINE / math.sqrt(fan_in / 12)))


class TableBias(nn.Module):
    """Parametrization of a bias: the nearest multiple of the unit, halves upwards.

    Parameters
    ----------
    exponent : int
        Exponent of the unit.
    """

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def get_extra_state(self) -> Tensor:
        """The exponent."""
        return torch.tensor(self.exponent)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.exponent = int(state)

    @property
    def unit(self) -> float:
        """What biases are multiples of."""
        return math.ldexp(1.0, self.exponent)

    def forward(self, bias: Tensor) -> Tensor:
        """Bias on its grid; the gradient goes straight through."""
        return straight_through(bias, (self._codes(bias) * self.unit).to(bias.dtype))

    def integers(self, bias: Tensor) -> list[int]:
        """The shadow ``bias`` in units."""
        codes: list[int] = self._codes(bias).long().tolist()
        return codes

    def _codes(self, bias: Tensor) -> Tensor:
        return round_half_up(bias.detach().double() / self.unit)


class Tabled(nn.Module):
    """A layer by a table of products: forward the sums of its entries, backward the gradient of
    the products themselves.

    Parameters
    ----------
    layer : nn.Linear or nn.Conv2d
        Its weight becomes a parametrization by `LutQ`, its bias one by `TableBias`.
    constraint : Constraint
        What the dictionary may hold.
    levels : Levels
        What the codes mean that it reads.
    exponent : int
        Exponent of the unit.
    iterations : int
        See `LutQ`.
    """

    levels: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, constraint: Constraint, *, levels: Levels,
                 exponent: int, iterations: int = 1) -> None:
        super().__init__()
        self.layer = layer
        parametrize.register_parametrization(
            layer, "weight", LutQ(layer.weight, constraint, iterations=iterations))
        if layer.bias is not None:
            parametrize.register_parametrization(layer, "bias", TableBias(exponent))
        self.register_buffer("levels", torch.tensor(levels.values))
        self.input_exponent = levels.exponent
        self.exponent = exponent

    def get_extra_state(self) -> Tensor:
        """Exponents of the levels and of the unit, which stay on the host."""
        return torch.tensor([self.input_exponent, self.exponent])

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.input_exponent, self.exponent = state.tolist()

    @property
    def unit(self) -> float:
        """What sums count."""
        return math.ldexp(1.0, self.exponent)

    @property
    def weights(self) -> Tied:
        """The weight's parametrization."""
        weights = tied_of(self.layer)
        assert weights is not None
        return weights

    def input_levels(self) -> Levels:
        """What the codes mean that it reads."""
        return Levels(values=self.levels.cpu().numpy(), exponent=self.input_exponent)

    def table(self) -> Tensor:
        """Products of dictionary entries and levels, in units, int64 [entries, codes]."""
        weights = self.weights
        entries = (weights.dictionary.double() * math.ldexp(1.0, -weights.exponent)).long()
        return product_table(entries, self.levels,
                             weights.exponent + self.input_exponent - self.exponent)

    def forward(self, values: Tensor) -> Tensor:
        """Sums of ``values``, which must be levels."""
        with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
            sums = self._sums(values)
        if torch.is_grad_enabled():
            smooth = self._multiply(values, self.layer.weight)
            sums = straight_through(smooth, sums.to(smooth.dtype))
        if self.layer.bias is None:
            return sums
        return sums + self.layer.bias.to(sums.dtype).view(-1, *[1] * (values.ndim - 2))

    def _sums(self, values: Tensor) -> Tensor:
        """Sums of table entries, in float.

        One product of matrices for each entry, of what every input gives with it and a mask of
        the weights that are it; or one for each code, whichever are fewer.
        """
        kind = torch.promote_types(values.dtype, torch.float32)
        steps = values.to(kind) * math.ldexp(1.0, -self.input_exponent)
        levels = self.levels.to(kind)
        codes = torch.bucketize(steps.contiguous(), (levels[:-1] + levels[1:]) / 2)
        table, assignment = self.table().to(kind), self.weights.assignment
        if len(table) <= len(levels):
            parts = (self._multiply(row[codes], (assignment == entry).to(kind))
                     for entry, row in enumerate(table))
        else:
            parts = (self._multiply((codes == code).to(kind), table[:, code][assignment])
                     for code in range(len(levels)))
        total = next(parts)
        for part in parts:
            total += part
        return total * self.unit

    def _multiply(self, values: Tensor, weight: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return functional.linear(values, weight)
        return functional.conv2d(values, weight, None, layer.stride, layer.padding,
                                 layer.dilation, layer.groups)

    def extra_repr(self) -> str:
        return (f"{len(self.weights.dictionary)} entries, {len(self.levels)} codes, "
                f"unit=2**{self.exponent}")


def table_bias_of(module: nn.Module) -> TableBias | None:
    """The `TableBias` on the bias of ``module``, if there is one."""
    if not parametrize.is_parametrized(module, "bias"):
        return None
    items = module.parametrizations["bias"]  # type: ignore[index]
    return next((item for item in items if isinstance(item, TableBias)), None)
