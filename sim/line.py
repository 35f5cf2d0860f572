"""A circuit with a link in Verilator; with a serial line, as a port of bytes.

The circuit is compiled to a program that turns bytes into the levels of its pins, such as ``rx``,
cycle by cycle, and those of others, such as ``tx``, back into bytes. It runs as fast as it
can, and rests when nothing happens.
"""
from __future__ import annotations

import enum
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from nomul.compiler.errors import ToolError
from nomul.sim.stimulus import compile_program
from nomul.sim.verilator import check_simulator

__all__ = ["LineSimulation", "Play", "Simulation", "compiled_line"]

_CHUNK = 1 << 16


class Play(enum.IntEnum):
    """What the program does with a value on the line."""

    BYTE = 0
    """Send it."""
    BROKEN = 1
    """Send it with a low stop bit."""
    IDLE = 2
    """Leave the line high for so many bits."""
    RESET = 3
    """Reset the circuit for so many cycles."""
    LOW = 4
    """Pull the line low for so many cycles."""


@contextmanager
def compiled_line(verilog: str, top: str, program: str = "line") -> Iterator[Path]:
    """The program that simulates a circuit with a link; it is gone after the block.

    Parameters
    ----------
    verilog : str
        The circuit, with ports ``clk``, ``rst``, those of the link, and maybe others.
    top : str
        Its module.
    program : str
        ``line`` for a serial line, ``spi_line`` for SPI.

    Raises
    ------
    ToolError
        If the simulator is missing or fails.
    """
    check_simulator()
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        (Path(name) / "network.v").write_text(verilog)
        yield compile_program(program, top, Path(name), lambda *_: None)


class Simulation:
    """A running simulation of a circuit with a link.

    Parameters
    ----------
    program : Path
        Of `compiled_line`.
    arguments : int
        Of the program.
    timeout : float
        Seconds that `read` waits.
    """

    def __init__(self, program: Path, *arguments: int, timeout: float) -> None:
        self.timeout = timeout
        self._received = b""
        self._process = subprocess.Popen(
            [str(program), *map(str, arguments)], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def play(self, items: Iterable[tuple[int, enum.IntEnum]]) -> None:
        """Send whatever ``items`` say: values of 0 to 255 and what to do with them."""
        content = memoryview(bytes(part for item in items for part in item))
        # What the circuit answers is taken meanwhile, so that neither side waits for the other.
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdin, selectors.EVENT_WRITE)
            ready.register(self._stdout, selectors.EVENT_READ)
            while content:
                for key, _ in ready.select():
                    if key.fd == self._stdout:
                        self._receive()
                        continue
                    try:
                        content = content[os.write(self._stdin, content[:_CHUNK]):]
                    except OSError as error:
                        raise self._failure() from error

    def read(self, size: int = 1) -> bytes:
        """What the circuit has sent, up to ``size`` bytes; nothing after `timeout` seconds."""
        end = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdout, selectors.EVENT_READ)
            while (len(self._received) < size
                   and ready.select(max(0.0, end - time.monotonic()))):
                self._receive()
        content, self._received = self._received[:size], self._received[size:]
        return content

    def finish(self) -> bytes:
        """End the input and return all that the circuit has sent since."""
        os.set_blocking(self._stdin, True)
        content, error = self._process.communicate()
        if self._process.returncode:
            raise ToolError(f"simulation must run to its end, but failed: {error.decode().strip()}")
        return self._received + content

    def close(self) -> None:
        """Stop the simulation."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _receive(self) -> None:
        got = os.read(self._stdout, _CHUNK)
        if not got:
            raise self._failure()
        self._received += got

    def _failure(self) -> ToolError:
        self._process.kill()
        _, error = self._process.communicate()
        return ToolError("simulation must run on, but ended: "
                         f"{error.decode(errors='replace').strip().removeprefix('Error: ')}")


class LineSimulation(Simulation):
    """A running simulation; it reads and writes like a serial port of pySerial.

    Parameters
    ----------
    program : Path
        Of `compiled_line`.
    divisor : int
        Cycles of a bit.
    patience : int
        Cycles after the last byte for which the clock runs on; longer than any answer takes.
    timeout : float
        Seconds that `read` waits.
    """

    def __init__(self, program: Path, *, divisor: int, patience: int, timeout: float = 60.0,
                 ) -> None:
        super().__init__(program, divisor, patience, timeout=timeout)

    def write(self, content: bytes) -> int:
        """Send ``content``; its length."""
        self.play((byte, Play.BYTE) for byte in content)
        return len(content)
