"""The layers of a network: frozen, and checked against the wires they read.

Order of data is height, width, channels, everywhere.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from nomul.compiler.errors import ModelError
from nomul.compiler.values import (
    LIMIT,
    Codes,
    Integers,
    Ints,
    Levels,
    Staircase,
    Value,
    Wire,
    integers,
)

__all__ = [
    "Add",
    "Argmax",
    "Conv2d",
    "Dense",
    "Flatten",
    "Input",
    "Layer",
    "MaxPool",
    "PixelEmbedding",
    "SumPool",
    "Weighted",
    "Window",
]

#: Most bits that an output's width may be.
WIDEST = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Value):
    """A layer: its name, and the names of the layers whose outputs it reads."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ModelError(f"layer {self.name!r}: name must be letters, digits and "
                             "underscores, because it names a module of the Verilog")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        """The wire that the layer drives, given those it reads; `ModelError` if it cannot."""
        raise TypeError(f"{type(self).__name__} does not say what it drives")

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"layer {self.name!r}: {message}")

    def _codes(self, wires: tuple[Wire, ...]) -> Codes:
        """The single wire read, which must carry codes."""
        if len(wires) != 1:
            raise self._fail(f"must read one layer, not {len(wires)}")
        return self._coded(wires[0], self.inputs[0])

    def _coded(self, wire: Wire, source: str) -> Codes:
        if not isinstance(wire, Codes):
            raise self._fail(f"must read codes, but layer {source!r} gives raw integers; "
                             "give that layer a staircase")
        return wire

    def _image(self, wires: tuple[Wire, ...]) -> Codes:
        """The single wire read, which must carry height, width and channels."""
        wire = self._codes(wires)
        if len(wire.shape) != 3:
            raise self._fail(f"must read height, width and channels, but layer "
                             f"{self.inputs[0]!r} gives shape {wire.shape}")
        return wire

    def _through(self, staircase: Staircase | None, shape: tuple[int, ...], low: int, high: int,
                 ) -> Wire:
        """The wire behind accumulators from ``low`` to ``high`` and an optional staircase."""
        if max(-low, high) > LIMIT:
            raise self._fail("accumulators must lie within +-2**52; use fewer bits a value")
        if staircase is None:
            return Integers(shape=shape, low=low, high=high)
        if len(staircase.thresholds) not in (1, shape[-1]):
            raise self._fail(f"staircase must have 1 row or {shape[-1]}, "
                             f"not {len(staircase.thresholds)}")
        return Codes(shape=shape, levels=staircase.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Layer):
    """Where images enter, as codes.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    levels : Levels
        What the codes mean.
    """

    inputs: tuple[str, ...] = ()
    shape: tuple[int, int, int]
    levels: Levels

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise self._fail(f"shape must be height, width and channels, each at least 1, "
                             f"not {self.shape!r}")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        if wires:
            raise self._fail("must read no layer: it is the input")
        return Codes(shape=self.shape, levels=self.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelEmbedding(Layer):
    """Each pixel of each channel becomes a row of a table of codes (arXiv 2407.16174).

    Parameters
    ----------
    table : array of int, shape [tables, pixel codes, depth]
        Codes; one table for all channels, or one for each.
    levels : Levels
        What they mean.

    The output has ``channels * depth`` channels: those of the first one first.
    """

    table: Ints
    levels: Levels

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "table", integers(f"layer {self.name!r}: table", self.table, 3))
        if not self.table.size:
            raise self._fail("table must have at least one row and column")
        if self.table.min() < 0 or self.table.max() >= len(self.levels):
            raise self._fail(f"table must hold the codes 0 to {len(self.levels) - 1}")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._image(wires)
        height, width, channels = wire.shape
        tables, rows, depth = self.table.shape
        if rows != len(wire.levels) or tables not in (1, channels):
            raise self._fail(f"table must have 1 or {channels} tables of {len(wire.levels)} rows, "
                             f"not {tables} of {rows}")
        return Codes(shape=(height, width, channels * depth), levels=self.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten(Layer):
    """Height, width and channels read as one vector, in that order."""

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._codes(wires)
        return Codes(shape=(prod(wire.shape),), levels=wire.levels)


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
        if not isinstance(self, Dense):
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Weighted):
    """Fully connected layer; ``assignment`` has shape [outputs, inputs]. See `Weighted`."""

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._codes(wires)
        if wire.shape != (self.fan_in,):
            raise self._fail(f"must read a vector of {self.fan_in}, but layer "
                             f"{self.inputs[0]!r} gives shape {wire.shape}")
        return self._sums(wire.levels, (self.outputs,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Value):
    """How a kernel moves over an image.

    Parameters
    ----------
    kernel : tuple of int
        Height and width.
    stride : int
        Step, down and across.
    padding : tuple of int
        Rows or columns added at the top, left, bottom and right.
    """

    kernel: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Positions of the kernel, down and across; below 1 if it does not fit."""
        top, left, bottom, right = self.padding
        return ((height + top + bottom - self.kernel[0]) // self.stride + 1,
                (width + left + right - self.kernel[1]) // self.stride + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Windowed(Layer):
    """A layer that moves a window over an image."""

    def _positions(self, window: Window, wire: Codes, *, zeros: bool) -> tuple[int, int]:
        """Positions of ``window``; padding needs a level of 0 if it inserts ``zeros``."""
        height, width, _ = wire.shape
        if zeros and any(window.padding) and wire.levels.zero is None:
            raise self._fail("padding must insert a level of 0, but the levels of layer "
                             f"{self.inputs[0]!r} have none; use levels with a zero, or no padding")
        if min(*window.kernel, window.stride) < 1 or min(window.padding) < 0:
            raise self._fail(f"kernel and stride must be at least 1 and padding at least 0, not "
                             f"{window.kernel}, {window.stride} and {window.padding}")
        for what, size, before, after in (
                ("rows", window.kernel[0], window.padding[0], window.padding[2]),
                ("columns", window.kernel[1], window.padding[1], window.padding[3])):
            if max(before, after) >= size:
                raise self._fail(f"padding must be smaller than the kernel's {size} {what}, "
                                 f"not {max(before, after)}")
        positions = window.positions(height, width)
        if min(positions) < 1:
            raise self._fail(f"kernel of {window.kernel[0]} x {window.kernel[1]} must fit in the "
                             f"padded image, but that is of {height} x {width} with padding "
                             f"{window.padding}; use a smaller kernel or more padding")
        return positions


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(Weighted, _Windowed):
    """Convolution; ``assignment`` has shape [outputs, kernel height, kernel width, channels a
    group]. See `Weighted`.

    Parameters
    ----------
    stride, padding
        See `Window`. Padding inserts the code whose level is 0.
    groups : int
        Outputs and channels are divided into so many groups that do not meet; as many as
        channels make a depthwise convolution.
    """

    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    _dimensions = 4

    @property
    def window(self) -> Window:
        """How the kernel moves."""
        kernel = self.assignment.shape[1], self.assignment.shape[2]
        return Window(kernel=kernel, stride=self.stride, padding=self.padding)

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._image(wires)
        channels = wire.shape[2]
        if self.groups < 1 or channels % self.groups or self.outputs % self.groups:
            raise self._fail(f"groups must divide {channels} channels and {self.outputs} outputs, "
                             f"not {self.groups}")
        if self.assignment.shape[3] * self.groups != channels:
            raise self._fail(f"must read {self.assignment.shape[3] * self.groups} channels, but "
                             f"layer {self.inputs[0]!r} gives {channels}")
        positions = self._positions(self.window, wire, zeros=True)
        return self._sums(wire.levels, (*positions, self.outputs))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(_Windowed):
    """The largest code of each channel in a window; padding never wins.

    Parameters
    ----------
    window : Window
    """

    window: Window

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._image(wires)
        return Codes(shape=(*self._positions(self.window, wire, zeros=False), wire.shape[2]),
                     levels=wire.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class SumPool(_Windowed):
    """The sum of each channel's levels in a window; an average is a sum whose division stands
    in the staircase.

    Parameters
    ----------
    window : Window, optional
        Padding adds levels of 0. The whole image if omitted (global pooling).
    staircase : Staircase, optional
        Makes codes of the sums; without it they leave as raw integers.
    """

    window: Window | None = None
    staircase: Staircase | None = None

    def window_in(self, wire: Codes) -> Window:
        """The window, where the whole image stands for none."""
        return self.window or Window(kernel=(wire.shape[0], wire.shape[1]))

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._image(wires)
        window = self.window_in(wire)
        positions = self._positions(window, wire, zeros=True)
        values, count = wire.levels.values, prod(window.kernel)
        return self._through(self.staircase, (*positions, wire.shape[2]),
                             count * int(values[0]), count * int(values[-1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Layer):
    """The sum of two branches, brought to one grid by shifts.

    Parameters
    ----------
    shifts : tuple of int
        Bits by which the levels of the first and the second branch are shifted left.
    staircase : Staircase, optional
        Makes codes of the sums; without it they leave as raw integers.
    """

    shifts: tuple[int, int] = (0, 0)
    staircase: Staircase | None = None

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        if len(wires) != 2:
            raise self._fail(f"must read two layers, not {len(wires)}")
        first, second = (self._coded(wire, source)
                         for wire, source in zip(wires, self.inputs, strict=True))
        if first.shape != second.shape:
            raise self._fail(f"must read two layers of one shape, not {first.shape} and "
                             f"{second.shape}")
        if min(self.shifts) < 0 or max(self.shifts) > 40:
            raise self._fail(f"shifts must be 0 to 40, not {self.shifts}")
        low = sum(int(w.levels.values[0]) << s
                  for w, s in zip((first, second), self.shifts, strict=True))
        high = sum(int(w.levels.values[-1]) << s
                   for w, s in zip((first, second), self.shifts, strict=True))
        return self._through(self.staircase, first.shape, low, high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Argmax(Layer):
    """Index of the largest value of a vector; the first one of equals."""

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        if len(wires) != 1 or prod(wires[0].shape[:-1]) != 1:
            raise self._fail("must read one vector")
        return Integers(shape=(1,), low=0, high=wires[0].shape[-1] - 1)
