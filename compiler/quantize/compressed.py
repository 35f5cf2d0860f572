"""Weights in training that C steps compress, and what the augmented Lagrangian keeps of them."""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nomul.compiler.quantize.codebooks import Codebook
from nomul.compiler.quantize.csteps import CStep
from nomul.compiler.quantize.lutq import Tied, grid_bias_of, shadow_of, tied_of
from nomul.compiler.quantize.rounding import round_half_up

__all__ = ["Compressed", "Layers", "Scored"]

# Of the significand of a float of 32 bits, in which weights are kept.
_FLOAT_BITS = 24


class Compressed(Tied):
    """A weight and what the last C step made of it, which is Delta(Theta).

    Parameters
    ----------
    weights : Tensor, any shape
        What training starts with.
    entries : int
        K, entries of the codebook; all are 0 until the first C step.
    finest : int
        Exponent of the finest grid that entries may be on.

    Attributes
    ----------
    corrections : Tensor, shape of the weight
        What Delta(Theta) adds to the tied weights; mostly 0.
    multipliers : Tensor, shape of the weight
        Lambda.
    target : Tensor, shape of the weight
        ``Delta(Theta) + lambda / mu``, where an L step pulls the weight.
    penalty : Tensor, shape []
        Mu.
    tied : bool
        Whether the weight is Delta(Theta), not itself.
    """

    corrections: Tensor
    multipliers: Tensor
    target: Tensor
    penalty: Tensor
    grid: Tensor
    divisor: Tensor

    def __init__(self, weights: Tensor, entries: int, finest: int) -> None:
        super().__init__(weights.new_zeros(entries),
                         torch.zeros_like(weights, dtype=torch.long), finest)
        self.finest = finest
        self.register_buffer("corrections", torch.zeros_like(weights))
        self.register_buffer("multipliers", torch.zeros_like(weights))
        self.register_buffer("target", torch.zeros_like(weights))
        self.register_buffer("penalty", weights.new_zeros(()))
        self.register_buffer("grid", torch.ones_like(self.penalty, dtype=torch.float64))
        # Of all corrections, in units of the grid; where it lies, a captured step reads it.
        self.register_buffer("divisor", torch.zeros_like(self.penalty, dtype=torch.int64),
                             persistent=False)
        self.tied = True

    def set_extra_state(self, state: Tensor) -> None:
        super().set_extra_state(state)
        self._divide()

    def forward(self, weights: Tensor) -> Tensor:
        return self.decompressed() if self.tied else weights

    def decompressed(self) -> Tensor:
        """Delta(Theta), of the weight's shape."""
        return self.dictionary[self.assignment] + self.corrections

    def shifted(self, weights: Tensor) -> Tensor:
        """``w - lambda / mu``, float64: what a C step compresses."""
        weights = weights.detach().double()
        return weights - self.multipliers / self.penalty if self.penalty else weights

    def distance(self, weights: Tensor) -> Tensor:
        """``mu / 2 * |w - Delta(Theta) - lambda / mu| ** 2``, what an L step adds to the loss."""
        return self.penalty / 2 * (weights - self.target).square().sum()

    def penalize(self, mu: float) -> None:
        """Take the next mu."""
        self.penalty.fill_(mu)
        self.target.copy_(self.decompressed() + self.multipliers / mu)

    def take(self, codebook: Codebook, bits: int) -> None:
        """Become what a C step found, its values rounded to integers of ``bits`` bits.

        Corrections are rounded too, so that weights are as near to what was found as they can be:
        to the grid of the dictionary, or where its entries are whole numbers times a scale to a
        fraction of the scale that is a power of two. The largest are clipped to what a float of
        32 bits holds.
        """
        finer = 0 if codebook.correction is None else codebook.finer_bits(bits)
        codes, exponent = codebook.on_grid(bits, finest=self.finest + finer)
        self.exponent = exponent - finer
        self.grid.fill_(2.0 ** self.exponent)
        self.dictionary.copy_(codes.double() * 2.0 ** exponent)
        self.assignment.copy_(codebook.assignment)
        if codebook.correction is not None:
            step = (codebook.is_whole(bits) and math.gcd(*codes.tolist())) or 1
            unit = step * 2.0 ** self.exponent
            missing = codebook.weights() - self.dictionary.double()[self.assignment]
            peak = int(codes.abs().max()) << finer
            most = 2 ** (_FLOAT_BITS - step.bit_length()) - 1 - peak // step
            numbers = round_half_up(missing / unit).clamp(-most, most)
            self.corrections.copy_(numbers * unit * (codebook.correction != 0))
        self._divide()

    def correction_codes(self) -> Tensor:
        """Corrections in units of the grid, int64, of the weight's shape."""
        return (self.corrections.double() / self.grid).long()

    def _divide(self) -> None:
        numbers = self.correction_codes()
        numbers = numbers[numbers != 0]
        self.divisor.fill_(math.gcd(*numbers.tolist()))

    def _divisors(self) -> Tensor:
        return torch.cat([super()._divisors(), self.divisor[None]])

    def _grid(self) -> Tensor:
        return self.grid  # a captured step reads the exponent of the last C step from it


