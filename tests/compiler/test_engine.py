# amaranth: UnusedElaboratable=no
"""One engine for all layers: the same bits as the golden model, in the cycles that are claimed."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import unsigned
from amaranth.sim import Simulator, SimulatorContext

from nomul.compiler import engine as compiling
from nomul.compiler.engine import engine_circuits, engine_layers, front, program
from nomul.compiler.errors import PlanError
from nomul.compiler.layers import Add, MaxPool, PixelEmbedding, SumPool
from nomul.compiler.lower import loaded_words, lower, lower_body
from nomul.compiler.network import Argmax, Conv2d, Dense, Flatten, Input, Levels, Network, Weighted
from nomul.compiler.plan import Plan, check_plan, intervals, plan_interval
from nomul.compiler.plan_file import load_plan, plan_json
from nomul.compiler.planner import make_engine_plan, make_plan
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit, WeightMemory
from nomul.hw.graph import Graph
from nomul.hw.loaded import LoadedWords
from nomul.hw.table import Storage
from nomul.hw.tasks import place_bits
from nomul.sim.bench import measure, transfer
from nomul.sim.golden import run
from nomul.sim.random_images import random_image_network, residual_network
from nomul.sim.random_networks import random_engine_plan, random_network


def random_images(network: Network, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([4, seed])
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def beats_of(images: np.ndarray, lanes: int) -> list[list[int]]:
    flat = images.reshape(len(images), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % lanes)), constant_values=1)
    return flat.reshape(-1, lanes).tolist()


def loads(body: Graph) -> list[tuple[Any, list[dict[str, int]]]]:
    """The stream that takes weights, if there is one, and its bytes."""
    weights = loaded_words(body)
    return [] if weights is None else [(weights.i, weights.load())]


def simulate(network: Network, plan: Plan, images: np.ndarray, seed: int) -> list[list[int]]:
    length, body = int(np.prod(network.output.shape)), lower_body(network, plan)
    got = transfer(body, beats_of(images, plan.input_lanes), len(images) * length, seed=seed,
                   beside=loads(body))
    return np.array([list(beat) for beat in got]).reshape(len(images), length).tolist()


def check(network: Network, seed: int) -> None:
    images = random_images(network, 3, seed)
    golden = run(network, images).output.reshape(3, -1).tolist()
    assert simulate(network, random_engine_plan(network, seed), images, seed) == golden


@pytest.mark.parametrize("seed", range(30))
def test_dense_networks_are_golden(seed: int) -> None:
    check(random_network(seed), seed)


@pytest.mark.parametrize("seed", [*range(3, 6), *range(10, 18)])
def test_image_networks_are_golden(seed: int) -> None:
    check(random_image_network(seed), seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_many_networks_are_golden(seed: int) -> None:
    check(random_network(seed), seed)
    check(random_image_network(seed), seed)


def test_residual_networks_are_golden() -> None:
    network = residual_network(1)
    images = random_images(network, 2, 1)
    golden = run(network, images).output.reshape(2, -1).tolist()
    assert simulate(network, make_engine_plan(network, 3), images, 1) == golden


def test_the_law_covers_every_layer_and_circuit() -> None:
    networks = [random_network(seed) for seed in range(30)] + [
        random_image_network(seed) for seed in (*range(3, 6), *range(10, 18))]
    kinds = {type(layer) for network in networks for layer in engine_layers(network)}
    assert kinds >= {Dense, Conv2d, MaxPool, SumPool, Add}
    assert any(front(network) for network in networks)
    plans = [random_engine_plan(network, seed).engine for seed, network in enumerate(networks)]
    for choices in ({plan.product for plan in plans if plan} ^ {ProductCircuit.SHIFT_ADD,
                                                               ProductCircuit.TABLE},
                    {plan.staircase for plan in plans if plan} ^ {StaircaseCircuit.SHIFT_CLIP,
                                                                 StaircaseCircuit.SEARCH},
                    {plan.memories for plan in plans if plan} ^ {Storage.BLOCK,
                                                                Storage.REGISTERED},
                    {plan.codes_in for plan in plans if plan} ^ set(CodeMemory),
                    {plan.weights_in for plan in plans if plan} ^ set(WeightMemory)):
        assert not choices


def embedded(*, both: bool) -> Network:
    """An embedding in front of a convolution, and maybe a pool that passes by it."""
    rng = np.random.default_rng(5)
    pixels, levels = Levels.uniform(8), Levels.uniform(4)
    layers = [
        Input(name="pixels", shape=(3, 4, 2), levels=pixels),
        PixelEmbedding(name="embedding", inputs=("pixels",), levels=levels,
                       table=rng.integers(0, 4, (2, 8, 3))),
        Conv2d(name="conv", inputs=("embedding",), dictionary=[-2, 0, 1, 4], padding=(1, 1, 0, 1),
               assignment=rng.integers(0, 4, (2, 2, 3, 6)), bias=[3, -7]),
    ]
    if both:
        layers[2] = MaxPool(name="pool", inputs=("embedding",),
                            window=compiling.window_of(layers[2], None))  # type: ignore[arg-type]
        layers += [
            PixelEmbedding(name="other", inputs=("pixels",), levels=levels,
                           table=rng.integers(0, 4, (1, 8, 3))),
            Conv2d(name="last", inputs=("other",), dictionary=[-2, 1], assignment=rng.integers(
                0, 2, (2, 3, 4, 6)), bias=[0, 1]),
        ]
    return Network(name="embedded", layers=tuple(layers))


def test_an_embedding_stands_in_front_if_nothing_passes_it() -> None:
    network = embedded(both=False)
    assert front(network) is network["embedding"]
    assert [layer.name for layer in engine_layers(network)] == ["conv"]
    images = random_images(network, 3, 0)
    golden = run(network, images).output.reshape(3, -1).tolist()
    for lanes, input_lanes in ((1, 1), (2, 5), (7, 24)):
        plan = make_engine_plan(network, lanes, input_lanes=input_lanes)
        assert plan.engine and plan.engine.product is ProductCircuit.SHIFT_ADD
        assert simulate(network, plan, images, lanes) == golden


@pytest.mark.parametrize("seed", range(20, 32))
def test_cycles_are_exact(seed: int) -> None:
    make = random_image_network if seed % 3 == 0 else random_network
    network = make(seed)
    plan = random_engine_plan(network, seed)
    length, ideal = int(np.prod(network.output.shape)), plan_interval(plan, network)
    body = lower_body(network, plan)
    ends = measure(body, beats_of(random_images(network, 5, seed), plan.input_lanes), 5 * length,
                   beside=loads(body))
    assert np.diff(ends[length - 1::length]).tolist()[1:] == [ideal] * 3
    assert ideal >= sum(intervals(plan, network).values())


def test_one_weight_off_is_seen() -> None:
    network = next(n for n in map(random_network, range(100)) if len(n.layers) > 3
                   and isinstance(n.layers[-1], Dense) and n.layers[-1].widths is None
                   and len(set(n.layers[-1].dictionary.tolist())) > 3)
    layer = network.layers[-1]
    assert isinstance(layer, Dense)
    wrong = layer.assignment.copy()
    wrong[0] = (wrong[0] + 1) % len(layer.dictionary)
    broken = Network(name=network.name, layers=(*network.layers[:-1],
                                                replace(layer, assignment=wrong)))
    images = random_images(network, 8, 3)
    golden = run(network, images).output.reshape(8, -1).tolist()
    assert simulate(network, make_engine_plan(network, 2), images, 3) == golden
    assert simulate(broken, make_engine_plan(broken, 2), images, 3) != golden


@pytest.mark.parametrize("codes_in", CodeMemory)
def test_codes_that_live_at_once_never_share_a_place(codes_in: CodeMemory) -> None:
    for seed in range(40):
        network = random_image_network(seed)
        tasks = program(network, lanes=2, product=ProductCircuit.TABLE,
                        staircase=StaircaseCircuit.SEARCH, codes_in=codes_in)
        bits = place_bits(tasks.depths, tasks.image_length)
        sizes = [int(np.prod(network.wires[name].shape)) for name in tasks.layers]
        sources = [{compiling.hardware_source(network, name) for name in network[layer].inputs}
                   for layer in tasks.layers]
        for n, task in enumerate(tasks.tasks):
            if task.target is None:
                continue
            bank, place = divmod(task.target, 1 << bits)
            assert place + sizes[n] <= tasks.depths[bank]
            if codes_in is CodeMemory.SINGLE_PORT:
                assert bank not in {tasks.tasks[tasks.layers.index(name)].target >> bits
                                    for name in sources[n] if name in tasks.layers}
            dies = max(k for k, read in enumerate(sources) if tasks.layers[n] in read)
            for k in range(n + 1, dies + 1):
                other = tasks.tasks[k].target
                assert other is None or (other >= task.target + sizes[n]
                                         or other + sizes[k] <= task.target)


def test_pools_repeat_their_weights() -> None:
    levels = Levels.uniform(4)
    network = Network(name="pool", layers=(
        Input(name="pixels", shape=(4, 4, 3), levels=levels),
        SumPool(name="sums", inputs=("pixels",))))
    tasks = program(network, lanes=2, product=ProductCircuit.SHIFT_ADD,
                    staircase=StaircaseCircuit.SHIFT_CLIP)
    assert tasks.words.shape == (16, 2)


def test_plans_are_kept(tmp_path: Path) -> None:
    network = random_network(3)
    plan = make_engine_plan(network, 4, registered=True, input_lanes=2)
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert load_plan(tmp_path / "plan.json", network) == plan
    content = json.loads(plan_json(make_plan(network)))
    del content["engine"]  # as plans of earlier versions
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert load_plan(tmp_path / "plan.json", network) == make_plan(network)
    content["engine"] = {"lanes": 1}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="engine must have codes_in, lanes, memories, product"):
        load_plan(tmp_path / "plan.json", network)


def test_illegal_plans_are_refused() -> None:
    network = next(n for n in map(random_network, range(100))
                   if len(engine_circuits(n)[0]) == 1 and len(engine_circuits(n)[1]) == 1)
    plan = make_engine_plan(network, 2)
    assert plan.engine is not None
    for changed, message in (
            (replace(plan, layers=make_plan(network).layers), "layers or an engine, not both"),
            (replace(plan, engine=replace(plan.engine, lanes=0)), "at least 1 output at once"),
            (replace(plan, engine=replace(plan.engine, memories=Storage.LOGIC)),
             "memories in block or registered"),
            (replace(plan, engine=replace(plan.engine, product=ProductCircuit.SHIFT_ADD)),
             "make its products by table, not shift-add"),
            (replace(plan, engine=replace(plan.engine, staircase=StaircaseCircuit.SHIFT_CLIP)),
             "make its staircases by search, not shift-clip")):
        with pytest.raises(PlanError, match=message):
            check_plan(changed, network)


def test_a_network_without_work_is_refused() -> None:
    levels = Levels.uniform(4)
    network = Network(name="idle", layers=(
        Input(name="pixels", shape=(1, 1, 3), levels=levels),
        Flatten(name="flat", inputs=("pixels",)), Argmax(name="best", inputs=("flat",))))
    with pytest.raises(PlanError, match="must have a layer that adds up or takes the largest"):
        make_engine_plan(network, 1)


def test_shift_add_is_offered_where_slopes_are_powers() -> None:
    network = residual_network(1)
    dictionary = {int(v) for layer in network.layers if isinstance(layer, Weighted)
                  for v in layer.dictionary}
    assert all(abs(v) & (abs(v) - 1) == 0 for v in dictionary) == (
        engine_circuits(network)[0][0] is ProductCircuit.SHIFT_ADD)


def loaded_engine() -> tuple[Network, Plan, np.ndarray, list[list[int]]]:
    """Scores of three images, from weights that are loaded."""
    network = next(n for n in map(random_network, range(100)) if len(n.layers) > 3
                   and isinstance(n.layers[-1], Dense))
    images = random_images(network, 3, 3)
    golden: list[list[int]] = run(network, images).output.reshape(3, -1).tolist()
    plan = make_engine_plan(network, 2, weights_in=WeightMemory.SPRAM)
    return network, plan, images, golden


def other_weights(image: bytes) -> bytes:
    """``image`` with one byte of a weight changed, so that the lowest bits of it differ."""
    return bytes([image[0] ^ 1, *image[1:]])


def test_wrong_weights_are_refused() -> None:
    network, plan, images, golden = loaded_engine()
    beats = beats_of(images, plan.input_lanes)

    def play(*loads: Callable[[bytes], bytes], cycles: int = 100_000) -> list[int]:
        body = lower_body(network, plan)
        weights = loaded_words(body)
        assert weights is not None and 20 * len(weights.image) < 6000  # loads are over by then
        got = transfer(body, beats, 3 * len(golden[0]), seed=1, max_cycles=cycles, beside=[
            (weights.i, [byte for load in loads for byte in weights.load(load(weights.image))])])
        return [int(beat[0]) for beat in got]

    expected = [score for scores in golden for score in scores]
    # Weights may come again between images.
    assert play(bytes) == play(bytes, bytes, bytes) == expected
    # A wrong load leaves everything waiting; a right one behind it goes on.
    for wrong in (other_weights, lambda image: image[:-1], lambda image: image + image[:1]):
        with pytest.raises(TimeoutError, match="0 of"):
            play(wrong, cycles=6000)
        assert play(wrong, bytes) == expected


def test_unchecked_weights_give_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of the test above: only the length is checked."""
    network, plan, images, golden = loaded_engine()
    monkeypatch.setattr(LoadedWords, "_right", lambda self, crc, whole: whole)
    body = lower_body(network, plan)
    weights = loaded_words(body)
    assert weights is not None
    image = bytes(byte ^ 0xff for byte in weights.image)
    got = transfer(body, beats_of(images, plan.input_lanes), 3 * len(golden[0]), seed=1,
                   beside=[(weights.i, weights.load(image))])
    assert [int(beat[0]) for beat in got] != [score for scores in golden for score in scores]


