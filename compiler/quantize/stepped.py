"""Monotone functions that take few levels: each begins at a threshold of its own."""
from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from nomul.compiler.network import Levels
from nomul.compiler.quantize.activations import Quantized
from nomul.compiler.quantize.rounding import straight_through
from nomul.compiler.quantize.staircases import Quantizer

__all__ = ["Curve", "QuantizedTanh", "Stepped", "midpoints"]


class Curve(Enum):
    """A smooth function, increasing where it is not flat."""

    IDENTITY = "identity"
    TANH = "tanh"
    RELU = "relu"
    RELU6 = "relu6"

    def __call__(self, values: Tensor) -> Tensor:
        """The function of ``values``."""
        return _FORWARD[self](values)

    @property
    def ends(self) -> tuple[float, float]:
        """What the function lies between; infinite where it has no end."""
        return _ENDS[self]

    def inverse(self, value: float) -> float:
        """Where the function reaches ``value``, which must lie between its ends."""
        low, high = self.ends
        if not low < value < high:
            raise ValueError(f"Value of {self.value} must lie between {low} and {high}, "
                             f"not {value!r}")
        return math.atanh(value) if self is Curve.TANH else value


_FORWARD: dict[Curve, Callable[[Tensor], Tensor]] = {
    Curve.IDENTITY: lambda values: values,
    Curve.TANH: torch.tanh,
    Curve.RELU: functional.relu,
    Curve.RELU6: functional.relu6,
}
_ENDS = {
    Curve.IDENTITY: (-math.inf, math.inf),
    Curve.TANH: (-1.0, 1.0),
    Curve.RELU: (0.0, math.inf),
    Curve.RELU6: (0.0, 6.0),
}


def midpoints(curve: Curve, levels: Levels) -> list[float]:
    """Where ``curve`` is midway between two neighbours of ``levels``."""
    values = levels.values.tolist()
    return [curve.inverse(math.ldexp(low + high, levels.exponent - 1))
            for low, high in pairwise(values)]


class Stepped(Quantized):
    """A curve that takes few levels: forward the level, backward the curve's own gradient.

    Thresholds are float64, whatever type the model is of; in eval mode and float64 a level
    begins exactly at its threshold.

    Parameters
    ----------
    curve : Curve
        What is approximated.
    levels : Levels
        Of the results.
    thresholds : sequence of float
        Where each level but the first begins; in increasing order.
    gain : float
        How much larger the numbers read are than those that the curve and thresholds mean.
    """

    values: Tensor
    thresholds: Tensor

    def __init__(self, curve: Curve, levels: Levels, thresholds: list[float], *,
                 gain: float = 1.0) -> None:
        super().__init__(levels.exponent)
        self.curve = curve
        self.gain = gain
        self.signed = bool(levels.values[0] < 0)
        self.register_buffer("values", torch.tensor(levels.values))
        # As integers of the same bits, which follow the model to another device but never to
        # another type.
        starts = torch.tensor(thresholds, dtype=torch.float64) * gain
        self.register_buffer("thresholds", starts.view(torch.int64))
        self.quantizer()  # which checks them

    @property
    def levels(self) -> Levels:
        """What the codes mean."""
        return Levels(values=self.values.cpu().numpy(), exponent=self.exponent)

    def quantizer(self) -> Quantizer:
        starts = self.thresholds.view(torch.float64).tolist()
        return Quantizer(levels=self.levels, starts=tuple(map(Fraction, starts)))

    def codes(self, values: Tensor) -> Tensor:
        """Number of thresholds that each of ``values`` reaches, int64."""
        kind = torch.promote_types(values.dtype, torch.float32)
        starts = self.thresholds.view(torch.float64).to(kind)
        return torch.bucketize(values.detach().to(kind).contiguous(), starts, right=True)

    def forward(self, values: Tensor) -> Tensor:
        """Levels of the curve of ``values``, of the same shape."""
        levels = self.values.to(values.dtype) * self.step
        return straight_through(self.curve(values / self.gain), levels[self.codes(values)])

    def extra_repr(self) -> str:
        return f"{self.curve.value}, {len(self.values)} levels, step=2**{self.exponent}"


class QuantizedTanh(Stepped):
    """Tanh whose result is a code of few bits: -1 up to 1, without 1, in even steps.

    Level ``n * step`` is taken between the midpoints of its neighbours.

    Parameters
    ----------
    bits : int
        Bits of a code; 2 to 8.
    gain : float
        See `Stepped`.
    """

    def __init__(self, bits: int, *, gain: float = 1.0) -> None:
        if not 2 <= bits <= 8:
            raise ValueError(f"bits of a code must be 2 to 8, not {bits!r}")
        levels = Levels.uniform(1 << bits, start=-(1 << bits - 1), exponent=1 - bits)
        super().__init__(Curve.TANH, levels, midpoints(Curve.TANH, levels), gain=gain)
