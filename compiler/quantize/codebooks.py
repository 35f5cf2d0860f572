"""A compressed weight: entries of a codebook, and perhaps a few corrections."""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from nomul.compiler.quantize.rounding import round_half_up

__all__ = ["Codebook"]

# A sixty-fourth of an entry is about as fine as a dictionary value of 8 bits.
_FINER_BITS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """What a C step finds: weights become ``scale * entries[assignment] + correction``.

    Parameters
    ----------
    entries : Tensor, float64, shape [K]
        Entries without their scale.
    assignment : Tensor, int64, any shape
        Index of the entry that each weight takes.
    scale : float
        What multiplies all entries.
    correction : Tensor, float64, shape of ``assignment``, optional
        What is added to each weight; mostly 0.
    """

    entries: Tensor
    assignment: Tensor
    scale: float = 1.0
    correction: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Entries times scale, float64 [K]: the dictionary."""
        return self.scale * self.entries

    def weights(self) -> Tensor:
        """The compressed weights, float64, of the assignment's shape."""
        weights = self.values[self.assignment]
        return weights if self.correction is None else weights + self.correction

    def error(self, weights: Tensor) -> float:
        """Sum of the squared distances to ``weights``, what a C step makes small."""
        return float((weights.double() - self.weights()).square().sum())

    def view(self, shape: torch.Size) -> Codebook:
        """The same for weights of another ``shape``."""
        return self._mapped(lambda values: values.view(shape))

    def to(self, device: torch.device) -> Codebook:
        """The same with its tensors on ``device``."""
        return replace(self._mapped(lambda values: values.to(device)),
                       entries=self.entries.to(device))

    def split(self, sizes: list[int]) -> list[Codebook]:
        """One codebook of so many weights each, of weights [N] that share this one."""
        corrections: Iterable[Tensor | None] = (itertools.repeat(None) if self.correction is None
                       else torch.split(self.correction, sizes))
        return [replace(self, assignment=assignment, correction=correction)
                for assignment, correction in zip(
                    torch.split(self.assignment, sizes), corrections, strict=False)]

    def on_grid(self, bits: int, *, finest: int | None = None) -> tuple[Tensor, int]:
        """The dictionary in integers: the nearest ones of ``bits`` bits times a power of two.

        The grid is the finest on which the dictionary fits. Entries that are whole numbers
        times a power of two keep their ratio, however their scale is rounded: what divides all
        integers is then the scale, and moves out of the dictionary exactly.

        Parameters
        ----------
        bits : int
            Bits of an integer, in two's complement; at least 2.
        finest : int, optional
            Exponent of the finest grid that is allowed.

        Returns
        -------
        tuple of Tensor, int64, shape [K], and int
            Integers, and the exponent of what they count.
        """
        largest = 2 ** (bits - 1) - 1
        factor, whole = _factored(self.entries)
        if self.is_whole(bits):
            numbers, ratios = [self.scale * factor], whole
        else:
            numbers, ratios = self.values.tolist(), [1]
        peak, most = max(map(abs, numbers)), largest // max(1, *map(abs, ratios))
        exponent = math.ceil(math.log2(peak / most)) if peak else 0
        exponent = exponent if finest is None else max(exponent, finest)
        rounded = round_half_up(torch.tensor(numbers, dtype=torch.float64)
                                * math.ldexp(1.0, -exponent)).clamp(-most, most)
        return rounded.long() * torch.tensor(ratios), exponent

    def finer_bits(self, bits: int) -> int:
        """Bits by which corrections may be finer than the grid of `on_grid`: 6 below the largest
        entry, where entries are whole numbers times a scale, so that they stay so; else none."""
        peak = max(map(abs, _factored(self.entries)[1]))
        return max(0, _FINER_BITS + 1 - peak.bit_length()) if self.is_whole(bits) else 0

    def is_whole(self, bits: int) -> bool:
        """Whether entries are whole numbers of ``bits`` bits times a scale."""
        largest = 2 ** (bits - 1) - 1
        return all(abs(number) <= largest for number in _factored(self.entries)[1])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Codebook:
        """What belongs to each weight, changed."""
        return replace(self, assignment=change(self.assignment), correction=(
            None if self.correction is None else change(self.correction)))


def _factored(entries: Tensor) -> tuple[float, list[int]]:
    """A number, and the smallest integers that give ``entries`` when multiplied with it."""
    fractions = [Fraction(value) for value in entries.tolist()]
    common = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * common) for fraction in fractions]
    divisor = math.gcd(*whole) or 1
    return float(Fraction(divisor, common)), [number // divisor for number in whole]
