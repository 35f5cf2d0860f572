"""Netlist to bitstream: nextpnr over several seeds at a time, then icepack or ecppack."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from nomul.boards.resets import buffer_resets
from nomul.boards.targets import Family, Target
from nomul.boards.tools import RunFailure, Tool, run

__all__ = ["PACKER", "PLACER", "Placement", "pack", "packed_cells", "place"]

#: Place and route of each family.
PLACER = {Family.ICE40: Tool.NEXTPNR_ICE40, Family.ECP5: Tool.NEXTPNR_ECP5}
#: Bitstream packer of each family.
PACKER = {Family.ICE40: Tool.ICEPACK, Family.ECP5: Tool.ECPPACK}

_LOGIC_CELL = {Family.ICE40: "ICESTORM_LC", Family.ECP5: "TRELLIS_COMB"}
_OUTPUT_FLAG = {Family.ICE40: "--asc", Family.ECP5: "--textcfg"}
_FREE_PINS_FLAG = {Family.ICE40: "--pcf-allow-unconstrained",
                   Family.ECP5: "--lpf-allow-unconstrained"}
# Flip-flops from which on the reset of an ECP5 takes a network for clocks.
_LARGE_RESET = 5000
_CONSTRAINTS = {Family.ICE40: "pcf", Family.ECP5: "lpf"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A placed and routed circuit.

    Attributes
    ----------
    seed : int
        The seed that led to it.
    fmax_mhz : float
        Fastest clock by the timing model, from register to register, in MHz.
    logic_cells : int
        Logic cells taken, after packing.
    file : str
        The configuration as text, in the working folder.
    """

    seed: int
    fmax_mhz: float
    logic_cells: int
    file: str


def place(netlist: str, chip: Target, folder: Path, seeds: Sequence[int], *, clock_mhz: float,
          jobs: int, constraints: str | None = None) -> Iterator[Placement | RunFailure]:
    """Place and route ``netlist`` once for each seed. On ECP5, a reset that many flip-flops share
    takes a network for clocks (`nomul.boards.resets`).

    Yields each result as it arrives, so their order may differ from run to run; the results
    themselves are equal. Leaves ``nextpnr-<seed>.log`` and ``report-<seed>.json`` in ``folder``,
    and ``pins.pcf`` or ``pins.lpf``.

    Parameters
    ----------
    netlist : str
        File name in ``folder``, of Yosys's JSON.
    chip : Target
        Where to place it.
    folder : Path
        Working folder.
    seeds : sequence of int
        Starting points of the placer.
    clock_mhz : float
        Clock aimed at, in MHz. Missing it is no error.
    jobs : int
        Seeds placed at a time; at least 1.
    constraints : str, optional
        Pins of all ports, as nextpnr reads them; without them pins are wherever it puts them.

    Yields
    ------
    Placement or RunFailure
        One for each seed; a failure where nextpnr found no place or no route.

    Raises
    ------
    RunFailure
        The tool does not start at all.
    """
    # A first run compiles the tool's WebAssembly into a cache, which must not happen twice at once.
    run(PLACER[chip.family], ("--version",), folder, "nextpnr.log")
    pins: tuple[str, ...] = (_FREE_PINS_FLAG[chip.family],)
    if constraints is not None:
        kind = _CONSTRAINTS[chip.family]
        (folder / f"pins.{kind}").write_text(constraints)
        pins = (f"--{kind}", f"pins.{kind}")
    if chip.family is Family.ECP5:
        netlist = _with_resets(netlist, folder)
    pool = ThreadPoolExecutor(jobs)
    try:
        runs = [pool.submit(_place, netlist, chip, folder, seed, clock_mhz, pins)
                for seed in seeds]
        for future in as_completed(runs):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _with_resets(netlist: str, folder: Path) -> str:
    """``netlist``, or, if it has a reset of many flip-flops, another file in which a buffer drives
    these."""
    content = json.loads((folder / netlist).read_text())
    if not buffer_resets(content["modules"]["top"], _LARGE_RESET):
        return netlist
    buffered = f"{Path(netlist).stem}-resets.json"
    (folder / buffered).write_text(json.dumps(content))
    return buffered


def _place(netlist: str, chip: Target, folder: Path, seed: int, clock_mhz: float,
           pins: tuple[str, ...]) -> Placement | RunFailure:
    config, report, log = f"placed-{seed}.txt", f"report-{seed}.json", f"nextpnr-{seed}.log"
    try:
        run(PLACER[chip.family], (
            *chip.nextpnr_flags, *pins, "--timing-allow-fail", "--json", netlist,
            _OUTPUT_FLAG[chip.family], config, "--report", report,
            "--seed", str(seed), "--freq", f"{clock_mhz:g}"), folder, log)
    except RunFailure as failure:
        return failure
    results = json.loads((folder / report).read_text())
    clocks = [clock["achieved"] for net, clock in results["fmax"].items()
              if re.match(r"(\$glbnet\$)?clk\b", net)]
    if len(clocks) != 1:
        return RunFailure(PLACER[chip.family], "the circuit has no path between two registers, "
                          "so it has no fastest clock", folder / log)
    return Placement(seed=seed, fmax_mhz=clocks[0], file=config,
                     logic_cells=results["utilization"][_LOGIC_CELL[chip.family]]["used"])


def packed_cells(netlist: str, chip: Target, folder: Path) -> int:
    """Logic cells that ``netlist`` takes once it is packed; nothing is placed.

    Leaves ``packed.log`` in ``folder``.

    Raises
    ------
    RunFailure
        nextpnr ended with an error.
    """
    log = folder / "packed.log"
    run(PLACER[chip.family], (*chip.nextpnr_flags, _FREE_PINS_FLAG[chip.family], "--json", netlist,
                              "--pack-only"), folder, log.name)
    found = re.search(rf"{_LOGIC_CELL[chip.family]}:\s+(\d+)/", log.read_text())
    if found is None:
        raise RunFailure(PLACER[chip.family], "its log does not tell the logic cells", log)
    return int(found[1])


def pack(placement: Placement, chip: Target, folder: Path, name: str) -> str:
    """Write the bitstream of ``placement`` into ``folder``.

    Returns
    -------
    str
        Its file name: ``name``, unusual characters replaced, with the ending that the family's
        loaders expect.

    Raises
    ------
    RunFailure
        The packer ended with an error.
    """
    # Whatever the name, the file must not look like a folder or like an option.
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "network"
    match chip.family:
        case Family.ICE40:
            bitstream = f"{stem}.bin"
            arguments: tuple[str, ...] = (placement.file, bitstream)
        case Family.ECP5:
            bitstream = f"{stem}.bit"
            arguments = ("--compress", "--input", placement.file, "--bit", bitstream)
    run(PACKER[chip.family], arguments, folder, "pack.log")
    return bitstream