@dataclass(frozen=True, kw_only=True)
class Layers:
    """All weights of a model, to be compressed.

    Parameters
    ----------
    modules : list of nn.Module
        Each with a `Compressed` weight.
    step : CStep
        What kind of codebook.
    shared : bool
        Whether all of them share one.
    value_bits : int
        Bits of its values.
    """

    modules: list[nn.Module]
    step: CStep
    shared: bool
    value_bits: int

    def __iter__(self) -> Iterator[tuple[Tensor, Compressed]]:
        for module in self.modules:
            weights = tied_of(module)
            assert isinstance(weights, Compressed)
            yield shadow_of(module, "weight"), weights

    @torch.no_grad()
    def compress(self) -> None:
        """The C step."""
        shifted = [weights.shifted(shadow) for shadow, weights in self]
        before = [Codebook(entries=weights.dictionary.double(), assignment=weights.assignment)
                  if weights.dictionary.any() else None for _shadow, weights in self]
        if self.shared:
            one = self.step.solve(torch.cat([values.flatten() for values in shifted]), before[0])
            found = one.split([values.numel() for values in shifted])
        else:
            found = [*map(self.step.solve, shifted, before)]
        for module, (shadow, weights), codebook in zip(self.modules, self, found, strict=True):
            weights.take(codebook.view(shadow.shape), self.value_bits)
            bias = grid_bias_of(module)
            if bias is not None:
                bias.follow(weights)

    @torch.no_grad()
    def multiply(self) -> None:
        """The step of the multipliers: ``lambda <- lambda - mu (w - Delta(Theta))``."""
        for shadow, weights in self:
            weights.multipliers.sub_(weights.penalty * (shadow - weights.decompressed()))

    @torch.no_grad()
    def penalize(self, mu: float) -> None:
        """Take the next mu."""
        for _shadow, weights in self:
            weights.penalize(mu)

    @torch.no_grad()
    def restart(self) -> None:
        """Put Delta(Theta) in the place of the weights."""
        for shadow, weights in self:
            shadow.copy_(weights.decompressed())

    def distance(self) -> Tensor:
        """Sum of `Compressed.distance`."""
        return torch.stack([weights.distance(shadow) for shadow, weights in self]).sum()

    @torch.no_grad()
    def gap(self) -> float:
        """``|w - Delta(Theta)| / |w|``, of all weights together."""
        parts = [(float((shadow - weights.decompressed()).square().sum()),
                  float(shadow.square().sum())) for shadow, weights in self]
        return float((sum(part[0] for part in parts) / sum(part[1] for part in parts)) ** 0.5)

    @contextmanager
    def loose(self) -> Iterator[None]:
        """Weights are themselves in the block, and Delta(Theta) behind it."""
        self.tie(False)
        try:
            yield
        finally:
            self.tie(True)

    def tie(self, tied: bool) -> None:
        """Make weights Delta(Theta), or themselves."""
        for _shadow, weights in self:
            weights.tied = tied


class Scored(nn.Module):
    """A model with Delta(Theta) for its weights."""

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        super().__init__()
        self.model = model
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        self.layers.tie(True)
        scores: Tensor = self.model(images)
        self.layers.tie(False)
        return scores
