# amaranth: UnusedElaboratable=no
"""Regroup against slicing."""
import re
from itertools import chain

import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import stream

from nomul.hw.stream import Regroup, beats, pipe
from nomul.sim.bench import measure, transfer


def in_beats(vectors: list[list[int]], lanes: int) -> list[list[int]]:
    return [(v[n:n + lanes] + [0] * lanes)[:lanes]
            for v in vectors for n in range(0, len(v), lanes)]


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("lanes", [(1, 1), (1, 4), (4, 1), (2, 6), (6, 2), (3, 2), (2, 3), (5, 8),
                                   (3, 3)])
def test_elements_keep_their_order(lanes: tuple[int, int], length: int) -> None:
    i_lanes, o_lanes = lanes
    vectors = [[(7 * v + 3 * n + 1) % 16 for n in range(length)] for v in range(6)]
    dut = Regroup(unsigned(4), i_lanes=i_lanes, o_lanes=o_lanes, length=length)
    got = transfer(dut, in_beats(vectors, i_lanes), 6 * beats(length, o_lanes), seed=length)
    elements = [list(beat) for beat in got]
    per_vector = beats(length, o_lanes)
    for number, expected in enumerate(vectors):
        beat = elements[number * per_vector:(number + 1) * per_vector]
        assert list(chain.from_iterable(beat))[:length] == expected


@pytest.mark.parametrize("lanes", [(1, 4), (4, 1), (3, 8), (8, 3), (5, 5)])
def test_keeps_the_rate_of_the_slower_side(lanes: tuple[int, int]) -> None:
    i_lanes, o_lanes = lanes
    length = 120
    dut = Regroup(unsigned(4), i_lanes=i_lanes, o_lanes=o_lanes, length=length)
    vectors = [[n % 16 for n in range(length)] for _ in range(3)]
    cycles = measure(dut, in_beats(vectors, i_lanes), 3 * beats(length, o_lanes))
    assert cycles[-1] - cycles[0] < 3 * max(beats(length, i_lanes), beats(length, o_lanes))


@pytest.mark.parametrize("wrong, message", [
    ({"i_lanes": 0}, "Number of input lanes must be at least 1, not 0"),
    ({"o_lanes": -1}, "Number of output lanes must be at least 1, not -1"),
    ({"length": 0}, "Number of elements must be at least 1, not 0"),
])
def test_sizes_must_be_positive(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Regroup(4, **{"i_lanes": 1, "o_lanes": 1, "length": 1, **wrong})


def test_pipe_tells_signed_from_unsigned() -> None:
    source = stream.Signature(unsigned(8)).create()
    sink = stream.Signature(signed(8)).flip().create()
    with pytest.raises(TypeError, match=r"^Stream of unsigned\(8\) cannot feed .* signed\(8\)$"):
        pipe(Module(), source, sink)
