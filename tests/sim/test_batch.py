"""The batch simulator: the golden model's results, whatever the ports and the stalls are."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.emit import Emitted, emit
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.network import Dense, Network
from nomul.compiler.planner import make_engine_plan, make_plan
from nomul.compiler.storage import load
from nomul.hw.circuits import WeightMemory
from nomul.hw.loaded import LoadedWords
from nomul.images import load_images
from nomul.sim import batch
from nomul.sim.batch import play_all
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_network, random_plan

pytestmark = pytest.mark.cocotb

ZOO = Path(__file__).parents[2] / "examples" / "zoo"


def codes_for(network: Network, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng(count).integers(
        0, len(network.input.levels), (count, *network.input.shape))


@pytest.mark.parametrize("network", [random_network(3), random_network(5),
                                     random_image_network(4)], ids=lambda n: n.name)
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_results_are_those_of_the_golden_model(network: Network, stall: float) -> None:
    plan, seen = random_plan(network, 7), []
    result = play_all(network, emit(network, plan), codes_for(network, 41), stall=stall, jobs=2,
                      progress=lambda *step: seen.append(step))
    assert (result.images, result.mismatches, result.first_mismatch) == (41, 0, None)
    assert result.classes.tolist() == result.golden_classes.tolist()
    assert result.cycles > 41
    assert ("simulate", 41, 41) in seen and ("golden model", 41, 41) in seen


def test_ports_of_many_words() -> None:
    """All scores of the digits network at once, and 32 pixels: 256 bits in, 160 out."""
    network = load(ZOO / "digits_pow2_3bit.nomul")
    scores = Network(name="scores", layers=network.layers[:-1])
    plan = make_plan(scores, {"dense1": (32, 64), "dense2": (10, 32)}, input_lanes=32)
    circuit = emit(scores, plan)
    assert circuit.s_axis.lanes * circuit.s_axis.bits == 256 and circuit.m_axis.lanes == 10
    images = load_images("digits", network).first(100)
    result = play_all(scores, circuit, images.codes)
    assert result.mismatches == 0
    assert result.classes.tolist() == result.golden_classes.tolist()


def changed(network: Network, bias: int) -> Emitted:
    """Verilog that says it is of ``network``, with another bias in its first layer."""
    layer = network["dense1"]
    assert isinstance(layer, Dense)
    other = Network(name=network.name, layers=tuple(
        replace(layer, bias=layer.bias + np.eye(1, layer.outputs, dtype=np.int64)[0] * bias)
        if each is layer else each for each in network.layers))
    circuit = emit(other, make_plan(other))
    return replace(circuit, verilog=circuit.verilog.replace(other.digest, network.digest, 1))


def test_a_wrong_circuit_is_found() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    images = load_images("digits", network).first(60)
    result = play_all(network, changed(network, 4000), images.codes, jobs=1)
    assert 0 < result.mismatches <= 60
    wrong = np.flatnonzero(result.classes != result.golden_classes)
    assert result.mismatches == len(wrong) and result.first_mismatch == wrong[0]


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_weights_are_loaded_first(stall: float) -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    images = load_images("digits", network).first(40)
    circuit = emit(network, make_engine_plan(network, 4, weights_in=WeightMemory.SPRAM))
    assert len(circuit.weights) == (64 * 32 // 4 + 32 * 3) * 2
    result = play_all(network, circuit, images.codes, stall=stall, jobs=1)
    assert result.mismatches == 0


def test_wrong_weights_are_refused() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    images = load_images("digits", network).first(2)
    circuit = emit(network, make_engine_plan(network, 4, weights_in=WeightMemory.SPRAM))
    one_off = bytes([*circuit.weights[:-40], circuit.weights[-40] ^ 1, *circuit.weights[-39:]])
    with pytest.raises(ToolError, match="the weights are refused"):
        play_all(network, replace(circuit, weights=one_off), images.codes, jobs=1)


def test_unchecked_weights_give_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of the test above: a circuit that looks at the length alone."""
    monkeypatch.setattr(LoadedWords, "_right", lambda self, crc, whole: whole)
    network = load(ZOO / "digits_pow2_3bit.nomul")
    scores = Network(name="scores", layers=network.layers[:-1])
    images = load_images("digits", network).first(40)
    circuit = emit(scores, make_engine_plan(scores, 4, weights_in=WeightMemory.SPRAM))
    one_off = bytes([*circuit.weights[:-40], circuit.weights[-40] ^ 1, *circuit.weights[-39:]])
    assert play_all(scores, replace(circuit, weights=one_off), images.codes, jobs=1).mismatches > 0


def test_a_circuit_that_moves_no_beat_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one lane, the digits network lets no beat pass for longer than a hundred cycles."""
    network = load(ZOO / "digits_pow2_3bit.nomul")
    monkeypatch.setattr(batch, "_PATIENCE", 100)
    with pytest.raises(ToolError, match="hangs after 0 of 5 images"):
        play_all(network, emit(network, make_plan(network)), codes_for(network, 5), jobs=1)


def test_what_is_wrong_is_refused() -> None:
    network = random_network(3)
    circuit, codes = emit(network, make_plan(network)), codes_for(network, 3)
    other = random_network(5)
    with pytest.raises(DataError, match="Verilog must be of network"):
        play_all(other, circuit, codes)
    with pytest.raises(DataError, match="below 1, not 1"):
        play_all(network, circuit, codes, stall=1.0)
    with pytest.raises(DataError, match="at least one image"):
        play_all(network, circuit, codes[:0])
    with pytest.raises(DataError, match="images must"):
        play_all(network, circuit, codes[:, :0])
    broken = replace(circuit, verilog=circuit.verilog.replace("endmodule", "endmodul", 1))
    with pytest.raises(ToolError, match="must compile, but verilator failed"):
        play_all(network, broken, codes)
