"""How images travel between layers: lanes, beats, cycles, and the queues that branches need.

A wire travels as vectors of ``length`` elements in beats of ``lanes``; a vector is a pixel's
channels, or the whole of a flat wire. The last beat of each vector may be short.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from nomul.compiler.circuits import bucket_steps, sparse_terms
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
from nomul.compiler.values import Codes
from nomul.hw.circuits import ProductCircuit
from nomul.hw.sparse import walk
from nomul.hw.stream import beats
from nomul.hw.window import window_needs

__all__ = [
    "Fold",
    "Stage",
    "Stream",
    "hardware_readers",
    "hardware_source",
    "output_lanes",
    "queue_depths",
    "shorter_branches",
    "stages",
    "window_of",
]

Fold = tuple[int, int]
"""Outputs and inputs computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How a wire travels.

    Parameters
    ----------
    lanes : int
        Elements to a beat.
    length : int
        Elements to a vector.
    vectors : int
        Vectors to an inference.
    """

    lanes: int
    length: int
    vectors: int

    @property
    def beats(self) -> int:
        """Beats of an inference."""
        return self.vectors * beats(self.length, self.lanes)

    def same_beats(self, other: Stream) -> bool:
        """Whether both cut the wire into the same beats."""
        return self.lanes == other.lanes and (
            self.length == other.length
            or not (self.length % self.lanes or other.length % self.lanes))

    def elements_in(self, count: int) -> int:
        """Elements in the first ``count`` beats."""
        whole, rest = divmod(count, beats(self.length, self.lanes))
        return whole * self.length + min(rest * self.lanes, self.length)

    def beats_for(self, elements: int) -> int:
        """Beats that hold the first ``elements``."""
        whole, rest = divmod(elements, self.length)
        return whole * beats(self.length, self.lanes) + beats(rest, self.lanes)

    def beats_within(self, elements: int) -> int:
        """Beats that hold none but the first ``elements``."""
        whole, rest = divmod(elements, self.length)
        return whole * beats(self.length, self.lanes) + rest // self.lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How a layer takes part in the pipeline.

    Parameters
    ----------
    takes, gives : Stream
        What enters (from each layer it reads) and what leaves.
    cycles : int
        Ideal cycles an inference.
    """

    takes: Stream
    gives: Stream
    cycles: int


def output_lanes(outputs: int, cycles: int) -> int:
    """Of ``outputs`` sums that are ready every so many ``cycles``, how many leave at once: the
    fewest that keep up."""
    return next(n for n in range(1, outputs + 1) if outputs % n == 0 and n * cycles >= outputs)


def window_of(layer: Layer, wire: Codes) -> Window:
    """How the kernel of a windowed layer moves."""
    if isinstance(layer, SumPool):
        return layer.window_in(wire)
    assert isinstance(layer, Conv2d | MaxPool)
    return layer.window


def stages(network: Network, input_lanes: int, folds: Mapping[str, Fold],
           products: Mapping[str, ProductCircuit] | None = None) -> dict[str, Stage]:
    """The stage of every layer, by its name, for the given lanes and product circuits; those that
    are not named make products in every cycle."""
    result: dict[str, Stage] = {}
    for layer in network.layers:
        before = result[layer.inputs[0]].gives if layer.inputs else Stream(
            lanes=input_lanes, length=prod(network.input.shape), vectors=1)
        result[layer.name] = _stage(network, layer, before, folds.get(layer.name, (1, 1)),
                                    (products or {}).get(layer.name, ProductCircuit.NONE))
    return result


