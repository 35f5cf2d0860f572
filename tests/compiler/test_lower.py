# amaranth: UnusedElaboratable=no
"""The law: for every network and every legal plan, hardware == golden, whatever stalls."""
from dataclasses import replace

import numpy as np
import pytest

from nomul.compiler.lower import lower_body
from nomul.compiler.network import Dense, Integers, Network
from nomul.compiler.plan import intervals
from nomul.compiler.planner import make_plan
from nomul.hw.stream import beats
from nomul.sim.bench import measure, transfer
from nomul.sim.golden import run
from nomul.sim.random_networks import random_network, random_plan


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


@pytest.mark.parametrize("seed", range(60))
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
                   and len(set(n.layers[-1].dictionary.tolist())) > 3 and len(n.layers) > 3)
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
