"""Chips, and the boards that carry them."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nomul.compiler.blocks import BlockShapes
from nomul.compiler.errors import PlanError

__all__ = ["BOARDS", "TARGETS", "Capacity", "Family", "Target", "board", "target"]


class Family(Enum):
    """An FPGA family: what differs between the tools of one and the other."""

    ICE40 = "ice40"
    ECP5 = "ecp5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a chip holds.

    Attributes
    ----------
    logic_cells : int
        Four-input tables with a register: ``ICESTORM_LC`` or ``TRELLIS_COMB`` of nextpnr.
    bram : int
        Block RAMs: ``SB_RAM40_4K`` or ``DP16KD``.
    bram_block_bits : int
        Bits in one of them.
    bram_shapes : tuple of (int, int)
        Bits of a word and number of words that one can have, read once in a cycle.
    dsp : int
        Multiplier blocks: ``SB_MAC16`` or ``MULT18X18D``.
    pins : int
        Pins of the package that a design may use.
    spram : int
        Single-port memories of 16,384 x 16 bits that no bitstream fills: ``SB_SPRAM256KA``.
    """

    logic_cells: int
    bram: int
    bram_block_bits: int
    bram_shapes: BlockShapes
    dsp: int
    pins: int
    spram: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A chip in its package: all that the tools have to be told.

    Attributes
    ----------
    name : str
        What a user types.
    family : Family
        Decides which place and route tool and which packer run.
    capacity : Capacity
        What the chip holds.
    synth_command : str
        The Yosys pass that maps to this chip. Multiplier blocks are open to it wherever the chip
        has any, so that a multiplication would show in the counts.
    nextpnr_flags : tuple of str
        Device, package and speed grade, as nextpnr wants them.
    goal_mhz : float
        Clock that place and route aims at unless told otherwise, in MHz.
    """

    name: str
    family: Family
    capacity: Capacity
    synth_command: str
    nextpnr_flags: tuple[str, ...]
    goal_mhz: float


_ICE40_BLOCK = ((16, 256), (8, 512), (4, 1024), (2, 2048))
_ECP5_BLOCK = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))


def _ice40(name: str, device: str, package: str, synth_flags: str, goal_mhz: float,
           **capacity: int) -> Target:
    return Target(name=name, family=Family.ICE40,
                  capacity=Capacity(bram_block_bits=4096, bram_shapes=_ICE40_BLOCK, **capacity),
                  synth_command=f"synth_ice40 {synth_flags}",
                  nextpnr_flags=(f"--{device}", "--package", package), goal_mhz=goal_mhz)


def _ecp5(size: str, **capacity: int) -> Target:
    return Target(name=f"ecp5-{size}", family=Family.ECP5,
                  capacity=Capacity(bram_block_bits=18432, bram_shapes=_ECP5_BLOCK, **capacity),
                  synth_command="synth_ecp5",
                  nextpnr_flags=(f"--{size}", "--package", "CABGA381", "--speed", "6"),
                  goal_mhz=100.0)


#: Every chip known, by name.
TARGETS = {chip.name: chip for chip in (
    _ice40("ice40-hx8k", "hx8k", "ct256", "-device hx", 100.0,
           logic_cells=7680, bram=32, dsp=0, pins=206),
    _ice40("ice40-up5k", "up5k", "sg48", "-device u -dsp", 48.0,
           logic_cells=5280, bram=30, dsp=8, pins=39, spram=4),
    # To the tools a 12k is a 25k with another number; Lattice sells it with half as many cells.
    _ecp5("12k", logic_cells=24288, bram=56, dsp=28, pins=197),
    _ecp5("25k", logic_cells=24288, bram=56, dsp=28, pins=197),
    _ecp5("45k", logic_cells=43848, bram=108, dsp=72, pins=203),
    _ecp5("85k", logic_cells=83640, bram=208, dsp=156, pins=205),
)}

#: The chip on each board: a board's name may stand wherever a target's may.
BOARDS = {
    "ice40-hx8k-b-evn": "ice40-hx8k",
    "icebreaker": "ice40-up5k",
    "icesugar-pro": "ecp5-25k",
    "orangecrab": "ecp5-25k",
    "ulx3s-12f": "ecp5-12k",
    "ulx3s-25f": "ecp5-25k",
    "ulx3s-45f": "ecp5-45k",
    "ulx3s-85f": "ecp5-85k",
}


def target(name: str) -> Target:
    """The chip called ``name``, or the chip on the board called ``name``.

    Raises
    ------
    PlanError
        Neither a chip nor a board has this name; the message lists those that are known.
    """
    chip = TARGETS.get(BOARDS.get(name, name))
    if chip is None:
        raise PlanError(f"target '{name}' must be a known chip ({', '.join(TARGETS)}) "
                        f"or board ({', '.join(BOARDS)})")
    return chip


def board(name: str) -> str:
    """``name``, if a board is called so; what it is needs `nomul.boards.catalogue`.

    Raises
    ------
    PlanError
        None is; the message lists those that are known.
    """
    if name not in BOARDS:
        raise PlanError(f"board '{name}' must be one of {', '.join(BOARDS)}")
    return name
