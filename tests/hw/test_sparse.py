# amaranth: UnusedElaboratable=no
"""SparseDots against NumPy."""
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Shape, signed

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.shapes import signed_range
from nomul.hw.sparse import SparseDots, signed_digits, walk
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer

CODES = range(16)
LEVELS = [0, 1, 3, 7, -2, 11]
SIZES = [(1, 1, 1), (5, 7, 1), (5, 7, 3), (6, 4, 4), (1, 9, 2), (9, 1, 1), (4, 8, 8), (3, 5, 9)]


def matrix(outputs: int, inputs: int, *, share: float = 0.4) -> Any:
    rng = np.random.default_rng([outputs, inputs])
    return rng.integers(-200, 200, (outputs, inputs)) * (rng.random((outputs, inputs)) < share)


def sparse(weights: Any, lanes: int, table: Any = CODES, storage: Storage = Storage.LOGIC,
           kind: type[SparseDots] = SparseDots) -> SparseDots:
    rows = [[(place, int(weight)) for place, weight in enumerate(row) if weight]
            for row in weights]
    peak = int(np.abs(weights).sum(axis=1).max()) * max(map(abs, table))
    return kind(table, rows, inputs=weights.shape[1], lanes=lanes, storage=storage,
                acc_shape=signed_range(-peak, peak))


def in_beats(vectors: Any, dut: SparseDots) -> list[list[int]]:
    """Beats of the vectors; absent lanes hold nonsense."""
    padded = np.full((len(vectors), dut.chunks * dut.lanes), dut.code_shape.width)
    padded[:, :dut.inputs] = vectors
    return padded.reshape(-1, dut.lanes).tolist()


def sums_of(dut: SparseDots, vectors: Any, seed: int = 0) -> Any:
    got = transfer(dut, in_beats(vectors, dut), len(vectors) * len(dut.rows), seed=seed)
    return np.array([list(beat) for beat in got]).reshape(len(vectors), -1)


def random_vectors(weights: Any, codes: int, count: int = 6) -> Any:
    """Of which two drive output 0 to both ends of its range, where codes rise."""
    rng = np.random.default_rng(weights.shape)
    vectors = rng.integers(0, codes, (count, weights.shape[1]))
    vectors[0], vectors[1] = (weights[0] > 0) * (codes - 1), (weights[0] < 0) * (codes - 1)
    return vectors


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("table", [CODES, LEVELS, [0, 1], [0]], ids=lambda table: f"{len(table)}")
@pytest.mark.parametrize("outputs, inputs, lanes", SIZES)
def test_sums_are_exact(outputs: int, inputs: int, lanes: int, table: Any, storage: Storage,
                        ) -> None:
    weights = matrix(outputs, inputs)
    vectors = random_vectors(weights, len(table))
    dut = sparse(weights, lanes, table, storage)
    expected = np.array(table)[vectors] @ weights.T
    assert sums_of(dut, vectors, seed=inputs).tolist() == expected.tolist()


def test_sums_without_weights_are_0() -> None:
    vectors = random_vectors(np.ones((1, 6)), 16)
    assert not sums_of(sparse(np.zeros((3, 6), int), 2), vectors).any()


def test_a_shape_of_the_whole_is_enough_for_a_part() -> None:
    """A sum that does not fit wraps around, so that another part may bring it back."""
    weights = np.array([[100]])
    dut = SparseDots(CODES, [[(0, 100)]], inputs=1, lanes=1, acc_shape=signed(8),
                     storage=Storage.LOGIC)
    got = sums_of(dut, np.arange(16)[:, None])
    assert ((got - np.arange(16)[:, None] @ weights.T) % 256 == 0).all()
    assert (np.abs(got) <= 128).all()


@pytest.mark.parametrize("outputs, inputs, lanes", SIZES)
def test_takes_an_entry_a_cycle(outputs: int, inputs: int, lanes: int) -> None:
    weights = matrix(outputs, inputs)
    dut = sparse(weights, lanes)
    cycles = measure(dut, in_beats(np.ones((8, inputs), int), dut), 8 * outputs)
    ends = cycles[outputs - 1::outputs]
    assert np.diff(ends[4:]).tolist() == [max(len(dut.entries), dut.chunks)] * 3
    first = next(n for n, entry in enumerate(dut.entries) if entry.last)
    # The table needs two cycles before its first row.
    assert cycles[0] == max(dut.chunks - 1, 0) + dut.latency + first
    used = np.array([len(signed_digits(int(weight))) for weight in weights.flat])
    rows = used.reshape(outputs, inputs).sum(axis=1)
    assert len(dut.entries) == np.maximum(rows, 1).sum()


@pytest.mark.parametrize("value", [0, 1, -1, 2, 3, -3, 7, 85, -85, 170, 1000, -4096, 12345])
def test_digits_are_canonical(value: int) -> None:
    digits = signed_digits(value)
    assert sum((-1) ** negative * 2 ** shift for shift, negative in digits) == value
    shifts = [shift for shift, _ in digits]
    assert all(after - before >= 2 for before, after in pairwise(shifts))


def test_every_sum_has_an_entry() -> None:
    entries = walk([[(3, 7)], [], [(0, 0)], [(1, 1), (2, -2)]])
    assert [(entry.place, entry.shift, entry.negative, entry.empty, entry.last)
            for entry in entries] == [
        (3, 0, True, False, False), (3, 3, False, False, True), (0, 0, False, True, True),
        (0, 0, False, True, True), (1, 0, False, False, False), (2, 1, True, False, True)]


class Hurried(SparseDots):
    """Takes beats also where both vectors are in use."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.i.ready.eq(1)  # the last assignment wins
        return m


def test_a_vector_that_comes_too_early_is_seen() -> None:
    weights = matrix(5, 7)
    vectors = random_vectors(weights, 16, count=12)
    dut = sparse(weights, 3, kind=Hurried)
    with pytest.raises((AssertionError, TimeoutError)):
        assert sums_of(dut, vectors).tolist() == (vectors @ weights.T).tolist()


@pytest.mark.synth
def test_it_takes_few_cells_and_no_multiplier(tmp_path: Path) -> None:
    """1 % of 64 x 256 weights of 8 bits: 438 cycles."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (64, 256)) * (rng.random((64, 256)) < 0.01)
    dut = sparse(weights, 1, range(16), Storage.BLOCK)
    counts = make_netlist(dut, target("ice40-up5k"), tmp_path).counts
    assert (len(dut.entries), counts.dsp, counts.bram) == (438, 0, 3)
    assert counts.lut4 <= 130 and counts.ff <= 90


@pytest.mark.parametrize("change, message", [
    ({"table": [1, 2]}, "Table must hold 0 for code 0, and at least that"),
    ({"rows": []}, "There must be at least one row of weights"),
    ({"lanes": 0}, "Inputs and lanes must be at least 1, not 4 and 0"),
    ({"rows": [[(4, 1)]]}, "Place must be that of one of 4 inputs, not 4"),
    ({"acc_shape": Shape(4)}, "Accumulator shape must be signed, not unsigned(4)"),
])
def test_parameters_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SparseDots(**{"table": [0, 1], "rows": [[(0, 1)]], "inputs": 4, "lanes": 1,
                      "acc_shape": signed(4), "storage": Storage.LOGIC, **change})
