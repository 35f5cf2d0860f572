# amaranth: UnusedElaboratable=no
"""Staircase circuits, offset and argmax against NumPy."""
import re
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed

from nomul.hw.argmax import Argmax
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.hw.thresholds import Comparators, Search
from nomul.sim.bench import measure, transfer

LOW, HIGH = -32, 31  # of signed(6)


def in_beats(vectors: Any, lanes: int) -> list[list[int]]:
    total = beats(vectors.shape[1], lanes)
    padded = np.full((len(vectors), total * lanes), LOW)
    padded[:, :vectors.shape[1]] = vectors
    return padded.reshape(-1, lanes).tolist()


def play(dut: Any, vectors: Any, lanes: int, seed: int = 1) -> Any:
    total = beats(vectors.shape[1], lanes)
    got = transfer(dut, in_beats(vectors, lanes), len(vectors) * total, seed=seed)
    elements = np.array([list(beat) for beat in got])
    return elements.reshape(len(vectors), -1)[:, :vectors.shape[1]]


def all_values(length: int) -> Any:
    """Vectors in which every element takes every value of signed(6)."""
    values = np.arange(LOW, HIGH + 1)
    return np.stack([np.roll(values, 5 * n) for n in range(length)], axis=1)


@pytest.mark.parametrize("circuit", [Comparators, Search])
@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("rows, lanes, codes", [
    (1, 1, 16), (1, 2, 2), (5, 1, 4), (5, 2, 6), (3, 3, 3), (4, 2, 9), (1, 3, 5)])
def test_codes_count_thresholds(circuit: Any, storage: Storage, rows: int, lanes: int,
                                codes: int) -> None:
    rng = np.random.default_rng([rows, codes])
    thresholds = np.sort(rng.integers(LOW, HIGH + 2, (rows, codes - 1)), axis=1)
    thresholds[0, 0], thresholds[-1, -1] = LOW, HIGH + 1  # always, and never passed
    falling = rng.integers(0, 2, rows).astype(bool)
    thresholds[falling] = np.clip(thresholds[falling], LOW - 1, HIGH)
    vectors = all_values(rows if rows > 1 else 4)

    each = vectors[:, :, None]
    expected = np.where(falling[:, None], each <= thresholds, each >= thresholds).sum(axis=2)
    dut = circuit(signed(6), thresholds.tolist(), falling=falling.tolist(), lanes=lanes,
                  storage=storage)
    assert play(dut, vectors, lanes).tolist() == expected.tolist()


@pytest.mark.parametrize("shift, codes", [(0, 2), (0, 16), (1, 3), (3, 4), (5, 2), (7, 4)])
def test_shift_clip_counts_steps(shift: int, codes: int) -> None:
    vectors = all_values(3)
    expected = np.clip(np.floor_divide(vectors, 2**shift), 0, codes - 1)
    dut = ShiftClip(signed(6), shift=shift, codes=codes, lanes=2)
    assert play(dut, vectors, 2).tolist() == expected.tolist()


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("shifts, lanes, codes", [
    ([1, 3, 0, 2, 1], 2, 6), ([2, 2, 2], 1, 16), ([0, 6], 1, 2), ([3], 2, 4), ([9, 8, 9], 3, 3)])
def test_each_row_has_its_own_shift_and_sign(shifts: list[int], lanes: int, codes: int,
                                             storage: Storage) -> None:
    rng = np.random.default_rng(shifts)
    negate, offsets = rng.integers(0, 2, len(shifts)), rng.integers(-90, 90, len(shifts))
    vectors = all_values(max(3, len(shifts)) if len(shifts) == 1 else len(shifts))
    sums = np.where(negate, -vectors, vectors) + offsets
    dut = ShiftClipRows(signed(6), signed(8), offsets=offsets.tolist(), shifts=shifts,
                        negate=negate.tolist(), codes=codes, lanes=lanes, storage=storage)
    expected = np.clip(sums >> np.array(shifts), 0, codes - 1)
    assert play(dut, vectors, lanes).tolist() == expected.tolist()


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("offsets, lanes, negate", [
    ([7], 2, False), ([7], 1, True), ([1, -2, 30, -32, 5], 2, False), ([1, -60, 3], 1, True)])
