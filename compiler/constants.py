"""Networks without the channels that say nothing: filters whose output never changes."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.layers import (
    Add,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    PixelEmbedding,
    SumPool,
    Weighted,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Ints, Staircase

__all__ = ["fold_constants"]

Bools = NDArray[np.bool_]

Node = tuple[str, int]
"""A channel of the wire that a layer drives."""


def fold_constants(network: Network) -> Network:
    """``network`` without the channels that no reader needs, their constants in the biases behind:
    the same scores and classes for every image.

    A reader needs a channel unless each of its weights has the same product with every code that
    can come on it. A channel that never changes thus goes, but for one in front of a padded
    convolution, whose border sees the code of level 0 instead, or of an addition, whose other
    branch changes. Where it has to stay in a layer with widths, its filter takes 0 bits.
    """
    while (folded := _fold_once(network)) != network:
        network = folded
    return network


def _fold_once(network: Network) -> Network:
    reach = _reach(network)
    keep = _kept(network, reach)
    layers = [_rebuilt(network, layer, reach, keep) for layer in network.layers]
    return Network(name=network.name, layers=tuple(layers))


def _reach(network: Network) -> dict[str, Bools]:
    """The codes that each channel of each wire can have, shape [channels, codes]; those of raw
    integers are left out."""
    reach: dict[str, Bools] = {}
    for layer in network.layers:
        wire = network.wires[layer.name]
        if isinstance(wire, Codes):
            reach[layer.name] = _reached(network, layer, reach, wire)
    return reach


def _reached(network: Network, layer: Layer, reach: dict[str, Bools], wire: Codes) -> Bools:
    seen = [reach[name] for name in layer.inputs]
    match layer:
        case Input():
            return np.ones((wire.shape[-1], len(wire.levels)), dtype=np.bool_)
        case MaxPool():
            return seen[0]
        case Flatten():
            return np.tile(seen[0], (wire.shape[0] // len(seen[0]), 1))
        case PixelEmbedding():
            tables = np.broadcast_to(layer.table, (len(seen[0]), *layer.table.shape[1:]))
            found = np.zeros((wire.shape[-1], len(wire.levels)), dtype=np.bool_)
            for channel, (table, codes) in enumerate(zip(tables, seen[0], strict=True)):
                for column, entries in enumerate(table[codes].T):
                    found[channel * table.shape[1] + column, entries] = True
            return found
    staircase = getattr(layer, "staircase", None)
    assert isinstance(staircase, Staircase)
    first, last = (_code_of(staircase, sums) for sums in _sums(network, layer, reach))
    codes = np.arange(len(wire.levels))
    between: Bools = ((codes >= np.minimum(first, last)[:, None])
                      & (codes <= np.maximum(first, last)[:, None]))
    return between


def _code_of(staircase: Staircase, sums: Ints) -> Ints:
    """Code of one sum of each channel."""
    rising = (staircase.thresholds <= sums[:, None]).sum(axis=1)
    falling = (staircase.thresholds >= sums[:, None]).sum(axis=1)
    codes: Ints = np.where(staircase.directions > 0, rising,
                           np.where(staircase.directions < 0, falling, staircase.constants))
    return codes


def _sums(network: Network, layer: Layer, reach: dict[str, Bools]) -> tuple[Ints, Ints]:
    """Lowest and highest sum of each channel; none lies beyond."""
    if isinstance(layer, Weighted):
        low, high = _terms(network, layer, reach)
        axes = tuple(range(1, low.ndim))
        return layer.bias + low.sum(axis=axes), layer.bias + high.sum(axis=axes)
    ranges = []
    for name, shift in zip(layer.inputs, getattr(layer, "shifts", (0,)), strict=True):
        wire = network.wires[name]
        assert isinstance(wire, Codes)
        low, high = _extremes(wire.levels.values[None] << shift, _seen(network, layer, reach, name))
        times = prod(layer.window_in(wire).kernel) if isinstance(layer, SumPool) else 1
        ranges.append((low[0] * times, high[0] * times))
    lows, highs = zip(*ranges, strict=True)
    return sum(lows), sum(highs)


def _seen(network: Network, layer: Layer, reach: dict[str, Bools], name: str) -> Bools:
    """Codes that ``layer`` finds in each channel of the wire ``name``, also in its padding."""
    wire = network.wires[name]
    assert isinstance(wire, Codes)
    seen = reach[name]
    window = layer.window_in(wire) if isinstance(layer, SumPool) else getattr(layer, "window", None)
    if window and any(window.padding):
        seen = seen.copy()
        seen[:, wire.levels.zero] = True
    return seen


def _extremes(products: Ints, seen: Bools) -> tuple[Ints, Ints]:
    """Least and largest product of each entry with the codes seen in each channel, shape
    [entries, channels]."""
    end = np.iinfo(np.int64)
    least: Ints = np.where(seen, products[:, None], end.max).min(axis=2)
    largest: Ints = np.where(seen, products[:, None], end.min).max(axis=2)
    return least, largest


def _terms(network: Network, layer: Weighted, reach: dict[str, Bools]) -> tuple[Ints, Ints]:
    """Least and largest term of each sum; the shape is that of the assignment."""
    wire, = network.reads(layer)
    assert isinstance(wire, Codes)
    groups = layer.groups if isinstance(layer, Conv2d) else 1
    each, channels = layer.outputs // groups, layer.assignment.shape[-1]
    first = np.arange(layer.outputs) // each * channels
    channel = first.reshape(-1, *[1] * (layer.assignment.ndim - 1)) + np.arange(channels)
    least, largest = _extremes(layer.products(wire.levels),
                               _seen(network, layer, reach, layer.inputs[0]))
    least, largest = least[layer.assignment, channel], largest[layer.assignment, channel]
    if layer.corrections is not None:
        seen = _seen(network, layer, reach, layer.inputs[0])
        outputs, inputs, _values = layer.corrections.T
        products = np.outer(layer.weights[outputs, inputs], wire.levels.values)
        ends = np.iinfo(np.int64)
        least[outputs, inputs] = np.where(seen[inputs], products, ends.max).min(axis=1)
        largest[outputs, inputs] = np.where(seen[inputs], products, ends.min).max(axis=1)
    return least, largest


def _is_depthwise(layer: Layer) -> bool:
    """Whether outputs of a channel go when it goes."""
    return isinstance(layer, Conv2d) and layer.groups > 1 and layer.assignment.shape[3] == 1


def _mixes(layer: Layer) -> bool:
    """Whether every output sees all channels."""
    return isinstance(layer, Dense) or (isinstance(layer, Conv2d) and layer.groups == 1)


def _needed(network: Network, layer: Layer, reach: dict[str, Bools]) -> Iterator[Node]:
    """Channels, read or driven by ``layer``, that have to stay because of it."""
    if _mixes(layer):
        assert isinstance(layer, Weighted)
        low, high = _terms(network, layer, reach)
        varies = (low != high).any(axis=tuple(range(low.ndim - 1)))
        yield from ((layer.inputs[0], int(n)) for n in np.flatnonzero(varies))
    elif not (isinstance(layer, Flatten | MaxPool | SumPool | Add) or _is_depthwise(layer)):
        for name in (*layer.inputs, layer.name):
            yield from ((name, n) for n in range(network.wires[name].shape[-1]))
    if layer is network.layers[-1] or layer.name not in reach:
        yield from ((layer.name, n) for n in range(network.wires[layer.name].shape[-1]))


def _together(network: Network, layer: Layer) -> Iterator[tuple[Node, Node]]:
    """Pairs of channels, read and driven by ``layer``, that stay or go together."""
    if not (isinstance(layer, Flatten | MaxPool | SumPool | Add) or _is_depthwise(layer)):
        return
    outputs = network.wires[layer.name].shape[-1]
    for name in layer.inputs:
        channels = network.wires[name].shape[-1]
        for n in range(outputs):
            yield ((name, n * channels // outputs if _is_depthwise(layer) else n % channels),
                   (layer.name, n))


def _kept(network: Network, reach: dict[str, Bools]) -> dict[str, Bools]:
    """Which channels of each wire stay; at least one of each."""
    nodes = {layer.name: [(layer.name, n) for n in range(network.wires[layer.name].shape[-1])]
             for layer in network.layers}
    joined: dict[Node, list[Node]] = {node: [] for name in nodes for node in nodes[name]}
    for layer in network.layers:
        for a, b in _together(network, layer):
            joined[a].append(b)
            joined[b].append(a)
    stays: set[Node] = set()

    def stay(node: Node) -> None:
        todo = [node]
        while todo:
            if (node := todo.pop()) not in stays:
                stays.add(node)
                todo += joined[node]

    for layer in network.layers:
        for node in _needed(network, layer, reach):
            stay(node)
    for channels in nodes.values():
        if stays.isdisjoint(channels):
            stay(channels[0])
    return {name: np.array([node in stays for node in channels])
            for name, channels in nodes.items()}


def _rebuilt(network: Network, layer: Layer, reach: dict[str, Bools], keep: dict[str, Bools],
             ) -> Layer:
    """``layer`` with the channels that stay."""
    kept = keep[layer.name]
    changes: dict[str, Any] = {}
    if isinstance(layer, Weighted):
        changes = _weights(network, layer, reach, keep)
    staircase = getattr(layer, "staircase", None)
    if staircase and staircase.per_channel:
        changes["staircase"] = replace(
            staircase, thresholds=staircase.thresholds[kept],
            directions=staircase.directions[kept], constants=staircase.constants[kept])
    return replace(layer, **changes)


def _moved(corrections: Ints | None, kept: Bools, read: Bools) -> Ints | None:
    """The corrections of the outputs and inputs that stay, at their new places."""
    if corrections is None:
        return None
    outputs, inputs, values = corrections[kept[corrections[:, 0]] & read[corrections[:, 1]]].T
    if not len(values):
        return None
    return np.stack([kept.cumsum()[outputs] - 1, read.cumsum()[inputs] - 1, values], axis=1)


def _weights(network: Network, layer: Weighted, reach: dict[str, Bools], keep: dict[str, Bools],
             ) -> dict[str, Any]:
    """What changes of a layer with weights."""
    kept, read = keep[layer.name], keep[layer.inputs[0]]
    assignment, bias, widths = layer.assignment, layer.bias, layer.widths
    dictionary, table = layer.dictionary, layer.table
    if widths is not None:
        # Constant filters that stay take the number 0, of which nothing is stored.
        zero = np.zeros(1 if table is None else (1, table.shape[1]), dtype=np.int64)
        if widths.min() > 0:
            dictionary, assignment = np.append(0, dictionary), assignment + 1
            table = None if table is None else np.concatenate([zero, table])
        low, high = _sums(network, layer, reach)
        constant = low == high
        if layer.name in reach:
            constant = reach[layer.name].sum(axis=1) == 1
        constant &= not (dictionary[:1] if table is None else table[0]).any()
        assignment = np.where(constant.reshape(-1, *[1] * (assignment.ndim - 1)), 0, assignment)
        bias, widths = np.where(constant, low, bias), np.where(constant, 0, widths)[kept]
    else:
        constant = np.zeros(layer.outputs, dtype=np.bool_)

    changes: dict[str, Any] = {}
    if _mixes(layer):
        gone = _terms(network, layer, reach)[0][..., ~read]
        gone = gone.reshape(layer.outputs, -1).sum(axis=1)
        bias = bias + np.where(constant, 0, gone)
        assignment = assignment[..., read]
        changes["corrections"] = _moved(layer.corrections, kept, read)
    elif _is_depthwise(layer):
        changes["groups"] = int(read.sum())
    assignment, bias = assignment[kept], bias[kept]

    if widths is not None:
        # Segments that no output uses any more go.
        segments = layer.segments
        shift = len(dictionary) - len(layer.dictionary)
        entries = [range(1)] * (0 in widths) + [
            range(s.start + shift, s.stop + shift) for width, s in segments.items()
            if width and width in widths]
        used = np.concatenate([np.array(part) for part in entries])
        assignment = np.searchsorted(used, assignment)
        dictionary, table = dictionary[used], None if table is None else table[used]
    return changes | {"assignment": assignment, "bias": bias, "widths": widths,
                      "dictionary": dictionary, "table": table}
