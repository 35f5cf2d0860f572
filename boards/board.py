"""What a board is: where its clock, its serial line and its LED are, and how it is loaded.

Pins come from `amaranth-boards`; each board is a file of this folder, which adds what is not there.
"""
from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from amaranth.build import Resource
from amaranth.build.res import ResourceManager

from nomul.boards.targets import BOARDS, TARGETS, Family, Target

__all__ = ["Board", "Pin"]

# nextpnr's names of ECP5 packages.
_PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381", "MG285": "CSFBGA285"}


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

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The ports ``clk_pin``, ``rx``, ``tx`` and ``led``."""
        manager = self._manager()

        def pin(port: str, place: Any) -> Pin:
            metadata, = place.io.metadata
            inverted, = place.invert
            return Pin(port=port, site=metadata.name, attributes=dict(metadata.attrs),
                       inverted=inverted)

        uart = manager.request("uart", 0, dir="-")
        name, *colour = self.led
        led = manager.request(name, 0, dir="-")
        return (pin("clk_pin", manager.request(self.platform.default_clk, 0, dir="-")),
                pin("rx", uart.rx), pin("tx", uart.tx),
                pin("led", getattr(led, colour[0]) if colour else led))

    def constraints(self) -> str:
        """The pins and the clock as nextpnr reads them: PCF or LPF."""
        lines = _pcf if self.target.family is Family.ICE40 else _lpf
        return "".join(f"{line}\n" for line in lines(self.pins, self.clock_hz / 1e6))

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
