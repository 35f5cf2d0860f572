"""What is claimed of `nomul.hw.spi.SpiPeripheral`, for every controller that keeps its times."""
from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Elaboratable, Module, Mux, Signal, Value

from nomul.hw.frames import ESCAPE, FLAG
from nomul.hw.spi import SpiPeripheral
from nomul.sim.formal import StreamRules, first_cycle

__all__ = ["Exchanges", "PinnedRules"]


class PinnedRules(StreamRules):
    """The stream rules, whatever the pins do."""

    @property
    def inputs(self) -> list[Value]:
        return [*super().inputs, self.dut.sck, self.dut.cs_n, self.dut.copi]


class Exchanges(Elaboratable):  # type: ignore[misc]
    """Bytes pass both ways, whole and in order, whatever the controller does.

    Levels are those that a cycle of the clock sees. The controller reads each bit a cycle before
    SCK is seen high: that is when it may have risen at the earliest. It may end a transaction
    after any bit. Bytes that it sends must come, in the cycle that the docstring tells, but for
    flags behind a flag; of a byte cut off a damaged one. Bytes that it reads must be those of
    ``i``, or fillers that belong there.

    Parameters
    ----------
    dut : SpiPeripheral
    low : int
        Cycles for which SCK is low, at least.
    """

    def __init__(self, dut: SpiPeripheral, *, low: int) -> None:
        self.dut = dut
        self.low = low

    @property
    def inputs(self) -> list[Value]:
        dut = self.dut
        return [dut.sck, dut.cs_n, dut.copi, dut.i.payload, dut.i.valid]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        first = first_cycle(m)

        def before(value: Any, cycles: int, name: str, init: int = 0) -> Signal:
            """What ``value`` was so many cycles ago."""
            for n in range(cycles):
                kept = Signal(len(value), name=f"{name}_{n}", init=init)
                m.d.sync += kept.eq(value)
                value = kept
            return value

        # The controller's times.
        sck, cs_n = before(dut.sck, 1, "sck"), before(dut.cs_n, 1, "cs_n", init=1)
        since = Signal(range(5), init=4)  # cycles since SCK or the chip-select changed
        rises = Signal()
        m.d.comb += rises.eq(dut.sck & ~sck)
        m.d.sync += since.eq(Mux((dut.sck != sck) | (dut.cs_n != cs_n), 1,
                                 Mux(since == 4, 4, since + 1)))
        m.d.comb += [
            Assume(~first | (~dut.sck & dut.cs_n & ~dut.i.valid)),
            Assume(~rises | (~dut.cs_n & ~cs_n & (since >= self.low))),
            Assume((dut.sck == sck) | (since >= 2)),
            Assume(~(sck & ~dut.sck) | (since >= 2)),
            Assume((dut.cs_n == cs_n) | ((dut.sck == sck) & (since >= 2))),
            Assume(~(cs_n & ~dut.cs_n) | ~dut.sck),
            dut.o.ready.eq(1),
        ]
        # The stream's rules.
        stalled = before(dut.i.valid & ~dut.i.ready, 1, "stalled")
        offered = before(dut.i.payload, 1, "offered")
        m.d.comb += Assume(~stalled | (dut.i.valid & (dut.i.payload == offered)))

        # To the peripheral.
        bit = Signal(range(8))
        sent = Signal(7)
        byte = Signal(8)
        idle = Signal(init=1)
        whole, cut = Signal(), Signal()
        m.d.comb += [
            byte.eq(Cat(dut.copi, sent)),
            whole.eq(rises & (bit == 7)),
            cut.eq(dut.cs_n & (bit != 0)),
        ]
        with m.If(dut.cs_n):
            m.d.sync += bit.eq(0)
        with m.Elif(rises):
            m.d.sync += [bit.eq(bit + 1), sent.eq(byte)]
        with m.If(whole | cut):
            m.d.sync += idle.eq(whole & (byte == FLAG))
        due = before(whole & ~(idle & (byte == FLAG)), 3, "due")
        due_byte = before(byte, 3, "due_byte")
        damaged = before(cut, 4, "damaged")
        m.d.comb += [
            Assert(first | (dut.o.valid == (due | damaged))),
            Assert(first | ~dut.o.valid | (dut.o.p.damaged == damaged)),
            Assert(first | ~due | (dut.o.p.byte == due_byte)),
        ]

        # From the peripheral.
        read = before(dut.cipo, 1, "cipo")
        expected = Signal(8)  # the byte that the controller reads
        highest = Signal()
        inside, half = Signal(), Signal()
        begins = before(rises & (bit == 0), 2, "begins")
        taken = Signal()
        now = Signal(8)
        m.d.comb += [
            taken.eq(dut.i.valid & dut.i.ready),
            now.eq(Mux(taken, dut.i.payload, Mux(inside, ESCAPE, FLAG))),
            Assert(first | ~dut.i.ready | begins),
        ]
        with m.If(rises & (bit == 0)):
            m.d.sync += highest.eq(read)
        with m.If(begins):
            m.d.sync += expected.eq(now)
            m.d.comb += [Assert(first | (highest == now[7])), Assert(first | ~taken | ~half)]
            with m.If(taken):
                m.d.sync += inside.eq(inside ^ (dut.i.payload == FLAG))
            with m.Else():
                m.d.sync += half.eq(inside & ~half)
        for n in range(1, 8):
            m.d.comb += Assert(first | ~rises | (bit != n) | (read == expected[7 - n]))
        return m
