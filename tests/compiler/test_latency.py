# amaranth: UnusedElaboratable=no
"""Latency: what is said of it before any simulation is what the circuit takes, to the cycle."""
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.compiler.flow import hardware_source, queue_depths
from nomul.compiler.latency import Passage, latency, passages
from nomul.compiler.lower import loaded_words, lower_body
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, engine_program, plan_interval, plan_stages
from nomul.compiler.planner import make_engine_plan, make_plan
from nomul.compiler.storage import load
from nomul.hw.circuits import ProductCircuit
from nomul.hw.stream import beats
from nomul.sim.bench import measure
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_engine_plan, random_network, random_plan

ZOO = Path(__file__).parents[2] / "examples" / "zoo"

#: Cycles; longer than any table takes to give its first word.
IDLE = 50

#: Cycles for each byte of weights that are loaded.
BYTE = 10


def results(network: Network, plan: Plan) -> int:
    """Beats of a result."""
    if plan.engine is not None:
        return prod(network.output.shape)
    return plan_stages(plan, network)[network.layers[-1].name].gives.beats


def measured(network: Network, plan: Plan, images: int = 1) -> list[int]:
    """Cycles in which the last beat of each result leaves, from the first one's first beat on."""
    rng = np.random.default_rng(1)
    length = prod(network.input.shape)
    total = beats(length, plan.input_lanes)
    pixels = np.zeros((images, total * plan.input_lanes), dtype=int)
    pixels[:, :length] = rng.integers(0, len(network.input.levels), (images, length))
    body, each = lower_body(network, plan), results(network, plan)
    words = loaded_words(body)
    loads: list[Any] = [] if words is None else words.load()
    beside: list[tuple[Any, Any]] = [] if words is None else [(words.i, loads)]
    cycles = measure(body, pixels.reshape(-1, plan.input_lanes).tolist(), images * each,
                     beside=beside, idle=IDLE + BYTE * len(loads))
    return [cycle + 1 for cycle in cycles[each - 1::each]]


def planned(network: Network, seed: int) -> Plan:
    """The planner's own, with random folds, or with one of the circuits that are asked for."""
    some = random_plan(network, seed)
    folds = {entry.name: entry.fold for entry in some.layers}
    asked = {entry.name: entry.product for entry in some.layers
             if entry.product in (ProductCircuit.BUCKETS, ProductCircuit.MULTIPLY)}
    return make_plan(network, folds, input_lanes=some.input_lanes, registered=seed % 2 == 1,
                     lean=seed % 3 == 0, products=asked)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("make", [random_network, random_image_network])
def test_latency_is_exact(make: Callable[[int], Network], seed: int) -> None:
    network = make(seed)
    plan = planned(network, seed)
    assert measured(network, plan) == [latency(network, plan)]


@pytest.mark.parametrize("seed", range(24))
def test_latency_of_an_engine_is_exact(seed: int) -> None:
    network = (random_image_network if seed % 3 == 0 else random_network)(seed)
    plan = random_engine_plan(network, seed)
    assert measured(network, plan) == [latency(network, plan)]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 300))
@pytest.mark.parametrize("make", [random_network, random_image_network])
def test_latency_is_near_many(make: Callable[[int], Network], seed: int) -> None:
    """In a few tiny networks a beat waits for the one before it to be split, for some cycles."""
    network = make(seed)
    plan = planned(network, seed)
    took, = measured(network, plan)
    said = latency(network, plan)
    assert 0 <= took - said <= max(5, 0.05 * said)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 300))
def test_latency_of_an_engine_is_exact_many(seed: int) -> None:
    test_latency_of_an_engine_is_exact(seed)


def test_a_part_that_is_forgotten_shows() -> None:
    """The twin: a register more than the plan has makes the circuit later."""
    network = load(ZOO / "digits_free_4bit.nomul")
    plan, other = (make_plan(network, registered=registered) for registered in (False, True))
    assert measured(network, plan) == [latency(network, plan)]
    assert measured(network, plan) != [latency(network, other)]


def test_passages_are_in_order() -> None:
    network = load(ZOO / "mnist_lenet.nomul")
    plan = make_plan(network)
    found = passages(network, plan)
    assert list(found) == [layer.name for layer in network.layers
                           if layer.name not in ("pixels", "flatten")]
    starts = [passage.first for passage in found.values()]
    assert starts == sorted(starts) and all(p.first <= p.last for p in found.values())
    # Pools leave out the last column of what is odd, and are done before the layer in front is.
    assert found["pool2"].last < found["conv2"].last
    assert found["argmax"] == Passage(first=latency(network, plan) - 1,
                                      last=latency(network, plan) - 1)
    with pytest.raises(ValueError, match="pipeline"):
        passages(network, make_engine_plan(network, 4))


@pytest.mark.parametrize("seed, slower", [(0, False), (26, True)])
def test_branches_of_even_lead_do_not_wait(seed: int, slower: bool) -> None:
    """The shorter one has a queue for what is under way in the other one. Without it, the twin,
    the result is late, and images may follow each other more slowly."""
    network = random_image_network(seed)
    plan = make_plan(network)
    needed = queue_depths(network, plan_stages(plan, network))
    kept = tuple(q for q in plan.queues if (hardware_source(network, q.source), q.reader) in needed)
    assert len(kept) < len(plan.queues)
    ends, late = (measured(network, some, 5) for some in (plan, replace(plan, queues=kept)))
    assert ends[0] == latency(network, plan) < late[0]
    assert np.diff(ends).tolist()[1:] == [plan_interval(plan, network)] * 3
    assert (late[-1] - late[-2] > plan_interval(plan, network)) == slower


def test_an_engine_keeps_no_bits_of_pixels_that_were_embedded() -> None:
    network = load(ZOO / "cifar10_resnet20.nomul")
    engine = make_engine_plan(network, 16).engine
    assert engine is not None
    assert network.input.levels.bits == 8
    assert engine_program(network, engine).code_shape.width == 5
