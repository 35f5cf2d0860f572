# amaranth: UnusedElaboratable=no
"""The law: for every network and every legal plan, hardware == golden, whatever stalls."""
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Fragment

from nomul.compiler import lower as lowering
from nomul.compiler import planner
from nomul.compiler.circuits import shift_clip_terms, tables_of
from nomul.compiler.lower import lower_body
from nomul.compiler.network import (
    Conv2d,
    Dense,
    Flatten,
    Input,
    Integers,
    Levels,
    Network,
    Weighted,
)
from nomul.compiler.plan import Plan, intervals
from nomul.compiler.planner import fold_for_interval, make_plan
from nomul.hw.buckets import drain_steps
from nomul.hw.chain import Chain
from nomul.hw.circuits import ProductCircuit, StaircaseCircuit
from nomul.hw.lanewise import LanewiseSums
from nomul.hw.packed import PackedCycle
from nomul.hw.sparse import walk
from nomul.hw.stream import beats
from nomul.hw.unrolled import UnrolledDots
from nomul.sim.bench import measure, transfer
from nomul.sim.golden import run
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_network, random_plan

#: Values that drain in 36 cycles.
BUCKETS = (-90, -53, -31, -7, 0, 1, 5, 11, 47, 66, 101, 127)


def random_images(network: Network, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([2, seed])
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def pixel_beats(images: np.ndarray, lanes: int) -> list[list[int]]:
    flat = images.reshape(len(images), -1)
    total = beats(flat.shape[1], lanes)
    padded = np.ones((len(images), total * lanes), dtype=int)  # absent lanes hold anything
    padded[:, :flat.shape[1]] = flat
    return padded.reshape(-1, lanes).tolist()


def simulate(network: Network, seed: int, images: np.ndarray) -> np.ndarray:
    plan = random_plan(network, seed)
    body = lower_body(network, plan)
    lanes = body.o.payload.shape().length
    length = int(np.prod(network.output.shape))
    total = beats(length, lanes)
    got = transfer(body, pixel_beats(images, plan.input_lanes), len(images) * total, seed=seed)
    values = np.array([list(beat) for beat in got]).reshape(len(images), -1)
    return values[:, :length]


# 1245: without its corrections a sum is below all that it may be with them.
@pytest.mark.parametrize("seed", [*range(60), 1245])
def test_hardware_is_golden(seed: int) -> None:
    network = random_network(seed)
    images = random_images(network, 4, seed)
    expected = run(network, images).output.reshape(4, -1)
    assert simulate(network, seed, images).tolist() == expected.tolist()


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1000, 1500))
def test_hardware_is_golden_many(seed: int) -> None:
    test_hardware_is_golden(seed)


def test_the_law_can_be_broken() -> None:
    """One weight off by an entry is seen."""
    network = next(n for n in map(random_network, range(100))
                   if isinstance(n.output, Integers) and isinstance(n.layers[-1], Dense)
                   and len(set(n.layers[-1].dictionary.tolist())) > 3 and len(n.layers) > 3
                   and n.layers[-1].widths is None)
    images = random_images(network, 12, 3)
    layer = network.layers[-1]
    assert isinstance(layer, Dense)
    wrong = layer.assignment.copy()
    wrong[0] = (wrong[0] + 1) % len(layer.dictionary)
    broken = Network(name=network.name, layers=tuple(
        replace(layer, assignment=wrong) if other is layer else other
        for other in network.layers))
    golden = run(network, images).output.reshape(12, -1)
    assert (run(broken, images).output.reshape(12, -1) != golden).any(), "a change that matters"
    assert (simulate(broken, 3, images) != golden).any()


def test_the_law_covers_widths() -> None:
    widths = {width for network in map(random_network, range(60)) for layer in network.layers
              if isinstance(layer, Weighted) and layer.widths is not None
              for width in layer.widths.tolist()}
    assert widths == {0, 1, 2, 3, 4}


