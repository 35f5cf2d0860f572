# amaranth: UnusedElaboratable=no
"""Bytes over a serial line, good and bad."""
from __future__ import annotations

import re

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from nomul.hw.uart import UartReceiver, UartTransmitter, received_byte
from nomul.sim.bench import transfer


class Loop(wiring.Component):  # type: ignore[misc]
    """A transmitter and a receiver, whose cycles of a bit may differ, on one line."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, sent: int, received: int) -> None:
        self.sent = sent
        self.received = received
        super().__init__({"i": In(stream.Signature(8)),
                          "o": Out(stream.Signature(received_byte()))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transmitter = transmitter = UartTransmitter(self.sent)
        m.submodules.receiver = receiver = UartReceiver(self.received)
        wiring.connect(m, wiring.flipped(self.i), transmitter.i)
        wiring.connect(m, receiver.o, wiring.flipped(self.o))
        m.d.comb += receiver.rx.eq(transmitter.tx)
        return m


@pytest.mark.parametrize(("sent", "received"), [
    (4, 4), (5, 5), (9, 9), (100, 100), (100, 97), (97, 100), (34, 33), (33, 34)])
def test_bytes_pass(sent: int, received: int) -> None:
    values = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80,
              *np.random.default_rng(sent).integers(256, size=20).tolist()]
    # The consumer waits a few cycles at most, less than a byte takes.
    got = transfer(Loop(sent, received), values, len(values), seed=sent, stall=0.3)
    assert [(byte.byte, byte.damaged) for byte in got] == [(value, 0) for value in values]


def test_clocks_that_differ_too_much_are_noticed() -> None:
    values = [0x00, 0xFF, 0x55] * 10
    got = transfer(Loop(100, 80), values, 20, seed=1, stall=0.0)
    assert any(byte.damaged for byte in got)


def receive(levels: list[tuple[int, int]], divisor: int, *, ready_after: int = 0,
            ) -> list[tuple[int, int]]:
    """What a receiver makes of ``(level, cycles)`` on its line; the payload must hold until it is
    taken, which is not before cycle ``ready_after``."""
    dut = UartReceiver(divisor)
    seen: list[tuple[int, int]] = []

    async def bench(ctx: SimulatorContext) -> None:
        held, cycle = None, 0
        for level, cycles in [*levels, (1, 4 * divisor)]:
            ctx.set(dut.rx, level)
            for _ in range(cycles):
                ctx.set(dut.o.ready, cycle >= ready_after)
                valid, ready = ctx.get(dut.o.valid), ctx.get(dut.o.ready)
                payload = (ctx.get(dut.o.p.byte), ctx.get(dut.o.p.damaged))
                assert held is None or (valid and payload == held)
                held = payload if valid and not ready else None
                if valid and ready:
                    seen.append(payload)
                await ctx.tick()
                cycle += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def levels(byte: int, divisor: int, stop: int = 1) -> list[tuple[int, int]]:
    return [(level, divisor) for level in (0, *(byte >> n & 1 for n in range(8)), stop)]


@pytest.mark.parametrize("divisor", [4, 7, 16])
def test_a_low_stop_bit_damages_one_byte(divisor: int) -> None:
    line = [*levels(0x41, divisor), *levels(0x42, divisor, stop=0), (0, 3 * divisor),
            (1, divisor), *levels(0x43, divisor)]
    assert receive(line, divisor) == [(0x41, 0), (0x42, 1), (0x43, 0)]


def test_a_glitch_is_no_byte() -> None:
    assert receive([(0, 5), (1, 16), *levels(0x43, 16), (0, 1), (1, 3)], 16) == [(0x43, 0)]


def test_a_byte_that_is_not_taken_is_kept_and_the_next_one_lost() -> None:
    line = [part for byte in (1, 2, 3, 4) for part in levels(byte, 8)]
    # Ready once the third byte is on its way: the second one found no room.
    assert receive(line, 8, ready_after=180) == [(1, 0), (3, 1), (4, 0)]


@pytest.mark.parametrize("component", [UartReceiver, UartTransmitter])
def test_too_few_cycles_are_refused(component: type) -> None:
    with pytest.raises(ValueError, match=re.escape("Cycles of a bit must be at least 4, not 3")):
        component(3)
