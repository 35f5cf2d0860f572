"""Choosing a plan: folding as asked or for a rate, the smallest circuits that are exact."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from nomul.compiler.blocks import BlockShapes, best_spread, block_rams
from nomul.compiler.circuits import bucket_steps, legal_circuits, tables_of, unrolled_matrix
from nomul.compiler.engine import engine_circuits
from nomul.compiler.errors import PlanError
from nomul.compiler.flow import (
    Fold,
    hardware_source,
    queue_depths,
    shorter_branches,
    stages,
    window_of,
)
from nomul.compiler.layers import Conv2d, Dense, Layer, MaxPool, PixelEmbedding, SumPool, Weighted
from nomul.compiler.network import Network
from nomul.compiler.plan import (
    EnginePlan,
    LayerPlan,
    Plan,
    QueuePlan,
    check_fold,
    check_input_lanes,
    check_plan,
    engine_program,
    least_depth,
    planned_layers,
    unknown_layer,
    weight_words,
)
from nomul.compiler.values import Codes
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit, WeightMemory
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.hw.window import even_depth

__all__ = ["Foldings", "fastest", "fold_for_interval", "input_lanes_for",
           "make_engine_plan", "make_plan", "parse_folds", "parse_products"]

# Fewer bits than this are cheaper in logic than in a block RAM of their own.
_BLOCK_BITS = 512
# Constants of more outputs than this go to block RAM; in a lean plan, than the second number.
_CONSTANT_ROWS = (16, 64)
# Product tables of more entries than the first number go to block RAM, for so many lanes at most.
# Up to the second number one block RAM of an ECP5 holds a table, which takes fewer cells than
# masked sums do.
_LOGIC_TABLE, _BLOCK_TABLE, _TABLE_LANES = 64, 1024, 4

# Of dictionaries of so few entries tables take fewer cells than shifts do, where products of
# several inputs are added up (docs/circuits.md). Of 16 entries and 4 codes they take more: 7 cells
# for each product of ResNet-20's first convolution.
_FEW = 4
# In a lean plan, block RAM must be filled to one part in so many, or logic takes its place.
_LEAST_FILLED = 4
# Of more lanes, tables of more entries than this are larger than buckets, which take as many cells
# as a table in logic of half as many and, on iCE40, two block RAMs for each lane.
_LANE_TABLE = 256
# Weights of a layer that is unrolled unasked: the search for what to share takes seconds then.
_UNROLLED = 1 << 14


def make_plan(network: Network, folds: Mapping[str, Fold] | None = None, *,
              default: Fold = (1, 1), input_lanes: int = 1, lean: bool = False,
              registered: bool = False, parity: bool = False,
              products: Mapping[str, ProductCircuit] | None = None,
              blocks: BlockShapes | None = None) -> Plan:
    """A plan with the given folding, the smallest circuits, and buffers that do not stall.

    Parameters
    ----------
    folds : mapping of layer name to (outputs, inputs) at once
        `PlanError` for a layer that does not exist or cannot be folded like that.
    default : (outputs, inputs)
        For the other dense layers and convolutions; those whose channels do not meet take 1.
    lean : bool
        Take few block RAMs: constants of up to 64 channels lie in logic, and the buffer of a dense
        layer holds one vector, up to a power of two: the next one may have to wait. Weights that
        would fill less than a quarter of their ``blocks`` lie in logic too.
    registered : bool
        Registers behind all block RAMs, for a faster clock where their words come late, as they do
        on ECP5.
    parity : bool
        Parity bits in all tables.
    products : mapping of layer name to ProductCircuit, optional
        Circuits to take in the place of the smallest. `PlanError` for one that is not exact for its
        layer, or not for its fold.
    blocks : BlockShapes, optional
        What the block RAMs of the chip can be. Where it saves some of them, and the plan is lean
        or ``registered``, words of weights are spread over others.
    """
    check_input_lanes(network, input_lanes)
    chosen, asked = dict(folds or {}), dict(products or {})
    layers, used = [], dict[str, Fold]()
    for layer in planned_layers(network):
        lanewise = layer.lanewise or isinstance(layer, PixelEmbedding)
        fold = chosen.pop(layer.name, (1, 1) if lanewise else default)
        check_fold(network, layer, *fold)
        used[layer.name] = fold
        entry = _layer_plan(network, layer, fold, asked.pop(layer.name, None), lean=lean)
        entry = _registered(entry) if registered else entry
        entry = replace(entry, parity=parity)
        if blocks and (lean or registered):
            entry = _filling(layer, entry, blocks, lean=lean)
        layers.append(entry)
    for name in (*chosen, *asked):
        raise unknown_layer(network, name)
    plan = Plan(network=network.digest, input_lanes=input_lanes, layers=tuple(layers),
                queues=_queues(network, input_lanes, used,
                               {entry.name: entry.product for entry in layers}))
    check_plan(plan, network)
    return plan


def make_engine_plan(network: Network, lanes: int, *, input_lanes: int = 1,
                     registered: bool = False,
                     codes_in: CodeMemory = CodeMemory.BLOCK,
                     weights_in: WeightMemory = WeightMemory.BLOCK) -> Plan:
    """A plan with one engine of so many ``lanes``, and the smallest circuits.

    ``registered`` as of `make_plan`. `PlanError` if there is nothing for an engine to do.
    """
    products, staircases = engine_circuits(network)
    memories = Storage.REGISTERED if registered else Storage.BLOCK
    engine = EnginePlan(lanes=lanes, product=products[0], products_in=memories,
                        staircase=staircases[0], memories=memories, codes_in=codes_in,
                        weights_in=weights_in)
    if products[0] is ProductCircuit.TABLE:
        table = engine_program(network, engine).table
        if table.size <= _LOGIC_TABLE:
            engine = replace(engine, products_in=Storage.LOGIC)
    plan = Plan(network=network.digest, input_lanes=input_lanes, layers=(), engine=engine)
    check_plan(plan, network)
    return plan


def _layer_plan(network: Network, layer: Layer, fold: Fold, asked: ProductCircuit | None, *,
                lean: bool) -> LayerPlan:
    products, staircases = legal_circuits(network, layer)
    outputs, inputs = fold
    weights, table, rows = 0, 0, 1
    wire = network.reads(layer)[0]
    if isinstance(layer, Weighted):
        assert isinstance(wire, Codes)
        weights = layer.stored_bits or layer.assignment.size
        table = len(layer.dictionary) * len(wire.levels)
        rows = layer.outputs
    elif isinstance(layer, PixelEmbedding):
        weights = layer.table.size * layer.levels.bits
    lanes = outputs if layer.lanewise else outputs * inputs
    in_block = table > _LOGIC_TABLE and lanes <= _TABLE_LANES
    product = products[0]
    if asked is not None:
        product = asked
    elif _unrolls(network, layer, fold):
        product = ProductCircuit.UNROLLED
    elif product is ProductCircuit.MASKED and in_block and table <= _BLOCK_TABLE:
        product = ProductCircuit.TABLE
    elif (product is ProductCircuit.SHIFT_ADD and inputs > 1 and isinstance(layer, Weighted)
          and not layer.lanewise and len(layer.dictionary) <= _FEW and table <= _LOGIC_TABLE):
        product = ProductCircuit.TABLE
    elif product is ProductCircuit.TABLE and not layer.lanewise and _fills_buckets(
            network, layer, fold, table):
        product = ProductCircuit.BUCKETS
    if product is ProductCircuit.UNROLLED:
        weights = 0  # they are wires
    if product is ProductCircuit.MULTIPLY:
        in_block = False  # its tables are dictionaries
    constants_in = Storage.BLOCK if rows > _CONSTANT_ROWS[lean] else Storage.LOGIC
    return LayerPlan(
        name=layer.name, outputs=outputs, inputs=inputs, product=product,
        products_in=Storage.BLOCK if in_block else Storage.LOGIC,
        weights_in=Storage.BLOCK if weights >= _BLOCK_BITS else Storage.LOGIC,
        constants_in=constants_in, staircase=staircases[0],
        staircase_in=constants_in if _own_tables(network, layer, staircases[0]) else Storage.LOGIC,
        depth=_depth(network, layer, fold, lean=lean))


def _own_tables(network: Network, layer: Layer, staircase: StaircaseCircuit) -> bool:
    """Whether outputs have tables of their own; a common one is smaller in logic."""
    if staircase is not StaircaseCircuit.TABLE:
        return False
    found = tables_of(network, layer)
    return found is not None and len(found.tables) > 1


def _registered(entry: LayerPlan) -> LayerPlan:
    """``entry`` with registers behind its block RAMs."""
    changed: dict[str, Any] = {
        name: Storage.REGISTERED
        for name in ("products_in", "weights_in", "constants_in", "buffer_in", "staircase_in")
        if getattr(entry, name) is Storage.BLOCK}
    return replace(entry, **changed)


def _filling(layer: Layer, entry: LayerPlan, blocks: BlockShapes, *, lean: bool) -> LayerPlan:
    """``entry`` with weights that fill their ``blocks`` as far as they can."""
    words = weight_words(layer, entry.fold)
    if (not words or entry.weights_in is Storage.LOGIC
            or entry.product is ProductCircuit.UNROLLED):
        return entry
    assert isinstance(layer, Weighted)
    width = entry.outputs * entry.inputs * max(1, layer.assignment_bits) + entry.parity
    count = block_rams(blocks, width, words)
    if lean and width * words * _LEAST_FILLED < count * prod(blocks[0]):
        return replace(entry, weights_in=Storage.LOGIC)
    return replace(entry, spread=best_spread(blocks, width, words))


def _unrolls(network: Network, layer: Layer, fold: Fold) -> bool:
    """Whether ``layer`` is unrolled: it can be, and few enough weights are to be shared out."""
    return (isinstance(layer, Dense) and fold == (layer.outputs, layer.fan_in)
            and layer.assignment.size <= _UNROLLED
            and unrolled_matrix(network, layer) is not None)


def _unrolled(network: Network, layers: Iterable[Layer], folds: Mapping[str, Fold],
              ) -> dict[str, ProductCircuit]:
    """Those of ``layers`` that are unrolled: of the circuits that are chosen, no other one decides
    how fast a layer is."""
    return {layer.name: ProductCircuit.UNROLLED for layer in layers
            if _unrolls(network, layer, folds[layer.name])}


def _fills_buckets(network: Network, layer: Layer, fold: Fold, table: int) -> bool:
    """Whether ``layer``, whose products could only be looked up in a ``table`` of so many entries
    for each lane, has buckets instead: where that is far larger, and they drain in time."""
    wire = network.reads(layer)[0]
    outputs, inputs = fold
    if not isinstance(layer, Weighted) or not isinstance(wire, Codes) or inputs != 1 or (
            isinstance(layer, Dense) and layer.corrections is not None):
        return False
    return (table > (_BLOCK_TABLE if outputs <= _TABLE_LANES else _LANE_TABLE)
            and 0 < bucket_steps(layer, wire.levels) <= layer.fan_in)


def _depth(network: Network, layer: Layer, fold: Fold, *, lean: bool) -> int:
    """Depth at which a layer's buffer never makes it wait, up to a power of two; or, in a lean
    plan, the least one of a dense layer, whose vectors are long."""
    least = least_depth(network, layer, fold)
    if not least:
        return 0
    if lean and isinstance(layer, Dense):
        return 1 << max(1, (least - 1).bit_length())
    outputs, inputs = fold
    wire = network.reads(layer)[0]
    depth = 2 * least
    if isinstance(layer, Conv2d | MaxPool | SumPool):
        assert isinstance(wire, Codes)
        window = window_of(layer, wire)
        height, width, channels = wire.shape
        repeats = 1
        if isinstance(layer, Conv2d) and not layer.lanewise:
            repeats = beats(layer.outputs // layer.groups, outputs)
        depth = max(least, even_depth(height, width, beats(channels, inputs), window.kernel,
                                      window.stride, window.padding, repeats))
    return 1 << max(1, (depth - 1).bit_length())


def _queues(network: Network, input_lanes: int, folds: Mapping[str, Fold],
            products: Mapping[str, ProductCircuit]) -> tuple[QueuePlan, ...]:
    """Queues that cannot deadlock, with room for what is under way in the other branch."""
    flow = stages(network, input_lanes, folds, products)
    depths = queue_depths(network, flow)
    for branch in sorted(shorter_branches(network)):
        depths.setdefault(branch, 0)
    queues = []
    for (source, reader), depth in depths.items():
        gives = flow[source].gives
        pixel = beats(gives.length, gives.lanes)
        name = next(name for name in network[reader].inputs
                    if hardware_source(network, name) == source)
        queues.append(QueuePlan(source=name, reader=reader,
                                depth=1 << (depth + 8 * pixel + 8 - 1).bit_length()))
    return tuple(queues)


class Foldings:
    """Every folding of each layer that wastes no lane, and how fast it is.

    Attributes
    ----------
    options : mapping of layer name to list of (cycles, fold)
        The fewest lanes first.
    """

    def __init__(self, network: Network) -> None:
        self.options: dict[str, list[tuple[int, Fold]]] = {}
        for layer in planned_layers(network):
            options = []
            for fold in _folds_of(network, layer):
                unrolled = _unrolled(network, [layer], {layer.name: fold})
                took = stages(network, 1, {layer.name: fold}, unrolled)[layer.name].cycles
                options.append((took, fold))
            if options:
                self.options[layer.name] = sorted(
                    options, key=lambda option: (prod(option[1]), option[1]))

    def within(self, cycles: int) -> dict[str, Fold]:
        """For each layer the fewest lanes that keep its interval within ``cycles``, or the fastest
        ones where even those are too slow."""
        folds = {}
        for name, options in self.options.items():
            least = max(cycles, min(took for took, _ in options))
            folds[name] = next(fold for took, fold in options if took <= least)
        return folds

    def intervals(self) -> list[int]:
        """Intervals of the whole network, as far as lanes decide, the shortest first."""
        fastest = max(min(took for took, _ in options) for options in self.options.values())
        slowest = max(options[0][0] for options in self.options.values())
        return sorted({took for options in self.options.values() for took, _ in options
                       if fastest <= took <= slowest})


def fold_for_interval(network: Network, cycles: int) -> dict[str, Fold]:
    """`Foldings.within` of ``network``."""
    if cycles < 1:
        raise PlanError("plan: the clock must be at least as fast as the inferences; "
                        "ask for fewer of them a second, or for a faster clock")
    return Foldings(network).within(cycles)


def input_lanes_for(network: Network, cycles: int) -> int:
    """The fewest codes at once with which an image enters within ``cycles``."""
    return beats(prod(network.input.shape), max(1, cycles))


def fastest(network: Network) -> tuple[dict[str, Fold], int]:
    """The fewest lanes with which inferences follow each other as fast as they can, and the
    codes that must enter at once for it."""
    least = {layer.name: max(_folds_of(network, layer), default=(1, 1))
             for layer in planned_layers(network)}
    unrolled = _unrolled(network, planned_layers(network), least)
    flow = stages(network, prod(network.input.shape), least, unrolled)
    cycles = max(stage.cycles for stage in flow.values())
    return fold_for_interval(network, cycles), input_lanes_for(network, cycles)


def _folds_of(network: Network, layer: Layer) -> list[Fold]:
    """Every folding of a layer that wastes no lane of its inputs."""
    channels = network.reads(layer)[0].shape[-1]
    if isinstance(layer, PixelEmbedding):
        return []
    if layer.lanewise:
        return [(n, n) for n in _even(channels)]
    if isinstance(layer, Conv2d):
        each = layer.outputs // layer.groups
        return [(p, s) for p in _even(each) for s in range(1, layer.assignment.shape[3] + 1)
                if layer.assignment.shape[3] % s == 0 and (layer.groups == 1 or each % p == 0)]
    assert isinstance(layer, Dense)
    return [(p, s) for p in _even(layer.outputs) for s in _even(layer.fan_in)]


def _even(total: int) -> list[int]:
    """Numbers of lanes of which none fewer takes as few turns."""
    return sorted({beats(total, turns) for turns in range(1, total + 1)})


def parse_folds(text: str, network: Network) -> dict[str, Fold]:
    """Folding as typed: ``4x8`` for every dense layer and convolution, or
    ``conv1=4x8,pool1=2x2``."""
    folds: dict[str, Fold] = {}
    for item in text.split(","):
        match = re.fullmatch(r"\s*(?:(\w+)\s*=\s*)?(-?\d+)\s*x\s*(-?\d+)\s*", item)
        if not match:
            raise PlanError(f"fold: must be OUTPUTSxINPUTS or LAYER=OUTPUTSxINPUTS, separated by "
                            f"commas, not {item!r}; for example dense1=4x8,dense2=2x16")
        name, fold = match[1], (int(match[2]), int(match[3]))
        names = [name] if name else _meeting(network)
        folds.update(dict.fromkeys(names, fold))
    return folds


def parse_products(texts: Iterable[str], network: Network) -> dict[str, ProductCircuit]:
    """Product circuits as typed: ``bucket-accumulate`` for every dense layer and convolution whose
    channels meet, or ``dense1=table``; a later one counts more."""
    circuits = {circuit.value: circuit for circuit in ProductCircuit
                if circuit is not ProductCircuit.NONE}
    products: dict[str, ProductCircuit] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if value.strip() not in circuits:
            raise PlanError(f"product: must be CIRCUIT or LAYER=CIRCUIT, with one of "
                            f"{', '.join(circuits)}, not {text!r}")
        names = [name.strip()] if name else _meeting(network)
        products.update(dict.fromkeys(names, circuits[value.strip()]))
    return products


def _meeting(network: Network) -> list[str]:
    """Dense layers and convolutions whose channels meet."""
    return [layer.name for layer in planned_layers(network)
            if isinstance(layer, Weighted) and not layer.lanewise]
