"""The circuit on a board: its clock, and the network behind its serial line."""
from __future__ import annotations

from fractions import Fraction
from math import ceil

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.board import Board
from nomul.boards.pll import Pll, Setting
from nomul.compiler.errors import PlanError
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals
from nomul.hw.axis import AxisTop
from nomul.hw.branch import Queue
from nomul.hw.link import DIGEST_BYTES
from nomul.hw.serial_top import SerialTop
from nomul.hw.uart import MIN_DIVISOR

__all__ = ["BoardTop", "divisor_for", "queue_for", "serial_top"]

# Block RAM of an iCE40 cannot be read for some microseconds after configuration.
_RESET_SECONDS = Fraction(20, 1_000_000)
# How far the time of a bit may be off: the middle of the tenth is then within half a bit, even if
# the other end is off by as much.
_BIT_ERROR = Fraction(2, 100)


class BoardTop(wiring.Component):
    """A network on a board.

    The circuit is in reset until its clock is stable, and 20 microseconds more.

    Parameters
    ----------
    core : SerialTop
        The network behind its line.
    board : Board
        Where it is.
    setting : Setting
        Its clock.

    Members
    -------
    clk_pin, rx : In(1)
    tx, led : Out(1)
        Pins of the board.
    """

    clk_pin: Signal
    rx: Signal
    tx: Signal
    led: Signal
    #: Where the network's layers are, for counts of cells.
    layers = "top.core.network.body"

    def __init__(self, core: SerialTop, board: Board, setting: Setting) -> None:
        self.core = core
        self.board = board
        self.setting = setting
        super().__init__({"clk_pin": In(1), "rx": In(1, init=1), "tx": Out(1, init=1),
                          "led": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.pll = pll = Pll(self.setting, from_pad=self.board.clock_on_pll_pad)
        m.submodules.core = core = self.core

        m.domains.sync = ClockDomain()
        cycles = ceil(_RESET_SECONDS * self.setting.frequency)
        locked = Signal()
        waited = Signal(range(cycles + 1), reset_less=True)
        reset = Signal(init=1, reset_less=True)
        m.submodules.locked = cdc.FFSynchronizer(pll.locked, locked)
        m.d.comb += [pll.reference.eq(self.clk_pin), ClockSignal().eq(pll.clk),
                     ResetSignal().eq(reset)]
        with m.If(~locked):
            m.d.sync += [waited.eq(0), reset.eq(1)]
        with m.Elif(waited == cycles):
            m.d.sync += reset.eq(0)
        with m.Else():
            m.d.sync += waited.eq(waited + 1)

        inverted = {pin.port: pin.inverted for pin in self.board.pins}
        m.d.comb += [
            core.rx.eq(self.rx ^ inverted["rx"]),
            self.tx.eq(core.tx ^ inverted["tx"]),
            self.led.eq(core.led ^ inverted["led"]),
        ]

        return m


def serial_top(network: Network, top: AxisTop, *, divisor: int, depth: int) -> SerialTop:
    """``top``, which is the hardware of ``network``, behind a serial line."""
    return SerialTop(top, digest=bytes.fromhex(network.digest)[:DIGEST_BYTES], divisor=divisor,
                     depth=depth)


def divisor_for(setting: Setting, baud: int) -> int:
    """Cycles of a bit.

    Raises
    ------
    PlanError
        The clock cannot be divided into bits of that length.
    """
    if baud < 1:
        raise PlanError(f"bits a second on the serial line must be at least 1, not {baud}")
    exact = setting.frequency / baud
    divisor = round(exact)
    if divisor < MIN_DIVISOR or abs(divisor - exact) > _BIT_ERROR * exact:
        raise PlanError(f"bits a second on the serial line must divide the clock of "
                        f"{setting.mhz:g} MHz into at least {MIN_DIVISOR} cycles, to 2 %, not "
                        f"{baud}; choose a lower --baud")
    return divisor


def queue_for(network: Network, plan: Plan, divisor: int, image_bytes: int) -> int:
    """Bytes that should wait before the network: what comes off the line in the time of an
    inference, but no more than an image.

    A few lie in registers. More take a block RAM, of which a little more costs nothing.
    """
    waiting = 2 + -(-max(intervals(plan, network).values()) // (10 * divisor))
    return min(image_bytes, Queue.registers if waiting <= Queue.registers else max(256, waiting))