def test_the_law_covers_corrections() -> None:
    layers = [layer for network in map(random_network, range(60)) for layer in network.layers
              if isinstance(layer, Dense) and layer.corrections is not None]
    missing = [set(range(layer.outputs)) - {*layer.corrections[:, 0].tolist()}  # type: ignore[index]
               for layer in layers]
    assert len(layers) > 20 and any(missing) and not all(missing)


def test_the_law_covers_shifts_of_their_own() -> None:
    found = 0
    for seed, network in enumerate(map(random_network, range(60))):
        plan = random_plan(network, seed)
        for layer in network.layers:
            if (isinstance(layer, Dense) and layer.staircase
                    and plan[layer.name].staircase is StaircaseCircuit.SHIFT_CLIP):
                low, high = layer.accumulators(network.reads(layer)[0].levels)
                terms = shift_clip_terms(layer.staircase, low, high)
                found += terms is not None and not terms.common
    assert found > 3


def test_the_law_covers_tables_of_codes() -> None:
    """One for all, shared by some, own ones; steps of several integers; all memories."""
    kinds, memories, steps = set(), set(), 0
    for seed, network in enumerate(map(random_network, range(60))):
        for entry in random_plan(network, seed).layers:
            if entry.staircase is StaircaseCircuit.TABLE:
                terms = tables_of(network, network[entry.name])
                assert terms
                count, steps = len(terms.tables), steps + (terms.shift > 0)
                kinds.add("common" if count == 1 else "own" if count == len(terms.which)
                          else "shared")
                memories.add(entry.staircase_in)
    assert len(kinds) == len(memories) == 3 and steps > 5


def test_the_law_covers_all_products() -> None:
    used = [entry.product for seed, network in enumerate(map(random_network, range(60)))
            for entry in random_plan(network, seed).layers]
    assert min(used.count(circuit) for circuit in ProductCircuit
               if circuit is not ProductCircuit.NONE) > 5


def test_the_law_covers_spread_weights() -> None:
    spread = [entry.spread for seed, network in enumerate(map(random_network, range(60)))
              for entry in random_plan(network, seed).layers]
    assert sum(map(bool, spread)) > 10 and len({*spread}) >= 5


def test_a_wrong_correction_is_seen() -> None:
    network = next(n for n in map(random_network, range(200)) if isinstance(n.output, Integers)
                   and isinstance(n.layers[-1], Dense) and n.layers[-1].corrections is not None)
    images = random_images(network, 12, 3)
    layer = network.layers[-1]
    assert isinstance(layer, Dense) and layer.corrections is not None
    wrong = layer.corrections.copy()
    wrong[0, 2] += 1 if wrong[0, 2] != -1 else 2
    broken = Network(name=network.name, layers=(*network.layers[:-1],
                                                replace(layer, corrections=wrong)))
    golden = run(network, images).output.reshape(12, -1)
    assert (simulate(network, 3, images) == golden).all()
    assert (simulate(broken, 3, images) != golden).any()


