"""Layers whose weights are entries of a dictionary: what they store, and what they can reach."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from nomul.compiler.layer import Layer
from nomul.compiler.values import LIMIT, Ints, Levels, Staircase, Wire, integers

__all__ = ["Weighted"]

#: Most bits that an output's width may be.
WIDEST = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted(Layer):
    """A layer whose weights are entries of a dictionary: `Dense` and `Conv2d`.

    Parameters
    ----------
    dictionary : array of int, shape [entries]
        What an assignment stands for, times ``2**exponent``.
    assignment : array of int, shape [outputs, ...]
        Indices into the dictionary.
    bias : array of int, shape [outputs]
        Added to the accumulators, on their grid.
    staircase : Staircase, optional
        Makes codes of the accumulators; without it they leave as raw integers.
    exponent : int
        Power of two that scales the dictionary.
    table : array of int, shape [entries, codes], optional
        Product of each entry with each input code, for layers whose products are
        not exactly entry times level (TBNU); the dictionary is then only informative.
    widths : array of int, shape [outputs], optional
        Bits that store each weight of an output (CQ). The dictionary is then a segment for each
        width that occurs, in increasing order: of at most ``2**width`` entries, of which the
        outputs of that width use no others. Stored is the index within the segment. If omitted,
        all weights take `assignment_bits`.
    corrections : array of int, shape [corrections, 3], optional
        Of a few weights of a `Dense` (LC): output, input, and what is added to that weight, an
        integer on the dictionary's grid. In increasing order, each weight once, no 0 among them.
        Excludes ``table`` and ``widths``.
    """

    dictionary: Ints
    assignment: Ints
    bias: Ints
    staircase: Staircase | None = None
    exponent: int = 0
    table: Ints | None = None
    widths: Ints | None = None
    corrections: Ints | None = None

    _dimensions = 2
    _correctable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = f"layer {self.name!r}:"
        for field, dimensions in (("dictionary", 1), ("assignment", self._dimensions),
                                  ("bias", 1)):
            value = integers(f"{name} {field}", getattr(self, field), dimensions)
            object.__setattr__(self, field, value)
        if self.table is not None:
            object.__setattr__(self, "table", integers(f"{name} table", self.table, 2))
        entries, outputs = len(self.dictionary), len(self.assignment)
        if not entries or not self.assignment.size:
            raise self._fail("must have at least one dictionary entry, input and output")
        wrong = self.assignment[(self.assignment < 0) | (self.assignment >= entries)]
        if wrong.size:
            raise self._fail(f"assignment must be within the dictionary of {entries} entries, "
                             f"not {int(wrong[0])}; export the network again")
        if len(self.bias) != outputs:
            raise self._fail(f"bias must have one value for each of {outputs} outputs, "
                             f"not {len(self.bias)}")
        if self.widths is not None:
            object.__setattr__(self, "widths", integers(f"{name} widths", self.widths, 1))
            self._check_widths(self.widths)
        if self.corrections is not None:
            value = integers(f"{name} corrections", self.corrections, 2)
            object.__setattr__(self, "corrections", value)
            self._check_corrections(value)

    def _check_corrections(self, corrections: Ints) -> None:
        if not self._correctable:
            raise self._fail(f"corrections must belong to a dense layer, not to a "
                             f"{type(self).__name__}; use a codebook without them")
        if self.table is not None or self.widths is not None:
            raise self._fail("corrections must be of weights without a table or widths of their "
                             "own; leave one of them out")
        if not len(corrections) or corrections.shape[1] != 3:
            raise self._fail(f"corrections must be one or more rows of output, input and value, "
                             f"not of shape {corrections.shape}; leave out an empty one")
        places, values = corrections[:, :2], corrections[:, 2]
        wrong = places[((places < 0) | (places >= self.assignment.shape)).any(axis=1)]
        if len(wrong):
            raise self._fail(f"corrections must be of {self.outputs} outputs and {self.fan_in} "
                             f"inputs, not of output {wrong[0, 0]} and input {wrong[0, 1]}")
        if (np.diff(places @ (self.fan_in, 1)) <= 0).any():
            raise self._fail("corrections must be sorted by output and input, each weight once; "
                             "export it again")
        if not values.all():
            raise self._fail("corrections must not be 0; leave those out")

    def _check_widths(self, widths: Ints) -> None:
        if len(widths) != self.outputs:
            raise self._fail(f"widths must be one for each of {self.outputs} outputs, "
                             f"not {len(widths)}")
        wrong = widths[(widths < 0) | (widths > WIDEST)]
        if wrong.size:
            raise self._fail(f"widths must be 0 to {WIDEST} bits, not {int(wrong[0])}")
        end = 0
        for width, segment in self.segments.items():
            used, end = self.assignment[widths == width], segment.stop
            if used.min() < segment.start or used.max() >= end:
                raise self._fail(
                    f"outputs of {width} bits must have their weights in a segment of the "
                    f"dictionary of at most {1 << width} entries, behind those of narrower "
                    f"outputs, not in entries {used.min()} to {used.max()}; export it again")
        if end < len(self.dictionary):
            raise self._fail(f"segments of the dictionary must hold all its "
                             f"{len(self.dictionary)} entries, not {end}; leave out the others")

    @property
    def outputs(self) -> int:
        return len(self.assignment)

    @property
    def fan_in(self) -> int:
        """Inputs of one output."""
        return prod(self.assignment.shape[1:])

    @property
    def weights(self) -> Ints:
        """Weights, looked up and corrected; the shape is that of the assignment."""
        weights: Ints = self.dictionary[self.assignment]
        if self.corrections is not None:
            outputs, inputs, values = self.corrections.T
            weights[outputs, inputs] += values
        return weights

    @property
    def assignment_bits(self) -> int:
        """Bits that store one weight; 0 if the dictionary has a single entry."""
        return (len(self.dictionary) - 1).bit_length()

    @property
    def stored_bits(self) -> int:
        """Bits that store all weights, with their corrections."""
        if self.widths is None:
            return self.assignment.size * self.assignment_bits + self.correction_bits
        return self.fan_in * int(self.widths.sum())

    @property
    def corrected(self) -> int:
        """How many weights have a correction."""
        return 0 if self.corrections is None else len(self.corrections)

    @property
    def correction_bits(self) -> int:
        """Bits that store all corrections: each takes the number of its weight in the layer, and
        its value in as many bits as the longest one, in two's complement."""
        if self.corrections is None:
            return 0
        values = self.corrections[:, 2]
        value_bits = 1 + int(max(values.max(), -1 - values.min())).bit_length()
        return len(values) * ((self.assignment.size - 1).bit_length() + value_bits)

    @cached_property
    def segments(self) -> dict[int, range]:
        """Entries of the dictionary for each stored width.

        Entries that no output uses belong to the narrowest segment that has room for them.
        """
        if self.widths is None:
            return {self.assignment_bits: range(len(self.dictionary))}
        widths = np.unique(self.widths).tolist()
        firsts = [int(self.assignment[self.widths == width].min()) for width in widths]
        segments, start = {}, 0
        for width, stop in zip(widths, [*firsts[1:], len(self.dictionary)], strict=True):
            segments[width] = range(start, min(start + (1 << width), stop))
            start = segments[width].stop
        return segments

    def products(self, levels: Levels) -> Ints:
        """The product table P[entry, code]: all that the hardware needs to know of weights."""
        if self.table is not None:
            return self.table
        return np.outer(self.dictionary, levels.values)

    def accumulators(self, levels: Levels) -> tuple[Ints, Ints]:
        """Lowest and highest accumulator that any input reaches, for each output; exact where
        every input of an output can take any code."""
        if self.corrections is not None:
            ends = np.multiply.outer(levels.values[[0, -1]], self.weights)
            low, high = ends.min(axis=0), ends.max(axis=0)
            return self.bias + low.sum(axis=1), self.bias + high.sum(axis=1)
        products = self.products(levels)
        low, high = products.min(axis=1), products.max(axis=1)
        rows = self.assignment.reshape(self.outputs, -1)
        return (self.bias + low[rows].sum(axis=1), self.bias + high[rows].sum(axis=1))

    def _sums(self, levels: Levels, shape: tuple[int, ...]) -> Wire:
        """The wire of this layer's sums, of ``shape``, behind its staircase."""
        if self.table is not None and self.table.shape != (len(self.dictionary), len(levels)):
            raise self._fail(f"table must be {len(self.dictionary)} entries by "
                             f"{len(levels)} codes, not {self.table.shape}")
        # In Python's integers, so that no intermediate can wrap before it is refused.
        peak = int(np.abs(self.products(levels).astype(object)).max())
        if self.corrections is not None:
            peak += (int(np.abs(self.corrections[:, 2]).max())
                     * int(np.abs(levels.values).max()))
        if peak * self.fan_in + int(np.abs(self.bias).max()) > LIMIT:
            raise self._fail("accumulators must lie within +-2**52; use fewer bits a value")
        low, high = self.accumulators(levels)
        return self._through(self.staircase, shape, int(low.min()), int(high.max()))
