# amaranth: UnusedElaboratable=no
"""Frames: what goes out is RFC 1662 with zlib's checksum, and what comes in is judged right."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module

from nomul.boards.frames import Decoder, encode
from nomul.hw.frames import ESCAPE, FLAG, Framer, Unframer
from nomul.sim.bench import transfer
from nomul.sim.formal import prove_streams

#: The bytes that need an escape, and those that come of it, alone and together.
CORNERS = [b"\x7e", b"\x7d", b"\x5e\x5d\x7d\x7e\x7e", bytes(5), b"\xff" * 9]


def contents(seed: int, count: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    odd = [bytes(rng.choice([FLAG, ESCAPE, 0x5E, 0x5D, 0, 7], size=12).tolist()) for _ in range(8)]
    return [*CORNERS, *odd, *(rng.bytes(int(rng.integers(1, 30))) for _ in range(count))]


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_frames_go_out_as_the_standard_says(stall: float) -> None:
    frames = contents(1, 20)
    expected = b"".join(map(encode, frames))
    sent = [{"byte": byte, "last": at == len(frame) - 1}
            for frame in frames for at, byte in enumerate(frame)]
    assert bytes(transfer(Framer(), sent, len(expected), seed=1, stall=stall)) == expected
    assert Decoder().feed(expected) == frames


@pytest.mark.parametrize("content", [b"123456789", b"\x7e\x7d"])
def test_the_known_answer(content: bytes) -> None:
    # CRC-32 of "123456789" is 0xCBF43926, in every list of such checksums.
    assert encode(b"123456789") == b"\x7e123456789\x26\x39\xf4\xcb\x7e"
    assert Decoder().feed(encode(content)) == [content]


def read(line: list[tuple[int, int]], events: int, *, stall: float = 0.3) -> list[Any]:
    """Events of an `Unframer` for bytes and whether they are damaged: byte, or end's verdict."""
    got = transfer(Unframer(), [{"byte": byte, "damaged": damaged} for byte, damaged in line],
                   events, seed=len(line), stall=stall)
    return [bool(event.good) if event.end else int(event.byte) for event in got]


def good(content: bytes) -> list[tuple[int, int]]:
    return [(byte, 0) for byte in encode(content)]


def test_frames_come_in() -> None:
    frames = contents(2, 20)
    line = [byte for frame in frames for byte in good(frame)]
    expected: list[Any] = []
    for frame in frames:
        checked = Decoder()
        assert checked.feed(encode(frame)) == [frame]
        expected += [*frame, None, None, None, None, True]
    got = read(line, len(expected))
    assert [event for event, due in zip(got, expected, strict=True)
            if due is not None] == [due for due in expected if due is not None]


@pytest.mark.parametrize(("name", "line", "expected"), [
    ("nothing between flags", [(FLAG, 0)] * 3, []),
    ("noise before a frame", [(1, 0), (2, 0)], [1, 2, False]),
    ("a flag behind an escape", [(FLAG, 0), (5, 0), (ESCAPE, 0), (FLAG, 0)], [5, False]),
    ("only an escape", [(ESCAPE, 0), (FLAG, 0)], [False]),
    ("a damaged byte", [(FLAG, 0), (5, 0), (6, 1), (FLAG, 0)], [5, False]),
    ("a damaged flag", [(FLAG, 0), (5, 0), (FLAG, 1), (FLAG, 0)], [5, False]),
    ("a damaged escape", [(FLAG, 0), (ESCAPE, 0), (ESCAPE, 1), (6, 0), (FLAG, 0)], [6, False]),
])
def test_what_is_no_frame_ends_and_the_next_one_is_good(
        name: str, line: list[tuple[int, int]], expected: list[Any]) -> None:
    after = good(b"hi")
    events = [*expected, *b"hi"]
    got = read([*line, *after], len(events) + 5)
    assert got[:len(events)] == events, name
    assert got[-1] is True


def test_any_one_damaged_byte_is_noticed() -> None:
    frame = b"\x02\x07" + bytes(range(0x70, 0x82))
    rng = np.random.default_rng(3)
    line = encode(frame)
    for at in range(1, len(line) - 1):
        broken = bytearray(line)
        broken[at] ^= int(rng.integers(1, 256))
        wanted = Decoder()
        assert frame not in wanted.feed(bytes(broken))
        events = read([*((byte, 0) for byte in broken), *good(b"x")],
                      sum(_count(bytes(part)) for part in (broken, encode(b"x"))), stall=0.0)
        assert [event for event in events if isinstance(event, bool)][-1] is True
        assert sum(event is True for event in events) == 1


def _count(line: bytes) -> int:
    """Events of a line: bytes that are neither flags nor escapes, and ends."""
    events, inside, escaped = 0, False, False
    for byte in line:
        if byte == FLAG:
            events += inside or escaped
            inside = escaped = False
        elif byte == ESCAPE and not escaped:
            escaped = True
        else:
            events, inside, escaped = events + 1, True, False
    return events


@pytest.mark.formal
@pytest.mark.parametrize("dut", [Unframer(), Framer()], ids=lambda dut: type(dut).__name__)
def test_stream_rules(dut: Any, tmp_path: Path) -> None:
    assert prove_streams(dut, tmp_path)


@pytest.mark.formal
def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Hasty(Unframer):
        """Gives its next event whether or not the last one was taken."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.i.ready.eq(1)
            return m

    assert not prove_streams(Hasty(), tmp_path)
