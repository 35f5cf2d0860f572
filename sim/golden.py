"""The golden model: a `Network` in NumPy integers, every intermediate visible.

It reads networks alone: it shares no code with the trainer or the hardware.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nomul.compiler.errors import DataError
from nomul.compiler.network import (
    Argmax,
    Codes,
    Dense,
    Flatten,
    Input,
    Integers,
    Network,
    Staircase,
)

__all__ = ["Trace", "apply_staircase", "check_images", "run"]

Ints = NDArray[np.int64]

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
        wires = network.reads(layer)
        match layer:
            case Input():
                result = check_images(network, images)
            case Flatten():
                result = values[0].reshape(len(values[0]), -1)
            case Dense():
                result = _dense(layer, wires[0], values[0])
                if layer.staircase:
                    trace.accumulators[layer.name] = result
                    result = apply_staircase(layer.staircase, result)
            case Argmax():
                result = values[0].argmax(axis=1, keepdims=True)
            case _:
                raise TypeError(f"No golden model of {type(layer).__name__}")
        trace._values[layer.name] = result
    return trace


def _dense(layer: Dense, wire: Codes | Integers, codes: Ints) -> Ints:
    assert isinstance(wire, Codes)
    if layer.table is None:
        sums = _matmul(wire.levels.values[codes], layer.weights.T)
    else:
        # One term for each dictionary entry: the products of all inputs, where it is assigned.
        sums = sum((_matmul(row[codes], (layer.assignment == entry).T)
                    for entry, row in enumerate(layer.table)),
                   start=np.zeros((len(codes), layer.outputs), dtype=np.int64))
    return sums + layer.bias


def _matmul(a: Ints, b: NDArray[np.generic]) -> Ints:
    """Exact matrix product of integers."""
    b = b.astype(np.int64)
    peak = int(np.abs(a).max(initial=0)) * int(np.abs(b).sum(axis=0).max(initial=0))
    assert peak < EXACT, "networks are checked to stay below 2**52"
    product: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64)
    return product.astype(np.int64)
