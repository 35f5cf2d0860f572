"""The integers of the circuits against brute force."""
import numpy as np
import pytest

from nomul.compiler.circuits import (
    shift_clip_terms,
    sparse_terms,
    sum_terms,
    threshold_rows,
    unrolled_matrix,
)
from nomul.compiler.network import Dense, Levels, Network, Staircase
from nomul.sim.golden import apply_staircase
from nomul.sim.random_networks import random_network


def hidden_layers() -> list[tuple[Network, Dense, Levels]]:
    found = []
    for network in map(random_network, range(150)):
        for layer in network.layers:
            if isinstance(layer, Dense) and layer.staircase:
                wire, = network.reads(layer)
                found.append((network, layer, wire.levels))  # type: ignore[union-attr]
    return found


def test_unrolled_matrices_give_the_same_accumulators() -> None:
    found = corrected = refused = 0
    for network, layer, levels in hidden_layers():
        matrix = unrolled_matrix(network, layer)
        if matrix is None:
            refused += 1
            continue
        found, corrected = found + 1, corrected + layer.corrected
        codes = np.random.default_rng(0).integers(0, len(levels), (20, layer.fan_in))
        direct = layer.products(levels)[layer.assignment[None], codes[:, None]].sum(axis=2)
        if layer.corrections is not None:
            direct = levels.values[codes] @ layer.weights.T
        sums = codes @ matrix.T + sum_terms(network, layer).offsets
        assert (sums == direct + layer.bias).all()
    assert min(found, corrected, refused) > 10


def test_moved_constants_give_the_same_accumulators() -> None:
    found = 0
    for network, layer, levels in hidden_layers():
        terms = sum_terms(network, layer)
        codes = np.random.default_rng(0).integers(0, len(levels), (20, layer.fan_in))
        sums = terms.products[layer.assignment[None], codes[:, None]].sum(axis=2)
        direct = layer.products(levels)[layer.assignment[None], codes[:, None]].sum(axis=2)
        if sparse := sparse_terms(layer, levels):
            found += 1
            table = np.array(sparse.table)
            sums += np.array([[sum(weight * table[vector[place]] for place, weight in row)
                               for row in sparse.rows] for vector in codes])
            direct = levels.values[codes] @ layer.weights.T
            assert table[0] == 0
        assert (sums + terms.offsets == direct + layer.bias).all()
        assert (terms.low <= sums).all() and (sums <= terms.high).all()
        assert not terms.products[:, 0].any()
    assert found > 20


def test_ranges_of_corrected_sums_are_exact() -> None:
    for network, layer, levels in hidden_layers():
        if sparse := sparse_terms(layer, levels):
            low, high = layer.accumulators(levels)
            terms, weights, values = sum_terms(network, layer), layer.weights, levels.values
            for ends, moved, sign in ((low, terms.low, -1), (high, terms.high, 1)):
                codes = np.where(sign * weights > 0, len(values) - 1, 0)
                sums = (weights * values[codes]).sum(axis=1) + layer.bias
                assert (sums == ends).all() and (sums - terms.offsets == moved).all()
            table = np.array(sparse.table)
            reach = [[sum(weight * (table.max() if sign * weight > 0 else 0) for _, weight in row)
                      for row in sparse.rows] for sign in (-1, 1)]
            assert sparse.range() == (min(reach[0]), max(reach[1]))


def test_shifts_are_found_where_they_exist_and_only_there() -> None:
    found = own = 0
    for _, layer, levels in hidden_layers():
        assert layer.staircase
        low, high = layer.accumulators(levels)
        terms = shift_clip_terms(layer.staircase, low, high)
        values = np.arange(low.min(), high.max() + 1)
        golden = apply_staircase(layer.staircase, np.stack([values] * layer.outputs, axis=1))
        reach = (values[:, None] >= low) & (values[:, None] <= high)
        top = len(layer.staircase.levels) - 1
        if terms:
            found += 1
            own += not terms.common
            moved = np.where(terms.negate, -1, 1) * values[:, None] + terms.offsets
            shifted = np.clip(moved >> terms.shifts, 0, top)
            assert (shifted == golden)[reach].all()
        else:
            passed = [(np.where(reach, np.clip((sign * values[:, None] + offset) >> shift, 0, top),
                                golden) == golden).all(axis=0)
                      for sign in (1, -1) for shift in range(8) for offset in range(-40, 41)]
            assert not np.any(passed, axis=0).all(), "shifts for each output would do"
    assert found > 50 and own > 5


def test_shifts_lie_as_near_together_as_can_be() -> None:
    # The first row has two thresholds within reach, 4 apart; the second and third have one.
    staircase = Staircase(thresholds=[[4, 8, 90], [5, 80, 90], [0, 70, 90]], directions=[1, 1, -1],
                          levels=Levels.uniform(4))
    terms = shift_clip_terms(staircase, np.array([0, 0, -3]), np.array([8, 8, 3]))
    assert terms is not None
    assert terms.shifts.tolist() == [2, 2, 2] and terms.negate.tolist() == [0, 0, 1]
    assert not terms.common


@pytest.mark.parametrize("bias", [False, True])
def test_threshold_rows_give_the_same_codes(bias: bool) -> None:
    for network, layer, _ in hidden_layers():
        assert layer.staircase
        terms = sum_terms(network, layer)
        offsets = terms.offsets if bias and layer.staircase.per_channel else (
            np.full(layer.outputs, 3))
        low, high = int(terms.low.min()), int(terms.high.max())
        rows, falling = threshold_rows(layer.staircase, offsets, low, high)
        values = np.arange(low, high + 1)
        golden = apply_staircase(layer.staircase, values[:, None] + offsets)
        each = values[:, None, None]
        codes = np.where(np.array(falling)[:, None], each <= rows, each >= rows).sum(axis=2)
        assert (np.broadcast_to(codes, golden.shape) == golden).all()
        assert rows.min() >= low - 1 and rows.max() <= high + 1
