"""Ports of the computer that a board is plugged into: serial ones, and SPI with its clock."""
from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, Protocol

from nomul.boards.board import LinkKind
from nomul.boards.frames import Sieve
from nomul.compiler.errors import ToolError
from nomul.hw.frames import FLAG

__all__ = ["BoardError", "LinePort", "SpiController", "SpiPort", "link_of", "open_port"]

# Bytes that an SPI controller asks for at once, and of a transaction at most.
_ASKED = 64
_TRANSACTION = 4096
_SPIDEV = re.compile(r"/dev/spidev(\d+)\.(\d+)")
_FTDI = "ftdi://"


class BoardError(ToolError):
    """A board that does not answer, or not as it should."""


class LinePort(Protocol):
    """A line of bytes, such as a serial port of pySerial or a `nomul.sim.line.LineSimulation`."""

    def write(self, content: bytes, /) -> int | None:
        """Send ``content``."""

    def read(self, size: int = 1, /) -> bytes:
        """Up to ``size`` bytes that have come; fewer once the port's timeout is over."""

    def close(self) -> None:
        """Let go of the port."""


class SpiController(Protocol):
    """What has the clock of SPI, in mode 0."""

    def exchange(self, content: bytes, /) -> bytes:
        """As many bytes as ``content``, which goes out meanwhile, in one transaction."""

    def close(self) -> None:
        """Let go of the controller."""


class SpiPort:
    """An SPI controller as a line of bytes, without what fills it where there is nothing to say.

    Parameters
    ----------
    controller : SpiController
        It asks the board for bytes as long as someone reads.
    timeout : float
        Seconds that `read` waits.
    """

    def __init__(self, controller: SpiController, *, timeout: float) -> None:
        self.timeout = timeout
        self._controller = controller
        self._sieve = Sieve()
        self._waiting = bytearray()

    @property
    def in_waiting(self) -> int:
        """Bytes that have come and were not read."""
        return len(self._waiting)

    def write(self, content: bytes) -> int:
        """Send ``content``; its length."""
        for at in range(0, len(content), _TRANSACTION):
            self._exchange(content[at:at + _TRANSACTION])
        return len(content)

    def read(self, size: int = 1) -> bytes:
        """Up to ``size`` bytes that the board has sent; fewer once the timeout is over."""
        end = time.monotonic() + self.timeout
        while len(self._waiting) < size and time.monotonic() < end:
            self._exchange(bytes((FLAG,)) * _ASKED)
        content = bytes(self._waiting[:size])
        del self._waiting[:size]
        return content

    def close(self) -> None:
        """Let go of the controller."""
        self._controller.close()

    def _exchange(self, content: bytes) -> None:
        self._waiting += self._sieve.feed(self._controller.exchange(content))


def link_of(name: str) -> LinkKind:
    """What the port ``name`` is, by its name."""
    return (LinkKind.SPI if _SPIDEV.fullmatch(name) or name.startswith(_FTDI) else LinkKind.UART)


def open_port(name: str, baud: int, *, timeout: float = 1.0) -> LinePort:
    """The port ``name``, with at most ``baud`` bits a second.

    Parameters
    ----------
    name : str
        ``/dev/spidev<bus>.<chip-select>`` is SPI of Linux, ``ftdi://...`` an FTDI chip as pyftdi
        names it, and anything else a serial port.

    Raises
    ------
    BoardError
        A package is missing, or the port is, or it cannot be opened.
    """
    if match := _SPIDEV.fullmatch(name):
        return SpiPort(_Spidev(name, int(match[1]), int(match[2]), baud), timeout=timeout)
    if name.startswith(_FTDI):
        return SpiPort(_Ftdi(name, baud), timeout=timeout)
    with _package("pyserial", "host"):
        import serial
    with _opened(name, "a serial port", serial.SerialException, OSError, ValueError):
        port: LinePort = serial.serial_for_url(name, baudrate=baud, timeout=timeout)
    return port


class _Spidev:
    """SPI of Linux."""

    def __init__(self, name: str, bus: int, select: int, baud: int) -> None:
        with _package("spidev", "spi"):
            import spidev
        self._device: Any = spidev.SpiDev()
        with _opened(name, "an SPI device", OSError):
            self._device.open(bus, select)
            self._device.mode = 0
            self._device.max_speed_hz = baud  # Linux takes the next one below that it has

    def exchange(self, content: bytes) -> bytes:
        return bytes(self._device.xfer2(list(content)))

    def close(self) -> None:
        self._device.close()


class _Ftdi:
    """An FTDI chip that speaks SPI; its chip-select is the first one, ADBUS3."""

    def __init__(self, name: str, baud: int) -> None:
        with _package("pyftdi", "spi"):
            from pyftdi.spi import SpiController
            from pyftdi.usbtools import UsbToolsError
        self._controller: Any = SpiController()
        with _opened(name, "an FTDI chip", OSError, ValueError, UsbToolsError):
            self._controller.configure(name)
            # pyftdi rounds to the nearest that the chip has: ask for one that it has.
            fastest = self._controller.frequency_max
            self._port = self._controller.get_port(
                cs=0, freq=fastest / max(1, ceil(fastest / baud)), mode=0)

    def exchange(self, content: bytes) -> bytes:
        return bytes(self._port.exchange(content, duplex=True))

    def close(self) -> None:
        self._controller.close()


@contextmanager
def _package(name: str, extra: str) -> Iterator[None]:
    """Say in a sentence that a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BoardError(f"package '{name}' must be installed to talk to a board at this port; "
                         f"pip install 'nomul[{extra}]'") from error


@contextmanager
def _opened(name: str, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Say in a sentence that a port cannot be opened."""
    try:
        yield
    except errors as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BoardError(f"port '{name}' must be {what} that can be opened, but: {reason}; look at "
                         "its name and permissions, and whether the board is plugged "
                         "in") from error
