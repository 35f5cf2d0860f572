"""Frames of bytes on a line that may lose or damage some: flags, escapes and a checksum.

A frame is a flag, its bytes, their CRC-32 with the lowest byte first, and a flag. Within it a byte
that equals a flag or an escape is sent as an escape and the byte with bit 5 inverted, so that a
flag on the line is always the border of a frame: whatever happened before, the next frame is read
from its start. This is the framing of RFC 1662 with its 32-bit check sequence.
"""
from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.crc import CRC_BYTES, CRC_RESIDUE, CRC_START, crc_step
from nomul.hw.uart import received_byte

__all__ = ["ESCAPE", "ESCAPED", "FLAG", "Framer", "Unframer", "frame_byte", "frame_event"]

FLAG = 0x7E
ESCAPE = 0x7D
ESCAPED = 0x20
"""What an escaped byte is inverted by."""


def frame_byte() -> data.StructLayout:
    """A byte of a frame that is to be sent, and whether it is the last one."""
    return data.StructLayout({"byte": 8, "last": 1})


def frame_event() -> data.StructLayout:
    """A byte of a frame; or its end, and whether the frame is good."""
    return data.StructLayout({"byte": 8, "end": 1, "good": 1})


class Unframer(wiring.Component):
    """Bytes off a line to frames: their bytes as they come, checksum and all, and their ends.

    Bytes are given before it is known whether they are good: only the end tells. A frame is good
    if its checksum is right and nothing in it was damaged. A flag behind an escape ends a frame
    that is not good. Nothing is given for flags side by side.

    ``i.ready`` is low for 8 cycles after each byte, for the checksum takes a bit a cycle, and
    depends combinationally on ``o.ready``.

    Latency: 1 cycle. Throughput: 1 byte in 9 cycles.

    Members
    -------
    i : In(stream.Signature(received_byte()))
        Bytes on the line.
    o : Out(stream.Signature(frame_event()))
        Bytes of frames, and ends.
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(received_byte())),
                          "o": Out(stream.Signature(frame_event()))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        crc = Signal(32, init=CRC_START)
        bits = Signal(8)
        left = Signal(range(9))  # bits that the checksum lacks
        escaped = Signal()
        bad = Signal()
        empty = Signal(init=1)

        byte = self.i.p.byte
        plain = Signal(8)
        m.d.comb += [
            plain.eq(byte ^ Mux(escaped, ESCAPED, 0)),
            self.i.ready.eq((left == 0) & (~self.o.valid | self.o.ready)),
        ]
        with m.If(left != 0):
            m.d.sync += [crc.eq(crc_step(crc, bits[0])), bits.eq(bits >> 1), left.eq(left - 1)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            with m.If((byte == FLAG) & ~self.i.p.damaged):
                m.d.sync += [
                    self.o.p.end.eq(1),
                    self.o.p.good.eq((crc == CRC_RESIDUE) & ~escaped & ~bad),
                    self.o.valid.eq(~empty | escaped | bad),
                    crc.eq(CRC_START), escaped.eq(0), bad.eq(0), empty.eq(1),
                ]
            with m.Elif(self.i.p.damaged):
                m.d.sync += [bad.eq(1), escaped.eq(0)]
            with m.Elif((byte == ESCAPE) & ~escaped):
                m.d.sync += escaped.eq(1)
            with m.Else():
                m.d.sync += [
                    self.o.p.byte.eq(plain), self.o.p.end.eq(0), self.o.p.good.eq(0),
                    self.o.valid.eq(1),
                    bits.eq(plain), left.eq(8), escaped.eq(0), empty.eq(0),
                ]

        return m


class Framer(wiring.Component):
    """Bytes to frames on a line, each with a checksum.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` is the state of a machine.

    Latency: 2 cycles, from a byte to itself; a flag goes before the first one of a frame.
    Throughput: 1 byte in 10 cycles, and 6 more bytes for each frame.

    Members
    -------
    i : In(stream.Signature(frame_byte()))
        Bytes of frames.
    o : Out(stream.Signature(unsigned(8)))
        Bytes on the line.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(frame_byte())),
                          "o": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        crc = Signal(32)
        byte = Signal(8)  # what is to be sent next
        last = Signal()
        left = Signal(range(9))  # bits of it that the checksum lacks
        sent = Signal(range(CRC_BYTES + 1))  # bytes of the checksum
        escaping = Signal()

        free = ~self.o.valid | self.o.ready
        reserved = (byte == FLAG) | (byte == ESCAPE)
        plain = Signal()  # the byte goes as it is, or its escape has gone
        m.d.comb += plain.eq(~reserved | escaping)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        def flag() -> None:
            m.d.sync += [self.o.payload.eq(FLAG), self.o.valid.eq(1)]

        def send() -> None:
            """Put ``byte`` on the line, behind an escape if it needs one."""
            m.d.sync += [
                self.o.payload.eq(Mux(plain, byte ^ Mux(escaping, ESCAPED, 0), ESCAPE)),
                self.o.valid.eq(1),
                escaping.eq(~plain),
            ]

        with m.FSM(name="part"):
            with m.State("flag"):
                m.d.sync += [crc.eq(CRC_START), sent.eq(0)]
                with m.If(free & self.i.valid):
                    flag()
                    m.next = "take"
            with m.State("take"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [byte.eq(self.i.p.byte), last.eq(self.i.p.last), left.eq(8)]
                    m.next = "byte"
            with m.State("byte"):
                with m.If(free):
                    send()
                    with m.If(plain):
                        m.next = "count"
            with m.State("count"):
                with m.If(left != 0):
                    m.d.sync += [crc.eq(crc_step(crc, byte[0])), byte.eq(byte >> 1),
                                 left.eq(left - 1)]
                with m.Elif(last):
                    m.next = "take checksum"
                with m.Else():
                    m.next = "take"
            with m.State("take checksum"):
                m.d.sync += [byte.eq(~crc[:8]), crc.eq(crc >> 8)]
                with m.If(sent != CRC_BYTES):
                    m.next = "checksum"
                with m.Elif(free):
                    flag()
                    m.next = "flag"
            with m.State("checksum"):
                with m.If(free):
                    send()
                    with m.If(plain):
                        m.d.sync += sent.eq(sent + 1)
                        m.next = "take checksum"

        return m
