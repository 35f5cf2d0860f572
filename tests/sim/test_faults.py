# amaranth: UnusedElaboratable=no
"""Upsets in Verilator: each does what the changed network, or changed arithmetic, would do."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.circuits import sum_terms
from nomul.compiler.emit import Emitted, emit
from nomul.compiler.errors import ToolError
from nomul.compiler.network import Dense, Network
from nomul.compiler.plan import Plan
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.faults import Harm, inject
from nomul.hw import table
from nomul.hw.product import ShiftAddProducts
from nomul.images import Images, load_images
from nomul.sim.faults import Bench, Upset, draw, faults_bench
from nomul.sim.golden import run
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_network, random_plan
from nomul.sim.upsets import Kind

pytestmark = pytest.mark.cocotb

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
FOLDS = {"dense1": (2, 3), "dense2": (1, 1)}  # 3 inputs at once do not divide 64


def digits() -> tuple[Network, Plan, Emitted, Images]:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network, FOLDS)
    return network, plan, emit(network, plan), load_images("digits", network).first(12)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    network, plan, circuit, images = digits()
    with faults_bench(network, plan, circuit, images.codes) as opened:
        yield opened


def scores_of(network: Network, codes: Ints) -> Ints:
    return run(network, codes)["dense2"].reshape(len(codes), -1)


def named(bench: Bench, path: str) -> Upset:
    """The upset of bit 0 of a place."""
    place, = (place for place in bench.places if ".".join(place.path).endswith(path))
    return Upset(place=place, word=0, bit=0)


def weight_upset(network: Network, bench: Bench, name: str, output: int, source: int,
                 bit: int) -> tuple[Upset, Network]:
    """The upset of a bit of a weight, and the network with the weight that it then is."""
    layer = network[name]
    assert isinstance(layer, Dense)
    lanes, inputs = FOLDS[name]
    (group, lane), (chunk, n) = divmod(output, lanes), divmod(source, inputs)
    products = ShiftAddProducts(sum_terms(network, layer).products.tolist(), lanes=lanes,
                                inputs=inputs)
    index = int(layer.assignment[output, source])
    word = products.encoding[index] ^ 1 << bit
    assignment = layer.assignment.copy()
    assignment[output, source] = products.encoding.index(word)
    changed = Network(name=network.name, layers=tuple(
        replace(each, assignment=assignment) if each is layer else each
        for each in network.layers))
    upset = replace(
        named(bench, f"{name}.dots.weights.table"),
        word=group * -(-layer.fan_in // inputs) + chunk,
        bit=(lane * inputs + n) * products.index_shape.width + bit)
    return upset, changed


def test_a_flipped_weight_is_another_weight(bench: Bench) -> None:
    """Bit for bit: the scores are those of the network that has the other weight."""
    network, _, _, images = digits()
    rng = np.random.default_rng(5)
    chosen = [weight_upset(network, bench, "dense1" if n % 3 else "dense2",
                           int(rng.integers(32 if n % 3 else 10)),
                           int(rng.integers(64 if n % 3 else 32)), int(rng.integers(3)))
              for n in range(40)]
    effects = bench.play([upset for upset, _ in chosen], jobs=2)
    expected = [scores_of(changed, images.codes) for _, changed in chosen]
    for effect, scores in zip(effects, expected, strict=True):
        assert effect.finished and not effect.frame_error
        assert effect.scores.tolist() == scores.tolist()
        assert effect.classes.tolist() == scores.argmax(axis=1).tolist()
    different = [(scores != bench.golden.scores).any() for scores in expected]
    assert sum(different) > 10, "most of these weights matter"
    # The check can fail: another bit gives other scores.
    wrong = [effect.scores.tolist() != scores.tolist()
             for effect, scores in zip(effects, [*expected[1:], expected[0]], strict=True)]
    assert sum(wrong) > 10


def test_weights_of_absent_inputs_do_not_matter(bench: Bench) -> None:
    """The last beat of dense1 has one input of three; the places of the others are empty."""
    upset = named(bench, "dense1.dots.weights.table")
    absent = [replace(upset, word=22 * group + 21, bit=bit)
              for group in (1, 8) for bit in (3, 4, 8, 12, 17)]
    for effect in bench.play(absent, jobs=1):
        assert effect.scores.tolist() == bench.golden.scores.tolist()


def test_a_flipped_accumulator_moves_one_score(bench: Bench) -> None:
    """By that power of two, in one image; also of images that are played last."""
    upset = named(bench, "dense2.dots.acc_0")
    rng = np.random.default_rng(7)
    upsets = [replace(upset, bit=int(bit), first_image=int(first),
                      cycle=bench.first_result + int(rng.integers(bench.interval)))
              for bit, first in zip(rng.integers(0, 9, 24), rng.integers(0, 12, 24), strict=True)]
    for effect in bench.play(upsets, jobs=2):
        assert effect.upset is not None
        moved = effect.scores - bench.golden.scores
        (image,), _ = np.nonzero(moved)
        assert np.abs(moved).sum() == 1 << effect.upset.bit
        # The second image, or the third one's first scores, are under way then.
        assert (image - effect.upset.first_image) % 12 in (1, 2)


def test_control_may_hang(bench: Bench) -> None:
    effects = bench.play(draw(bench, Kind.CONTROL, 60, 1), jobs=2)
    hung = [effect for effect in effects if not effect.finished]
    assert hung
    for effect in hung:
        assert not effect.came.all()
    assert any(effect.frame_error or effect.framing for effect in effects)


def test_choices_are_seeded_and_fair(bench: Bench) -> None:
    for kind in Kind:
        upsets = draw(bench, kind, 50, 3)
        assert upsets == draw(bench, kind, 50, 3) and (not upsets or upsets != draw(
            bench, kind, 50, 4))
        for upset in upsets:
            assert upset.place.kind is kind
            assert 0 <= upset.word < upset.place.depth and 0 <= upset.bit < upset.place.width
            assert 0 <= upset.first_image < 12
    lasting = draw(bench, Kind.CONSTANT, 10_000, 3)
    each = {(upset.place.path, upset.word, upset.bit) for upset in lasting}
    total = sum(p.bits for p in bench.places if p.kind is Kind.CONSTANT)
    assert len(lasting) == len(each) == total, "every bit once"


def test_a_circuit_that_is_wrong_without_upsets_is_refused() -> None:
    network, plan, _, images = digits()
    layer = network["dense1"]
    assert isinstance(layer, Dense)
    other = Network(name=network.name, layers=tuple(
        replace(layer, bias=layer.bias + 4000) if each is layer else each
        for each in network.layers))
    wrong = emit(other, make_plan(other, FOLDS))
    wrong = replace(wrong, verilog=wrong.verilog.replace(other.digest, network.digest, 1))
    with (pytest.raises(ToolError, match="must give the golden model's scores without an upset"),
          faults_bench(network, plan, wrong, images.codes)):
        pass


def test_mended_bits_leave_no_trace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the upsets the circuit is checked; one that is not mended is found."""
    lasting = replace(named(bench, "dense2.offset.constants.table"),
                      bit=9)
    assert [effect.scores.tolist() != bench.golden.scores.tolist()
            for effect in bench.play([lasting], jobs=1)] == [True]
    monkeypatch.setattr(Kind, "lasts", property(lambda kind: False))
    with pytest.raises(ToolError, match="without an upset"):
        bench.play([lasting], jobs=1)


