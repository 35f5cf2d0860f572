# amaranth: UnusedElaboratable=no
"""Replay against repetition."""
import re
from itertools import chain

import pytest

from nomul.hw.replay import Replay
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer


@pytest.mark.parametrize("length, repeats, depth", [
    (1, 1, 2), (1, 4, 2), (4, 1, 8), (3, 5, 3), (3, 5, 6), (5, 2, 7), (4, 3, 16), (4, 4, 4)])
@pytest.mark.parametrize("storage", [Storage.BLOCK, Storage.REGISTERED])
def test_every_vector_comes_out_as_often_as_asked(length: int, repeats: int, depth: int,
                                                  storage: Storage) -> None:
    vectors = [[(5 * v + n + 1) % 16 for n in range(length)] for v in range(7)]
    expected = [beat for v in vectors for _ in range(repeats) for beat in v]
    dut = Replay(4, length=length, repeats=repeats, depth=depth, storage=storage)
    assert transfer(dut, chain.from_iterable(vectors), len(expected), seed=depth) == expected


@pytest.mark.parametrize("length, repeats", [(8, 4), (1, 3), (5, 1), (6, 3)])
@pytest.mark.parametrize("storage", [Storage.BLOCK, Storage.REGISTERED])
def test_vectors_follow_without_a_gap(length: int, repeats: int, storage: Storage) -> None:
    dut = Replay(4, length=length, repeats=repeats, depth=max(2 * length, 4), storage=storage)
    cycles = measure(dut, [0] * (6 * length), 6 * length * repeats)
    assert cycles[0] == dut.latency
    assert cycles[-1] - cycles[0] == 6 * length * repeats - 1


@pytest.mark.parametrize("wrong, message", [
    ({"length": 0}, "Vector must have at least 1 beat, not 0"),
    ({"repeats": 0}, "Number of repeats must be at least 1, not 0"),
    ({"depth": 3}, "Buffer depth must be at least 4, not 3"),
])
def test_parameters_are_checked(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Replay(4, **{"length": 4, "repeats": 2, "depth": 8, **wrong})
