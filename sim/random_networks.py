"""Random networks and plans, small enough to simulate, for tests of the project's law."""
from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TypeVar

import numpy as np

from nomul.compiler.circuits import legal_circuits
from nomul.compiler.engine import engine_circuits
from nomul.compiler.flow import Fold, queue_depths
from nomul.compiler.layers import Argmax, Conv2d, Dense, Flatten, Input, Layer, Weighted
from nomul.compiler.network import Network
from nomul.compiler.plan import (
    EnginePlan,
    LayerPlan,
    Plan,
    QueuePlan,
    check_plan,
    least_depth,
    plan_stages,
    planned_layers,
    weight_words,
)
from nomul.compiler.planner import make_plan
from nomul.compiler.values import Levels, Staircase
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit, WeightMemory
from nomul.hw.stream import beats
from nomul.hw.table import Storage

__all__ = ["random_engine_plan", "random_levels", "random_network", "random_plan",
           "random_staircase", "with_widths"]

Rng = np.random.Generator

_Weighted = TypeVar("_Weighted", bound=Weighted)


def random_network(seed: int) -> Network:
    """A network of one to three dense layers, with all that a layer can have."""
    rng = np.random.default_rng([0, seed])
    levels = random_levels(rng)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    layers: list[Layer] = [Input(name="pixels", shape=shape, levels=levels),
                           Flatten(name="flat", inputs=("pixels",))]
    depth = int(rng.integers(1, 4))
    fan_in = int(np.prod(shape))
    for number in range(depth):
        outputs = int(rng.integers(1, 9))
        layer = _dense(rng, f"dense{number + 1}", layers[-1].name, fan_in, outputs, levels,
                       raw=number == depth - 1 and bool(rng.integers(2)))
        layers.append(layer)
        fan_in = outputs
        if layer.staircase:
            levels = layer.staircase.levels
    if rng.integers(2):
        layers.append(Argmax(name="best", inputs=(layers[-1].name,)))
    return Network(name=f"random{seed}", layers=tuple(layers))


