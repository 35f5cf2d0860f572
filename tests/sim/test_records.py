"""What the recorders of a bench leave, read and compared."""
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.emit import Port
from nomul.compiler.values import Ints
from nomul.sim.records import beats_of, compare, read_records

WIDE = Port(layer="sums", lanes=3, bits=21, signed=True)


def lines(port: Port, elements: Ints, run: int, start: int = 0) -> str:
    """As a recorder writes them, a beat every third cycle."""
    digits = -(-port.lanes * port.bits // 4)
    mask = (1 << port.bits) - 1
    words = [sum((int(e) & mask) << lane * port.bits for lane, e in enumerate(beat))
             for beat in elements]
    return "".join(f"{run:02x}{start + 3 * n:012x}{word:0{digits}x}\n"
                   for n, word in enumerate(words))


@pytest.mark.parametrize("port", [
    WIDE, Port(layer="codes", lanes=1, bits=1, signed=False),
    Port(layer="codes", lanes=40, bits=4, signed=False),
    Port(layer="sums", lanes=1, bits=53, signed=True)])
def test_elements_are_read_as_they_were_written(port: Port, tmp_path: Path) -> None:
    low = -(1 << port.bits - 1) if port.signed else 0
    elements = np.random.default_rng(0).integers(low, low + (1 << port.bits), (9, port.lanes))
    elements[0], elements[1] = low, low + (1 << port.bits) - 1
    file = tmp_path / "0.beats"
    file.write_text(lines(port, elements[:4], 0) + lines(port, elements, 1, 10**9))
    cycles, got = read_records(file, port, 1)
    assert got.tolist() == elements.tolist()
    assert cycles.tolist() == [10**9 + 3 * n for n in range(9)]
    assert read_records(file, port, 0)[1].tolist() == elements[:4].tolist()


def test_half_a_line_is_no_beat(tmp_path: Path) -> None:
    file = tmp_path / "0.beats"
    file.write_text(lines(WIDE, np.zeros((2, 3), dtype=np.int64), 0)[:-3])
    assert len(read_records(file, WIDE, 0)[0]) == 1
    file.write_text("")
    assert len(read_records(file, WIDE, 0)[0]) == 0


def test_differences_are_found_and_placed(tmp_path: Path) -> None:
    """Images of 2 vectors of 4 elements: 2 beats of 3 lanes each, of which 2 hold anything."""
    due = np.arange(-8, 16).reshape(3, 2, 4)
    beats = np.full((3, 2, 2, 3), 999)
    beats.reshape(3, 2, 6)[..., :4] = due
    file = tmp_path / "0.beats"
    assert beats_of((2, 4), 3) == 4

    file.write_text(lines(WIDE, beats.reshape(-1, 3), 0))
    right = compare(file, WIDE, due, 0)
    assert (right.seen, right.wrong, right.first_difference) == (12, set(), None)
    assert right.got.tolist() == due.reshape(3, 8).tolist()
    assert right.timeline[1] == {"layer": "sums", "image": 1, "first": 12, "last": 21}

    beats[1, 1, 1, 0] += 1
    beats[2, 0, 0, 2] = 77
    file.write_text(lines(WIDE, beats.reshape(-1, 3)[:-1], 0))
    wrong = compare(file, WIDE, due, 0)
    assert (wrong.seen, wrong.wrong, len(wrong.got)) == (11, {1, 2}, 2)
    assert wrong.first_difference == {"layer": "sums", "image": 1, "cycle": 21,
                                      "position": [1, 3], "expected": 7, "got": 8}
