# amaranth: UnusedElaboratable=no
"""The law for images: convolutions, pooling, embedding and branches, under any legal plan."""
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator, SimulatorContext

from nomul.compiler.errors import PlanError
from nomul.compiler.flow import queue_depths
from nomul.compiler.layers import Add, Conv2d, Input
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, check_plan, intervals, plan_stages
from nomul.compiler.planner import make_plan
from nomul.compiler.values import Levels, Staircase
from nomul.hw.stream import beats
from nomul.sim.bench import measure, transfer
from nomul.sim.golden import run
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_plan

IMAGES = 3


def images_for(network: Network, seed: int, count: int = IMAGES) -> Any:
    rng = np.random.default_rng([2, seed])
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def pixel_beats(images: Any, lanes: int) -> list[list[int]]:
    flat = images.reshape(len(images), -1)
    total = beats(flat.shape[1], lanes)
    padded = np.ones((len(images), total * lanes), dtype=int)  # absent lanes hold anything
    padded[:, :flat.shape[1]] = flat
    return padded.reshape(-1, lanes).tolist()


def simulate(network: Network, plan: Plan, images: Any, seed: int, **options: Any) -> Any:
    """What the hardware gives, in the shape of the golden model's output."""
    body = lower_body(network, plan)
    gives = plan_stages(plan, network)[network.layers[-1].name].gives
    got = transfer(body, pixel_beats(images, plan.input_lanes), len(images) * gives.beats,
                   seed=seed, **options)
    vectors = np.array([list(beat) for beat in got]).reshape(
        len(images), gives.vectors, -1)[:, :, :gives.length]
    return vectors.reshape(len(images), *network.output.shape)


def law(seed: int) -> None:
    network = random_image_network(seed)
    images = images_for(network, seed)
    got = simulate(network, random_plan(network, seed), images, seed)
    assert got.tolist() == run(network, images).output.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_hardware_is_golden(seed: int) -> None:
    law(seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_hardware_is_golden_many(seed: int) -> None:
    law(seed)


def residual(kernels: tuple[int, ...] = (3, 3), side: int = 5) -> Network:
    """Convolutions with a shortcut around them."""
    rng = np.random.default_rng(0)
    levels = Levels.uniform(4)
    layers: list[Any] = [Input(name="pixels", shape=(side, side, 2), levels=levels)]
    for number, kernel in enumerate(kernels):
        half = kernel // 2
        layers.append(Conv2d(
            name=f"conv{number}", inputs=(layers[-1].name,), dictionary=[-1, 0, 1, 2],
            assignment=rng.integers(0, 4, (2, kernel, kernel, 2)), bias=[1, -1],
            padding=(half,) * 4, staircase=Staircase(thresholds=[[2, 4, 6]], levels=levels)))
    layers.append(Add(name="add", inputs=(layers[-1].name, "pixels"),
                      staircase=Staircase(thresholds=[[1, 2, 4]], levels=levels)))
    return Network(name="residual", layers=tuple(layers))


def tight_plan(network: Network, by: int = 0) -> Plan:
    """A plan whose queues are as short as computed, less ``by``."""
    plan = make_plan(network)
    needed = queue_depths(network, plan_stages(plan, network))
    return replace(plan, queues=tuple(
        replace(queue, depth=needed[queue.source, queue.reader] - by) for queue in plan.queues))


def stall_patterns(count: int) -> None:
    network = residual()
    plan = tight_plan(network)
    images = images_for(network, 0, 1)
    expected = run(network, images).output.tolist()
    for seed in range(count):
        stall = (0.1, 0.5, 0.9)[seed % 3]
        assert simulate(network, plan, images, seed, stall=stall).tolist() == expected


def test_no_stalls_deadlock_a_residual_network() -> None:
    stall_patterns(60)


@pytest.mark.full
def test_no_stalls_deadlock_a_residual_network_in_1000_patterns() -> None:
    stall_patterns(1000)


@pytest.mark.parametrize("kernels", [(3,), (3, 3), (5,), (1, 3), (3, 3, 3)])
def test_queues_are_as_short_as_can_be(kernels: tuple[int, ...],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """At the computed depth results come; one beat less, and it deadlocks."""
    network = residual(kernels)
    images = images_for(network, 0, 2)
    expected = run(network, images).output.tolist()
    assert simulate(network, tight_plan(network), images, 1).tolist() == expected
    short = tight_plan(network, by=1)
    with pytest.raises(PlanError, match="the branches would deadlock"):
        check_plan(short, network)
    monkeypatch.setattr("nomul.compiler.lower.check_plan", lambda *_: None)
    with pytest.raises(TimeoutError):
        simulate(network, short, images, 1, max_cycles=20_000)


@pytest.mark.parametrize("registered", [False, True])
def test_ready_ends_behind_an_addition_of_a_registered_plan(registered: bool) -> None:
    """What reads the sums stalls at will: the addition sees it a cycle later, or at once."""
    network = residual()
    body = lower_body(network, make_plan(network, registered=registered))
    Fragment.get(body, None)  # so that no part of it is unused
    part = body.parts["add"]
    followed = False

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal followed
        rng = np.random.default_rng(0)
        for _ in range(300):
            ctx.set(part.i.valid, int(rng.integers(2)))
            ready = []
            for value in (0, 1):
                ctx.set(part.o.ready, value)
                ready.append(ctx.get(part.i.ready))
            followed |= ready[0] != ready[1]
            ctx.set(part.o.ready, int(rng.integers(2)))
            await ctx.tick()

    simulator = Simulator(part)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert followed != registered


@pytest.mark.parametrize("fold", ["1x1", "2x2", "2x1"])
def test_interval_is_within_5_percent_of_the_ideal(fold: str) -> None:
    network = residual()
    lanes = tuple(int(n) for n in fold.split("x"))
    plan = make_plan(network, default=(lanes[0], lanes[1]), input_lanes=2)
    images = images_for(network, 1, 8)
    body = lower_body(network, plan)
    total = plan_stages(plan, network)["add"].gives.beats
    ends = measure(body, pixel_beats(images, 2), 8 * total)[total - 1::total]
    assert (ends[-1] - ends[2]) / 5 <= 1.05 * max(intervals(plan, network).values())
