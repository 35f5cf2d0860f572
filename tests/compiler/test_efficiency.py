"""Lanes and block RAM that a plan uses."""
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from nomul.boards.targets import TARGETS
from nomul.compiler.blocks import BlockShapes, block_rams
from nomul.compiler.efficiency import lane_use, weight_bits_in_block_ram
from nomul.compiler.network import (
    Conv2d,
    Dense,
    Flatten,
    Input,
    Levels,
    Network,
    Staircase,
    Weighted,
)
from nomul.compiler.plan import Plan, plan_interval, weight_words
from nomul.compiler.planner import Foldings, make_engine_plan, make_plan
from nomul.compiler.storage import load
from nomul.hw.spread import spread_size
from nomul.hw.table import Storage

ZOO = Path(__file__).resolve().parents[2] / "examples" / "zoo"


def network() -> Network:
    """6 x 6 positions of 5 outputs by 9 weights, and 3 outputs by 180."""
    rng = np.random.default_rng(0)
    return Network(name="two", layers=(
        Input(name="pixels", shape=(6, 6, 1), levels=Levels.uniform(2)),
        Conv2d(name="conv", inputs=("pixels",), dictionary=[-1, 0, 1, 2], bias=[0] * 5,
               assignment=rng.integers(0, 4, (5, 3, 3, 1)), padding=(1, 1, 1, 1),
               staircase=Staircase(thresholds=[[1]], levels=Levels.uniform(2))),
        Flatten(name="flat", inputs=("conv",)),
        Dense(name="dense", inputs=("flat",), dictionary=[-1, 1], bias=[0] * 3,
              assignment=rng.integers(0, 2, (3, 180)))))


@pytest.mark.parametrize("folds, working, throughout", [
    ({}, 1.0, (36 * 45 + 540) / (2 * 36 * 45)),
    # Three passes of 2 outputs for 5, and 540 cycles of 2 x 1 lanes; the dense layer waits.
    ({"conv": (2, 1)}, (36 * 45 + 540) / (2 * 36 * 27 + 540), (36 * 45 + 540) / (3 * 36 * 27)),
])
def test_lanes_work_or_wait(folds: dict[str, tuple[int, int]], working: float,
                            throughout: float) -> None:
    two = network()
    use = lane_use(two, make_plan(two, folds))
    assert use.products == 36 * 45 + 540
    assert use.while_working == pytest.approx(working)
    assert use.throughout == pytest.approx(throughout)


def test_lanes_of_an_engine() -> None:
    two = network()
    plan = make_engine_plan(two, 5)
    use = lane_use(two, plan)
    assert use.interval == 5 * plan_interval(plan, two) >= use.working > use.products


def test_weights_in_block_ram_are_counted() -> None:
    two = network()
    plan = make_plan(two)
    plan = replace(plan, layers=tuple(replace(entry, weights_in=Storage.BLOCK)
                                      for entry in plan.layers))
    assert weight_bits_in_block_ram(two, plan) == 2 * 45 + 540
    conv, dense = plan.layers
    plan = replace(plan, layers=(conv, replace(dense, weights_in=Storage.LOGIC)))
    assert weight_bits_in_block_ram(two, plan) == 90


def filled(network: Network, plan: Plan, shapes: BlockShapes) -> float:
    """What weights fill of the block RAMs that they lie in, by the shapes of these."""
    blocks = sum(block_rams(shapes, *spread_size(
        entry.outputs * entry.inputs * layer.assignment_bits,
        weight_words(layer, entry.fold), entry.spread))
        for layer in network.layers if isinstance(layer, Weighted)
        for entry in [plan[layer.name]] if entry.weights_in is not Storage.LOGIC)
    return weight_bits_in_block_ram(network, plan) / (blocks * prod(shapes[0]))


def test_resnet_20_wastes_neither() -> None:
    """At 600 inferences a second and 88.5 MHz: 95 % of its lanes and 85 % of its block RAM were
    asked for. An ordinary plan, and one that spreads no words, fill less: the broken twins."""
    resnet, shapes = load(ZOO / "cifar10_resnet20.nomul"), TARGETS["ecp5-85k"].capacity.bram_shapes
    folds = Foldings(resnet).within(88_500_000 // 600)
    lean, plain, other = (make_plan(resnet, folds, lean=lean, registered=True, blocks=blocks)
                          for lean, blocks in ((True, shapes), (False, shapes), (True, None)))
    assert plan_interval(lean, resnet) == 147_456
    use = lane_use(resnet, lean)
    assert use.while_working == 1.0 and use.throughout > 0.99
    assert filled(resnet, lean, shapes) > 0.85
    assert filled(resnet, plain, shapes) < 0.85 > filled(resnet, other, shapes)


@pytest.mark.parametrize("name", ["mnist_lenet", "fashion_lenet"])
def test_lenets_waste_no_lane_that_works(name: str) -> None:
    lenet = load(ZOO / f"{name}.nomul")
    plan = make_plan(lenet, Foldings(lenet).within(30_000))
    assert lane_use(lenet, plan).while_working > 0.95
