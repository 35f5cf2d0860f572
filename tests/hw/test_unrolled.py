# amaranth: UnusedElaboratable=no
"""Unrolled dot products against NumPy, under stalls."""
from typing import Any

import numpy as np
import pytest

from nomul.compiler.adders import adder_graph
from nomul.hw.shapes import signed_range
from nomul.hw.unrolled import AdderGraph, Sum, Term, UnrolledDots
from nomul.sim.bench import measure, transfer


def unrolled(matrix: Any, constants: Any, *, depth: int, codes: int = 8) -> UnrolledDots:
    outputs, inputs = matrix.shape
    graph = adder_graph(np.hstack([matrix, np.eye(outputs, dtype=int)]),
                        [(0, codes - 1)] * inputs + [(c, c) for c in constants.tolist()])
    peak = (codes - 1) * int(np.abs(matrix).sum(axis=1).max()) + int(np.abs(constants).max())
    return UnrolledDots(graph, code_shape=range(codes), elements=inputs,
                        o_shape=signed_range(-peak, peak), depth=depth)


@pytest.mark.parametrize("depth", [1, 2, 3, 20])
@pytest.mark.parametrize("outputs, inputs", [(1, 1), (3, 5), (6, 9)])
def test_sums_are_exact(outputs: int, inputs: int, depth: int) -> None:
    rng = np.random.default_rng([outputs, inputs])
    matrix = rng.integers(-9, 10, (outputs, inputs))
    constants = rng.integers(-40, 41, outputs)
    vectors = rng.integers(0, 8, (12, inputs))
    vectors[:2] = 7 * (matrix[0] > 0), 7 * (matrix[0] < 0)  # both ends of the first output
    dut = unrolled(matrix, constants, depth=depth)
    got = transfer(dut, vectors.tolist(), 12, seed=depth)
    assert [list(beat) for beat in got] == (vectors @ matrix.T + constants).tolist()


def test_outputs_that_add_nothing() -> None:
    matrix = np.array([[0, 0], [1, 0], [0, -4]])
    dut = unrolled(matrix, np.zeros(3, dtype=int), depth=2)
    got = transfer(dut, [[3, 5], [7, 7]], 2, seed=1)
    assert [list(beat) for beat in got] == [[0, 3, -20], [0, 7, -28]]


@pytest.mark.parametrize("depth, latency", [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_one_vector_a_cycle(depth: int, latency: int) -> None:
    dut = unrolled(np.ones((2, 7), dtype=int), np.array([5, -5]), depth=depth)
    assert dut.latency == latency == -(-max(dut.graph.levels) // depth)
    arrivals = measure(dut, [[1] * 7] * 20, 20)
    assert arrivals[0] == latency and np.diff(arrivals).tolist() == [1] * 19


def test_a_wrong_sum_is_seen() -> None:
    """The broken twin: one addition is a subtraction."""
    matrix, constants = np.array([[1, 2, -1]]), np.array([3])
    good = unrolled(matrix, constants, depth=1)
    first = good.graph.sums[0]
    turned = Sum(Term(first.left.source, 0, first.left.sign),
                 Term(first.right.source, first.right.shift, -first.right.sign))
    bad = UnrolledDots(AdderGraph(inputs=good.graph.inputs,
                                  sums=(turned, *good.graph.sums[1:]),
                                  outputs=good.graph.outputs),
                       code_shape=3, elements=3, o_shape=good.o_shape, depth=1)
    vectors = np.array([[1, 2, 3], [7, 0, 7]])
    expected = (vectors @ matrix.T + constants).tolist()
    assert [list(b) for b in transfer(good, vectors.tolist(), 2, seed=1)] == expected
    assert [list(b) for b in transfer(bad, vectors.tolist(), 2, seed=1)] != expected


@pytest.mark.parametrize("change, message", [
    ({"elements": 0}, "Graph must have at least 1 output, and an input for each of 0 elements"),
    ({"elements": 1}, "Inputs beyond the elements of a vector must be constants"),
    ({"depth": 0}, "Additions between registers must be at least 1, not 0"),
    ({"o_shape": 4}, "Shape of outputs must be signed"),
])
def test_what_cannot_be_built(change: dict[str, Any], message: str) -> None:
    graph = adder_graph(np.ones((1, 2), dtype=int), [(0, 3)] * 2)
    with pytest.raises(ValueError, match=message):
        UnrolledDots(graph, **{"code_shape": 2, "elements": 2, "o_shape": signed_range(-8, 7),
                               "depth": 1, **change})
