"""Whole networks: the Verilog equals the golden model on every beat of every layer."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.emit import Emitted, emit
from nomul.compiler.errors import DataError
from nomul.compiler.layers import Conv2d, Input
from nomul.compiler.network import Dense, Network
from nomul.compiler.plan import Plan, intervals, plan_stages
from nomul.compiler.planner import fastest, fold_for_interval, make_plan
from nomul.compiler.quantize.datasets import load as load_data
from nomul.compiler.storage import load
from nomul.compiler.values import Levels
from nomul.hw.circuits import ProductCircuit
from nomul.sim.random_images import random_image_network, residual_network
from nomul.sim.random_networks import random_network, random_plan
from nomul.sim.vectors import Vectors, make_vectors
from nomul.sim.verilator import Simulation, simulate

pytestmark = pytest.mark.cocotb

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
FAST = {"dense1": (8, 4), "dense2": (5, 4)}


def digits_of(network: Network) -> Vectors:
    digits = load_data("digits")
    return make_vectors(network, digits.images[digits.test], digits.labels[digits.test],
                        source="digits", split="test")


def prove(network: Network, plan: Plan) -> Simulation:
    result = simulate(network, plan, emit(network, plan), digits_of(network))
    assert (result.images, result.mismatches, result.first_difference) == (360, 0, None)
    assert result.accuracy == result.golden_accuracy
    assert result.interval <= 1.05 * result.ideal_interval
    return result


@pytest.mark.parametrize("name", ["pow2_3bit", "free_4bit", "binary", "ternary", "pruned_4bit"])
def test_trained_networks_are_bit_exact(name: str) -> None:
    network = load(ZOO / f"digits_{name}.nomul")
    prove(network, make_plan(network, FAST))


def test_another_plan_is_16_times_faster_with_the_same_bits() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    small = prove(network, make_plan(network))
    fast = prove(network, make_plan(network, FAST))
    assert small.interval >= 16 * fast.interval
    assert small.classes == fast.classes


@pytest.mark.parametrize("name", ["pow2_3bit", *(
    pytest.param(other, marks=pytest.mark.full)
    for other in ("free_4bit", "binary", "ternary", "pruned_4bit", "fixed_4bit"))])
def test_one_inference_a_clock(name: str) -> None:
    network = load(ZOO / f"digits_{name}.nomul")
    folds, lanes = fastest(network)
    plan = make_plan(network, folds, input_lanes=lanes)
    assert {entry.product for entry in plan.layers} == {ProductCircuit.UNROLLED}
    assert prove(network, plan).interval == 1


@pytest.mark.parametrize("seed", range(2))
def test_random_networks_under_random_plans(seed: int) -> None:
    network = random_network(seed)
    plan = random_plan(network, seed)
    images = np.random.default_rng(seed).integers(
        0, len(network.input.levels), (20, *network.input.shape))
    vectors = make_vectors(network, images, None, source="random")
    result = simulate(network, plan, emit(network, plan), vectors, stall=0.6, seed=seed)
    assert result.mismatches == 0 and result.accuracy is None


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 140))
def test_random_networks_under_random_plans_many(seed: int) -> None:
    test_random_networks_under_random_plans(seed)


def one_weight_off(network: Network) -> Network:
    layer = network["dense2"]
    assert isinstance(layer, Dense)
    wrong = layer.assignment.copy()
    wrong[7, 3] = (wrong[7, 3] + 1) % len(layer.dictionary)
    return Network(name=network.name, layers=tuple(
        replace(layer, assignment=wrong) if other is layer else other
        for other in network.layers))


def test_the_proof_can_fail() -> None:
    """Verilog of a network with one weight off, labelled as the right one's."""
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network, FAST)
    broken = one_weight_off(network)
    circuit = emit(broken, replace(plan, network=broken.digest))
    labelled = replace(circuit, verilog=circuit.verilog.replace(broken.digest, network.digest))
    result = simulate(network, plan, labelled, digits_of(network), images=40)
    assert 0 < result.mismatches <= 40
    first = result.first_difference
    assert first and (first["layer"], first["position"]) == ("dense2", [7])
    assert first["expected"] != first["got"] and first["cycle"] > 0


