"""Uniform codes of activations: their step is a power of two, their rounding exact."""
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nomul.compiler.quantize.rounding import round_half_up

__all__ = ["QuantizedInput", "QuantizedReLU"]


class _Round(torch.autograd.Function):
    """Forward the nearest level, backward straight through where the input is in range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: float, top: int) -> Tensor:
        ctx.save_for_backward((values > 0) & (values < top * step))
        return round_half_up(values / step).clamp(0, top) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        inside, = ctx.saved_tensors
        return gradients[0] * inside, None, None


class _Uniform(nn.Module):
    """Levels ``0, step, …, (2**bits - 1) * step``.

    Code ``c`` is taken where ``floor(x / step + 1/2) = c``, clipped to the codes there
    are: halves round up, so that code ``c`` begins exactly at ``(c - 1/2) * step``.
    """

    exponent: Tensor

    def __init__(self, bits: int, exponent: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"bits of a code must be 1 to 8, not {bits!r}")
        self.bits = bits
        self.register_buffer("exponent", torch.tensor(exponent))

    @property
    def step(self) -> float:
        """Distance of two levels, a power of two."""
        return math.ldexp(1.0, int(self.exponent))

    def forward(self, values: Tensor) -> Tensor:
        """Nearest levels of ``values``, of the same shape."""
        result: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            values, self.step, (1 << self.bits) - 1)
        return result

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step=2**{int(self.exponent)}"


class QuantizedInput(_Uniform):
    """Where images enter: rounds them to the levels of the input codes.

    Parameters
    ----------
    bits : int
        Bits of a code; 1 to 8.
    exponent : int
        Exponent of the step.
    """


class QuantizedReLU(_Uniform):
    """ReLU whose result is a code of few bits (uniform fixed point).

    The gradient goes straight through inside the range, and is 0 outside
    (as LUT-Q trains its activations, Cardinaux et al., arXiv 1811.05355).

    Parameters
    ----------
    bits : int
        Bits of a code; 1 to 8.
    exponent : int
        Exponent of the step; `calibrate` chooses it.
    """

    def __init__(self, bits: int, exponent: int = 0) -> None:
        super().__init__(bits, exponent)

    @torch.no_grad()
    def calibrate(self, values: Tensor) -> None:
        """Take the step with the least squared error on ``values``, what enters the ReLU."""
        wanted = values.double().clamp(min=0)
        peak = float(wanted.max())
        if peak == 0:
            return
        coarsest = math.ceil(math.log2(peak / ((1 << self.bits) - 1)))
        errors = {}
        for exponent in range(coarsest, coarsest - self.bits - 1, -1):
            self.exponent.fill_(exponent)
            errors[exponent] = float((self(wanted) - wanted).square().sum())
        self.exponent.fill_(min(errors, key=errors.__getitem__))