def test_no_image_is_taken_before_the_weights() -> None:
    network, plan, _, _ = loaded_engine()
    top = lower(network, plan)
    assert top.weights is not None and top.s_axis_weights_tdata.shape() == unsigned(8)
    image = top.weights.image

    async def test(ctx: SimulatorContext) -> None:
        async def load(content: bytes) -> None:
            for n, byte in enumerate(content):
                ctx.set(top.s_axis_weights_tdata, byte)
                ctx.set(top.s_axis_weights_tlast, n == len(content) - 1)
                ctx.set(top.s_axis_weights_tvalid, 1)
                taken = False
                while not taken:
                    assert not ctx.get(top.s_axis_tready)
                    _, _, taken = await ctx.tick().sample(top.s_axis_weights_tready)
                ctx.set(top.s_axis_weights_tvalid, 0)

        ctx.set(top.s_axis_tvalid, 1)
        await load(other_weights(image))
        await ctx.tick().repeat(20)
        assert ctx.get(top.weights_failed) and not ctx.get(top.weights_loaded)
        await load(image)
        await ctx.tick().repeat(10)
        assert ctx.get(top.weights_loaded) and not ctx.get(top.weights_failed)
        assert ctx.get(top.s_axis_tready)

    sim = Simulator(top)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()


def test_plans_of_earlier_versions_have_their_weights_in_block(tmp_path: Path) -> None:
    network = random_network(3)
    plan = make_engine_plan(network, 2, weights_in=WeightMemory.SPRAM)
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert load_plan(tmp_path / "plan.json", network) == plan
    content = json.loads(plan_json(plan))
    del content["engine"]["weights_in"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert load_plan(tmp_path / "plan.json", network) == make_engine_plan(network, 2)
    content["engine"]["weights_in"] = "flash"
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="WeightMemory must be one of block, spram, not 'flash'"):
        load_plan(tmp_path / "plan.json", network)