def test_a_circuit_of_another_network_is_refused() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network, FAST)
    broken = one_weight_off(network)
    circuit: Emitted = emit(broken, replace(plan, network=broken.digest))
    with pytest.raises(DataError, match=r"^Verilog must be of network 'digits'"):
        simulate(network, plan, circuit, digits_of(network))
    with pytest.raises(DataError, match=r"^vectors must be of network 'digits'"):
        simulate(network, plan, emit(network, plan), digits_of(broken))


def test_interval_is_what_the_plan_says() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    assert max(intervals(make_plan(network, FAST), network).values()) == 64
    assert max(intervals(make_plan(network), network).values()) == 2048


def test_a_convolutional_network_is_bit_exact() -> None:
    network = load(ZOO / "mnist_lenet.nomul")
    plan = make_plan(network, fold_for_interval(network, 15_000))
    images = np.random.default_rng(0).integers(0, 16, (4, 28, 28, 1))
    vectors = make_vectors(network, images, None, source="random")
    result = simulate(network, plan, emit(network, plan), vectors)
    assert (result.mismatches, result.first_difference) == (0, None)
    assert result.interval <= 1.05 * result.ideal_interval <= 1.05 * 15_000


@pytest.mark.parametrize("seed", range(2))
def test_random_image_networks_under_random_plans(seed: int) -> None:
    network = random_image_network(seed)
    plan = random_plan(network, seed)
    images = np.random.default_rng(seed).integers(
        0, len(network.input.levels), (6, *network.input.shape))
    vectors = make_vectors(network, images, None, source="random")
    result = simulate(network, plan, emit(network, plan), vectors, stall=0.5, seed=seed)
    assert (result.mismatches, result.first_difference) == (0, None)


def test_vectors_of_a_result_may_end_in_a_beat_with_absent_lanes() -> None:
    """A convolution of 5 outputs, 3 at once: 2 beats for each of its positions."""
    rng = np.random.default_rng(0)
    network = Network(name="image_to_image", layers=(
        Input(name="pixels", shape=(3, 4, 1), levels=Levels.uniform(4)),
        Conv2d(name="conv", inputs=("pixels",), dictionary=[-2, -1, 1, 2],
               assignment=rng.integers(0, 4, (5, 1, 1, 1)), bias=[0, 1, 2, 3, 4])))
    plan = make_plan(network, {"conv": (3, 1)})
    assert plan_stages(plan, network)["conv"].gives.lanes == 3
    vectors = make_vectors(network, rng.integers(0, 4, (4, 3, 4, 1)), None, source="random")
    result = simulate(network, plan, emit(network, plan), vectors)
    assert (result.mismatches, result.classes) == (0, vectors.classes.tolist())


def prove_residual(network: Network, cycles: int, count: int) -> None:
    """Bit-exact, and as fast as a plan for an interval of ``cycles`` says."""
    plan = make_plan(network, fold_for_interval(network, cycles))
    images = np.random.default_rng(0).integers(0, 256, (count, *network.input.shape))
    vectors = make_vectors(network, images, None, source="random")
    steps: list[tuple[str, int, int]] = []
    result = simulate(network, plan, emit(network, plan), vectors,
                      progress=lambda *step: steps.append(step))
    assert (result.images, result.mismatches, result.first_difference) == (count, 0, None)
    assert result.classes == vectors.classes.tolist()
    assert result.interval <= 1.05 * result.ideal_interval <= 1.05 * cycles
    assert [step for step in steps if step[0] == "simulate"][-1] == (
        "simulate", count + min(count, 6), count + min(count, 6))


def test_a_residual_network_is_bit_exact() -> None:
    prove_residual(residual_network(0), 5_000, 4)


@pytest.mark.full
def test_resnet20_is_bit_exact_at_800_inferences_a_second() -> None:
    network = residual_network(0, blocks=(3, 3, 3), channels=(16, 32, 64), side=32, depth=10)
    prove_residual(network, 50_000_000 // 800, 4)
