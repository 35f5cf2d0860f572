# amaranth: UnusedElaboratable=no
# (Parts may be made only to be asked for their latency.)
"""Networks and plans to hardware components."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from amaranth.hdl import Signal, unsigned
from amaranth.lib import data

from nomul.compiler.adders import adder_graph
from nomul.compiler.circuits import (
    SparseTerms,
    SumTerms,
    packed_terms,
    sparse_terms,
    sum_terms,
    unrolled_matrix,
)
from nomul.compiler.coders import Parts, coders, moves_of, staircase_parts
from nomul.compiler.errors import ModelError
from nomul.compiler.flow import (
    Stage,
    Stream,
    hardware_readers,
    hardware_source,
    window_of,
)
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
from nomul.compiler.lower_engine import lower_engine
from nomul.compiler.network import Network
from nomul.compiler.plan import LayerPlan, Plan, check_plan, plan_stages
from nomul.compiler.raised import raised_terms
from nomul.compiler.values import Codes, Ints
from nomul.hw.affine import Affine
from nomul.hw.argmax import Argmax as ArgmaxUnit
from nomul.hw.axis import AxisTop
from nomul.hw.branch import AddStreams, AddSums, Fork, Queue
from nomul.hw.buckets import BucketDots
from nomul.hw.chain import Chain
from nomul.hw.circuits import ProductCircuit
from nomul.hw.dots import DotProducts
from nomul.hw.embedding import Embedding
from nomul.hw.engine import Engine
from nomul.hw.fill import ZeroAbsent
from nomul.hw.graph import Graph
from nomul.hw.lanewise import LanewiseMax, LanewiseSums
from nomul.hw.loaded import LoadedWords
from nomul.hw.multiply import DecodeMultiplyProducts
from nomul.hw.product import MaskedProducts, Products, ShiftAddProducts, TableProducts
from nomul.hw.replay import Replay
from nomul.hw.shapes import signed_range
from nomul.hw.sparse import SparseDots
from nomul.hw.stream import Regroup, beats
from nomul.hw.table import Storage
from nomul.hw.unrolled import UnrolledDots
from nomul.hw.window import Windows

__all__ = ["loaded_words", "lower", "lower_body"]

# Between registers of an unrolled layer.
_ADDITIONS = 3

# Beats that a queue holds whose `ready` is a register, and which is never in the way.
_STAGE = 2

# Beats under way that a queue holds beyond a vector.
_SPARE_BEATS = 4


def lower(network: Network, plan: Plan) -> AxisTop:
    """The hardware of ``network`` built as ``plan`` says, with AXI4-Stream ports."""
    *positions, elements = network.output.shape
    body = lower_body(network, plan)
    return AxisTop(body, i_length=prod(network.input.shape), o_length=elements,
                   o_vectors=prod(positions), flags=list(_flags(body)),
                   weights=loaded_words(body))


def _flags(part: Any) -> Iterator[Signal]:
    """What the tables in ``part`` raise when a word has a wrong bit, if the plan says so."""
    if isinstance(part, Chain | Graph):
        for inner in part.parts.values():
            yield from _flags(inner)
    elif (flag := getattr(part, "parity_error", None)) is not None:
        yield flag


def loaded_words(part: Any) -> LoadedWords | None:
    """What in ``part`` a stream must fill before it works, if there is such a thing."""
    if isinstance(part, Chain | Graph):
        return next((found for inner in part.parts.values()
                     if (found := loaded_words(inner)) is not None), None)
    return part.weights if isinstance(part, Engine) else None


def lower_body(network: Network, plan: Plan) -> Graph:
    """The same without the ports: a stream of codes in, a stream of results out.

    Every layer that has hardware is a submodule, by the layer's name. Where a wire has
    several readers stands a fork, and before those that must wait a queue.
    """
    check_plan(plan, network)
    if plan.engine is not None:
        return lower_engine(network, plan.engine, plan.input_lanes)
    flow = plan_stages(plan, network)
    queues = {(hardware_source(network, q.source), q.reader): q.depth for q in plan.queues}
    readers = hardware_readers(network)
    parts: Parts = {}
    links: list[tuple[str, str]] = []
    ends: dict[tuple[str, str], str] = {}  # where a reader finds the wire of a layer
    shapes: dict[str, Any] = {}

    for layer in network.layers:
        if isinstance(layer, Flatten):
            continue
        if isinstance(layer, Input):
            end, shape = "i", _input_shape(layer, flow[layer.name])
        else:
            sources = [hardware_source(network, name) for name in layer.inputs]
            _add_layer(network, plan, layer, flow, parts, links,
                       [(ends[source, layer.name], source, shapes[source]) for source in sources])
            end, shape = layer.name, parts[layer.name].o.payload.shape()
        shapes[layer.name] = shape
        _add_fork(plan, layer.name, end, shape, readers[layer.name], queues, parts, links, ends)
    if not parts:
        raise ModelError(f"network {network.name!r}: must have a layer that computes to be built")
    last = hardware_source(network, network.layers[-1].name)
    links.append((last, "o"))
    return Graph(parts, links)


def _input_shape(layer: Input, stage: Stage) -> Any:
    return data.ArrayLayout(unsigned(layer.levels.bits), stage.gives.lanes)


def _add_fork(plan: Plan, name: str, end: str, shape: Any, readers: list[str],
              queues: dict[tuple[str, str], int], parts: Parts, links: list[tuple[str, str]],
              ends: dict[tuple[str, str], str]) -> None:
    """A fork behind layer ``name`` if it has several readers, and their queues."""
    registered = {entry.name for entry in plan.layers if entry.buffer_in is Storage.REGISTERED}
    forked = len(readers) > 1
    if forked:
        parts[f"{name}_fork"] = Fork(shape, len(readers))
        links.append((end, f"{name}_fork"))
    for number, reader in enumerate(readers):
        at = f"{name}_fork.o_{number}" if forked else end
        if depth := queues.get((name, reader)):
            queue = f"{name}_to_{reader}"
            parts[queue] = Queue(shape, depth)
            links.append((at, queue))
            at = queue
            if reader in registered and depth > Queue.registers:
                parts[f"{queue}_stage"] = Queue(shape, _STAGE)  # behind its block RAM
                links.append((at, f"{queue}_stage"))
                at = f"{queue}_stage"
        ends[name, reader] = at


def _add_layer(network: Network, plan: Plan, layer: Layer, flow: dict[str, Stage], parts: Parts,
               links: list[tuple[str, str]], sources: list[tuple[str, str, Any]]) -> None:
    """The hardware of ``layer``, linked to the ends it reads."""
    stage = flow[layer.name]
    if not isinstance(layer, Add):
        (end, source, shape), = sources
        chain = _gather(shape, flow[source].gives, stage.takes)
        chain |= _unit(network, plan, layer, stage, shape)
        links.append((end, layer.name))
        parts[layer.name] = chain.popitem()[1] if len(chain) == 1 else Chain(chain)
        return
    tables = [(wire.levels.values << shift).tolist()
              for wire, shift in zip(network.reads(layer), layer.shifts, strict=True)
              if isinstance(wire, Codes)]
    adder = AddStreams(tables, lanes=stage.takes.lanes)
    terms, entry = sum_terms(network, layer), plan[layer.name]
    tail = staircase_parts(layer.staircase, terms, entry, stage.gives.lanes,
                           adder.o.payload.shape())
    if entry.buffer_in is Storage.REGISTERED:
        last = [adder, *tail.values()][-1]
        tail["stage"] = Queue(last.o.payload.shape(), _STAGE)
    name = f"{layer.name}_sum" if tail else layer.name
    parts[name] = adder
    for number, (end, source, shape) in enumerate(sources):
        for gather in _gather(shape, flow[source].gives, stage.takes).values():
            parts[f"{layer.name}_gather_{number}"] = gather
            links.append((end, f"{layer.name}_gather_{number}"))
            end = f"{layer.name}_gather_{number}"
        links.append((end, f"{name}.i_{number}"))
    if tail:
        parts[layer.name] = Chain(tail)
        links.append((name, layer.name))


def _gather(shape: Any, gives: Stream, takes: Stream) -> Parts:
    """What turns the beats of one layer into those that the next one takes; maybe nothing."""
    if gives.same_beats(takes):
        return {}
    return {"gather": Regroup(shape.elem_shape, i_lanes=gives.lanes, o_lanes=takes.lanes,
                              length=gives.length, o_length=takes.length)}


def _unit(network: Network, plan: Plan, layer: Layer, stage: Stage, shape: Any) -> Parts:
    """What computes ``layer`` from beats that are cut as it takes them."""
    wire = network.reads(layer)[0]
    element = shape.elem_shape
    if isinstance(layer, Argmax):
        return {"argmax": ArgmaxUnit(element, lanes=stage.takes.lanes, length=wire.shape[-1])}
    entry = plan[layer.name]
    assert isinstance(wire, Codes)
    if isinstance(layer, PixelEmbedding):
        return {"table": Embedding(layer.table.tolist(), code_shape=layer.levels.bits,
                                   channels=wire.shape[2], storage=entry.weights_in,
                                   parity=entry.parity)}
    if isinstance(layer, MaxPool):
        return {"window": _windows(layer.window, wire, element, entry, pad=0, lanewise=True),
                "max": LanewiseMax(element, lanes=entry.outputs, taps=prod(layer.window.kernel))}
    assert isinstance(layer, Weighted | SumPool)
    if entry.product is ProductCircuit.UNROLLED:
        assert isinstance(layer, Dense)
        return _unrolled(network, layer, entry, element)
    terms, packed = raised_terms(layer, *packed_terms(layer, sum_terms(network, layer)), entry)
    if isinstance(layer, Dense):
        parts = _dense(layer, terms, packed, entry, stage)
        if sparse := sparse_terms(layer, wire.levels):
            parts = {"sums": _corrected(parts, sparse, terms, entry, stage)}
    elif layer.lanewise:
        assert isinstance(layer, Conv2d | SumPool)
        parts = _lanewise(layer, terms, packed, wire, entry, element)
    else:
        assert isinstance(layer, Conv2d)
        parts = _convolution(layer, terms, packed, wire, entry, stage, element)
    sums = list(parts.values())[-1].o.payload.shape()
    return parts | staircase_parts(layer.staircase, terms, entry, stage.gives.lanes, sums)


def _products(terms: SumTerms, plan: LayerPlan, *, lanes: int, inputs: int) -> Products:
    table = terms.products.tolist()
    if plan.product is ProductCircuit.SHIFT_ADD:
        return ShiftAddProducts(table, lanes=lanes, inputs=inputs)
    if plan.product is ProductCircuit.MASKED:
        return MaskedProducts(table, lanes=lanes, inputs=inputs)
    if plan.product is ProductCircuit.MULTIPLY:
        return DecodeMultiplyProducts(table, lanes=lanes, inputs=inputs, storage=plan.products_in,
                                      parity=plan.parity)
    return TableProducts(table, lanes=lanes, inputs=inputs, storage=plan.products_in,
                         parity=plan.parity)


def _dot_products(terms: SumTerms, packed: list[int] | None, rows: Ints, plan: LayerPlan,
                  o_lanes: int, *, corrected: bool = False) -> Parts:
    """Dot products with ``rows``, weights of ``terms`` with places for absent inputs. Those that
    are ``corrected`` later may lie outside of the bounds of ``terms``."""
    shape = _sum_shape(terms)
    options: dict[str, Any] = {"o_lanes": o_lanes, "storage": plan.weights_in, "packed": packed,
                               "parity": plan.parity, "spread": plan.spread}
    if plan.product is ProductCircuit.BUCKETS:
        return {"dots": BucketDots(terms.products.tolist(), rows.tolist(), lanes=plan.outputs,
                                   acc_shape=shape, **options)}
    products = _products(terms, plan, lanes=plan.outputs, inputs=plan.inputs)
    if not isinstance(products, MaskedProducts):
        # Raised products make sums without a sign.
        lanes = range(max(1, int(terms.high.max())) + 1) if (
            plan.product is ProductCircuit.TABLE and terms.low.min() >= 0
            and not corrected) else shape
        return {"dots": DotProducts(products, rows.tolist(), acc_shape=shape, lane_shape=lanes,
                                    **options)}
    entries = terms.assignment if packed is None else np.array(packed)[terms.assignment]
    masks = products.masks
    most = max(int(np.array(counts)[entries].sum(axis=1).max()) for counts in masks.counts)
    total = masks.base != 0
    inner = signed_range(0, max(most, entries.shape[1] if total else 0)
                         * (terms.products.shape[1] - 1))
    return {
        "dots": DotProducts(products, rows.tolist(), acc_shape=inner, total=total,
                            lane_shape=range(most * (terms.products.shape[1] - 1) + 1), **options),
        "affine": Affine(inner, shape, base=masks.base, steps=masks.steps, lanes=o_lanes),
    }


def _sum_shape(terms: SumTerms) -> Any:
    return signed_range(int(terms.low.min()), int(terms.high.max()))


def _dense(layer: Dense, terms: SumTerms, packed: list[int] | None, plan: LayerPlan, stage: Stage,
           ) -> Parts:
    """Repeat the inputs for each group of outputs, and add up."""
    sums = _dot_products(terms, packed, terms.assignment, plan, stage.gives.lanes,
                         corrected=layer.corrections is not None)
    dots = sums["dots"]
    parts: Parts = {}
    if plan.depth:
        parts["replay"] = Replay(dots.i.payload.shape(), length=beats(layer.fan_in, plan.inputs),
                                 repeats=dots.groups, depth=plan.depth,
                                 storage=plan.buffer_in)
    return parts | sums


def _unrolled(network: Network, layer: Dense, plan: LayerPlan, element: Any) -> Parts:
    """All outputs at once from constant weights, and their offsets added on the way."""
    terms, matrix = sum_terms(network, layer), unrolled_matrix(network, layer)
    assert matrix is not None, "the plan is checked"
    moves = moves_of(layer.staircase, terms, plan)
    matrix = np.where(moves.negate[:, None], -matrix, matrix)
    graph = adder_graph(matrix, [(0, terms.products.shape[1] - 1)] * layer.fan_in,
                        moves.offsets.tolist())
    none = np.zeros(layer.outputs, dtype=np.int64)
    return {"dots": UnrolledDots(graph, code_shape=element, elements=layer.fan_in,
                                 o_shape=moves.shape, depth=_ADDITIONS)} | coders(
        layer.staircase, replace(moves, offsets=none, negate=none), moves.shape, plan,
        layer.outputs)


def _corrected(parts: Parts, sparse: SparseTerms, terms: SumTerms, plan: LayerPlan, stage: Stage,
               ) -> Graph:
    """Dense ``parts``, and beside them what the corrections add to their sums.

    A vector of sums waits for those of the corrections, which begin when all of the inputs have
    come: so neither engine ever waits for the other one, but in the long run for the slower.
    """
    lanes, length = stage.gives.lanes, stage.gives.length
    vector, shape = next(iter(parts.values())).i.payload.shape(), _sum_shape(terms)
    reach = signed_range(*sparse.range())
    walk = SparseDots(sparse.table, sparse.rows, inputs=stage.takes.length,
                      lanes=stage.takes.lanes, storage=plan.weights_in, parity=plan.parity,
                      acc_shape=min(shape, reach, key=lambda s: s.width))
    corrections: Parts = {"corrections": walk}
    if lanes > 1:
        corrections["gather"] = Regroup(walk.acc_shape, i_lanes=1, o_lanes=lanes, length=length)
    sums: Parts = {**parts, "queue": Queue(data.ArrayLayout(shape, lanes),
                                           stage.gives.beats + _SPARE_BEATS)}
    links = [("i", "fork"),
             *pairwise(["fork.o_0", *sums, "add.i_0"]),
             *pairwise(["fork.o_1", *corrections, "add.i_1"]), ("add", "o")]
    return Graph({"fork": Fork(vector, 2), **sums, **corrections,
                  "add": AddSums([shape, walk.acc_shape], shape, lanes=lanes)}, links)


def _windows(window: Window, wire: Codes, element: Any, plan: LayerPlan, *, pad: int,
             lanewise: bool, groups: int = 1, repeats: int = 1) -> Windows:
    """The line buffer of a layer that moves ``window``; ``pad`` is the code that padding gives."""
    height, width, channels = wire.shape
    words = beats(channels, plan.inputs)
    bits = element.width
    present = [min(plan.inputs, channels - word * plan.inputs) for word in range(words)]
    return Windows(data.ArrayLayout(element, plan.inputs), height=height, width=width,
                   words=words, kernel=window.kernel, stride=window.stride,
                   padding=window.padding, groups=words if lanewise else groups, repeats=repeats,
                   pad=[sum(pad << lane * bits for lane in range(n)) for n in present],
                   depth=plan.depth, storage=plan.buffer_in)


def _lanewise(layer: Conv2d | SumPool, terms: SumTerms, packed: list[int] | None, wire: Codes,
              plan: LayerPlan, element: Any) -> Parts:
    """Window, then each lane adds up its own channel."""
    window = window_of(layer, wire)
    simple = replace(plan, products_in=plan.products_in.plain)
    return {
        "window": _windows(window, wire, element, plan, pad=wire.levels.zero or 0,
                           lanewise=True),
        "sums": LanewiseSums([_products(terms, simple, lanes=1, inputs=1)
                              for _ in range(plan.outputs)], terms.assignment.tolist(),
                             acc_shape=_sum_shape(terms), storage=plan.weights_in,
                             packed=packed, parity=plan.parity),
    }


def _convolution(layer: Conv2d, terms: SumTerms, packed: list[int] | None, wire: Codes,
                 plan: LayerPlan, stage: Stage, element: Any) -> Parts:
    """Window, or pixel, given once for each group of outputs, then dot products."""
    channels, lanes = layer.assignment.shape[3], plan.inputs
    words = beats(channels, lanes)
    # Absent lanes carry code 0, and weight 0.
    rows = np.zeros((layer.outputs, *layer.window.kernel, words * lanes), dtype=np.int64)
    rows[..., :channels] = terms.assignment.reshape(layer.assignment.shape)
    parts: Parts = {}
    if channels % lanes:
        parts["fill"] = ZeroAbsent(element, lanes=lanes, length=channels)
    repeats = beats(layer.outputs // layer.groups, plan.outputs)
    if prod(layer.window.kernel) == layer.window.stride == 1:
        # A pixel by itself is a vector that is given again.
        parts["replay"] = Replay(data.ArrayLayout(element, lanes), length=words, repeats=repeats,
                                 depth=plan.depth, storage=plan.buffer_in)
    else:
        parts["window"] = _windows(layer.window, wire, element, plan, pad=wire.levels.zero or 0,
                                   lanewise=False, groups=layer.groups, repeats=repeats)
    return parts | _dot_products(terms, packed, rows.reshape(layer.outputs, -1), plan,
                                 stage.gives.lanes)
