"""What a board is: where its clock, its link to a host and its LED are, and how it is loaded.

Pins come from `amaranth-boards`; each board is a file of this folder, which adds what is not there.
"""
from __future__ import annotations

import enum
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from amaranth.build import Resource
from amaranth.build.res import ResourceManager

from nomul.boards.targets import BOARDS, TARGETS, Family, Target
from nomul.compiler.errors import PlanError

__all__ = ["Board", "LinkKind", "Pin"]

# nextpnr's names of ECP5 packages.
_PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381", "MG285": "CSFBGA285"}


class LinkKind(enum.Enum):
    """How a board and its host are joined."""

    UART = "uart"
    """By a serial line."""
    SPI = "spi"
    """By SPI, with the clock of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A port of the circuit on a pin of the chip.

    Attributes
    ----------
    port : str
        The port.
    site : str
        The pin, by its name on the package.
    attributes : mapping of str to value
        As the tools of the chip's family call them.
    inverted : bool
        Whether the pin is low when the signal is high.
    """

    port: str
    site: str
    attributes: Mapping[str, Any]
    inverted: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes
    ----------
    name : str
        What a user types; a key of `BOARDS`, which says what chip it carries.
    title : str
        What its makers call it.
    platform : type
        Its class in `amaranth-boards`.
    led : tuple of str
        Name of the LED's resource and, where that has several colours, the colour.
    loader : str
        Command line that loads the bitstream, with ``{file}`` for its name.
    baud : int
        Bits a second on the serial line unless told otherwise.
    line : str
        Where the serial line is, for people.
    spi : str, optional
        Where SPI is, for people; its pins are the resource ``spi``. None where there is no SPI.
    resources : tuple of Resource
        What ``platform`` lacks.
    clock_on_pll_pad : bool
        Whether the clock enters an iCE40 at the pin of its PLL.
    """

    name: str
    title: str
    platform: Any
    led: tuple[str, ...]
    loader: str
    baud: int
    line: str
    spi: str | None = None
    resources: tuple[Resource, ...] = field(default=())
    clock_on_pll_pad: bool = False

    @property
    def target(self) -> Target:
        """The chip, in the package that is on this board."""
        chip = TARGETS[BOARDS[self.name]]
        match chip.family:
            case Family.ICE40:
                return chip
            case Family.ECP5:
                flag = chip.nextpnr_flags[0]
                return replace(chip, nextpnr_flags=(
                    flag, "--package", _PACKAGES[self.platform.package],
                    "--speed", self.platform.speed))

    @property
    def clock_hz(self) -> int:
        """The clock that enters the chip."""
        return int(self._manager().lookup(self.platform.default_clk, 0).clock.frequency)

    def pins(self, link: LinkKind = LinkKind.UART) -> tuple[Pin, ...]:
        """The ports ``clk_pin`` and ``led``, and between them those of ``link``: ``rx`` and ``tx``,
        or ``sck``, ``cs_n``, ``copi`` and ``cipo``.

        Raises
        ------
        PlanError
            The board has no such link.
        """
        manager = self._manager()

        def pin(port: str, place: Any) -> Pin:
            metadata, = place.io.metadata
            inverted, = place.invert
            return Pin(port=port, site=metadata.name, attributes=dict(metadata.attrs),
                       inverted=inverted)

        match link:
            case LinkKind.UART:
                uart = manager.request("uart", 0, dir="-")
                line: tuple[Pin, ...] = (pin("rx", uart.rx), pin("tx", uart.tx))
            case LinkKind.SPI:
                if self.spi is None:
                    raise PlanError(f"board '{self.name}' must have SPI for --link spi, but none "
                                    "of its pins are known for it; use --link uart")
                spi = manager.request("spi", 0, dir="-")
                select = pin("cs_n", spi.cs)
                line = (pin("sck", spi.clk), replace(select, inverted=not select.inverted),
                        pin("copi", spi.copi), pin("cipo", spi.cipo))
        name, *colour = self.led
        led = manager.request(name, 0, dir="-")
        return (pin("clk_pin", manager.request(self.platform.default_clk, 0, dir="-")), *line,
                pin("led", getattr(led, colour[0]) if colour else led))

    def constraints(self, link: LinkKind = LinkKind.UART) -> str:
        """The pins and the clock as nextpnr reads them: PCF or LPF; `PlanError` as `pins`."""
        lines = _pcf if self.target.family is Family.ICE40 else _lpf
        return "".join(f"{line}\n" for line in lines(self.pins(link), self.clock_hz / 1e6))

    def load_command(self, file: str) -> str:
        """Command line that loads the bitstream ``file``."""
        return self.loader.format(file=shlex.quote(file))

    def _manager(self) -> ResourceManager:
        return ResourceManager([*self.platform.resources, *self.resources],
                               self.platform.connectors)


def _pcf(pins: tuple[Pin, ...], clock_mhz: float) -> Iterator[str]:
    for pin in pins:
        pull = "-pullup yes " if pin.attributes.get("PULLUP") else ""
        yield f"set_io {pull}{pin.port} {pin.site}"
    yield f"set_frequency clk_pin {clock_mhz:g}"


def _lpf(pins: tuple[Pin, ...], clock_mhz: float) -> Iterator[str]:
    for pin in pins:
        yield f'LOCATE COMP "{pin.port}" SITE "{pin.site}";'
        attributes = " ".join(f"{key}={value}" for key, value in pin.attributes.items())
        yield f'IOBUF PORT "{pin.port}" {attributes};'
    yield f'FREQUENCY PORT "clk_pin" {clock_mhz:g} MHZ;'
