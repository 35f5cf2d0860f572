# amaranth: UnusedElaboratable=no
"""The link: images in, results out, and nothing answered but what arrived whole."""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Shape, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.frames import Decoder, encode
from nomul.hw.axis import AxisTop
from nomul.hw.link import (
    Command,
    Feeder,
    Link,
    Refusal,
    Reply,
    RequestReader,
    ResultBytes,
)
from nomul.hw.serial_top import LinkedNetwork
from nomul.hw.stream import vector
from nomul.hw.uart import received_byte
from nomul.sim.bench import transfer
from nomul.sim.formal import prove_streams, stream_ports

DIGEST = bytes(range(0xA0, 0xA8))


class Sums(wiring.Component):  # type: ignore[misc]
    """A network: the sum of an image's bytes, weighted by their places, and maybe its negative.

    It takes its time: ``pause`` cycles after each image.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, length: int, lanes: int, outputs: int, pause: int) -> None:
        self.length = length
        self.lanes = lanes
        self.outputs = outputs
        self.pause = pause
        super().__init__({"i": In(vector(8, lanes)), "o": Out(vector(signed(24), outputs))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(signed(24))
        at = Signal(range(self.length + self.lanes))
        waiting = Signal(range(self.pause + 1))
        added: Any = total
        for lane in range(self.lanes):
            present = at + lane < self.length
            added = added + present * (at + lane + 1) * self.i.payload[lane]
        m.d.comb += self.i.ready.eq((waiting == 0) & ~self.o.valid)
        with m.If(waiting != 0):
            m.d.sync += waiting.eq(waiting - 1)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [total.eq(added), at.eq(at + self.lanes)]
            with m.If(at + self.lanes >= self.length):
                m.d.sync += [at.eq(0), total.eq(0), waiting.eq(self.pause), self.o.valid.eq(1)]
                for n in range(self.outputs):
                    m.d.sync += self.o.payload[n].eq(added - 40 * n if n % 2 == 0 else 40 - added)
        return m


def score(image: bytes, outputs: int) -> list[int]:
    """What `Sums` makes of an image."""
    added = sum((at + 1) * byte for at, byte in enumerate(image))
    return [added - 40 * n if n % 2 == 0 else 40 - added for n in range(outputs)]


class Looped(wiring.Component):  # type: ignore[misc]
    """A `Link` and a network, as one component with a stream at each end."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, length: int, lanes: int = 1, outputs: int = 1, pause: int = 0,
                 depth: int = 4, results: Callable[..., ResultBytes] = ResultBytes,
                 link: type[Link] = Link) -> None:
        self.network = Sums(length, lanes, outputs, pause)
        self.link = link(digest=DIGEST, image_bytes=length, beat_bytes=lanes, depth=depth,
                         results=results(element_bytes=3, signed_elements=True, lanes=outputs,
                                         length=outputs))
        super().__init__({"i": In(stream.Signature(received_byte())),
                          "o": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        m.submodules.link = link = self.link
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        wiring.connect(m, link.images, network.i)
        m.d.comb += [
            link.beats.payload.eq(network.o.payload.as_value()),
            link.beats.valid.eq(network.o.valid),
            network.o.ready.eq(link.beats.ready),
        ]
        return m


def infer(number: int, image: bytes) -> bytes:
    return bytes((Command.INFER, number)) + image


def query(number: int) -> bytes:
    return bytes((Command.QUERY, number))


def result(number: int, image: bytes, outputs: int = 1) -> bytes:
    scores = score(image, outputs)
    listed = b"" if outputs == 1 else b"".join(
        value.to_bytes(3, "little", signed=True) for value in scores)
    best = scores[0] & 0xFFFF if outputs == 1 else int(np.argmax(scores))
    return bytes((Reply.RESULT, number)) + DIGEST + listed + best.to_bytes(2, "little")


def refused(number: int, reason: Refusal) -> bytes:
    return bytes((Reply.REFUSED, number, reason))


def status(number: int, length: int, result_bytes: int, *counters: int) -> bytes:
    """Counters: answered, damaged, refused, overruns."""
    return (bytes((Reply.STATUS, number, 1)) + DIGEST + length.to_bytes(4, "little")
            + result_bytes.to_bytes(4, "little")
            + b"".join(counter.to_bytes(2, "little") for counter in counters))


def converse(dut: Any, line: bytes, replies: list[bytes], *, seed: int, stall: float = 0.3,
             damaged: tuple[int, ...] = ()) -> None:
    """Send ``line``, whose bytes at ``damaged`` are marked so; ``replies`` must come.

    Results come in order; a reply that needs no network may overtake them. Frames at the end of
    ``line`` that are answered show that those before them were not answered more than once.
    """
    sent = [{"byte": byte, "damaged": at in damaged} for at, byte in enumerate(line)]
    count = sum(len(encode(reply)) for reply in replies)
    got = Decoder().feed(bytes(transfer(dut, sent, count, seed=seed, stall=stall)))

    def of_network(frames: list[bytes]) -> list[bytes]:
        return [frame for frame in frames if frame[0] == Reply.RESULT]

    assert sorted(got) == sorted(replies)
    assert of_network(got) == of_network(replies)


@pytest.mark.parametrize(("length", "lanes", "outputs"), [
    (1, 1, 1), (5, 1, 1), (5, 2, 1), (6, 3, 2), (7, 4, 3), (3, 1, 5)])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_images_are_answered(length: int, lanes: int, outputs: int, stall: float) -> None:
    rng = np.random.default_rng(length)
    images = [rng.bytes(length) for _ in range(6)] + [b"\x7e" * length, b"\x7d" * length]
    line = b"".join(encode(infer(n, image)) for n, image in enumerate(images))
    converse(Looped(length=length, lanes=lanes, outputs=outputs, depth=64), line,
             [result(n, image, outputs) for n, image in enumerate(images)], seed=length,
             stall=stall)


IMAGE = bytes((1, 2, 3, 4))


@pytest.mark.parametrize(("name", "line", "replies"), [
    ("unknown command", encode(b"\x09\x05"), [refused(5, Refusal.COMMAND)]),
    ("unknown command with content", encode(b"\x09\x05abcdefghijkl"),
     [refused(5, Refusal.COMMAND)]),
    ("short image", encode(infer(6, IMAGE[:3])), [refused(6, Refusal.LENGTH)]),
    ("no image", encode(infer(6, b"")), [refused(6, Refusal.LENGTH)]),
    ("long image", encode(infer(6, IMAGE + b"x")), [refused(6, Refusal.LENGTH)]),
    ("very long image", encode(infer(6, IMAGE * 40)), [refused(6, Refusal.LENGTH)]),
    ("query with content", encode(query(6) + b"x"), [refused(6, Refusal.LENGTH)]),
    ("no number", encode(b"\x01"), []),
    ("nothing", encode(b""), []),
    ("noise", b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", []),
    ("noise like an image", b"\x7e\x02\x07abcdefgh\x7e", []),
    ("cut short", encode(infer(6, IMAGE))[:-3], []),
    ("cut within the image", encode(infer(6, IMAGE))[:5], []),
    ("closing flag lost", encode(infer(6, IMAGE))[:-1], [result(6, IMAGE)]),
    ("opening flag lost", encode(infer(6, IMAGE))[1:], [result(6, IMAGE)]),
    ("a byte lost", encode(infer(6, IMAGE))[:4] + encode(infer(6, IMAGE))[5:], []),
    ("a byte twice", encode(infer(6, IMAGE))[:4] + encode(infer(6, IMAGE))[3:], []),
    ("ends in an escape", encode(infer(6, IMAGE))[:-1] + b"\x7d\x7e", []),
])
def test_what_is_not_right_is_refused_or_dropped(name: str, line: bytes,
                                                 replies: list[bytes]) -> None:
    after = bytes((9, 8, 7, 6))
    for outputs in (1, 2):
        if outputs == 2:
            replies = [result(6, IMAGE, 2) if reply[0] == Reply.RESULT else reply
                       for reply in replies]
        converse(Looped(length=4, outputs=outputs, depth=16),
                 line + encode(infer(7, after)) + encode(infer(8, IMAGE)),
                 [*replies, result(7, after, outputs), result(8, IMAGE, outputs)], seed=len(name))


def test_bytes_marked_as_damaged_are_noticed() -> None:
    frame = encode(infer(6, IMAGE))
    for at in range(1, len(frame) - 1):
        converse(Looped(length=4, depth=16), frame + encode(infer(7, IMAGE)), [result(7, IMAGE)],
                 seed=at, damaged=(at,))


def test_the_status_counts() -> None:
    frame = encode(infer(6, IMAGE))
    line = frame + frame[:5] + frame + encode(b"\x33\x01") + encode(query(2))
    converse(Looped(length=4, depth=16), line,
             [result(6, IMAGE), result(6, IMAGE), refused(1, Refusal.COMMAND),
              status(2, 4, 2, 2, 1, 1, 0)], seed=1)


def test_a_slow_network_refuses_what_it_cannot_take() -> None:
    images = [bytes((n, n, n, n)) for n in range(6)]
    line = b"".join(encode(infer(n, image)) for n, image in enumerate(images))
    # 200 cycles an image, where the line brings one in some 90.
    dut = Looped(length=4, pause=200, depth=2)
    sent = [{"byte": byte, "damaged": 0} for byte in line]
    got = Decoder().feed(bytes(transfer(dut, sent, 50, seed=1, stall=0.0)))
    assert got[0] == result(0, images[0])
    assert any(reply[0] == Reply.REFUSED and reply[2] == Refusal.OVERRUN for reply in got)
    for reply in got:
        if reply[0] == Reply.RESULT:
            assert reply == result(reply[1], images[reply[1]])


def test_the_bench_can_fail() -> None:
    class Trusting(RequestReader):
        """Takes every frame for good."""

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.inner = inner = RequestReader(self.length)
            wiring.connect(m, inner.image, wiring.flipped(self.image))
            wiring.connect(m, inner.request, wiring.flipped(self.request))
            m.d.comb += [
                inner.i.p.byte.eq(self.i.p.byte), inner.i.p.end.eq(self.i.p.end),
                inner.i.p.good.eq(1), inner.i.valid.eq(self.i.valid),
                self.i.ready.eq(inner.i.ready),
            ]
            return m

    frame = bytearray(encode(infer(6, IMAGE)))
    frame[4] ^= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomul.hw.link.RequestReader", Trusting)
        with pytest.raises(AssertionError):
            converse(Looped(length=4, depth=16), bytes(frame) + encode(infer(7, IMAGE)),
                     [result(7, IMAGE)], seed=1)


@pytest.mark.parametrize(("is_signed", "values", "best"), [
    (True, [-3, -1, -1, -2], 1), (False, [1, 0xFFFF, 5, 0xFFFF], 1), (True, [-32768] * 4, 0),
    (True, [0, 0, 0, 32767], 3)])
@pytest.mark.parametrize("lanes", [1, 3])
def test_the_class_is_the_first_of_the_largest(is_signed: bool, values: list[int], best: int,
                                               lanes: int) -> None:
    dut = ResultBytes(element_bytes=2, signed_elements=is_signed, lanes=lanes, length=4)
    assert dut.total == 10
    padded = [value & 0xFFFF for value in (*values, 0, 0)]
    beats = [sum(value << 16 * lane for lane, value in enumerate(padded[at:at + lanes]))
             for at in range(0, 4, lanes)]
    expected = b"".join((value & 0xFFFF).to_bytes(2, "little") for value in (*values, best))
    assert bytes(transfer(dut, beats * 3, 30, seed=lanes)) == expected * 3


def test_a_map_of_results_is_listed_as_a_whole() -> None:
    dut = ResultBytes(element_bytes=1, signed_elements=False, lanes=2, length=3, vectors=2)
    assert bytes(transfer(dut, [0x0201, 0x0003, 0x0509, 0x0004], 8, seed=1)) == bytes(
        (1, 2, 3, 9, 5, 4, 3, 0))


@pytest.mark.formal
@pytest.mark.parametrize("make", [Feeder, RequestReader], ids=lambda make: make.__name__)
def test_stream_rules_of_what_has_two_outputs(make: Callable[[int], Any], tmp_path: Path) -> None:
    dut = make(2)
    assert len(stream_ports(dut)) == 3  # each may be stalled at will
    assert prove_streams(dut, tmp_path)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: RequestReader(0), "Bytes of an image must be at least 1, not 0"),
    (lambda: Feeder(0), "Bytes of an image must be at least 1, not 0"),
    (lambda: ResultBytes(element_bytes=1, signed_elements=False, lanes=1, length=1 << 17),
     "Elements of a result must be 1 to 65536, not 131072"),
])
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_an_image_of_several_bytes_a_code_is_counted_in_bytes() -> None:
    class Body(wiring.Component):  # type: ignore[misc]
        i: stream.Interface
        o: stream.Interface

        def __init__(self) -> None:
            super().__init__({
                "i": In(stream.Signature(data.ArrayLayout(unsigned(10), 2))),
                "o": Out(stream.Signature(data.ArrayLayout(unsigned(4), 1)))})

    core = LinkedNetwork(AxisTop(Body(), i_length=5, o_length=1), digest=DIGEST, depth=1)
    assert (core.image_bytes, core.beat_bytes) == (10, 4)
    assert Shape.cast(core.network.s_axis_tdata.shape()).width == 32