def test_harm_is_told_apart(bench: Bench) -> None:
    network, _, _, images = digits()
    found = inject(bench, images.labels, upsets=25, seed=2, jobs=2)
    assert found.accuracy == (run(network, images.codes).classes == images.labels).mean()
    for kind, results in found.results.items():
        assert len(results) == (0 if kind is Kind.TABLE else 25)
        for result in results:
            assert (result.changed > 0) == (result.harm in (Harm.CLASSES, Harm.HANG))
            if result.harm in (Harm.NONE, Harm.SCORES):
                assert result.accuracy == found.accuracy
    harms = {result.harm for results in found.results.values() for result in results}
    assert harms == set(Harm)


@pytest.mark.parametrize("network", [random_image_network(4), random_network(7)],
                         ids=lambda network: network.name)
def test_parity_flags_what_it_reads(network: Network) -> None:
    """Every wrong bit of a table that is read in order; of others, every one that matters."""
    plan = random_plan(network, 4)
    plan = replace(plan, layers=tuple(replace(entry, parity=True) for entry in plan.layers))
    circuit = emit(network, plan)
    assert circuit.parity
    images = load_images("random", network).first(6)
    flagged = 0
    with faults_bench(network, plan, circuit, images.codes) as opened:
        for kind in (Kind.ASSIGNMENT, Kind.TABLE, Kind.CONSTANT):
            for effect in opened.play(draw(opened, kind, 150, 3), jobs=2):
                assert effect.upset is not None
                component = effect.upset.place.path[-2]
                in_order = re.fullmatch(r"weights|entries|constants|column_\d+", component)
                matters = not effect.finished or (effect.scores != opened.golden.scores).any()
                assert effect.parity_error or not (matters or in_order), effect.upset
                flagged += effect.parity_error
    assert flagged > 150


def test_a_wrong_generator_of_parity_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, _, images = digits()
    plan = make_plan(network, FOLDS, parity=True)
    monkeypatch.setattr(table, "_even", lambda word, width: word)
    with (pytest.raises(ToolError, match="must not raise parity_error without an upset"),
          faults_bench(network, plan, emit(network, plan), images.codes)):
        pass


def test_without_parity_there_is_no_flag() -> None:
    network, plan, circuit, _ = digits()
    assert not circuit.parity and "parity" not in circuit.verilog
    assert "fetched" not in circuit.verilog
    partly = replace(plan, layers=(replace(plan.layers[0], parity=True), *plan.layers[1:]))
    assert emit(network, partly).parity
