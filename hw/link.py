"""A network behind a line of bytes: frames in, frames out (docs/link.md).

An image goes into the network while it arrives, so that no memory has to hold it. Whether its
frame was good is known only at the end; until then its result stays in the network. Of a frame
that was not good the rest is made up with zeros, and the result that comes of it is dropped: so
the network always takes whole images, and nothing is answered but what arrived whole.
"""
from __future__ import annotations

import enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.argmax import Argmax
from nomul.hw.branch import Fork, Queue
from nomul.hw.crc import CRC_BYTES
from nomul.hw.frames import Framer, Unframer, frame_byte, frame_event
from nomul.hw.stream import Regroup, count_to, pipe, vector
from nomul.hw.uart import received_byte

__all__ = ["CLASS_BYTES", "DIGEST_BYTES", "VERSION", "Command", "Feeder", "Link", "Refusal",
           "Replier", "Reply", "RequestReader", "ResultBytes"]

#: Version of the protocol, which a board tells.
VERSION = 1
#: Bytes of the class in a result.
CLASS_BYTES = 2
#: Bytes of the network's digest that a board tells, the first ones.
DIGEST_BYTES = 8

_COUNTER = 16  # bits, of each of the counters that a board tells
_IN_FLIGHT = 2  # images whose frame has ended and whose result has not left


class Command(enum.IntEnum):
    """First byte of a frame to the board; the second one is a number that the reply repeats."""

    QUERY = 0x01
    INFER = 0x02


class Reply(enum.IntEnum):
    """First byte of a frame from the board; the second one is the number of the request."""

    STATUS = 0x81
    RESULT = 0x82
    REFUSED = 0xFF


class Refusal(enum.IntEnum):
    """Why a frame that arrived whole is refused; `Reply.REFUSED` carries it."""

    COMMAND = 1
    """No such command."""
    LENGTH = 2
    """As many bytes as the command does not have."""
    OVERRUN = 3
    """The network could not keep up with the line."""


def _image_event() -> data.StructLayout:
    """A byte of an image; or its end, whether it is good, and the request's number as the byte."""
    return data.StructLayout({"byte": 8, "end": 1, "good": 1})


def _verdict() -> data.StructLayout:
    """Whether the image that went in next is to be answered, and the number of the request."""
    return data.StructLayout({"number": 8, "good": 1})


def _request() -> data.StructLayout:
    """A reply that needs no network: refused for a reason, or (0) the status."""
    return data.StructLayout({"number": 8, "reason": range(len(Refusal) + 1)})


