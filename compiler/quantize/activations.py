"""Codes of activations: uniform ones, whose step is a power of two and whose rounding is exact."""
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nomul.compiler.quantize.staircases import Quantizer

__all__ = [
    "Quantized",
    "QuantizedAverage",
    "QuantizedIdentity",
    "QuantizedInput",
    "QuantizedReLU",
    "QuantizedReLU6",
    "Uniform",
]

# Values that calibration looks at; of more, every n-th.
_SAMPLE = 1 << 20


class _Round(torch.autograd.Function):
    """Forward the nearest level, backward straight through where the input is in range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: float, low: int, top: int) -> Tensor:
        ctx.save_for_backward(values)
        ctx.range = low * step, top * step
        # floor((floor(2 x) + 1) / 2) rounds halves up, and no sum of it is ever rounded.
        halves = values.clamp(*ctx.range).mul_(2 / step).floor_()
        return halves.add_(1).mul_(0.5).floor_().mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        values, = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradients[0], values, *ctx.range)
        return inside, None, None, None


class Quantized(nn.Module):
    """Gives levels of codes, integers times ``2**exponent``; the base of all such modules."""

    signed = False
    """Whether levels may be negative."""

    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    @property
    def step(self) -> float:
        """What all levels are multiples of, a power of two."""
        return math.ldexp(1.0, self.exponent)

    def quantizer(self) -> Quantizer:
        """What it does in eval mode and float64, exactly."""
        raise TypeError(f"{type(self).__name__} does not say how it makes codes")

    def get_extra_state(self) -> Tensor:
        """The exponent, which stays on the host: a GPU never waits for it."""
        return torch.tensor(self.exponent)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.exponent = int(state)


class Uniform(Quantized):
    """Levels ``low * step`` to ``(low + 2**bits - 1) * step``; the base of all uniform codes.

    Level ``n * step`` is taken where ``floor(x / step + 1/2) = n``, clipped to the levels
    there are: halves round up, so that it begins exactly at ``(n - 1/2) * step``.
    """

    def __init__(self, bits: int, exponent: int = 0) -> None:
        if not 1 + self.signed <= bits <= 8:
            raise ValueError(f"bits of a code must be {1 + self.signed} to 8, not {bits!r}")
        super().__init__(exponent)
        self.bits = bits

    @property
    def low(self) -> int:
        """The lowest level, in steps."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def top(self) -> int:
        """The highest level, in steps."""
        return self.low + (1 << self.bits) - 1

    def quantizer(self) -> Quantizer:
        return Quantizer.uniform(self.low, self.top, self.exponent)

    def forward(self, values: Tensor) -> Tensor:
        """Nearest levels of ``values``, of the same shape."""
        return self._round(values, 1)

    @torch.no_grad()
    def calibrate(self, values: Tensor) -> None:
        """Take the step with the least squared error on ``values``, what enters."""
        wanted = values.double().flatten()
        wanted = wanted[::math.ceil(wanted.numel() / _SAMPLE)]
        if not self.signed:
            wanted = wanted.clamp(min=0)
        peak = float(wanted.abs().max())
        if peak == 0:
            return
        coarsest = math.ceil(math.log2(peak / (self.low + (1 << self.bits) - 1)))
        errors = {}
        for exponent in range(coarsest, coarsest - self.bits - 1, -1):
            self.exponent = exponent
            errors[exponent] = float((self._round(wanted, 1) - wanted).square().sum())
        self.exponent = min(errors, key=errors.__getitem__)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step=2**{self.exponent}"

    def _round(self, values: Tensor, count: int) -> Tensor:
        """Levels of ``values`` that are ``count`` times too large."""
        result: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            values, self.step * count, self.low, self.top)
        return result


class QuantizedInput(Uniform):
    """Where images enter: rounds them to the levels of the input codes.

    Parameters
    ----------
    bits : int
        Bits of a code; 1 to 8.
    exponent : int
        Exponent of the step.
    """


class QuantizedReLU(Uniform):
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


class QuantizedReLU6(QuantizedReLU):
    """`QuantizedReLU` without the levels above a limit.

    Parameters
    ----------
    bits : int
        Bits of a code; 1 to 8.
    exponent : int
        Exponent of the step; `calibrate` chooses it.
    limit : float
        Highest value; 6 unless what it reads has grown.
    """

    def __init__(self, bits: int, exponent: int = 0, *, limit: float = 6.0) -> None:
        super().__init__(bits, exponent)
        self.limit = limit

    @property
    def top(self) -> int:
        return max(1, min(super().top, math.floor(self.limit / self.step)))

    def calibrate(self, values: Tensor) -> None:
        super().calibrate(values.clamp(max=self.limit))


class QuantizedIdentity(Uniform):
    """Codes of both signs, ``-2**(bits - 1)`` to ``2**(bits - 1) - 1`` steps.

    What a branch without a ReLU needs before it is added, or read by a convolution.

    Parameters
    ----------
    bits : int
        Bits of a code; 2 to 8.
    exponent : int
        Exponent of the step; `calibrate` chooses it.
    """

    signed = True


class QuantizedAverage(Uniform):
    """Average pooling whose result is a code of few bits.

    The sum is rounded, with a step that is as many times larger as values were added: no
    average is ever rounded before its code is known.

    Parameters
    ----------
    bits : int
        Bits of a code; 1 to 8.
    kernel : int, optional
        Side of the window, and its stride. The whole image if omitted.
    exponent : int
        Exponent of the step; `calibrate` chooses it.
    """

    def __init__(self, bits: int, kernel: int | None = None, exponent: int = 0) -> None:
        super().__init__(bits, exponent)
        self.kernel = kernel

    def forward(self, values: Tensor) -> Tensor:
        """Levels of the averages of ``values`` [N, channels, height, width]."""
        sums, count = self.sums(values)
        return self._round(sums, count) / count

    def sums(self, values: Tensor) -> tuple[Tensor, int]:
        """Sums of the windows of ``values``, and how many values each adds."""
        if self.kernel is None:
            return values.sum(dim=(2, 3), keepdim=True), values.shape[2] * values.shape[3]
        return (functional.avg_pool2d(values, self.kernel, divisor_override=1), self.kernel ** 2)
