"""The circuit on a board: its clock, and the network behind its link to a host."""
from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In

from nomul.boards.board import Board, LinkKind
from nomul.boards.pll import Pll, Setting
from nomul.boards.targets import Family
from nomul.compiler.errors import PlanError
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals
from nomul.hw.axis import AxisTop
from nomul.hw.branch import Queue
from nomul.hw.link import DIGEST_BYTES
from nomul.hw.serial_top import LinkedNetwork, SerialTop, SpiTop
from nomul.hw.spi import SCK_CYCLES
from nomul.hw.uart import MIN_DIVISOR

__all__ = ["BoardTop", "divisor_for", "link_top", "queue_for"]

# Block RAM of an iCE40 cannot be read for some microseconds after configuration.
_RESET_SECONDS = Fraction(20, 1_000_000)
# How far the time of a bit may be off: the middle of the tenth is then within half a bit, even if
# the other end is off by as much.
_BIT_ERROR = Fraction(2, 100)
# Bits of a byte on the line, with those around it.
_BYTE_BITS = {LinkKind.UART: 10, LinkKind.SPI: 8}


class BoardTop(wiring.Component):
    """A network on a board.

    The circuit is in reset until its clock is stable, and 20 microseconds more.

    Parameters
    ----------
    core : SerialTop or SpiTop
        The network behind its line.
    board : Board
        Where it is.
    setting : Setting
        Its clock.

    Members
    -------
    clk_pin : In(1)
    led : Out(1)
    rx, tx : In(1), Out(1)
        Pins of the board, with a serial line.
    sck, cs_n, copi, cipo : In(1), In(1), In(1), Out(1)
        Pins of the board, with SPI; ``cipo`` is driven while ``cs_n`` is low.
    """

    clk_pin: Signal
    led: Signal
    #: Where the network's layers are, for counts of cells.
    layers = "top.core.linked.network.body"

    def __init__(self, core: SerialTop | SpiTop, board: Board, setting: Setting) -> None:
        self.core = core
        self.board = board
        self.setting = setting
        link = LinkKind.SPI if isinstance(core, SpiTop) else LinkKind.UART
        self.pins = board.pins(link)[1:]
        ports = core.signature.members
        super().__init__({"clk_pin": In(1), **{pin.port: ports[pin.port] for pin in self.pins}})

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

        for pin in self.pins:
            inner, outer = getattr(core, pin.port), getattr(self, pin.port)
            if core.signature.members[pin.port].flow is In:
                m.d.comb += inner.eq(outer ^ pin.inverted)
            elif pin.port == "cipo":
                m.submodules.cipo = _tri_state(self.board.target.family, inner ^ pin.inverted,
                                               core.cipo_oe, outer)
            else:
                m.d.comb += outer.eq(inner ^ pin.inverted)

        return m


def _tri_state(family: Family, level: Value, enable: Value, pin: Signal) -> Instance:
    """The cell of a pin that is driven only while ``enable`` is high."""
    match family:
        case Family.ICE40:
            return Instance("SB_IO", p_PIN_TYPE=Const(0b101001, 6), i_D_OUT_0=level,
                            i_OUTPUT_ENABLE=enable, o_PACKAGE_PIN=pin)
        case Family.ECP5:
            return Instance("OBZ", i_I=level, i_T=~enable, o_O=pin)


def link_top(network: Network, plan: Plan, top: AxisTop, link: LinkKind, *, divisor: int,
             depth: int | None = None) -> SerialTop | SpiTop:
    """``top``, which is the hardware of ``network`` by ``plan``, behind ``link``.

    Parameters
    ----------
    divisor : int
        Cycles of a bit.
    depth : int, optional
        Bytes that wait before the network; see `queue_for` if omitted.
    """
    linked = LinkedNetwork(top, digest=bytes.fromhex(network.digest)[:DIGEST_BYTES], depth=1)
    linked.depth = depth or queue_for(network, plan, _BYTE_BITS[link] * divisor,
                                      linked.image_bytes)
    match link:
        case LinkKind.UART:
            return SerialTop(linked, divisor=divisor)
        case LinkKind.SPI:
            return SpiTop(linked)


def divisor_for(setting: Setting, baud: int | None, link: LinkKind = LinkKind.UART) -> int:
    """Cycles of a bit; with SPI those of the fastest one that there may be, if ``baud`` is None.

    Raises
    ------
    PlanError
        The clock cannot be divided into bits of that length.
    """
    if link is LinkKind.SPI and baud is None:
        return SCK_CYCLES
    assert baud is not None
    if baud < 1:
        raise PlanError(f"bits a second on the line must be at least 1, not {baud}")
    exact = setting.frequency / baud
    if link is LinkKind.SPI:
        if exact < SCK_CYCLES:
            raise PlanError(f"bits a second over SPI must be at most 1 / {SCK_CYCLES} of the clock "
                            f"of {setting.mhz:g} MHz, not {baud}; choose a lower --baud")
        return floor(exact)
    divisor = round(exact)
    if divisor < MIN_DIVISOR or abs(divisor - exact) > _BIT_ERROR * exact:
        raise PlanError(f"bits a second on the serial line must divide the clock of "
                        f"{setting.mhz:g} MHz into at least {MIN_DIVISOR} cycles, to 2 %, not "
                        f"{baud}; choose a lower --baud")
    return divisor


def queue_for(network: Network, plan: Plan, byte_cycles: int, image_bytes: int) -> int:
    """Bytes that should wait before the network: what comes off the line, a byte in
    ``byte_cycles``, in the time of an inference, but no more than an image.

    A few lie in registers. More take a block RAM, of which a little more costs nothing.
    """
    waiting = 2 + -(-max(intervals(plan, network).values()) // byte_cycles)
    return min(image_bytes, Queue.registers if waiting <= Queue.registers else max(256, waiting))
