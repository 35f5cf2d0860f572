"""Adder graphs: the matrix that was asked for, and fewer additions than it has."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.adders import adder_graph
from nomul.compiler.circuits import sum_terms, unrolled_matrix
from nomul.compiler.network import Dense
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.hw.affine import signed_digits
from nomul.hw.unrolled import AdderGraph, Sum, Term

CODES = [(0, 15)]


def affine_of(graph: AdderGraph, inputs: int) -> tuple[Ints, Ints]:
    """Matrix and offsets, by the sums of no vector and of unit vectors."""
    constants = [low for low, high in graph.inputs[inputs:] if low == high]
    rows = np.vstack([np.zeros((1, inputs), dtype=int), np.eye(inputs, dtype=int)])
    offsets, *columns = np.array([graph.values([*row, *constants]) for row in rows.tolist()])
    return (np.array(columns) - offsets).T, offsets


def random_matrix(seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 9, 2)
    kind = seed % 4
    if kind == 0:
        return rng.integers(-1, 2, shape)
    if kind == 1:
        return rng.choice([-8, -4, -2, -1, 0, 1, 2, 4, 8], shape)
    if kind == 2:
        return rng.integers(-100, 101, shape)
    return -rng.integers(0, 3, shape)  # nothing is added


def random_graph(seed: int) -> tuple[Ints, Ints, AdderGraph]:
    matrix = random_matrix(seed)
    offsets = np.random.default_rng(seed).integers(-500, 500, len(matrix)) * (seed % 3 > 0)
    inputs = [(0, 14 + seed % 2)] * matrix.shape[1]
    return matrix, offsets, adder_graph(matrix, inputs, offsets.tolist(), tries=1 + seed % 2)


@pytest.mark.parametrize("seed", range(60))
def test_the_graph_is_the_matrix(seed: int) -> None:
    matrix, offsets, graph = random_graph(seed)
    found = affine_of(graph, matrix.shape[1])
    assert (found[0] == matrix).all() and (found[1] == offsets).all()


@pytest.mark.parametrize("seed", range(30))
def test_bounds_hold_every_value(seed: int) -> None:
    """And nothing but the last sum of an output has a sign."""
    matrix, _, graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    top, inputs = graph.inputs[0][1], matrix.shape[1]
    ends = [*np.eye(inputs, dtype=int) * top, *rng.integers(0, top + 1, (50, inputs)),
            *(top * (row > 0) for row in matrix), *(top * (row < 0) for row in matrix)]
    for vector in ends:
        values = [*vector.tolist(), *(low for low, _ in graph.inputs[inputs:])]
        for item, (low, high) in zip(graph.sums, graph.bounds[len(values):], strict=True):
            values.append(item.constant + sum(term.sign * values[term.source] << term.shift
                                              for term in (item.left, item.right)))
            assert low <= values[-1] <= high
    signed = {n for n, (low, _) in enumerate(graph.bounds) if low < 0}
    assert signed <= {end.source for end in graph.outputs if end is not None}
    assert not signed & {term.source for item in graph.sums for term in (item.left, item.right)}


@pytest.mark.parametrize("seed", range(30))
def test_every_constant_is_free(seed: int) -> None:
    _, _, graph = random_graph(seed)
    for item in graph.sums:
        item.split(graph.bounds)


def test_offsets_take_no_additions() -> None:
    matrix = np.random.default_rng(3).choice([-4, -2, -1, 1, 2, 4], (6, 24))
    free, added = (adder_graph(matrix, CODES * 24, offsets) for offsets in
                   (None, [100, -37, 5, -1, 77, 250]))
    assert (affine_of(added, 24)[1] == [100, -37, 5, -1, 77, 250]).all()
    assert len(added.sums) <= len(free.sums) + 3, "half of them find a place"
    assert added.bits < free.bits + 30


def test_a_graph_that_lacks_an_offset_is_seen() -> None:
    """The broken twin: a constant is dropped."""
    graph = adder_graph(np.array([[1, 2, -1]]), CODES * 3, [9])
    assert affine_of(graph, 3)[1].tolist() == [9]
    place = next(n for n, item in enumerate(graph.sums) if item.constant)
    sums = tuple(replace(item, constant=0) if n == place else item
                 for n, item in enumerate(graph.sums))
    assert affine_of(replace(graph, sums=sums), 3)[1].tolist() != [9]


def test_what_outputs_share_is_added_once() -> None:
    # a + b is in all of them, twice with another sign or shift.
    graph = adder_graph(np.array([[1, 1, 1, 0], [-2, -2, 0, 1], [4, 4, 0, 0]]), CODES * 4)
    assert len(graph.sums) == 3
    digits = sum(len(signed_digits(w)) for w in (1, 1, 1, -2, -2, 1, 4, 4))
    assert digits - 3 == 5, "additions without sharing"


def test_fewer_bits_than_one_addition_for_each_digit() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.choice([-4, -2, -1, 0, 1, 2, 4], (16, 32))
    shared = adder_graph(matrix, CODES * 32)
    apart = [adder_graph(row[None], CODES * 32) for row in matrix]
    assert shared.bits < 0.8 * sum(graph.bits for graph in apart)
    assert len(shared.sums) < 0.7 * sum(len(graph.sums) for graph in apart)


def test_more_tries_are_never_worse() -> None:
    """In what decides between them: the cost before the orders of additions are tried."""
    matrix = np.random.default_rng(1).choice([-2, -1, 1, 2], (12, 16))
    costs = [adder_graph(matrix, CODES * 16, tries=tries).cost for tries in (1, 6)]
    assert costs[0] >= costs[1]


def test_equal_searches_give_equal_graphs() -> None:
    matrix = np.random.default_rng(2).integers(-9, 10, (5, 9))
    one, other = (adder_graph(matrix, CODES * 9, [3] * 5) for _ in range(2))
    assert (one.inputs, one.sums, one.outputs) == (other.inputs, other.sums, other.outputs)


def test_inputs_may_not_be_negative() -> None:
    with pytest.raises(ValueError, match="Inputs of an adder graph must not be negative"):
        adder_graph(np.array([[1]]), [(-1, 1)])


def test_outputs_without_terms() -> None:
    graph = adder_graph(np.zeros((3, 2), dtype=int), CODES * 2, [0, 7, -9])
    assert graph.inputs[2:] == ((7, 7), (9, 9)) and not graph.sums
    assert graph.values([1, 2, 7, 9]) == [0, 7, -9]


@pytest.mark.parametrize("item, high, bits", [
    (Sum(Term(0, 0, 1), Term(1, 0, 1)), 15, 5),
    (Sum(Term(0, 0, 1), Term(1, 2, 1)), 15, 5),  # the low two bits pass
    (Sum(Term(0, 0, 1), Term(1, 4, 1)), 15, 0),  # side by side
    (Sum(Term(0, 0, 1), Term(1, 4, -1)), 15, 5),
    (Sum(Term(0, 0, 1), Term(1, 4, -1), 15 << 4), 15, 0),  # the complement beside it
    (Sum(Term(0, 0, 1), Term(1, 0, -1)), 15, 5),
    (Sum(Term(0, 0, 1), Term(1, 0, -1), 16), 15, 5),
    (Sum(Term(0, 0, 1), Term(1, 0, -1), 8), 7, 4),
    (Sum(Term(0, 0, -1), Term(1, 2, 1)), 15, 7),  # all bits of the left one are negated
])
def test_bits_of_an_addition(item: Sum, high: int, bits: int) -> None:
    graph = AdderGraph(inputs=((0, high), (0, high)), sums=(item,), outputs=(Term(2, 0, 1),))
    assert item.bits(graph.bounds) == bits == graph.bits


def test_what_inverters_there_are() -> None:
    """An input that is subtracted has one for each bit; a sum that all subtract has none."""
    subtracted = Sum(Term(2, 0, 1), Term(3, 0, -1))
    graph = AdderGraph(inputs=((0, 15), (0, 7), (0, 15)), outputs=(Term(4, 0, 1),),
                       sums=(Sum(Term(0, 0, 1), Term(1, 0, 1)), subtracted))
    assert graph.inverters == 0
    assert replace(graph, outputs=(Term(4, 0, 1), Term(3, 0, 1))).inverters == 5
    turned = Sum(Term(3, 0, 1), Term(2, 0, -1))
    assert replace(graph, sums=(graph.sums[0], turned)).inverters == 4


#: Bits of additions, and tables and carries, of the zoo's digits network of 3-bit powers of two,
#: both layers: 7,462 bits before differences lost their signs and offsets their additions.
MOST_BITS, MOST_COST = 7100, 13400


def test_the_cost_of_a_network() -> None:
    network = load(Path(__file__).parents[2] / "examples" / "zoo" / "digits_pow2_3bit.nomul")
    graphs = []
    for layer in network.layers:
        if isinstance(layer, Dense):
            matrix, terms = unrolled_matrix(network, layer), sum_terms(network, layer)
            assert matrix is not None
            graphs.append(adder_graph(matrix, CODES * layer.fan_in, terms.offsets.tolist()))
    assert sum(graph.bits for graph in graphs) <= MOST_BITS
    assert sum(graph.cost for graph in graphs) <= MOST_COST
