"""Bytes on a serial line: one start bit, eight data bits, the lowest first, one stop bit."""
from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import cdc, data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MIN_DIVISOR", "UartReceiver", "UartTransmitter", "received_byte"]

#: Cycles of a bit, at least.
MIN_DIVISOR = 4


def received_byte() -> data.StructLayout:
    """A byte off a line, and whether something was wrong with it or lost just before it."""
    return data.StructLayout({"byte": 8, "damaged": 1})


def _check_divisor(divisor: int) -> None:
    if divisor < MIN_DIVISOR:
        raise ValueError(f"Cycles of a bit must be at least {MIN_DIVISOR}, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes off an asynchronous serial line.

    The line passes two registers. A start bit that is not there any more in its middle is a
    glitch and forgotten. A low stop bit gives a damaged byte, after which nothing begins before
    the line was high; a byte that comes while the last one has not been taken is lost, and the
    next one is marked as damaged. Bits are sampled in their middle, so sender and receiver may
    differ by 4 % of a bit's time less one cycle in ten bits.

    Latency: 3 cycles, from the middle of the stop bit on the pin. Throughput: 1 byte in
    ``10 * divisor`` cycles.

    Parameters
    ----------
    divisor : int
        Cycles of a bit; at least `MIN_DIVISOR`.

    Members
    -------
    rx : In(1)
        The line; high when idle.
    o : Out(stream.Signature(received_byte()))
        Bytes.
    """

    rx: Signal
    o: stream.Interface

    def __init__(self, divisor: int) -> None:
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(received_byte()))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        line = Signal(init=1)
        m.submodules.synchronizer = cdc.FFSynchronizer(self.rx, line, init=1)

        timer = Signal(range(self.divisor))
        bits = Signal(8)
        left = Signal(range(10))  # bits until the stop bit's middle; 0 when idle
        quiet = Signal()  # the line was high after the last byte
        lost = Signal()
        sample = Signal()
        done = Signal()

        m.d.comb += [
            sample.eq((left != 0) & (timer == 0)),
            done.eq(sample & (left == 1)),
        ]
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor // 2 - 1)
            with m.If(line):
                m.d.sync += quiet.eq(1)
            with m.Elif(quiet):
                m.d.sync += [left.eq(10), quiet.eq(0)]
        with m.Elif(timer == 0):
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1)]
            with m.If(left != 1):
                m.d.sync += bits.eq(Cat(bits[1:], line))
            with m.If((left == 10) & line):
                m.d.sync += left.eq(0)
        with m.Else():
            m.d.sync += timer.eq(timer - 1)

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(done):
            with m.If(self.o.valid & ~self.o.ready):
                m.d.sync += lost.eq(1)
            with m.Else():
                m.d.sync += [
                    self.o.p.byte.eq(bits),
                    self.o.p.damaged.eq(~line | lost),
                    self.o.valid.eq(1),
                    lost.eq(0),
                ]

        return m


class UartTransmitter(wiring.Component):
    """Bytes onto an asynchronous serial line.

    ``tx`` and ``i.ready`` are registers.

    Latency: 1 cycle, to the start bit. Throughput: 1 byte in ``10 * divisor + 1`` cycles.

    Parameters
    ----------
    divisor : int
        Cycles of a bit; at least `MIN_DIVISOR`.

    Members
    -------
    i : In(stream.Signature(8))
        Bytes.
    tx : Out(1)
        The line; high when idle.
    """

    i: stream.Interface
    tx: Signal

    def __init__(self, divisor: int) -> None:
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(unsigned(8))), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        timer = Signal(range(self.divisor))
        bits = Signal(9)  # what follows the bit on the line; stop bits move in from behind
        left = Signal(range(11))

        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(left == 0):
            with m.If(self.i.valid):
                m.d.sync += [
                    self.tx.eq(0),
                    bits.eq(Cat(self.i.payload, 1)),
                    left.eq(10),
                    timer.eq(self.divisor - 1),
                ]
        with m.Elif(timer == 0):
            m.d.sync += [
                timer.eq(self.divisor - 1),
                left.eq(left - 1),
                self.tx.eq(bits[0]),
                bits.eq(Cat(bits[1:], 1)),
            ]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)

        return m
