"""When the result of an image leaves: its beats are followed through the parts of the circuit."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.lower import lower_body
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan
from nomul.hw.argmax import Argmax
from nomul.hw.branch import AddStreams, AddSums, Fork
from nomul.hw.buckets import BucketDots
from nomul.hw.chain import Chain
from nomul.hw.dots import DotProducts
from nomul.hw.engine import Engine
from nomul.hw.graph import Graph
from nomul.hw.lanewise import LanewiseMax, LanewiseSums
from nomul.hw.replay import Replay
from nomul.hw.sparse import SparseDots, walk
from nomul.hw.stream import Regroup, beats
from nomul.hw.window import Windows, window_needs

__all__ = ["Passage", "latency", "passages"]

Times = NDArray[np.int64]
"""The cycle in which each beat is transferred, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """When the beats of an image leave a layer, in cycles after its first beat came in.

    Parameters
    ----------
    first, last : int
    """

    first: int
    last: int


def latency(network: Network, plan: Plan) -> int:
    """Cycles from the first beat of an image to the last one of its result, both included.

    The circuit is idle before, a beat comes in whenever it is taken, and results never wait.
    Exact where nothing waits for room, as in nearly all of the planner's own plans; less than it
    takes where something does.
    """
    return int(_left(network, plan)["o"][-1]) + 1


def passages(network: Network, plan: Plan) -> dict[str, Passage]:
    """When an image leaves each part of a pipeline, by its name in the circuit, as `latency` has
    it. `ValueError` for an engine, which has no such parts."""
    if plan.engine is not None:
        raise ValueError("Plan must be one of a pipeline, not of an engine")
    return {name: Passage(first=int(times[0]), last=int(times[-1]))
            for name, times in _left(network, plan).items() if name != "o"}


def _left(network: Network, plan: Plan) -> dict[str, Times]:
    entering = np.arange(beats(prod(network.input.shape), plan.input_lanes))
    return _through_graph(lower_body(network, plan), entering)


def _through_graph(graph: Graph, entering: Times) -> dict[str, Times]:
    """When beats leave each part of ``graph``, and the graph itself, as ``o``."""
    left = {"i": entering}
    links = [(source.partition(".")[0], sink.partition(".")) for source, sink in graph.links]
    while len(left) < len(graph.parts) + 2:
        for name, part in [*graph.parts.items(), ("o", None)]:
            sources = [source for _, source in sorted(
                (port, source) for source, (sink, _, port) in links if sink == name)]
            if name not in left and all(source in left for source in sources):
                arriving = [left[source] for source in sources]
                left[name] = arriving[0] if part is None else _through(part, *arriving)
    del left["i"]
    return left


def _through(part: Any, arriving: Times, *others: Times) -> Times:
    """When beats leave ``part``, if nothing behind it ever waits."""
    match part:
        case Chain():
            for inner in part.parts.values():
                arriving = _through(inner, arriving)
            return arriving
        case Graph():
            return _through_graph(part, arriving)["o"]
        case Fork():
            return arriving
        case AddStreams():
            other, = others
            return _paced(np.maximum(arriving, other) + part.latency)
        case AddSums():
            # Corrections, whose walk stands while one of them waits: those behind it come later.
            walk_ends, = others
            late = np.maximum.accumulate(np.maximum(arriving - walk_ends, 0))
            return _paced(walk_ends + late + part.latency)
        case Regroup():
            return _regrouped(part, arriving)
        case Replay():
            copies = np.repeat(arriving.reshape(-1, 1, part.length), part.repeats, axis=1)
            return _paced(copies.ravel() + part.latency)
        case Windows():
            needs = np.array(window_needs(part.height, part.width, part.words, part.kernel,
                                          part.stride, part.padding))
            each = part.words * prod(part.kernel) * part.repeats
            return _paced(np.repeat(arriving[needs - 1] + part.latency, each))
        case DotProducts():
            rest = beats((part.outputs - 1) % part.products.lanes + 1, part.o_lanes)
            return _leaving(arriving[part.chunks - 1::part.chunks] + part.latency, 1,
                            part.products.lanes // part.o_lanes, rest, part.groups)
        case BucketDots():
            rest = beats((part.outputs - 1) % part.lanes + 1, part.o_lanes)
            done = _paced(arriving[part.inputs - 1::part.inputs], part.pass_cycles)
            return _leaving(done + part.latency, len(part.steps), part.lanes // part.o_lanes,
                            rest, part.groups)
        case LanewiseSums() | LanewiseMax():
            return arriving[part.taps - 1::part.taps] + part.latency
        case SparseDots():
            ends = np.flatnonzero([entry.last for entry in walk(part.rows)])
            return np.add.outer(arriving[part.chunks - 1::part.chunks] + part.latency,
                                ends).ravel()
        case Engine():
            # Only the last result matters.
            return np.repeat(arriving[-1] + part.latency, part.tasks[-1].results)
        case Argmax():
            each = beats(part.length, part.lanes)
            return arriving[each - 1::each] + part.latency
    cycles: int = part.latency
    return arriving + cycles


def _paced(ready: Times, gap: int = 1) -> Times:
    """Beats that are ``ready`` leave in order, one in ``gap`` cycles."""
    even = gap * np.arange(len(ready))
    paced: Times = np.maximum.accumulate(ready - even) + even
    return paced


def _leaving(ready: Times, gap: int, parts: int, rest: int, groups: int) -> Times:
    """Sums of one group after the other are ``ready`` and leave in so many ``parts``, those of the
    last of ``groups`` in ``rest``, one in ``gap`` cycles."""
    count = np.where(np.arange(len(ready)) % groups == groups - 1, rest, parts)
    starts = np.repeat(np.cumsum(count) - count, count)
    number = np.arange(len(starts)) - starts
    return _paced(np.repeat(ready, count) + gap * number, gap)


def _regrouped(part: Regroup, arriving: Times) -> Times:
    """Each beat leaves when the last of its elements has come."""
    vectors = beats(part.length, part.i_lanes)
    total = len(arriving) // vectors * part.length
    each = beats(part.o_length, part.o_lanes)
    number = np.arange(total // part.o_length * each)
    elements = number // each * part.o_length + np.minimum(
        (number % each + 1) * part.o_lanes, part.o_length) - 1
    beat = elements // part.length * vectors + elements % part.length // part.i_lanes
    return _paced(arriving[beat] + part.latency)