def corrected(outputs: int, inputs: int, count: int, largest: int, *, clustered: bool) -> Network:
    """A layer with so many corrections: at any place, or in the first outputs."""
    rng = np.random.default_rng([outputs, count])
    places = np.sort(rng.choice(inputs * (outputs // 4 if clustered else outputs), count,
                                replace=False))
    values = rng.integers(1, largest + 1, count) * rng.choice([-1, 1], count)
    levels = Levels.uniform(4)
    layer = Dense(name="dense", inputs=("flat",), dictionary=[-4, 0, 1, 2],
                  assignment=rng.integers(0, 4, (outputs, inputs)), bias=np.zeros(outputs, int),
                  corrections=np.stack([places // inputs, places % inputs, values], axis=1))
    return Network(name="corrected", layers=(
        Input(name="pixels", shape=(1, 1, inputs), levels=levels),
        Flatten(name="flat", inputs=("pixels",)), layer))


def measured_interval(network: Network, plan: Plan) -> float:
    """Cycles of an image where none has to wait outside."""
    body = lower_body(network, plan)
    per_image = beats(network.output.shape[0], body.o.payload.shape().length)
    images = random_images(network, 16, 1)
    cycles = measure(body, pixel_beats(images, plan.input_lanes), 16 * per_image)
    ends = cycles[per_image - 1::per_image]
    return (ends[-1] - ends[7]) / 8


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("count, largest", [(1, 1), (8, 9), (20, 60), (40, 120)])
@pytest.mark.parametrize("fold", [(12, 1), (3, 2), (4, 24), (12, 24), (12, 4), (1, 4), (5, 7)])
def test_corrections_slow_a_layer_only_where_their_walk_is_longer(
        fold: tuple[int, int], count: int, largest: int, clustered: bool) -> None:
    network = corrected(12, 24, count, largest, clustered=clustered)
    plan = make_plan(network, {"dense": fold}, input_lanes=24)
    layer = network["dense"]
    assert isinstance(layer, Dense)
    rows = [[(place, value) for output, place, value in layer.corrections.tolist()  # type: ignore[union-attr]
             if output == number] for number in range(12)]
    dense = beats(12, fold[0]) * beats(24, fold[1])
    unrolled = plan["dense"].product is ProductCircuit.UNROLLED
    assert unrolled == (fold == (12, 24))
    assert intervals(plan, network)["dense"] == max(dense, 0 if unrolled else len(walk(rows)))
    assert measured_interval(network, plan) == intervals(plan, network)["dense"]


def test_no_lanes_are_spent_on_what_a_walk_makes_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    network = corrected(12, 24, 40, 120, clustered=False)
    assert fold_for_interval(network, 10)["dense"] == (12, 24), "unrolled, there is no walk"
    monkeypatch.setattr(planner, "_UNROLLED", 0)
    walked = intervals(make_plan(network, default=(12, 24)), network)["dense"]
    outputs, inputs = fold_for_interval(network, 10)["dense"]
    assert 12 * 24 // 3 < walked < 12 * 24 // 2 and outputs * inputs == 3
    assert intervals(make_plan(network, {"dense": (outputs, inputs)}), network)["dense"] == walked


def test_a_shorter_queue_would_slow_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = corrected(12, 24, 12, 9, clustered=True)
    plan = make_plan(network, {"dense": (6, 2)}, input_lanes=24)
    assert measured_interval(network, plan) == intervals(plan, network)["dense"] == 25
    monkeypatch.setattr(lowering, "_SPARE_BEATS", 1 - 12)
    assert measured_interval(network, plan) > 25


@pytest.mark.parametrize("fold, inputs", [((1, 1), 60), ((4, 1), 60), ((8, 1), 100), ((3, 1), 9)])
def test_buckets_take_no_cycle_more_than_is_said(fold: tuple[int, int], inputs: int) -> None:
    """Also where their drain decides."""
    rng = np.random.default_rng(inputs)
    network = Network(name="buckets", layers=(
        Input(name="pixels", shape=(1, 1, inputs), levels=Levels.uniform(4)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense", inputs=("flat",), bias=np.zeros(8, int), dictionary=BUCKETS,
              assignment=rng.integers(0, len(BUCKETS), (8, inputs)))))
    plan = make_plan(network, {"dense": fold}, input_lanes=inputs,
                     products={"dense": ProductCircuit.BUCKETS})
    drain = len(drain_steps(BUCKETS))
    assert 9 < drain < 60
    assert intervals(plan, network)["dense"] == beats(8, fold[0]) * max(inputs, drain)
    assert measured_interval(network, plan) == intervals(plan, network)["dense"]


@pytest.mark.parametrize("channels", [1, 2])
def test_buckets_of_a_convolution_take_no_cycle_more_than_is_said(channels: int) -> None:
    """A drain of 14 cycles, beside 9 or 18 inputs of each position."""
    rng = np.random.default_rng(channels)
    network = Network(name="buckets", layers=(
        Input(name="pixels", shape=(5, 6, channels), levels=Levels.uniform(4)),
        Conv2d(name="conv", inputs=("pixels",), dictionary=(-3, 0, 5, 7, 11), bias=[1, 2, 3, 4],
               assignment=rng.integers(0, 5, (4, 3, 3, channels)))))
    plan = make_plan(network, {"conv": (2, 1)}, input_lanes=channels,
                     products={"conv": ProductCircuit.BUCKETS})
    assert len(drain_steps((-3, 0, 5, 7, 11))) == 14
    cycles = 3 * 4 * 2 * max(9 * channels, 14)
    assert intervals(plan, network)["conv"] == cycles
    images = random_images(network, 8, 1)
    body = lower_body(network, plan)
    lanes = body.o.payload.shape().length
    each = 12 * 4 // lanes
    ends = measure(body, pixel_beats(images, channels), 8 * each)[each - 1::each]
    assert np.diff(ends[3:]).tolist() == [cycles] * 4
    got = transfer(lower_body(network, plan), pixel_beats(images, channels), 8 * each, seed=1)
    assert np.array([list(beat) for beat in got]).reshape(8, -1).tolist() == run(
        network, images).output.reshape(8, -1).tolist()


def multiplications(network: Network, plan: Plan) -> int:
    """Of two signals. A position times a constant, as Amaranth has it for parts of a word, takes no
    multiplier."""
    cells = re.findall(r"cell \$mul .*\n(?:    .*\n)*", rtlil.convert(lower_body(network, plan)))
    return sum(not re.search(r"connect \\[AB] \d+'", cell) for cell in cells)


def test_multipliers_are_where_a_plan_asks_for_them_alone() -> None:
    found = 0
    for seed in range(8):
        network = random_image_network(seed)
        plan = random_plan(network, seed)
        asked = any(entry.product is ProductCircuit.MULTIPLY for entry in plan.layers)
        assert (multiplications(network, plan) > 0) == asked
        assert multiplications(network, make_plan(network)) == 0
        found += asked
    assert 0 < found < 8


@pytest.mark.parametrize("make", [random_network, random_image_network])
def test_memories_hold_the_stored_bits_and_no_more(make: Callable[[int], Network]) -> None:
    """Under any folding, also where lanes are absent; in one memory rounded up to a word."""
    found = 0
    for seed in range(40):
        network = make(seed)
        layers = [layer for layer in network.layers
                  if isinstance(layer, Weighted) and layer.widths is not None]
        if not layers:
            continue
        body = lower_body(network, random_plan(network, seed))
        Fragment.get(body, None)  # Amaranth warns of components that are never used
        for layer in layers:
            part = body.parts[layer.name]
            parts = part.parts if isinstance(part, Chain) else {"dots": part}
            engine = parts.get("dots") or parts["sums"]
            if isinstance(engine, UnrolledDots):
                continue  # its weights are wires
            table = engine.weights()
            Fragment.get(table, None)
            if isinstance(table, PackedCycle):
                found += 1
                spare = table.stored_bits - layer.stored_bits
                assert 0 <= spare < (table.columns[0][0] if table.stacked else 1)
            else:
                assert isinstance(engine, LanewiseSums) and len(table.rows) == 1
    assert found > 20


@pytest.mark.parametrize("fold", [(1, 1), (2, 3), (4, 2), (3, 5), (8, 9)])
def test_interval_is_the_ideal_one(fold: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    network = next(n for n in map(random_network, range(1000))
                   if [type(layer).__name__ for layer in n.layers[2:]] == ["Dense", "Dense"]
                   and n["dense1"].outputs >= 8 and n["dense1"].fan_in >= 9)
    folds = {layer.name: (min(fold[0], layer.outputs), min(fold[1], layer.fan_in))
             for layer in network.layers if isinstance(layer, Dense)}
    plan = make_plan(network, folds, input_lanes=int(rng.integers(2, 5)))
    images = random_images(network, 12, 1)
    body = lower_body(network, plan)
    per_image = beats(network.output.shape[0], body.o.payload.shape().length)
    cycles = measure(body, pixel_beats(images, plan.input_lanes), 12 * per_image)
    ends = cycles[per_image - 1::per_image]
    ideal = max(intervals(plan, network).values())
    assert (ends[-1] - ends[5]) / 6 <= 1.05 * ideal