class RequestReader(wiring.Component):
    """Frames from the host: images go on as they come, and each whole frame is judged at its end.

    A byte of an image that finds the one before it not yet taken is lost, and the frame refused.
    An image of which any byte went on gets exactly one end. Ends wait until they are taken:
    ``i.ready`` then depends combinationally on ``image.ready`` and ``request.ready``.

    Latency: 1 cycle. Throughput: 1 event a cycle.

    Parameters
    ----------
    length : int
        Bytes of an image; at least 1.

    Members
    -------
    i : In(stream.Signature(frame_event()))
        Bytes and ends of frames.
    image : Out(stream.Signature(_image_event()))
        Bytes of images, at most ``length``, and their ends; of a good image exactly ``length``.
    request : Out(stream.Signature(_request()))
        What is to be answered without the network.
    damaged, refused, overruns : Out(16)
        Frames that did not arrive whole, whole frames that were refused, and those of them for
        `Refusal.OVERRUN`; counted since reset, modulo 2**16.
    """

    i: stream.Interface
    image: stream.Interface
    request: stream.Interface
    damaged: Signal
    refused: Signal
    overruns: Signal

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"Bytes of an image must be at least 1, not {length!r}")
        self.length = length
        super().__init__({
            "i": In(stream.Signature(frame_event())),
            "image": Out(stream.Signature(_image_event())),
            "request": Out(stream.Signature(_request())),
            "damaged": Out(_COUNTER), "refused": Out(_COUNTER), "overruns": Out(_COUNTER),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        header = 2
        longest = header + self.length + CRC_BYTES
        count = Signal(range(longest + 2))  # bytes of the frame; stays at the end if too long
        infer, query = Signal(), Signal()  # which command it is, if it is one
        number = Signal(8)
        opened = Signal()  # bytes of the image went on
        overrun = Signal()

        whole = Signal()
        fits = Signal()
        reason = Signal(range(len(Refusal) + 1))
        answer = Signal()
        m.d.comb += [
            whole.eq(self.i.p.good & (count >= header + CRC_BYTES)),
            fits.eq(Mux(infer, count == longest, count == header + CRC_BYTES)),
            reason.eq(Mux(~infer & ~query, Refusal.COMMAND,
                          Mux(~fits, Refusal.LENGTH, Mux(overrun, Refusal.OVERRUN, 0)))),
            answer.eq(whole & ((reason != 0) | query)),
        ]

        image_free = ~self.image.valid | self.image.ready
        request_free = ~self.request.valid | self.request.ready
        m.d.comb += self.i.ready.eq(~self.i.p.end | (image_free & request_free))
        seen = Signal(3)  # of the frame that has just ended, what is to be counted
        m.d.sync += seen.eq(0)
        for event, counter in zip(seen, (self.damaged, self.refused, self.overruns), strict=True):
            with m.If(event):
                m.d.sync += counter.eq(counter + 1)
        with m.If(self.image.ready):
            m.d.sync += self.image.valid.eq(0)
        with m.If(self.request.ready):
            m.d.sync += self.request.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            with m.If(self.i.p.end):
                m.d.sync += [count.eq(0), opened.eq(0), overrun.eq(0)]
                with m.If(opened):
                    m.d.sync += [
                        self.image.p.byte.eq(number),
                        self.image.p.end.eq(1),
                        self.image.p.good.eq(whole & (reason == 0)),
                        self.image.valid.eq(1),
                    ]
                with m.If(answer):
                    m.d.sync += [
                        self.request.p.number.eq(number),
                        self.request.p.reason.eq(reason),
                        self.request.valid.eq(1),
                    ]
                m.d.sync += seen.eq(Cat(~whole, whole & (reason != 0),
                                        whole & (reason == Refusal.OVERRUN)))
            with m.Else():
                with m.If(count != longest + 1):
                    m.d.sync += count.eq(count + 1)
                with m.If(count == 0):
                    m.d.sync += [infer.eq(self.i.p.byte == Command.INFER),
                                 query.eq(self.i.p.byte == Command.QUERY)]
                with m.Elif(count == 1):
                    m.d.sync += number.eq(self.i.p.byte)
                with m.Elif(infer & (count < header + self.length)):
                    with m.If(image_free):
                        m.d.sync += [
                            self.image.p.byte.eq(self.i.p.byte),
                            self.image.p.end.eq(0),
                            self.image.p.good.eq(0),
                            self.image.valid.eq(1),
                            opened.eq(1),
                        ]
                    with m.Else():
                        m.d.sync += overrun.eq(1)

        return m


class Feeder(wiring.Component):
    """Images that may end early to whole ones: what is missing is made up with zeros.

    All paths are combinational, but for the count of bytes.

    Latency: 0 cycles. Throughput: 1 byte a cycle.

    Parameters
    ----------
    length : int
        Bytes of an image; at least 1.

    Members
    -------
    i : In(stream.Signature(_image_event()))
        At most ``length`` bytes of an image, and its end.
    o : Out(stream.Signature(unsigned(8)))
        Exactly ``length`` bytes of each image.
    verdict : Out(stream.Signature(_verdict()))
        Of each image, when all of its bytes have gone on.
    """

    i: stream.Interface
    o: stream.Interface
    verdict: stream.Interface

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"Bytes of an image must be at least 1, not {length!r}")
        self.length = length
        super().__init__({
            "i": In(stream.Signature(_image_event())),
            "o": Out(stream.Signature(unsigned(8))),
            "verdict": Out(stream.Signature(_verdict())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        left = Signal(range(self.length + 1), init=self.length)
        ended = Signal()
        m.d.comb += [
            ended.eq(self.i.p.end & (left == 0)),
            self.o.valid.eq(self.i.valid & ~ended),
            self.o.payload.eq(Mux(self.i.p.end, 0, self.i.p.byte)),
            self.verdict.valid.eq(self.i.valid & ended),
            self.verdict.p.number.eq(self.i.p.byte),
            self.verdict.p.good.eq(self.i.p.good),
            self.i.ready.eq(Mux(self.i.p.end, ended & self.verdict.ready, self.o.ready)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += left.eq(left - 1)
        with m.If(self.verdict.valid & self.verdict.ready):
            m.d.sync += left.eq(self.length)

        return m


class ResultBytes(wiring.Component):
    """Results to bytes: the elements, if there are several, and the class in two bytes.

    The class is the index of the largest element, the first one of equals; a single element is the
    class itself. Bytes go lowest first. ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 0 cycles to the first element. Throughput: 1 byte a cycle.

    Parameters
    ----------
    element_bytes : int
        Bytes of an element.
    signed_elements : bool
        Whether they are two's complement.
    lanes : int
        Elements of a beat.
    length : int
        Elements of a vector.
    vectors : int
        Vectors of a result.

    Members
    -------
    i : In(stream.Signature(unsigned(8 * element_bytes * lanes)))
        Beats; those of several vectors make a result.
    o : Out(stream.Signature(unsigned(8)))
        `total` bytes of each result.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, element_bytes: int, signed_elements: bool, lanes: int, length: int,
                 vectors: int = 1) -> None:
        self.element_bytes = element_bytes
        self.signed_elements = signed_elements
        self.lanes = lanes
        self.length = length
        self.vectors = vectors
        self.elements = length * vectors
        if not 1 <= self.elements <= 1 << 16:
            raise ValueError(f"Elements of a result must be 1 to 65536, not {self.elements!r}")
        #: Elements that are listed before the class.
        self.scores = self.elements if self.elements > 1 else 0
        self.total = self.scores * element_bytes + CLASS_BYTES
        super().__init__({
            "i": In(stream.Signature(unsigned(8 * element_bytes * lanes))),
            "o": Out(stream.Signature(unsigned(8))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        bits = 8 * self.element_bytes
        m.submodules.elements = elements = Regroup(bits, i_lanes=self.lanes, o_lanes=1,
                                                   length=self.length)
        m.d.comb += [
            elements.i.payload.as_value().eq(self.i.payload),
            elements.i.valid.eq(self.i.valid),
            self.i.ready.eq(elements.i.ready),
        ]
        if not self.scores:
            self._split(m, elements.o, CLASS_BYTES, self.o)
            return m

        m.submodules.fork = fork = Fork(elements.o.payload.shape(), 2)
        shape = signed(bits) if self.signed_elements else unsigned(bits)
        m.submodules.argmax = argmax = Argmax(shape, lanes=1, length=self.elements)
        pipe(m, elements.o, fork.i)
        m.d.comb += [
            argmax.i.payload[0].eq(fork.o_1.payload[0]),
            argmax.i.valid.eq(fork.o_1.valid),
            fork.o_1.ready.eq(argmax.i.ready),
        ]
        scores, index = (stream.Signature(unsigned(8)).create(path=(name,))
                         for name in ("score_byte", "class_byte"))
        self._split(m, fork.o_0, self.element_bytes, scores)
        self._split(m, argmax.o, CLASS_BYTES, index)
        count, _ = count_to(m, "position", self.total, self.o.valid & self.o.ready)
        listing = count < self.total - CLASS_BYTES
        m.d.comb += [
            self.o.payload.eq(Mux(listing, scores.payload, index.payload)),
            self.o.valid.eq(Mux(listing, scores.valid, index.valid)),
            scores.ready.eq(self.o.ready & listing),
            index.ready.eq(self.o.ready & ~listing),
        ]
        return m

    def _split(self, m: Module, source: stream.Interface, size: int,
               sink: stream.Interface) -> None:
        """Elements of ``source`` as ``size`` bytes each, zero-extended or cut."""
        part, ends = count_to(m, f"part_{size}_{sink.payload.name}", size, sink.valid & sink.ready)
        word = Signal(8 * size, name=f"word_{size}_{sink.payload.name}")
        m.d.comb += [
            word.eq(source.payload.as_value()),
            sink.payload.eq(word.word_select(part, 8)),
            sink.valid.eq(source.valid),
            source.ready.eq(sink.ready & ends),
        ]


class Replier(wiring.Component):
    """What the board answers: results in the order of the images, and replies without a network.

    A result whose verdict is bad is taken and dropped. ``result.ready`` depends combinationally on
    ``o.ready``.

    Latency: 1 cycle, to the first byte of a reply. Throughput: 1 byte a cycle.

    Parameters
    ----------
    digest : bytes
        First `DIGEST_BYTES` bytes of the network's digest.
    image_bytes : int
        Bytes of an image; below 2**32.
    result_bytes : int
        Bytes of a result; below 2**32.

    Members
    -------
    verdict : In(stream.Signature(_verdict()))
        Of each image.
    result : In(stream.Signature(unsigned(8)))
        ``result_bytes`` for each verdict.
    request : In(stream.Signature(_request()))
        Replies without a network.
    damaged, refused, overruns : In(16)
        Counters, for the status.
    o : Out(stream.Signature(frame_byte()))
        Bytes of replies.
    answered : Out(16)
        Results that were answered since reset, modulo 2**16.
    """

    verdict: stream.Interface
    result: stream.Interface
    request: stream.Interface
    damaged: Signal
    refused: Signal
    overruns: Signal
    o: stream.Interface
    answered: Signal

    def __init__(self, *, digest: bytes, image_bytes: int, result_bytes: int) -> None:
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"Digest must have {DIGEST_BYTES} bytes, not {len(digest)}")
        self.digest = digest
        self.image_bytes = image_bytes
        self.result_bytes = result_bytes
        super().__init__({
            "verdict": In(stream.Signature(_verdict())),
            "result": In(stream.Signature(unsigned(8))),
            "request": In(stream.Signature(_request())),
            "damaged": In(_COUNTER), "refused": In(_COUNTER), "overruns": In(_COUNTER),
            "o": Out(stream.Signature(frame_byte())),
            "answered": Out(_COUNTER),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        number = Signal(8)
        reason = Signal.like(self.request.p.reason)
        good = Signal()
        # The replies' fixed bytes lie one behind the other.
        facts = bytes([VERSION, *self.digest, *self.image_bytes.to_bytes(4, "little"),
                       *self.result_bytes.to_bytes(4, "little")])
        counters = (self.answered, self.damaged, self.refused, self.overruns)
        status: list[Value] = [Const(Reply.STATUS, 8), number, *_constants(facts),
                               *(half for c in counters for half in (c[:8], c[8:]))]
        refusal = [Const(Reply.REFUSED, 8), number, reason]
        head = [Const(Reply.RESULT, 8), number, *_constants(self.digest)]
        rows = [*status, *refusal, *head]
        refusal_at, head_at = len(status), len(status) + len(refusal)
        position = Signal(range(len(rows)))
        row = Signal(8)
        with m.Switch(position):
            for n, value in enumerate(rows):
                with m.Case(n):
                    m.d.comb += row.eq(value)

        with m.FSM(name="reply"):
            with m.State("idle"):
                m.d.comb += [
                    self.verdict.ready.eq(1),
                    self.request.ready.eq(~self.verdict.valid),
                ]
                with m.If(self.verdict.valid):
                    m.d.sync += [number.eq(self.verdict.p.number), good.eq(self.verdict.p.good),
                                 position.eq(head_at)]
                    with m.If(self.verdict.p.good):
                        m.next = "fixed"
                    with m.Else():
                        m.next = "result"
                with m.Elif(self.request.valid):
                    m.d.sync += [number.eq(self.request.p.number),
                                 reason.eq(self.request.p.reason),
                                 position.eq(Mux(self.request.p.reason == 0, 0, refusal_at))]
                    m.next = "fixed"
            with m.State("fixed"):
                ends = (position == refusal_at - 1) | (position == head_at - 1)
                m.d.comb += [self.o.p.byte.eq(row), self.o.p.last.eq(ends), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    m.d.sync += position.eq(position + 1)
                    with m.If(ends):
                        m.next = "idle"
                    with m.Elif(position == len(rows) - 1):
                        m.next = "result"
            with m.State("result"):
                moves = self.result.valid & self.result.ready
                _, last = count_to(m, "result_byte", self.result_bytes, moves)
                m.d.comb += [
                    self.o.p.byte.eq(self.result.payload),
                    self.o.p.last.eq(last),
                    self.o.valid.eq(self.result.valid & good),
                    self.result.ready.eq(self.o.ready | ~good),
                ]
                with m.If(moves & last):
                    m.d.sync += self.answered.eq(self.answered + good)
                    m.next = "idle"

        return m


def _constants(content: bytes) -> list[Value]:
    return [Const(byte, 8) for byte in content]


class Link(wiring.Component):
    """A network's images and results in frames on a line of bytes.

    Parameters
    ----------
    digest : bytes
        First `DIGEST_BYTES` bytes of the network's digest.
    image_bytes : int
        Bytes of an image.
    beat_bytes : int
        Bytes of a beat of an image.
    results : ResultBytes
        What makes bytes of the network's results.
    depth : int
        Bytes that wait before the network; at least 1.

    Members
    -------
    i : In(stream.Signature(received_byte()))
        Bytes off the line.
    o : Out(stream.Signature(unsigned(8)))
        Bytes onto the line.
    images : Out(vector(8, beat_bytes))
        Images for the network.
    beats : In(stream.Signature(...))
        Results of the network, as ``results`` takes them.
    answered : Out(16)
        Results that were answered since reset, modulo 2**16.
    """

    i: stream.Interface
    o: stream.Interface
    images: stream.Interface
    beats: stream.Interface
    answered: Signal

    def __init__(self, *, digest: bytes, image_bytes: int, beat_bytes: int, results: ResultBytes,
                 depth: int) -> None:
        self.digest = digest
        self.image_bytes = image_bytes
        self.beat_bytes = beat_bytes
        self.results = results
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(received_byte())),
            "o": Out(stream.Signature(unsigned(8))),
            "images": Out(vector(8, beat_bytes)),
            "beats": In(stream.Signature(results.i.payload.shape())),
            "answered": Out(_COUNTER),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.unframer = unframer = Unframer()
        m.submodules.reader = reader = RequestReader(self.image_bytes)
        m.submodules.queue = queue = Queue(_image_event(), self.depth)
        m.submodules.feeder = feeder = Feeder(self.image_bytes)
        m.submodules.verdicts = verdicts = Queue(_verdict(), _IN_FLIGHT)
        m.submodules.beats = beats = Regroup(8, i_lanes=1, o_lanes=self.beat_bytes,
                                             length=self.image_bytes)
        m.submodules.results = results = self.results
        m.submodules.replier = replier = Replier(digest=self.digest, image_bytes=self.image_bytes,
                                                 result_bytes=results.total)
        m.submodules.framer = framer = Framer()

        pipe(m, wiring.flipped(self.i), unframer.i)
        pipe(m, unframer.o, reader.i)
        pipe(m, reader.image, queue.i)
        pipe(m, queue.o, feeder.i)
        pipe(m, feeder.verdict, verdicts.i)
        pipe(m, beats.o, wiring.flipped(self.images))
        pipe(m, wiring.flipped(self.beats), results.i)
        pipe(m, verdicts.o, replier.verdict)
        pipe(m, results.o, replier.result)
        pipe(m, reader.request, replier.request)
        pipe(m, replier.o, framer.i)
        pipe(m, framer.o, wiring.flipped(self.o))
        m.d.comb += [
            beats.i.payload[0].eq(feeder.o.payload),
            beats.i.valid.eq(feeder.o.valid),
            feeder.o.ready.eq(beats.i.ready),
            replier.damaged.eq(reader.damaged),
            replier.refused.eq(reader.refused),
            replier.overruns.eq(reader.overruns),
            self.answered.eq(replier.answered),
        ]

        return m
