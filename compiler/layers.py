"""The layers of a network: frozen, and checked against the wires they read.

Order of data is height, width, channels, everywhere.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nomul.compiler.layer import Layer
from nomul.compiler.values import (
    Codes,
    Integers,
    Ints,
    Levels,
    Staircase,
    Value,
    Wire,
    integers,
)
from nomul.compiler.weighted import Weighted

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
class Dense(Weighted):
    """Fully connected layer; ``assignment`` has shape [outputs, inputs]. See `Weighted`."""

    _correctable = True

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

    @property
    def lanewise(self) -> bool:
        return self.assignment.shape[3] == 1 and self.outputs == self.groups

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

    @property
    def lanewise(self) -> bool:
        return True

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

    @property
    def lanewise(self) -> bool:
        return True

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

    @property
    def lanewise(self) -> bool:
        return True

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
