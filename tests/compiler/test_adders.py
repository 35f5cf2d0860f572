"""Adder graphs: the matrix that was asked for, and fewer additions than it has."""
import numpy as np
import pytest

from nomul.compiler.adders import adder_graph
from nomul.compiler.values import Ints
from nomul.hw.affine import signed_digits
from nomul.hw.unrolled import AdderGraph, Sum, Term, addition_bits

CODES = [(0, 15)]


def matrix_of(graph: AdderGraph) -> Ints:
    """By the sums of unit vectors."""
    return np.array([graph.values(row) for row in np.eye(len(graph.inputs), dtype=int).tolist()]).T


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


@pytest.mark.parametrize("seed", range(60))
def test_the_graph_is_the_matrix(seed: int) -> None:
    matrix = random_matrix(seed)
    graph = adder_graph(matrix, CODES * matrix.shape[1], tries=1 + seed % 2)
    assert (matrix_of(graph) == matrix).all()


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_every_value(seed: int) -> None:
    matrix = random_matrix(seed)
    graph = adder_graph(matrix, CODES * matrix.shape[1], tries=1)
    rng = np.random.default_rng(seed)
    ends = [*np.eye(matrix.shape[1], dtype=int) * 15, *rng.integers(0, 16, (50, matrix.shape[1])),
            *(15 * (row > 0) for row in matrix), *(15 * (row < 0) for row in matrix)]
    for vector in ends:
        values = vector.tolist()
        for item, (low, high) in zip(graph.sums, graph.bounds[len(values):], strict=True):
            values.append(sum(term.sign * values[term.source] << term.shift
                              for term in (item.left, item.right)))
            assert low <= values[-1] <= high


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
    matrix = np.random.default_rng(1).choice([-2, -1, 1, 2], (12, 16))
    bits = [adder_graph(matrix, CODES * 16, tries=tries).bits for tries in (1, 2, 6)]
    assert bits[0] >= bits[1] >= bits[2]


def test_constants_are_inputs_that_stay() -> None:
    graph = adder_graph(np.array([[3, -1, 1, 0], [0, 0, 0, 1]]),
                        [(0, 3), (0, 3), (-7, -7), (5, 5)])
    assert graph.values([2, 1, -7, 5]) == [-2, 5]


@pytest.mark.parametrize("item, left, bits", [
    (Sum(Term(0, 0, 1), Term(1, 0, 1)), (0, 15), 5),
    (Sum(Term(0, 0, 1), Term(1, 2, 1)), (0, 15), 5),  # the low two bits pass
    (Sum(Term(0, 0, 1), Term(1, 4, 1)), (0, 15), 0),  # side by side
    (Sum(Term(0, 0, 1), Term(1, 4, -1)), (0, 15), 5),
    (Sum(Term(0, 0, -1), Term(1, 2, 1)), (0, 15), 7),  # all bits of the left one are negated
])
def test_bits_of_an_addition(item: Sum, left: tuple[int, int], bits: int) -> None:
    graph = AdderGraph(inputs=((0, 15), (0, 15)), sums=(item,), outputs=(Term(2, 0, 1),))
    assert addition_bits(item, left, graph.bounds[2]) == bits == graph.bits