def test_offset_adds(offsets: list[int], lanes: int, negate: bool, storage: Storage) -> None:
    length = max(3, len(offsets))
    vectors = all_values(length)
    expected = (-vectors if negate else vectors) + np.array(offsets)
    dut = Offset(signed(6), signed(8), offsets=offsets, lanes=lanes, negate=negate,
                 storage=storage)
    assert play(dut, vectors, lanes).tolist() == expected.tolist()


@pytest.mark.parametrize("length, lanes", [(1, 1), (10, 1), (10, 2), (10, 4), (7, 7), (3, 5)])
def test_argmax_is_the_first_of_equals(length: int, lanes: int) -> None:
    rng = np.random.default_rng(length)
    vectors = rng.integers(-4, 4, (40, length))
    vectors[0], vectors[1] = LOW, HIGH
    dut = Argmax(signed(6), lanes=lanes, length=length)
    got = transfer(dut, in_beats(vectors, lanes), 40, seed=lanes)
    assert [beat[0] for beat in got] == vectors.argmax(axis=1).tolist()


@pytest.mark.parametrize("dut, i_beats", [
    (ShiftClip(signed(6), shift=1, codes=4, lanes=1), 1),
    (Comparators(signed(6), [[0, 3]], falling=[False], lanes=1, storage=Storage.LOGIC), 1),
    (Search(signed(6), [[0, 3]], falling=[False], lanes=1, storage=Storage.LOGIC), 1),
    (Search(signed(6), [[0, 3, 5]], falling=[False], lanes=1, storage=Storage.REGISTERED), 1),
    (Offset(signed(6), signed(7), offsets=[3], lanes=1, negate=False, storage=Storage.LOGIC), 1),
    (ShiftClipRows(signed(6), signed(7), offsets=[3], shifts=[1], negate=[1], codes=4, lanes=1,
                   storage=Storage.LOGIC), 1),
    (Argmax(signed(6), lanes=1, length=4), 4), (Argmax(signed(6), lanes=2, length=4), 2)],
    ids=lambda value: type(value).__name__)
def test_latency_and_throughput(dut: Any, i_beats: int) -> None:
    cycles = measure(dut, [[0] * len(dut.i.payload)] * i_beats * 3, 3)
    assert cycles == [i_beats - 1 + dut.latency + n * i_beats for n in range(3)]


@pytest.mark.parametrize("make, message", [
    (lambda: ShiftClip(signed(6), shift=-1, codes=4, lanes=1), "Shift must be at least 0, not -1"),
    (lambda: ShiftClip(signed(6), shift=0, codes=1, lanes=1),
     "There must be at least 2 codes and 1 lane, not 1 and 1"),
    (lambda: ShiftClipRows(signed(6), signed(6), offsets=[0, 1], shifts=[1], negate=[0], codes=2,
                           lanes=1, storage=Storage.LOGIC),
     "There must be an offset, a shift and a sign for each row, and at least one row"),
    (lambda: ShiftClipRows(signed(6), signed(6), offsets=[0], shifts=[-1], negate=[0], codes=2,
                           lanes=1, storage=Storage.LOGIC),
     "Shifts must be at least 0, not -1"),
    (lambda: Comparators(signed(6), [[3, 1]], falling=[False], lanes=1, storage=Storage.LOGIC),
     "Thresholds must be in increasing order"),
    (lambda: Search(signed(6), [[99]], falling=[False], lanes=1, storage=Storage.LOGIC),
     "Table row must be within signed(7), not 99"),
    (lambda: Argmax(signed(6), lanes=1, length=0),
     "There must be at least 1 lane and 1 element, not 1 and 0"),
])
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
