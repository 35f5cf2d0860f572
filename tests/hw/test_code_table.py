# amaranth: UnusedElaboratable=no
"""Codes looked up in tables against NumPy."""
import re
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed

from nomul.hw.code_table import CodeTable, table_size
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer

LOW, HIGH = -32, 31  # of signed(6)


def in_beats(vectors: Any, lanes: int) -> list[list[int]]:
    total = beats(vectors.shape[1], lanes)
    padded = np.full((len(vectors), total * lanes), LOW)
    padded[:, :vectors.shape[1]] = vectors
    return padded.reshape(-1, lanes).tolist()


@pytest.mark.parametrize("tables_in", Storage)
@pytest.mark.parametrize("which, words, shift, lanes, codes", [
    ([0], 4, 2, 1, 16), ([0], 64, 0, 2, 7), ([0], 40, 0, 3, 5),  # clipped, whole, filled
    ([0], 1, 3, 1, 3), ([0], 3, 9, 2, 2),  # a constant; nothing but the sign
    ([0, 1, 2, 3, 4], 3, 3, 2, 5), ([3, 1, 0, 2], 8, 3, 4, 9),  # own ones; all at once
    ([0, 1, 1, 0, 1], 9, 1, 2, 5), ([0, 0, 1], 5, 2, 1, 4), ([1, 1, 1], 5, 2, 1, 4),  # shared
])
def test_codes_are_those_of_the_tables(which: list[int], words: int, shift: int, lanes: int,
                                       codes: int, tables_in: Storage) -> None:
    rng = np.random.default_rng([words, shift, lanes])
    tables = rng.integers(0, codes, (max(which) + 1, words))
    rows = len(which) if len(which) > 1 else 3
    values = np.arange(LOW, HIGH + 1)  # every element takes every one
    vectors = np.stack([np.roll(values, 5 * n) for n in range(rows)], axis=1)
    expected = tables[which, np.clip(vectors >> shift, 0, words - 1)]

    dut = CodeTable(signed(6), tables.tolist(), which=which, shift=shift, codes=codes,
                    lanes=lanes, tables_in=tables_in, storage=list(Storage)[words % 3],
                    parity=bool(lanes % 2))
    total = beats(rows, lanes)
    got = transfer(dut, in_beats(vectors, lanes), len(vectors) * total, seed=words)
    elements = np.array([list(beat) for beat in got]).reshape(len(vectors), -1)
    assert elements[:, :rows].tolist() == expected.tolist()


@pytest.mark.parametrize("tables_in", Storage)
@pytest.mark.parametrize("which", [[0], [0, 1, 2], [1, 0, 1]])
def test_latency_and_throughput(which: list[int], tables_in: Storage) -> None:
    dut = CodeTable(signed(6), [[0, 1], [1, 0], [1, 1]], which=which, shift=1, codes=2, lanes=1,
                    tables_in=tables_in, storage=Storage.LOGIC)
    late = which == [1, 0, 1]  # numbers of tables come from a memory
    cycles = [cycle - late for cycle in measure(dut, [[0]] * 6, 6)]
    assert cycles == [dut.latency + n for n in range(6)]
    assert dut.latency == 1 + tables_in.latency


@pytest.mark.parametrize("words, size", [(1, 2), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_tables_take_a_power_of_two(words: int, size: int) -> None:
    assert table_size(words) == size


@pytest.mark.parametrize("change, message", [
    ({"shift": -1}, "Shift must be at least 0, not -1"),
    ({"codes": 1}, "There must be at least 2 codes and 1 lane, not 1 and 1"),
    ({"lanes": 0}, "There must be at least 2 codes and 1 lane, not 3 and 0"),
    ({"tables": [[0, 4]]}, "Table row must be within unsigned(2), not 4"),
    ({"tables": [[0, 1], [0]]}, "There must be at least one table, all of one length, a word in "
     "each, and the number of one for each row"),
    ({"which": [1]}, "Number of a table must be 0 to 0, not 1"),
])
def test_parameters_are_checked(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"tables": [[0, 1, 2]], "which": [0], "shift": 1, "codes": 3,
                             "lanes": 1, **change}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CodeTable(signed(6), tables_in=Storage.LOGIC, storage=Storage.LOGIC, **given)
