# amaranth: UnusedElaboratable=no
"""Regroup against slicing."""
import re
from itertools import chain
from pathlib import Path

import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import stream

from nomul.hw.stream import Regroup, beats, pipe
from nomul.sim.bench import measure, transfer
from nomul.sim.formal import prove_streams

LANES = [(1, 1), (1, 4), (4, 1), (2, 6), (6, 2), (3, 2), (2, 3), (5, 8), (3, 3)]
# Elements of an input and of an output vector: joined, cut, and both with whole and ragged beats.
RATIOS = [(1, 4), (4, 1), (3, 12), (12, 3), (2, 12), (12, 2), (6, 18), (18, 6), (5, 10), (10, 5),
          (8, 24), (24, 8), (7, 21), (21, 7)]


def in_beats(vectors: list[list[int]], lanes: int) -> list[list[int]]:
    return [(v[n:n + lanes] + [0] * lanes)[:lanes]
            for v in vectors for n in range(0, len(v), lanes)]


def cut(elements: list[int], length: int) -> list[list[int]]:
    return [elements[n:n + length] for n in range(0, len(elements), length)]


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("lanes", LANES)
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


@pytest.mark.parametrize("lengths", RATIOS, ids=repr)
@pytest.mark.parametrize("lanes", [*LANES, (4, 4), (8, 2)], ids=repr)
def test_vectors_are_joined_and_cut(lanes: tuple[int, int], lengths: tuple[int, int]) -> None:
    (i_lanes, o_lanes), (length, o_length) = lanes, lengths
    elements = [(5 * n + n // 16 + 1) % 16 for n in range(4 * max(lengths))]
    dut = Regroup(unsigned(4), i_lanes=i_lanes, o_lanes=o_lanes, length=length, o_length=o_length)
    expected = in_beats(cut(elements, o_length), o_lanes)
    # Lanes behind the end of an input vector hold what must not come out.
    given = [[*v[n:n + i_lanes], *[15] * (n + i_lanes - length)]
             for v in cut(elements, length) for n in range(0, length, i_lanes)]
    got = [list(beat) for beat in transfer(dut, given, len(expected), seed=length)]
    present = in_beats([[1] * o_length] * (len(elements) // o_length), o_lanes)
    assert [[e if p else 0 for e, p in zip(beat, lanes_present, strict=True)]
            for beat, lanes_present in zip(got, present, strict=True)] == expected


@pytest.mark.parametrize("lanes", [(1, 4), (4, 1), (3, 8), (8, 3), (5, 5)])
def test_keeps_the_rate_of_the_slower_side(lanes: tuple[int, int]) -> None:
    i_lanes, o_lanes = lanes
    length = 120
    dut = Regroup(unsigned(4), i_lanes=i_lanes, o_lanes=o_lanes, length=length)
    vectors = [[n % 16 for n in range(length)] for _ in range(3)]
    cycles = measure(dut, in_beats(vectors, i_lanes), 3 * beats(length, o_lanes))
    assert cycles[-1] - cycles[0] < 3 * max(beats(length, i_lanes), beats(length, o_lanes))


@pytest.mark.parametrize("lengths", [*RATIOS, (13, 39), (39, 13), (9, 45), (22, 66), (40, 40)],
                         ids=repr)
@pytest.mark.parametrize("lanes", [(4, 4), (4, 3), (3, 4), (2, 8), (8, 2), (7, 8), (8, 7), (7, 7)],
                         ids=repr)
def test_keeps_the_rate_of_uneven_vectors(lanes: tuple[int, int],
                                          lengths: tuple[int, int]) -> None:
    (i_lanes, o_lanes), (length, o_length) = lanes, lengths
    dut = Regroup(unsigned(1), i_lanes=i_lanes, o_lanes=o_lanes, length=length, o_length=o_length)
    longest, rounds = max(lengths), 14
    i_beats = longest // length * beats(length, i_lanes)
    o_beats = longest // o_length * beats(o_length, o_lanes)
    cycles = measure(dut, [[0] * i_lanes] * (rounds * i_beats), rounds * o_beats)
    # The first rounds may fill the buffer, and the last one leaves when nothing follows it.
    ends = cycles[o_beats - 1::o_beats]
    assert ends[-2] - ends[7] == (rounds - 9) * max(i_beats, o_beats)


@pytest.mark.parametrize("lanes, lengths, beats_needed, latency", [
    ((4, 2), (8, 8), 1, 0), ((3, 3), (5, 5), 1, 0), ((4, 8), (3, 3), 1, 0), ((8, 3), (8, 8), 1, 0),
    ((4, 3), (6, 3), 1, 1), ((3, 3), (6, 3), 1, 0), ((6, 4), (6, 3), 1, 0),
    ((2, 6), (12, 12), 3, 1), ((4, 4), (2, 8), 2, 1), ((4, 4), (3, 12), 2, 1),
    ((2, 3), (6, 6), 2, 1)])
def test_latency(lanes: tuple[int, int], lengths: tuple[int, int], beats_needed: int,
                 latency: int) -> None:
    (i_lanes, o_lanes), (length, o_length) = lanes, lengths
    dut = Regroup(4, i_lanes=i_lanes, o_lanes=o_lanes, length=length, o_length=o_length)
    assert dut.latency == latency
    vectors = [[0] * n * (max(lengths) // n) for n in lengths]
    i_beats, o_beats = (len(in_beats(cut(elements, n), count)) for elements, n, count in
                        zip(vectors, lengths, lanes, strict=True))
    assert measure(dut, [[0] * i_lanes] * i_beats, o_beats)[0] == beats_needed - 1 + latency


@pytest.mark.formal
@pytest.mark.parametrize("i_lanes, o_lanes, length, o_length", [
    (2, 2, 3, 6), (2, 3, 6, 3), (2, 1, 2, 4), (1, 2, 4, 2), (2, 4, 2, 6)])
def test_holds_while_stalled(i_lanes: int, o_lanes: int, length: int, o_length: int,
                             tmp_path: Path) -> None:
    dut = Regroup(2, i_lanes=i_lanes, o_lanes=o_lanes, length=length, o_length=o_length)
    assert prove_streams(dut, tmp_path)


@pytest.mark.formal
def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Exposed(Regroup):
        """Shows what lies behind the end of a vector, which changes while stalled."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.o.payload[1].eq(self.i.payload[1])
            return m

    assert not prove_streams(Exposed(2, i_lanes=2, o_lanes=2, length=6, o_length=3), tmp_path)


@pytest.mark.parametrize("wrong, message", [
    ({"i_lanes": 0}, "Number of input lanes must be at least 1, not 0"),
    ({"o_lanes": -1}, "Number of output lanes must be at least 1, not -1"),
    ({"length": 0}, "Number of elements must be at least 1, not 0"),
    ({"o_length": 0}, "Number of output elements must be at least 1, not 0"),
    ({"length": 6, "o_length": 4}, "Number of output elements must be a multiple or a divisor of "
                                   "the 6 input elements, not 4"),
])
def test_sizes_are_checked(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Regroup(4, **{"i_lanes": 1, "o_lanes": 1, "length": 1, **wrong})


def test_pipe_tells_signed_from_unsigned() -> None:
    source = stream.Signature(unsigned(8)).create()
    sink = stream.Signature(signed(8)).flip().create()
    with pytest.raises(TypeError, match=r"^Stream of unsigned\(8\) cannot feed .* signed\(8\)$"):
        pipe(Module(), source, sink)
