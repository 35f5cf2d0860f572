"""The golden model: a `Network` in NumPy integers, every intermediate visible.

It reads networks alone: it shares no code with the trainer or the hardware.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nomul.compiler.errors import DataError
from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    PixelEmbedding,
    SumPool,
    Weighted,
    Window,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Ints, Levels, Staircase, Wire

__all__ = ["Trace", "apply_staircase", "check_images", "run"]

# float64 holds integers exactly up to here, and its matrix product uses BLAS.
EXACT = 1 << 53


class Trace(Mapping[str, Ints]):
    """What every layer gives for every image, by the layer's name.

    ``trace[name]`` holds the codes of a layer, or its raw integers if it has no
    staircase, in shape [images, *shape of the layer's wire]; ``accumulators[name]`` what
    a layer's staircase was given.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.accumulators: dict[str, Ints] = {}
        self._values: dict[str, Ints] = {}

    def __getitem__(self, name: str) -> Ints:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def output(self) -> Ints:
        """What the last layer gives."""
        return self._values[self.network.layers[-1].name]

    @property
    def classes(self) -> Ints:
        """Class of each image: the output of an argmax, else the index of the largest value."""
        if isinstance(self.network.layers[-1], Argmax):
            return self.output.reshape(-1)
        classes: Ints = self.output.reshape(len(self.output), -1).argmax(axis=1)
        return classes


def check_images(network: Network, images: ArrayLike) -> Ints:
    """``images`` as int64 codes [images, height, width, channels]; `DataError` if they are none."""
    wire = network.input
    array = np.asarray(images)
    if array.dtype.kind not in "iu":
        raise DataError(f"images must be integers, the input codes of network {network.name!r}, "
                        f"not {array.dtype}")
    if array.shape[1:] != wire.shape:
        raise DataError(f"images must have shape [images, {', '.join(map(str, wire.shape))}] for "
                        f"network {network.name!r}, not {list(array.shape)}; crop or resize them")
    if array.size and not (0 <= array.min() and array.max() < len(wire.levels)):
        wrong = int(array.min()) if array.min() < 0 else int(array.max())
        raise DataError(f"images must hold the input codes 0 to {len(wire.levels) - 1} of network "
                        f"{network.name!r}, not {wrong}; quantize them")
    return array.astype(np.int64)


def apply_staircase(staircase: Staircase, accumulators: Ints) -> Ints:
    """Codes of ``accumulators``, whose last axis runs over channels."""
    rows = zip(staircase.thresholds, staircase.directions, staircase.constants, strict=True)
    codes = np.empty_like(accumulators)
    for channel, (thresholds, direction, constant) in enumerate(rows):
        part = (..., slice(channel, channel + 1)) if staircase.per_channel else ...
        values = accumulators[part]
        if direction > 0:
            codes[part] = np.searchsorted(thresholds, values, side="right")
        elif direction < 0:
            codes[part] = len(thresholds) - np.searchsorted(thresholds, values, side="left")
        else:
            codes[part] = constant
    return codes


def run(network: Network, images: ArrayLike) -> Trace:
    """What ``network`` computes for ``images``, codes of shape [images, height, width, channels].

    Raises
    ------
    DataError
        For images of another shape, or outside the input codes.
    """
    trace = Trace(network)
    for layer in network.layers:
        values = [trace[name] for name in layer.inputs]
        if isinstance(layer, Input):
            values = [check_images(network, images)]
        result = _compute(layer, network.reads(layer), values)
        staircase = getattr(layer, "staircase", None)
        if staircase:
            trace.accumulators[layer.name] = result
            result = apply_staircase(staircase, result)
        trace._values[layer.name] = result
    return trace


def _compute(layer: Layer, wires: tuple[Wire, ...], values: list[Ints]) -> Ints:
    """What ``layer`` gives, before its staircase, for the ``values`` it reads."""
    first = values[0]
    levels = [wire.levels for wire in wires if isinstance(wire, Codes)]
    match layer:
        case Input():
            return first
        case Flatten():
            return first.reshape(len(first), -1)
        case PixelEmbedding():
            return _embed(layer, first)
        case Dense():
            return _weighted(layer, levels[0], first)
        case Conv2d():
            return _convolve(layer, levels[0], first)
        case MaxPool():
            patches = _patches(first, layer.window, fill=0)  # the lowest code
            largest: Ints = patches.max(axis=(3, 4))
            return largest
        case SumPool():
            wire, = wires
            assert isinstance(wire, Codes)
            patches = _patches(first, layer.window_in(wire), fill=levels[0].zero or 0)
            sums: Ints = levels[0].values[patches].sum(axis=(3, 4))
            return sums
        case Add():
            a, b = (level.values[value] << shift
                    for level, value, shift in zip(levels, values, layer.shifts, strict=True))
            total: Ints = a + b
            return total
        case Argmax():
            scores = first.reshape(len(first), -1)
            classes: Ints = scores.argmax(axis=1, keepdims=True)
            return classes
    raise TypeError(f"No golden model of {type(layer).__name__}")


def _embed(layer: PixelEmbedding, pixels: Ints) -> Ints:
    channel = np.arange(pixels.shape[3]) % len(layer.table)
    return layer.table[channel, pixels].reshape(*pixels.shape[:3], -1)


def _patches(codes: Ints, window: Window, *, fill: int) -> Ints:
    """What the window sees: [images, rows, columns, kernel height, kernel width, channels]."""
    top, left, bottom, right = window.padding
    padded = np.pad(codes, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(1, 2))
    return views[:, ::window.stride, ::window.stride].transpose(0, 1, 2, 4, 5, 3)


def _convolve(layer: Conv2d, levels: Levels, codes: Ints) -> Ints:
    patches = _patches(codes, layer.window, fill=levels.zero or 0)
    images, rows, columns, *kernel, _ = patches.shape
    grouped = patches.reshape(images, rows, columns, *kernel, layer.groups, -1)
    each = layer.outputs // layer.groups
    sums = []
    for group in range(layer.groups):
        part = slice(group * each, (group + 1) * each)
        inputs = grouped[..., group, :].reshape(images * rows * columns, -1)
        sums.append(_weighted(layer, levels, inputs, part))
    return np.concatenate(sums, axis=1).reshape(images, rows, columns, layer.outputs)


def _weighted(layer: Weighted, levels: Levels, codes: Ints, part: slice = slice(None)) -> Ints:
    """Sums of the products of ``codes`` [positions, fan in] with a ``part`` of the outputs."""
    if layer.table is None:
        weights = layer.weights[part].reshape(-1, layer.fan_in)
        sums = _matmul(levels.values[codes], weights.T)
    else:
        assignment = layer.assignment[part].reshape(-1, layer.fan_in)
        # One term for each dictionary entry: the products of all inputs, where it is assigned.
        sums = sum((_matmul(row[codes], (assignment == entry).T)
                    for entry, row in enumerate(layer.table)),
                   start=np.zeros((len(codes), len(assignment)), dtype=np.int64))
    return sums + layer.bias[part]


def _matmul(a: Ints, b: NDArray[np.generic]) -> Ints:
    """Exact matrix product of integers."""
    b = b.astype(np.int64)
    peak = int(np.abs(a).max(initial=0)) * int(np.abs(b).sum(axis=0).max(initial=0))
    assert peak < EXACT, "networks are checked to stay below 2**52"
    product: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64)
    return product.astype(np.int64)