def _stage(network: Network, layer: Layer, before: Stream, fold: Fold, product: ProductCircuit,
           ) -> Stage:
    shape = network.wires[layer.name].shape
    outputs, inputs = fold
    if isinstance(layer, Input | Flatten):
        return Stage(takes=before, gives=before, cycles=before.beats)
    wire = network.reads(layer)[0]
    channels, pixels = wire.shape[-1], prod(wire.shape[:-1])
    if layer.lanewise:
        takes = Stream(lanes=outputs, length=channels, vectors=pixels)
        gives = Stream(lanes=outputs, length=shape[-1], vectors=prod(shape[:-1]))
        assert isinstance(wire, Codes)
        taps = 1 if isinstance(layer, Add) else prod(window_of(layer, wire).kernel)
        return Stage(takes=takes, gives=gives, cycles=gives.beats * taps)
    match layer:
        case Dense():
            chunks = beats(layer.fan_in, inputs)
            assert isinstance(wire, Codes)
            sparse = (None if product is ProductCircuit.UNROLLED
                      else sparse_terms(layer, wire.levels))
            leaving, cycles = _sums(layer, wire, outputs, chunks, product)
            return Stage(takes=Stream(lanes=inputs, length=layer.fan_in, vectors=1),
                         gives=Stream(lanes=leaving, length=layer.outputs, vectors=1),
                         cycles=max(beats(layer.outputs, outputs) * cycles,
                                    len(walk(sparse.rows)) if sparse else 0))
        case Conv2d():
            each = layer.outputs // layer.groups
            assert isinstance(wire, Codes)
            chunks = prod(layer.window.kernel) * beats(layer.assignment.shape[3], inputs)
            leaving, cycles = _sums(layer, wire, outputs, chunks, product)
            return Stage(takes=Stream(lanes=inputs, length=channels, vectors=pixels),
                         gives=Stream(lanes=leaving, length=layer.outputs,
                                      vectors=prod(shape[:-1])),
                         cycles=prod(shape[:-1]) * layer.groups * beats(each, outputs) * cycles)
        case PixelEmbedding():
            depth = layer.table.shape[2]
            gives = Stream(lanes=depth, length=shape[-1], vectors=pixels)
            return Stage(takes=Stream(lanes=1, length=channels, vectors=pixels), gives=gives,
                         cycles=gives.beats)
        case Argmax():
            takes = Stream(lanes=before.lanes, length=channels, vectors=1)
            return Stage(takes=takes, gives=Stream(lanes=1, length=1, vectors=1),
                         cycles=takes.beats)
    raise TypeError(f"No stage for {type(layer).__name__}")


