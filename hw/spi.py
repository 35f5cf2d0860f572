"""Bytes over SPI, to a controller that has the clock: mode 0, eight bits, the highest first.

Bytes go both ways at a time, so a controller gets one whenever it sends one. Where there is none it
gets a filler, which `nomul.hw.frames` never puts where it comes: a flag between frames, and within
a frame two escapes, for a reply may pause while the network computes.
"""
from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.frames import ESCAPE, FLAG
from nomul.hw.uart import received_byte

__all__ = ["SCK_CYCLES", "SpiPeripheral"]

#: Cycles of a period of SCK, at least.
SCK_CYCLES = 8


class SpiPeripheral(wiring.Component):
    """Bytes of frames to and from an SPI controller.

    ``sck``, ``cs_n`` and ``copi`` belong to another clock; each passes two registers. A bit is
    taken once SCK has risen, and the next one given once it has fallen, at most 3 cycles later. So
    SCK may be an eighth of the clock: `SCK_CYCLES` cycles of a period, of which it is high for 2 or
    more and low for 4 or more. ``cs_n`` must fall 4 cycles before SCK rises, rise no sooner than 2
    cycles after that, and stay high for 2. A pulse that is shorter than a cycle may be seen or not.

    A rising ``cs_n`` ends a byte wherever it is: of one that was not whole nothing is given but a
    damaged byte, so that a bit too many or too few costs one transaction. A byte that finds the one
    before it not yet taken is lost, and a damaged one given in its place as soon as there is room.
    Flags behind a flag say nothing and are not given.

    A byte of ``i`` is taken when its first bit is. ``cipo_oe`` depends combinationally on ``cs_n``.

    Latency: 3 cycles, from SCK's last rise on the pin. Throughput: 1 byte in eight periods of SCK.

    Members
    -------
    sck, cs_n, copi : In(1)
        Pins that the controller drives.
    cipo, cipo_oe : Out(1)
        The pin that it reads, and whether it is driven.
    i : In(stream.Signature(8))
        Bytes of frames, as `nomul.hw.frames.Framer` gives them: both flags of each, and no escape
        without what it escapes.
    o : Out(stream.Signature(received_byte()))
        Bytes that came.
    """

    sck: Signal
    cs_n: Signal
    copi: Signal
    cipo: Signal
    cipo_oe: Signal
    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        super().__init__({
            "sck": In(1), "cs_n": In(1, init=1), "copi": In(1), "cipo": Out(1), "cipo_oe": Out(1),
            "i": In(stream.Signature(unsigned(8))), "o": Out(stream.Signature(received_byte())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        sck, copi = Signal(), Signal()
        cs_n = Signal(init=1)
        m.submodules.sck_synchronizer = cdc.FFSynchronizer(self.sck, sck)
        m.submodules.cs_n_synchronizer = cdc.FFSynchronizer(self.cs_n, cs_n, init=1)
        m.submodules.copi_synchronizer = cdc.FFSynchronizer(self.copi, copi)

        high = Signal()  # SCK, one cycle ago
        bit = Signal(range(8))  # bits of the byte that were taken
        rises, falls = Signal(), Signal()
        m.d.sync += high.eq(sck)
        m.d.comb += [rises.eq(~cs_n & sck & ~high), falls.eq(~cs_n & ~sck & high)]
        with m.If(cs_n):
            m.d.sync += bit.eq(0)
        with m.Elif(rises):
            m.d.sync += bit.eq(bit + 1)

        self._receive(m, copi, rises, bit, cut=cs_n & (bit != 0))
        self._send(m, rises & (bit == 0), falls, load=cs_n | (falls & (bit == 0)))
        m.d.comb += self.cipo_oe.eq(~self.cs_n)

        return m

    def _receive(self, m: Module, copi: Signal, rises: Signal, bit: Signal, *, cut: Signal) -> None:
        bits = Signal(7)
        byte = Signal(8)
        whole = Signal()
        lost = Signal()  # something was, and this has not been told
        idle = Signal(init=1)  # the last byte was a flag
        free = Signal()
        m.d.comb += [
            byte.eq(Cat(copi, bits)),
            whole.eq(rises & (bit == 7) & ~(idle & (byte == FLAG))),
            free.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(rises):
            m.d.sync += bits.eq(byte)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(free & (whole | lost)):
            m.d.sync += [
                self.o.p.byte.eq(byte), self.o.p.damaged.eq(lost), self.o.valid.eq(1),
                idle.eq(byte == FLAG), lost.eq(0),
            ]
            with m.If(lost):
                m.d.sync += idle.eq(0)
        with m.Elif(whole):
            m.d.sync += [lost.eq(1), idle.eq(0)]
        with m.If(cut):
            m.d.sync += [lost.eq(1), idle.eq(0)]

    def _send(self, m: Module, begins: Signal, falls: Signal, *, load: Signal) -> None:
        bits = Signal(8, init=FLAG)  # the highest one is on the pin
        real = Signal()  # they came from ``i``
        inside = Signal()  # of a frame
        paused = Signal()  # of two escapes the first one went
        m.d.comb += [
            self.cipo.eq(bits[7]),
            self.i.ready.eq(begins & real),
        ]
        with m.If(load):
            m.d.sync += [real.eq(self.i.valid & ~paused),
                         bits.eq(Mux(self.i.valid & ~paused, self.i.payload,
                                     Mux(inside, ESCAPE, FLAG)))]
        with m.Elif(falls):
            m.d.sync += bits.eq(bits << 1)
        with m.If(begins):
            with m.If(~real):
                m.d.sync += paused.eq(inside & ~paused)
            with m.Elif(bits == FLAG):
                m.d.sync += inside.eq(~inside)
