"""A circuit with SPI in Verilator, and a controller that asks it."""
from __future__ import annotations

import enum
from pathlib import Path

from nomul.compiler.errors import ToolError
from nomul.hw.spi import SCK_CYCLES
from nomul.sim.line import Simulation

__all__ = ["SpiPlay", "SpiSimulation"]

# Cycles for which the chip-select is high between transactions.
_APART = 8


class SpiPlay(enum.IntEnum):
    """What the controller does with a value; for the first four it reads a byte."""

    BYTE = 0
    """Send it, in a transaction that begins with it unless there is one."""
    LOST = 1
    """Send it without the clock's pulse for one bit."""
    EXTRA = 2
    """Send it with two pulses for one bit."""
    CUT = 3
    """Send half of it and end the transaction."""
    DESELECT = 4
    """End the transaction and wait for so many cycles."""
    RESET = 5
    """Reset the circuit for so many cycles, whatever the controller is at."""
    SPIKE = 6
    """Pull the clock's line high for so many cycles."""
    IDLE = 7
    """Wait for so many cycles."""


class SpiSimulation(Simulation):
    """A running simulation, and the controller of a `nomul.boards.ports.SpiPort`.

    Parameters
    ----------
    program : Path
        Of `nomul.sim.line.compiled_line`.
    period : int
        Cycles of the shortest period of SCK.
    timeout : float
        Seconds that an exchange may take.
    """

    def __init__(self, program: Path, *, period: int = SCK_CYCLES, timeout: float = 60.0) -> None:
        super().__init__(program, period, timeout=timeout)

    def exchange(self, content: bytes) -> bytes:
        """What the circuit sends while ``content`` goes to it in a transaction."""
        self.play([*((byte, SpiPlay.BYTE) for byte in content), (_APART, SpiPlay.DESELECT)])
        got = self.read(len(content))
        if len(got) != len(content):
            raise ToolError(f"simulation must answer within {self.timeout:g} s, but did not")
        return got