def _sums(layer: Weighted, wire: Codes, outputs: int, chunks: int, product: ProductCircuit,
          ) -> tuple[int, int]:
    """Of ``outputs`` that are computed at once from so many ``chunks`` of inputs, how many leave at
    once, and the cycles that they take."""
    if product is not ProductCircuit.BUCKETS:
        return output_lanes(outputs, chunks), chunks
    drain = bucket_steps(layer, wire.levels)
    return output_lanes(outputs, max(1, chunks // drain)), max(chunks, drain)


def queue_depths(network: Network, flow: Mapping[str, Stage]) -> dict[tuple[str, str], int]:
    """Beats that each branch must be able to hold, by the layer where it forks off and the
    layer that reads it: the fewest with which no stalling can deadlock.

    Where branches meet, one may need more of the fork's beats than the other to give its next
    one. A fork lets a reader run ahead by one beat; the rest must wait in a queue. Branches
    that need none are left out.
    """
    depths: dict[tuple[str, str], int] = {}
    for meeting in _meetings(network):
        depth = _lead(network, flow, meeting.fork, meeting.join, meeting.theirs, meeting.mine)
        key = (meeting.fork, meeting.branch)
        depths[key] = max(depths.get(key, 0), depth)
    return {key: depth for key, depth in depths.items() if depth > 0}


def shorter_branches(network: Network) -> set[tuple[str, str]]:
    """Of every two branches that meet, the one with fewer layers, by the layer where it forks off
    and the layer that reads it: its beats have to wait for those that are under way in the other
    one."""
    return {(meeting.fork, meeting.branch) for meeting in _meetings(network)
            if len(meeting.mine) < len(meeting.theirs)}


def hardware_source(network: Network, name: str) -> str:
    """The layer whose hardware drives the wire of layer ``name``: flattening takes none."""
    layer = network[name]
    return hardware_source(network, layer.inputs[0]) if isinstance(layer, Flatten) else name


def hardware_readers(network: Network) -> dict[str, list[str]]:
    """For each layer with hardware, those that its hardware feeds."""
    readers: dict[str, list[str]] = {layer.name: [] for layer in network.layers
                                     if not isinstance(layer, Flatten)}
    for layer in network.layers:
        if layer.name in readers:
            for name in layer.inputs:
                readers[hardware_source(network, name)].append(layer.name)
    return readers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meeting:
    """Where a ``branch`` of a ``fork`` meets another one: the layers of both in between."""

    fork: str
    branch: str
    join: str
    mine: list[str]
    theirs: list[str]


def _meetings(network: Network) -> Iterator[_Meeting]:
    """Every branch with every other one that it meets without a layer in common."""
    readers = hardware_readers(network)
    for fork, branches in readers.items():
        for branch in branches:
            reach = set().union(*(_reach(readers, other) for other in branches if other != branch))
            for other in branches:
                for join, mine in _paths(network, readers, fork, branch, reach):
                    for meeting, theirs in _paths(network, readers, fork, other,
                                                  _reach(readers, branch)):
                        if other != branch and meeting == join and not set(mine) & set(theirs):
                            yield _Meeting(fork=fork, branch=branch, join=join, mine=mine,
                                           theirs=theirs)


def _reach(readers: Mapping[str, list[str]], start: str) -> set[str]:
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += readers[name]
    return found


def _paths(network: Network, readers: Mapping[str, list[str]], fork: str, start: str,
           meeting: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Ways from a branch of ``fork`` to the first addition that lies in ``meeting``: that
    addition, and the layers before it."""
    todo: list[tuple[str, list[str]]] = [(start, [])]
    while todo:
        name, path = todo.pop()
        if name in meeting and isinstance(network[name], Add):
            yield name, path
        else:
            todo += [(reader, [*path, name]) for reader in readers[name]]


def _lead(network: Network, flow: Mapping[str, Stage], fork: str, join: str, longer: list[str],
          shorter: list[str]) -> int:
    """Beats of ``fork`` that the branch ``longer`` needs at most before a beat of ``join``,
    beyond those that the branch ``shorter`` is done with after the beat before; less the fork's
    one. A beat that was used in part is not done with."""
    needs = _needs(network, flow, fork, join, longer, Stream.beats_for)
    done = _needs(network, flow, fork, join, shorter, Stream.beats_within)
    total = 2 * flow[join].takes.beats  # the second image starts where the first one ends
    return max(needs(k) - done(k - 1) for k in range(1, total + 1)) - 1


def _needs(network: Network, flow: Mapping[str, Stage], fork: str, join: str, path: list[str],
           convert: Callable[[Stream, int], int]) -> Callable[[int], int]:
    """How many beats of ``fork`` must have passed along ``path`` for the first k of ``join``;
    ``convert`` makes beats of elements."""
    names = [fork, *path, join]
    steps = []
    for source, sink in pairwise(names):
        table = _stage_needs(network, flow[sink], network[sink]) if sink != join else None
        steps.append((flow[source].gives, flow[sink].takes, table, flow[sink]))

    def needs(count: int) -> int:
        for given, taken, table, stage in reversed(steps):
            if count and table is not None:
                images, rest = divmod(count - 1, stage.gives.beats)
                count = images * taken.beats + table[rest]
            count = convert(given, taken.elements_in(count))
        return count

    return needs


def _stage_needs(network: Network, stage: Stage, layer: Layer) -> list[int]:
    """For each beat that a layer gives, the beats of the same image that it must have taken."""
    wire = network.reads(layer)[0]
    if isinstance(layer, Conv2d | MaxPool | SumPool):
        assert isinstance(wire, Codes)
        height, width, _ = wire.shape
        window = window_of(layer, wire)
        words = beats(stage.takes.length, stage.takes.lanes)
        each = beats(stage.gives.length, stage.gives.lanes)
        needs = window_needs(height, width, words, window.kernel, window.stride, window.padding)
        return [need for need in needs for _ in range(each)]
    if isinstance(layer, Add | PixelEmbedding):
        return list(range(1, stage.gives.beats + 1))
    return [stage.takes.beats] * stage.gives.beats
