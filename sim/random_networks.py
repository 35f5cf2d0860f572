"""Random networks and plans, small enough to simulate, for tests of the project's law."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from nomul.compiler.errors import PlanError
from nomul.compiler.network import Argmax, Dense, Flatten, Input, Layer, Levels, Network, Staircase
from nomul.compiler.plan import (
    DensePlan,
    Plan,
    ProductCircuit,
    StaircaseCircuit,
    check_plan,
    make_plan,
)
from nomul.hw.stream import beats
from nomul.hw.table import Storage

__all__ = ["random_network", "random_plan"]

Rng = np.random.Generator


def random_network(seed: int) -> Network:
    """A network of one to three dense layers, with all that a layer can have."""
    rng = np.random.default_rng([0, seed])
    levels = _levels(rng)
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


def _levels(rng: Rng) -> Levels:
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
    if raw:
        return layer
    low, high = (int(v) for v in (layer.accumulators(levels)[0].min(),
                                  layer.accumulators(levels)[1].max()))
    return replace(layer, staircase=_staircase(rng, outputs, low, high))


def _staircase(rng: Rng, outputs: int, low: int, high: int) -> Staircase:
    levels = _levels(rng)
    rows = outputs if rng.integers(2) else 1
    count = len(levels) - 1
    directions = rng.choice([-1, 0, 1], rows) if rng.integers(3) == 0 else (
        np.full(rows, rng.choice([-1, 1])))
    if rng.integers(2):  # a progression that a shift can make
        step = 1 << int(rng.integers(0, max(1, (high - low).bit_length())))
        thresholds = step * np.arange(1, count + 1) + rng.integers(low, high + 1, (rows, 1))
        directions = np.full(rows, directions[0])
    else:
        thresholds = np.sort(rng.integers(low - 2, high + 3, (rows, count)), axis=1)
    constants = np.where(directions == 0, rng.integers(0, count + 1, rows), 0)
    return Staircase(thresholds=thresholds, levels=levels, directions=directions,
                     constants=constants)


def random_plan(network: Network, seed: int) -> Plan:
    """A legal plan, each part of it at random."""
    rng = np.random.default_rng([1, seed])
    base = make_plan(network)
    layers = []
    for entry in base.layers:
        layer = network[entry.name]
        assert isinstance(layer, Dense)
        outputs = int(rng.integers(1, layer.outputs + 1))
        inputs = int(rng.integers(1, layer.fan_in + 1))
        chunks = beats(layer.fan_in, inputs)
        depth = int(rng.integers(max(2, chunks), 2 * chunks + 3))
        if outputs == layer.outputs and rng.integers(2):
            depth = 0
        storages = [Storage.BLOCK if rng.integers(2) else Storage.LOGIC for _ in range(3)]
        layers.append(_legal(rng, network, base, replace(
            entry, outputs=outputs, inputs=inputs, depth=depth, products_in=storages[0],
            weights_in=storages[1], constants_in=storages[2])))
    pixels = int(np.prod(network.input.shape))
    return replace(base, input_lanes=int(rng.integers(1, pixels + 1)), layers=tuple(layers))


def _legal(rng: Rng, network: Network, base: Plan, entry: DensePlan) -> DensePlan:
    """``entry`` with random circuits among those that the plan's check allows."""
    options = []
    for product in ProductCircuit:
        for staircase in StaircaseCircuit:
            candidate = replace(entry, product=product, staircase=staircase)
            try:
                check_plan(replace(base, layers=tuple(
                    candidate if e.name == entry.name else e for e in base.layers)), network)
            except PlanError:
                continue
            options.append(candidate)
    return options[int(rng.integers(len(options)))]
