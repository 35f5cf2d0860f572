"""A network as the tasks of one engine: where codes lie, what is multiplied, added and compared."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from amaranth.hdl import Shape

from nomul.compiler.circuits import shift_clip_terms, threshold_rows
from nomul.compiler.engine_work import Work, coded, work_of
from nomul.compiler.errors import PlanError
from nomul.compiler.flow import hardware_readers, hardware_source, window_of
from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Input,
    Layer,
    MaxPool,
    PixelEmbedding,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Integers, Ints
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit
from nomul.hw.product import shift_add_slopes
from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats
from nomul.hw.tasks import Constant, Padding, Task, place_bits

__all__ = ["Program", "engine_circuits", "engine_layers", "front", "program"]


def front(network: Network) -> PixelEmbedding | None:
    """The embedding that images pass before they reach the engine, if there is one that nothing
    passes by."""
    first = hardware_readers(network)[network.layers[0].name]
    layer = network[first[0]] if len(first) == 1 else None
    return layer if isinstance(layer, PixelEmbedding) else None


def engine_layers(network: Network) -> list[Layer]:
    """The layers that an engine works on, in order; `PlanError` if there is none."""
    last = network.layers[-1]
    needed = {hardware_source(network, last.inputs[0] if isinstance(last, Argmax) else last.name)}
    embedding = front(network)
    layers: list[Layer] = []
    for layer in reversed(network.layers):
        if layer.name in needed and not isinstance(layer, Input) and layer is not embedding:
            layers.insert(0, layer)
            needed |= {hardware_source(network, name) for name in layer.inputs}
    if not layers:
        raise PlanError(f"plan: network {network.name!r} must have a layer that adds up or takes "
                        "the largest for an engine to work on; build it without --engine")
    return layers


def engine_circuits(network: Network,
                    ) -> tuple[list[ProductCircuit], list[StaircaseCircuit]]:
    """Circuits that give exactly the bits of all layers, the smallest first."""
    works = [work_of(network, layer) for layer in engine_layers(network)]
    products = [ProductCircuit.TABLE]
    if all(shift_add_slopes(work.products.tolist()) is not None for work in works):
        products.insert(0, ProductCircuit.SHIFT_ADD)
    staircases = [StaircaseCircuit.SEARCH]
    if all(work.staircase is None or shift_clip_terms(work.staircase, work.low, work.high)
           for work in works):
        staircases.insert(0, StaircaseCircuit.SHIFT_CLIP)
    return products, staircases


@dataclass(frozen=True, kw_only=True)
class Program:
    """What `nomul.hw.engine.Engine` is told, in plain integers.

    Parameters
    ----------
    layers : tuple of str
        The layer of each task.
    tasks : tuple of Task
    words : array of int, shape [words, lanes]
        Entries of the products.
    table : array of int
        Products: shape [rows, entries], or of shift-add [entries, codes].
    constants : tuple of Constant
    thresholds : array of int, shape [rows, codes - 1], or None
    code_shape, image_shape, acc_shape, sum_shape, result_shape : Shape
    image_length : int
        Codes of an image.
    depths : tuple of int
        Codes of each memory between tasks.
    raw : bool
        Whether results are sums.
    """

    layers: tuple[str, ...]
    tasks: tuple[Task, ...]
    words: Ints
    table: Ints
    constants: tuple[Constant, ...]
    thresholds: Ints | None
    code_shape: Shape
    image_shape: Shape
    acc_shape: Shape
    sum_shape: Shape
    result_shape: Shape
    image_length: int
    depths: tuple[int, ...]
    raw: bool

    @property
    def search_bits(self) -> int:
        """Steps of a binary search for a code; 0 if codes come from shifts."""
        return 0 if self.thresholds is None else int(self.thresholds.shape[1]).bit_length()


def program(network: Network, *, lanes: int, product: ProductCircuit,
            staircase: StaircaseCircuit, codes_in: CodeMemory = CodeMemory.BLOCK) -> Program:
    """What an engine of so many ``lanes`` does for ``network``.

    Circuits must be among its `engine_circuits`.

    Raises
    ------
    PlanError
        If no layer is left for an engine.
    """
    layers = engine_layers(network)
    works = [work_of(network, layer) for layer in layers]
    image = front(network) or network.layers[0]
    entrance = network.wires[image.name]
    assert isinstance(entrance, Codes)
    places, depths = _places(network, layers, image, codes_in)
    words, starts, again = _words(layers, works, lanes)
    table, entries, rows = (_slopes if product is ProductCircuit.SHIFT_ADD else _rows)(
        works, [len(coded(network, layer).levels) for layer in layers])
    constants, firsts, thresholds, low, high = _constants(works, staircase)
    last_reader = max(n for n, layer in enumerate(layers) if image.name in _sources(network, layer))

    tasks = []
    for n, (layer, work) in enumerate(zip(layers, works, strict=True)):
        wire, sources = coded(network, layer), _sources(network, layer)
        loops, origin, outputs, padding = _loops(network, layer, wire, lanes,
                                                 [places[name] for name in sources])
        tasks.append(Task(
            loops=loops, origin=origin, outputs=outputs, padding=padding, weights=starts[n],
            again=again[n], table=rows[n], constants=firsts[n][0], shared=firsts[n][1],
            highest=len(work.staircase.levels) - 1 if work.staircase else 0,
            target=places.get(layer.name), largest=isinstance(layer, MaxPool),
            reads_image=image.name in sources, frees_image=n == last_reader))
    result = network.wires[layers[-1].name]
    seen = [network.wires[name] for name in (image.name, *(layer.name for layer in layers))]
    codes = [wire.levels.bits for wire in seen if isinstance(wire, Codes)]
    return Program(
        layers=tuple(layer.name for layer in layers), tasks=tuple(tasks),
        words=np.concatenate([entries[n][word] for n, word in enumerate(words)]), table=table,
        constants=tuple(constants), thresholds=thresholds,
        code_shape=Shape(max(codes)), image_shape=Shape(entrance.levels.bits),
        acc_shape=signed_range(min(min(0, int(w.low.min())) for w in works),
                               max(max(0, int(w.high.max())) for w in works)),
        sum_shape=signed_range(low, high),
        result_shape=(signed_range(result.low, result.high) if isinstance(result, Integers)
                      else Shape(result.levels.bits)),
        image_length=prod(entrance.shape), depths=tuple(depths), raw=isinstance(result, Integers))


def _sources(network: Network, layer: Layer) -> list[str]:
    return [hardware_source(network, name) for name in layer.inputs]


def _places(network: Network, layers: Sequence[Layer], image: Layer, memory: CodeMemory,
            ) -> tuple[dict[str, int], list[int]]:
    """Addresses of the codes of each layer while some task reads them, and of the image; and codes
    that each memory has room for."""
    tries = (1,) if memory is CodeMemory.BLOCK else (2, 3)
    places = next(found for banks in tries
                  if (found := _in_banks(network, layers, banks)) is not None)
    sizes = {name: prod(network.wires[name].shape) for name in (*places, image.name)}
    depths = [0] * (1 + max((bank for bank, _ in places.values()), default=-1))
    for name, (bank, place) in places.items():
        depths[bank] = max(depths[bank], place + sizes[name])
    bits = place_bits(depths, sizes[image.name])
    return ({name: bank << bits | place for name, (bank, place) in places.items()}
            | {image.name: len(depths) << bits}, depths)


def _in_banks(network: Network, layers: Sequence[Layer], banks: int,
              ) -> dict[str, tuple[int, int]] | None:
    """A bank and a place in it for each layer; if there are several banks, another one than those
    that its task reads. None if there are too few banks: three are enough."""
    sources = [_sources(network, layer) for layer in layers]
    lives = {layer.name: (n, max(k for k, names in enumerate(sources) if layer.name in names),
                          prod(network.wires[layer.name].shape))
             for n, layer in enumerate(layers[:-1])}
    places: dict[str, tuple[int, int]] = {}
    # Of one bank, the largest take their place first.
    for name in sorted(lives, key=lambda name: (-lives[name][2], lives[name][0])
                       if banks == 1 else (lives[name][0],)):
        born, dies, size = lives[name]
        read = {places[source][0] for source in sources[born] if source in places}
        options = []
        for bank in set(range(banks)) - (read if banks > 1 else set()):
            place = 0
            for first, end in sorted(
                    (at, at + lives[other][2]) for other, (its, at) in places.items()
                    if its == bank and lives[other][0] <= dies and born <= lives[other][1]):
                if place + size <= first:
                    break
                place = max(place, end)
            options.append((place, bank))
        if not options:
            return None
        place, bank = min(options)
        places[name] = bank, place
    return places


def _loops(network: Network, layer: Layer, wire: Codes, lanes: int, places: Sequence[int],
           ) -> tuple[tuple[tuple[int, int], ...], int, int, Padding | None]:
    """Loops of a layer whose inputs lie at ``places``, its first address, outputs of a group, and
    its padding."""
    place, channels = places[0], wire.shape[-1]
    once, pixels = (1, 0), prod(wire.shape) // channels
    if isinstance(layer, Dense):
        passes = (beats(layer.outputs, lanes), 0)
        return ((layer.fan_in, 1), once, once, passes, once, once, once), place, layer.outputs, None
    if isinstance(layer, Add):
        return (((2, places[1] - place), once, once, once, (channels, 1), (pixels, channels), once),
                place, 1, None)
    if isinstance(layer, PixelEmbedding):
        depth = layer.table.shape[2]
        return ((once, once, once, (beats(depth, lanes), 0), (channels, 1), (pixels, channels),
                 once), place, depth, None)
    window = window_of(layer, wire)
    groups, outputs = channels, 1
    if isinstance(layer, Conv2d):
        groups, outputs = layer.groups, layer.outputs // layer.groups
    height, width, _ = wire.shape
    down, across = window.positions(height, width)
    each, line, (top, left, *_) = channels // groups, width * channels, window.padding
    loops = ((each, 1), (window.kernel[1], channels), (window.kernel[0], line),
             (beats(outputs, lanes), 0), (groups, each), (across, window.stride * channels),
             (down, window.stride * line))
    padding = None
    if any(window.padding):
        padding = Padding(height=height, width=width, top=top, left=left, stride=window.stride,
                          code=0 if isinstance(layer, MaxPool) else wire.levels.zero or 0)
    return loops, place - top * line - left * channels, outputs, padding


def _words(layers: Sequence[Layer], works: Sequence[Work], lanes: int,
           ) -> tuple[list[Ints], list[int], list[bool]]:
    """Weights of each layer as words, where they begin, and whether each pass has the same ones."""
    words: list[Ints] = []
    starts, again = [0], []
    for layer, work in zip(layers, works, strict=True):
        assignment = work.assignment
        groups = _groups(layer, assignment)
        again.append(len(assignment) > 1 and len(assignment) == groups
                     and bool((assignment == assignment[0]).all()))
        if again[-1]:
            assignment, groups = assignment[:1], 1
        rows = assignment.reshape(groups, -1, assignment.shape[1])
        passes = beats(rows.shape[1], lanes)
        padded = np.zeros((groups, passes * lanes, rows.shape[2]), dtype=np.int64)
        padded[:, :rows.shape[1]] = rows
        words.append(padded.reshape(groups, passes, lanes, -1).swapaxes(2, 3).reshape(-1, lanes))
        starts.append(starts[-1] + len(words[-1]))
    return words, starts[:-1], again


def _groups(layer: Layer, assignment: Ints) -> int:
    """Groups of outputs that read inputs of their own."""
    if isinstance(layer, Dense):
        return 1
    if isinstance(layer, Conv2d):
        return layer.groups
    if isinstance(layer, PixelEmbedding):
        return int(assignment.shape[0] // layer.table.shape[2])
    return int(assignment.shape[0])


def _slopes(works: Sequence[Work], codes: Sequence[int]) -> tuple[Ints, list[Ints], list[int]]:
    """Products that are a slope times the code: one table for all layers, for each layer its
    entries in that, and what is added to codes: nothing."""
    slopes = [work.products[:, 1] for work in works]
    union, index = np.unique(np.concatenate(slopes), return_inverse=True)
    ends = np.cumsum([len(each) for each in slopes])
    return (np.outer(union, np.arange(max(codes))), np.split(index.reshape(-1), ends[:-1]),
            [0] * len(works))


def _rows(works: Sequence[Work], codes: Sequence[int]) -> tuple[Ints, list[Ints], list[int]]:
    """Any products: a row for each code of each layer, and an entry for each of its weights."""
    width = max(len(work.products) for work in works)
    blocks: dict[bytes, int] = {}
    table: list[Ints] = []
    firsts = []
    for work in works:
        block = np.zeros((work.products.shape[1], width), dtype=np.int64)
        block[:, :len(work.products)] = work.products.T
        if block.tobytes() not in blocks:
            blocks[block.tobytes()] = sum(map(len, table))
            table.append(block)
        firsts.append(blocks[block.tobytes()])
    return np.concatenate(table), [np.arange(len(work.products)) for work in works], firsts


def _constants(works: Sequence[Work], staircase: StaircaseCircuit,
               ) -> tuple[list[Constant], list[tuple[int, bool]], Ints | None, int, int]:
    """What becomes of the sums of each layer; where its constants begin and whether its outputs
    share one; rows of thresholds; and the lowest and highest number that meets them."""
    search = staircase is StaircaseCircuit.SEARCH
    codes = max((len(work.staircase.levels) for work in works if work.staircase), default=2)
    thresholds: dict[tuple[int, ...], int] = {}
    constants: list[Constant] = []
    firsts = []
    low = high = 0
    for work in works:
        if work.staircase is None:
            rows = [Constant(offset=offset, negate=False, which=0)
                    for offset in work.offsets.tolist()]
        elif search:
            rows = []
            for row, falls in zip(*threshold_rows(work.staircase, work.offsets,
                                                  int(work.low.min()), int(work.high.max())),
                                  strict=True):
                rising = (-row[::-1] if falls else row).tolist()
                spaced = tuple(t - rising[0] for t in rising)
                high = max(high, spaced[-1])
                rows.append(Constant(offset=-rising[0], negate=falls,
                                     which=thresholds.setdefault(spaced, len(thresholds))))
        else:
            terms = shift_clip_terms(work.staircase, work.low, work.high)
            assert terms is not None, "the plan is checked"
            rows = [Constant(offset=offset, negate=bool(negate), which=shift)
                    for offset, negate, shift in zip(terms.offsets.tolist(), terms.negate.tolist(),
                                                     terms.shifts.tolist(), strict=True)]
        for row in rows:
            ends = [(-1 if row.negate else 1) * int(end) + row.offset
                    for end in (work.low.min(), work.high.max())]
            low, high = min(low, *ends), max(high, *ends)
        shared = len(set(rows)) == 1
        firsts.append((len(constants), shared))
        constants += rows[:1] if shared else rows
    if not search:
        return constants, firsts, None, low, high
    never = high + 1
    filled = [[*row, *[never] * (codes - 1 - len(row))] for row in thresholds] or [[never]]
    return constants, firsts, np.array(filled), low, high