def random_levels(rng: Rng) -> Levels:
    """Uniform or any levels, with or without a zero."""
    codes = int(rng.choice([2, 3, 4, 7, 16]))
    match rng.integers(4):
        case 0:
            return Levels.uniform(codes, start=-1, step=2)
        case 1:
            return Levels(values=np.sort(rng.choice(np.arange(-20, 20), codes, replace=False)))
        case 2:
            return Levels.uniform(codes, start=-(codes // 2), exponent=-3)
    return Levels.uniform(codes)


def _dense(rng: Rng, name: str, source: str, fan_in: int, outputs: int, levels: Levels, *,
           raw: bool) -> Dense:
    entries = int(rng.choice([1, 2, 3, 4, 8, 16]))
    if rng.integers(2):
        dictionary = rng.choice([-8, -4, -2, -1, 0, 1, 2, 4, 8], entries)
    else:
        dictionary = rng.integers(-9, 10, entries)
    table = None
    if rng.integers(4) == 0:
        table = rng.integers(-12, 13, (entries, len(levels)))
    layer = Dense(name=name, inputs=(source,), dictionary=dictionary, table=table,
                  assignment=rng.integers(0, entries, (outputs, fan_in)),
                  bias=rng.integers(-30, 31, outputs) * rng.integers(2))
    own, = rng.spawn(1)
    if own.integers(3) == 0:
        layer = with_widths(own, layer)
    elif table is None and own.integers(2):
        layer = _with_corrections(own, layer)
    if raw:
        return layer
    low, high = (int(v) for v in (layer.accumulators(levels)[0].min(),
                                  layer.accumulators(levels)[1].max()))
    return replace(layer, staircase=random_staircase(rng, outputs, low, high))


def _with_corrections(rng: Rng, layer: Dense) -> Dense:
    """``layer`` with random corrections: of one weight, up to all of them."""
    count = int(rng.integers(1, layer.assignment.size + 1)) if rng.integers(4) == 0 else (
        1 + layer.assignment.size // 8)
    places = np.sort(rng.choice(layer.assignment.size, count, replace=False))
    largest = int(rng.choice([1, 8, 100]))
    values = rng.integers(1, largest + 1, count) * rng.choice([-1, 1], count)
    return replace(layer, corrections=np.stack(
        [places // layer.fan_in, places % layer.fan_in, values], axis=1))


def with_widths(rng: Rng, layer: _Weighted) -> _Weighted:
    """``layer`` with a random width for each output, and weights to suit; those of 0 bits are
    mostly the number 0."""
    widths = rng.choice(rng.integers(0, 5, int(rng.integers(1, 5))), layer.outputs)
    assignment, entries = np.empty_like(layer.assignment), 0
    for width in np.unique(widths).tolist():
        size = int(rng.integers(1, (1 << width) + 1)) if rng.integers(3) == 0 else 1 << width
        used = widths == width
        assignment[used] = entries + rng.integers(0, size, assignment[used].shape)
        entries += size
    chosen = rng.integers(0, len(layer.dictionary), entries)
    dictionary = layer.dictionary[chosen]
    table = None if layer.table is None else layer.table[chosen]
    if not widths.min() and rng.integers(4):
        dictionary[0] = 0
        if table is not None:
            table[0] = 0
    return replace(layer, dictionary=dictionary, table=table, assignment=assignment,
                   widths=widths)


def random_staircase(rng: Rng, outputs: int, low: int, high: int) -> Staircase:
    """A staircase for ``outputs`` accumulators between ``low`` and ``high``, of every kind."""
    levels = random_levels(rng)
    rows = outputs if rng.integers(3) else 1
    count = len(levels) - 1
    directions = rng.choice([-1, 0, 1], rows) if rng.integers(3) == 0 else (
        np.full(rows, rng.choice([-1, 1])))
    if rng.integers(3):  # a progression that a shift can make, or one for each row
        own = rows > 1 and bool(rng.integers(4))
        steps = 1 << rng.integers(0, max(1, (high - low).bit_length()), (rows if own else 1, 1))
        thresholds = steps * np.arange(1, count + 1) + rng.integers(low, high + 1, (rows, 1))
        directions = directions if own else np.full(rows, directions[0])
    else:
        thresholds = np.sort(rng.integers(low - 2, high + 3, (rows, count)), axis=1)
        grid, = rng.spawn(1)
        if grid.integers(2):  # multiples of a power of two, but for an offset
            step = 1 << int(grid.integers(1, 5))
            thresholds -= (thresholds - int(grid.integers(step))) % step
    constants = np.where(directions == 0, rng.integers(0, count + 1, rows), 0)
    return Staircase(thresholds=thresholds, levels=levels, directions=directions,
                     constants=constants)


def _spread(rng: np.random.Generator, layer: Layer, entry: LayerPlan) -> LayerPlan:
    words = weight_words(layer, entry.fold)
    if entry.product is ProductCircuit.UNROLLED or words < 3 or not rng.integers(4):
        return entry
    return replace(entry, spread=int(rng.integers(1, words)))


def _rarer(rng: Rng, layer: Layer, products: list[ProductCircuit], inputs: int,
           ) -> ProductCircuit:
    """One of the circuits that few layers can have, or a table."""
    corrected = isinstance(layer, Dense) and layer.corrections is not None
    if ProductCircuit.UNROLLED in products and rng.integers(2):
        return ProductCircuit.UNROLLED
    if ProductCircuit.BUCKETS in products and inputs == 1 and not corrected and rng.integers(4):
        return ProductCircuit.BUCKETS
    if ProductCircuit.MULTIPLY in products and rng.integers(2):
        return ProductCircuit.MULTIPLY
    return ProductCircuit.TABLE


def random_plan(network: Network, seed: int) -> Plan:
    """A legal plan, each part of it at random, also queues that only just do not deadlock."""
    rng, special = np.random.default_rng([1, seed]), np.random.default_rng([4, seed])
    base = make_plan(network)
    layers = []
    for layer, entry in zip(planned_layers(network), base.layers, strict=True):
        outputs, inputs = _fold(rng, network, layer)
        least = least_depth(network, layer, (outputs, inputs))
        depth = int(rng.integers(least, 2 * least + 3)) if least else 0
        if isinstance(layer, Dense):
            depth = max(2, depth) if least or rng.integers(2) else 0
            if depth:
                depth = max(depth, beats(layer.fan_in, inputs))
        storages = [list(Storage)[int(rng.integers(3))] for _ in range(3)]
        products, staircases = legal_circuits(network, layer)
        if isinstance(layer, Dense) and (outputs, inputs) != (layer.outputs, layer.fan_in):
            products = [item for item in products if item is not ProductCircuit.UNROLLED]
        buffer_in = Storage.REGISTERED if rng.integers(2) else Storage.BLOCK
        usual = [item for item in products
                 if item not in (ProductCircuit.BUCKETS, ProductCircuit.MULTIPLY)]
        product: ProductCircuit = usual[int(rng.integers(len(usual)))]
        if product is ProductCircuit.TABLE:  # always exact, and so the most frequent one
            product = _rarer(special, layer, products, inputs)
        staircase = staircases[int(rng.integers(len(staircases)))]
        if StaircaseCircuit.TABLE in staircases and special.integers(3) == 0:
            staircase = StaircaseCircuit.TABLE
        layers.append(replace(
            entry, outputs=outputs, inputs=inputs, depth=depth, products_in=storages[0],
            weights_in=storages[1], constants_in=storages[2],
            buffer_in=buffer_in,
            staircase_in=list(Storage)[int(rng.spawn(1)[0].integers(3))], product=product,
            staircase=staircase))
    layers = [_spread(np.random.default_rng([2, seed, number]), layer, entry)
              for number, (layer, entry) in enumerate(
                  zip(planned_layers(network), layers, strict=True))]
    pixels = int(np.prod(network.input.shape))
    plan = replace(base, input_lanes=int(rng.integers(1, pixels + 1)), layers=tuple(layers),
                   queues=())
    needed = queue_depths(network, plan_stages(plan, network))
    plan = replace(plan, queues=tuple(
        QueuePlan(source=source, reader=reader, depth=depth + int(rng.integers(0, 2)))
        for (source, reader), depth in needed.items()))
    parity = rng.integers(2, size=len(layers)).astype(bool).tolist()
    plan = replace(plan, layers=tuple(replace(entry, parity=flag) for entry, flag in zip(
        plan.layers, parity, strict=True)))
    check_plan(plan, network)
    return plan


def random_engine_plan(network: Network, seed: int) -> Plan:
    """Any legal plan with one engine."""
    rng = np.random.default_rng([3, seed])
    products, staircases = engine_circuits(network)
    memories = [Storage.BLOCK, Storage.REGISTERED]
    plan = Plan(
        network=network.digest, layers=(),
        input_lanes=int(rng.integers(1, min(4, prod(network.input.shape)) + 1)),
        engine=EnginePlan(
            lanes=int(rng.integers(1, 7)), product=products[rng.integers(len(products))],
            staircase=staircases[rng.integers(len(staircases))],
            products_in=[Storage.LOGIC, *memories][rng.integers(3)],
            memories=memories[rng.integers(2)],
            codes_in=[CodeMemory.BLOCK, CodeMemory.SINGLE_PORT][rng.integers(2)],
            weights_in=[WeightMemory.BLOCK, WeightMemory.SPRAM][rng.integers(2)]))
    check_plan(plan, network)
    return plan


def _fold(rng: Rng, network: Network, layer: Layer) -> Fold:
    channels = network.reads(layer)[0].shape[-1]
    if layer.lanewise:
        lanes = int(rng.integers(1, channels + 1))
        return lanes, lanes
    if isinstance(layer, Conv2d):
        each, fan_in = layer.outputs // layer.groups, layer.assignment.shape[3]
        if layer.groups == 1:
            return int(rng.integers(1, each + 1)), int(rng.integers(1, fan_in + 1))
        return (int(rng.choice([n for n in range(1, each + 1) if each % n == 0])),
                int(rng.choice([n for n in range(1, fan_in + 1) if fan_in % n == 0])))
    if isinstance(layer, Dense):
        own, = rng.spawn(1)
        match own.integers(3):
            case 0:  # as it must be to be unrolled
                return layer.outputs, layer.fan_in
            case 1:  # as it must be for buckets
                return int(own.integers(1, layer.outputs + 1)), 1
        return int(rng.integers(1, layer.outputs + 1)), int(rng.integers(1, layer.fan_in + 1))
    return 1, 1
