# amaranth: UnusedElaboratable=no
"""Raised product tables against brute force."""
from dataclasses import replace

import numpy as np
import pytest

from nomul.compiler import raised as raising
from nomul.compiler.circuits import packed_terms, sum_terms
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Dense, Flatten, Input, Levels, Network, Staircase
from nomul.compiler.plan import LayerPlan
from nomul.compiler.planner import make_plan
from nomul.compiler.raised import raised_table, raised_terms
from nomul.hw.circuits import ProductCircuit, StaircaseCircuit
from nomul.hw.table import Storage
from nomul.sim.bench import transfer
from nomul.sim.golden import run
from nomul.sim.random_networks import random_network

ANY = np.outer([-37, -5, 12, 53], np.arange(4))


def signals(bits: np.ndarray) -> int:
    """Inputs that a function of ``bits``, shape [2 ** inputs], depends on."""
    index = np.arange(len(bits))
    return sum((bits != bits[index ^ 1 << place]).any()
               for place in range(len(bits).bit_length() - 1))


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("entries, codes", [
    (1, 4), (2, 2), (2, 7), (3, 3), (3, 4), (4, 1), (4, 4), (4, 16), (5, 2), (8, 2), (16, 2),
    (4, 32)])
def test_rows_are_raised_by_constants(entries: int, codes: int, search: bool) -> None:
    rng = np.random.default_rng([entries, codes])
    for products in (rng.integers(-90, 91, (entries, codes)),
                     np.outer(rng.integers(-20, 21, entries), np.arange(codes)),
                     np.zeros((entries, codes), dtype=np.int64)):
        raised = raised_table(products, search=search)
        moved = raised.products[raised.words] - raised.constants[:, None]
        assert moved.tolist() == products.tolist()
        assert len(set(raised.words.tolist())) == entries
        width = int(np.ptp(products, axis=1).max()).bit_length()
        assert raised.products.min() >= 0 and int(raised.products.max()).bit_length() <= width


def test_few_bits_read_all_signals() -> None:
    """Of products with 2-bit codes that are 9 bits wide with a sign, and 6 such bits."""
    plain, raised = ANY, raised_table(ANY, search=True).products
    reads = {name: [signals((table.ravel() >> place) & 1) for place in range(width)]
             for name, table, width in (("plain", plain, 9), ("raised", raised, 8))}
    assert reads["plain"].count(4) == 6
    assert sorted(reads["raised"]) == [2, 2, 3, 3, 3, 3, 4, 4]
    # Those move through registers that start at 0.
    simple = [place for place, read in enumerate(reads["raised"]) if read < 4]
    assert not any(raised[0, 0] >> place & 1 for place in simple)


def plan_of(network: Network, layer: Dense, inputs: int) -> LayerPlan:
    return replace(make_plan(network)[layer.name], product=ProductCircuit.TABLE, inputs=inputs,
                   products_in=Storage.LOGIC)


def test_raised_terms_give_the_same_accumulators() -> None:
    found = absent = left = own = 0
    for network in map(random_network, range(100)):
        for layer in network.layers:
            if not isinstance(layer, Dense) or layer.corrections is not None:
                continue
            wire, = network.reads(layer)
            codes = np.random.default_rng(0).integers(
                0, len(wire.levels), (20, layer.fan_in))  # type: ignore[union-attr]
            inputs = min(3, layer.fan_in)
            terms, packed = packed_terms(layer, sum_terms(network, layer))
            raised, moved = raised_terms(layer, terms, packed, plan_of(network, layer, inputs))
            if raised is terms:
                left += 1
                continue
            places = -layer.fan_in % inputs
            found, absent, own = found + 1, absent + (places > 0), own + (moved is not None)
            rows = raised.assignment if moved is None else np.array(moved)[raised.assignment]
            first = 0 if moved is None else moved[0]
            sums = (raised.products[rows[None], codes[:, None]].sum(axis=2)
                    + places * raised.products[first, 0])
            before = (terms.assignment if packed is None else np.array(packed)[terms.assignment])
            direct = terms.products[before[None], codes[:, None]].sum(axis=2)
            assert (sums + raised.offsets == direct + terms.offsets).all()
            assert (raised.low <= sums).all() and (sums <= raised.high).all()
            assert (raised.high - raised.low == terms.high - terms.low).all()
            assert raised.low.min() >= 0
    assert min(found, absent, own) > 20 and left


def two_outputs(bias: list[int], *, per_channel: bool | None) -> tuple[Network, Dense]:
    """A layer whose sums lack nothing but its ``bias``, with thresholds that no shift makes."""
    thresholds = np.array([[3, 20, 90], [5, 22, 91]])[:1 + bool(per_channel)]
    staircase = None if per_channel is None else Staircase(
        thresholds=thresholds, levels=Levels.uniform(4))
    layer = Dense(name="dense1", inputs=("flat",), dictionary=np.array([-37, -5, 12, 53]),
                  assignment=np.array([[0, 1, 2], [3, 1, 2]]), bias=np.array(bias),
                  staircase=staircase)
    network = Network(name="two", layers=(
        Input(name="pixels", shape=(1, 1, 3), levels=Levels.uniform(4)),
        Flatten(name="flat", inputs=("pixels",)), layer))
    return network, layer


@pytest.mark.parametrize("bias, per_channel, raised", [
    ([0, 0], None, False), ([3, 3], None, False), ([0, 1], None, True),
    ([0, 0], False, False), ([7, 7], False, False), ([1, 2], False, True),
    ([0, 0], True, True), ([1, 2], True, True)])
def test_rows_are_raised_where_constants_cost_nothing(
        bias: list[int], per_channel: bool | None, raised: bool) -> None:
    network, layer = two_outputs(bias, per_channel=per_channel)
    terms, plan = sum_terms(network, layer), plan_of(network, layer, 3)
    assert plan.staircase is not StaircaseCircuit.SHIFT_CLIP
    assert (raised_terms(layer, terms, None, plan)[0] is not terms) == raised
    other = replace(plan, product=ProductCircuit.MASKED)
    assert raised_terms(layer, terms, None, other) == (terms, None)


def test_rows_are_not_raised_beside_corrections() -> None:
    network, layer = two_outputs([1, 2], per_channel=None)
    layer = replace(layer, corrections=np.array([[0, 1, 5]]))
    terms = sum_terms(network, two_outputs([1, 2], per_channel=None)[1])
    assert raised_terms(layer, terms, None, plan_of(network, layer, 3)) == (terms, None)


def test_places_without_an_input_add_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the broken twin, in which that constant stays in the sums."""
    network, layer = two_outputs([1, 2], per_channel=None)
    made = make_plan(network)
    plan = replace(made, input_lanes=1, layers=tuple(
        replace(plan_of(network, layer, 2), outputs=1) if entry.name == layer.name else entry
        for entry in made.layers))
    images = np.random.default_rng(0).integers(0, 4, (6, 1, 1, 3))
    golden = run(network, images).output.reshape(-1).tolist()

    def simulate() -> list[int]:
        got = transfer(lower_body(network, plan), images.reshape(-1, 1).tolist(), 12, seed=1)
        return [value for beat in got for value in beat]

    assert simulate() == golden
    monkeypatch.setattr(raising, "_absent", lambda layer, plan: 0)
    found = np.unique(np.array(simulate()) - golden).tolist()
    assert found == [int(raised_table(ANY, search=True).products[0, 0])] != [0]
