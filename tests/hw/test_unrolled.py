# amaranth: UnusedElaboratable=no
"""Unrolled dot products against NumPy, under stalls."""
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nomul.compiler.adders import adder_graph
from nomul.hw.shapes import signed_range
from nomul.hw.unrolled import AdderGraph, Sum, Term, UnrolledDots
from nomul.sim.bench import measure, transfer


def unrolled(matrix: Any, constants: Any, *, depth: int, codes: int = 8) -> UnrolledDots:
    inputs = matrix.shape[1]
    graph = adder_graph(matrix, [(0, codes - 1)] * inputs, constants.tolist())
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


def any_sum(rng: np.random.Generator, bounds: list[tuple[int, int]]) -> Sum:
    """One that can be built, mostly with a constant."""
    while True:
        signs = (1, 1), (1, -1), (-1, 1)
        item = Sum(*(Term(int(rng.integers(len(bounds))), shift, sign) for sign, shift in
                     zip(signs[rng.integers(3)], (0, int(rng.integers(6))), strict=True)))
        above = int(rng.integers(-3, 4)) << min(item.widths(bounds))
        units = above + int(rng.integers(2)) - item.subtracts
        item = replace(item, constant=units << item.passed if rng.random() < 0.8 else 0)
        try:
            item.split(bounds)
        except ValueError:
            continue  # above a number with a sign
        return item


@pytest.mark.parametrize("seed", range(40))
def test_any_graph_is_exact(seed: int) -> None:
    """With constants carried in and above, low bits that pass, signs, and terms side by side."""
    rng = np.random.default_rng(seed)
    inputs = tuple((0, int(high)) for high in rng.integers(1, 16, 3))
    bounds, sums = list(inputs), []
    for _ in range(4):
        sums.append(any_sum(rng, bounds))
        bounds.append(sums[-1].bounds(bounds))
    graph = AdderGraph(inputs=inputs, sums=tuple(sums),
                       outputs=tuple(Term(n, 0, 1) for n in range(len(bounds))))
    peak = max(abs(end) for each in bounds for end in each)
    dut = UnrolledDots(graph, code_shape=4, elements=3, o_shape=signed_range(-peak, peak),
                       depth=1 + seed % 3)
    vectors = [[0] * 3, [high for _, high in inputs],
               *rng.integers(0, [high + 1 for _, high in inputs], (10, 3)).tolist()]
    got = transfer(dut, vectors, 12, seed=seed)
    assert [list(beat) for beat in got] == [graph.values(vector) for vector in vectors]


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_one_vector_a_cycle(depth: int) -> None:
    dut = unrolled(np.ones((2, 7), dtype=int), np.array([5, -5]), depth=depth)
    latency = -(-max(dut.graph.levels) // depth)
    assert dut.latency == latency and latency > 2 - (depth > 1) - (depth > 3)
    arrivals = measure(dut, [[1] * 7] * 20, 20)
    assert arrivals[0] == latency and np.diff(arrivals).tolist() == [1] * 19


def test_a_wrong_sum_is_seen() -> None:
    """The broken twin: one addition is a subtraction."""
    matrix, constants = np.array([[1, 2, -1]]), np.array([3])
    good = unrolled(matrix, constants, depth=1)
    first = good.graph.sums[0]
    turned = Sum(first.left, replace(first.right, sign=-first.right.sign))
    bad = UnrolledDots(AdderGraph(inputs=good.graph.inputs,
                                  sums=(turned, *good.graph.sums[1:]),
                                  outputs=good.graph.outputs),
                       code_shape=3, elements=3, o_shape=good.o_shape, depth=1)
    vectors = np.array([[1, 2, 3], [7, 0, 7]])
    expected = (vectors @ matrix.T + constants).tolist()
    assert [list(b) for b in transfer(good, vectors.tolist(), 2, seed=1)] == expected
    assert [list(b) for b in transfer(bad, vectors.tolist(), 2, seed=1)] != expected


def test_a_wrong_constant_is_seen() -> None:
    """The broken twin: a carry is missing."""
    inputs = ((0, 7), (0, 7))
    good, bad = (Sum(Term(0, 0, 1), Term(1, 1, 1), carried) for carried in (2, 0))
    duts = [UnrolledDots(AdderGraph(inputs=inputs, sums=(item,), outputs=(Term(2, 0, 1),)),
                         code_shape=3, elements=2, o_shape=signed_range(-32, 31), depth=1)
            for item in (good, bad)]
    sums = [[list(beat) for beat in transfer(dut, [[7, 7], [0, 3]], 2, seed=1)] for dut in duts]
    assert sums[0] == [[23], [8]] != sums[1]


@pytest.mark.parametrize("constant, message", [
    (1, "Constant of a sum must be carried in at bit 1 or lie 2 bits above, not 1"),
    (4, "Constant of a sum must be carried in at bit 1 or lie 2 bits above, not 4"),
    (16, "Term below constant 16 must not be negative"),
])
def test_constants_that_cost_an_adder_are_refused(constant: int, message: str) -> None:
    graph = AdderGraph(inputs=((0, 3), (0, 3)), outputs=(Term(3, 0, 1),), sums=(
        Sum(Term(0, 0, 1), Term(1, 0, -1)), Sum(Term(2, 0, 1), Term(2, 1, 1), constant)))
    with pytest.raises(ValueError, match=message):
        UnrolledDots(graph, code_shape=2, elements=2, o_shape=signed_range(-64, 63), depth=1)


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
