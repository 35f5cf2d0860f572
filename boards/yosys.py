"""Amaranth to a netlist of one chip's cells, by native Yosys, and what that netlist holds.

The passes are those of Yosys's ``synth_ice40`` and ``synth_ecp5``, except that ABC maps the logic
to tables where they use ABC9. Measured with Yosys 0.70 on two engines of dot products, ABC needs
3 to 6 % fewer logic cells; the clock is as fast on iCE40 and 6 to 20 % faster on ECP5. ABC9 also
fails on some circuits with an assertion about the name of a wire (YosysHQ/yosys issue 4349).

ABC maps twice: as Yosys asks it to, and without rewriting the logic first (``dc2``), which takes
shifters apart. Small control logic, most of the digits nets, takes 2 to 4 % fewer tables the first
way and has a faster clock; engines for 16 powers of two take 6 to 8 % fewer the second way, which
is kept where it saves 2 % of the tables. On ECP5, tables then move into carry cells
(`nomul.boards.carry`).

On ECP5 no tables of more than four inputs are made of smaller ones and multiplexers: with them the
digits and MNIST nets take 6 % more logic cells at the same clock (within the spread of three
seeds), and engines for 16 powers of two 28 to 92 % more.
"""
from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.lib import wiring

from nomul.boards.carry import absorb
from nomul.boards.targets import Family, Target
from nomul.boards.tools import Tool, run

__all__ = ["GLUE", "NEVER_COLLIDES", "Counts", "Netlist", "count_layers", "kept_layers",
           "make_netlist", "map_verilog", "mapping"]

#: Key in `count_layers` for everything outside the layers.
GLUE = "(glue)"

#: Coarse cells that multiply two operands. Yosys has turned a multiplication by a constant power
#: of two into wires by the time they are counted; any other constant counts as a multiplier.
_MULTIPLIERS = ("$mul", "$macc", "$macc_v")

#: How the names of block RAMs begin.
_BLOCK_RAMS = ("SB_RAM40_4K", "DP16KD")

#: A command of Yosys: none of our memories reads a place in the cycle that writes it, since buffers
#: and queues read what came in before. Told so, it builds no circuit that would give the old word.
NEVER_COLLIDES = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2"

#: How ABC maps logic to tables. The second one leaves out ``dc2`` and works over its result.
_ABC = ("abc -dress -lut 4",
        "abc -dress -lut 4 -script +strash;&get,-n;&fraig,-x;&put;scorr;"
        "dch,-f;if;mfs2;strash;dch,-f;if;mfs2")

#: Share of the tables that the second one must save, for it costs some of the clock.
_WORTHWHILE = 0.02

#: What takes the place of the step ``map_luts`` of Yosys's own script; None stands for ABC.
_MAP_LUTS: Mapping[Family, tuple[str | None, ...]] = {
    Family.ICE40: (
        "check -latchonly -assert",
        None,
        "setattr -unset keep w:*",  # kept from other additions: opt_lut may now invert them
        "ice40_wrapcarry -unwrap",
        "techmap -map +/ice40/ff_map.v",
        "clean",
        "opt_lut -tech ice40",
    ),
    Family.ECP5: (
        "check -latchonly -assert",
        None,
        "clean",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Cells of a netlist before place and route.

    Attributes
    ----------
    lut4 : int
        Four-input tables: ``SB_LUT4`` or ``LUT4``.
    carry : int
        Carry cells: ``SB_CARRY`` (one bit, shares a logic cell with its table) or ``CCU2C`` (two
        bits, takes two logic cells and holds its own tables).
    ff : int
        Flip-flops: ``SB_DFF*`` or ``TRELLIS_FF``.
    bram : int
        Block RAMs: ``SB_RAM40_4K*`` or ``DP16KD``.
    lutram : int
        Distributed RAMs of 16 x 4 bits: ``TRELLIS_DPR16X4``; iCE40 has none.
    dsp : int
        Multiplier blocks: ``SB_MAC16`` or ``MULT18X18D``.
    spram : int
        Single-port memories of 16,384 x 16 bits: ``SB_SPRAM256KA``, on the UP5K.
    """

    lut4: int
    carry: int
    ff: int
    bram: int
    lutram: int
    dsp: int
    spram: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Netlist:
    """What Yosys made of a component.

    Attributes
    ----------
    file : str
        The netlist in Yosys's JSON, in the working folder.
    counts : Counts
        Its cells.
    multipliers : int
        Multiplications in the circuit before any is mapped to a chip's cells.
    least_logic_cells : int
        Logic cells that no packing can go below. On ECP5 flip-flops are counted apart: a chip
        has one for each logic cell.
    pins : int
        Bits of all ports.
    memories : mapping of str to int
        Block RAMs of each memory, by its path in the circuit, such as
        ``network.body.dense1.dots.weights.table``; by path.
    """

    file: str
    counts: Counts
    multipliers: int
    least_logic_cells: int
    pins: int
    memories: Mapping[str, int]


def mapping(chip: Target, way: int = 0) -> tuple[str, ...]:
    """Yosys commands that map the module ``top`` to the cells of ``chip``, by ABC's first or
    second ``way``."""
    command = f"{chip.synth_command} -top top"
    return (f"{command} -run begin:map_luts",
            *(line or _ABC[way] for line in _MAP_LUTS[chip.family]),
            f"{command} -run map_cells:")


def make_netlist(component: wiring.Component, chip: Target, folder: Path) -> Netlist:
    """Map ``component`` to the cells of ``chip``, its hierarchy flattened.

    Leaves ``top.il``, ``yosys.log``, ``coarse.json`` and ``netlist.json`` in ``folder``.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    (folder / "top.il").write_text(_rtlil(component, chip))
    # The multipliers are counted in a copy, so that counting changes nothing.
    modules = _mapped(folder, "yosys", "netlist", chip, [
        "read_rtlil top.il",
        "hierarchy -top top",  # unchecked: cells of the chip are not known yet
        NEVER_COLLIDES,
        "design -push-copy",
        "proc",
        "flatten",
        "opt -nodffe -nosdff",
        "wreduce",
        "opt_clean",
        "tee -q -o coarse.json stat -json",
        "design -pop",
    ])
    coarse = _read(folder / "coarse.json")["design"].get("num_cells_by_type", {})
    cells = modules["top"]["cells"]
    counts = _counts(modules["top"], chip.family)
    return Netlist(
        file="netlist.json",
        counts=counts,
        multipliers=sum(coarse.get(kind, 0) for kind in _MULTIPLIERS),
        least_logic_cells=_least_logic_cells(counts, cells, chip.family),
        pins=sum(len(port["bits"]) for port in modules["top"]["ports"].values()),
        memories=_memories(cells),
    )


def map_verilog(files: Sequence[Path], top: str, chip: Target, folder: Path) -> Counts:
    """Cells of Verilog that others wrote, mapped as `make_netlist` does.

    Leaves ``verilog.log`` and ``netlist.json`` in ``folder``.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    modules = _mapped(folder, "verilog", "netlist", chip, [
        *(f"read_verilog -defer -sv {file.resolve()}" for file in files),
        f"hierarchy -check -top {top}",
        "rename -top top",
    ])
    return _counts(modules["top"], chip.family)


def count_layers(component: wiring.Component, network: str, chip: Target,
                 folder: Path) -> dict[str, Counts]:
    """Cells of each direct submodule of the network, by its instance name.

    A run of its own, in which nothing is shared or simplified across the borders of the layers:
    the sum may be a little above the flattened netlist's counts.

    Parameters
    ----------
    component : wiring.Component
        The whole circuit.
    network : str
        Path of the module whose submodules are the layers: ``"top"`` for the component itself,
        ``"top.network"`` for its submodule ``network``.
    chip : Target
        The chip to map to.
    folder : Path
        Working folder; ``layers.il``, ``layers.log`` and ``layers.json`` stay there.

    Returns
    -------
    dict of str to Counts
        In the order of the circuit; the entry `GLUE` counts what lies outside the layers.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    text, layers = kept_layers(component, network, chip)
    (folder / "layers.il").write_text(text)
    modules = _mapped(folder, "layers", "layers", chip,
                      ["read_rtlil layers.il", NEVER_COLLIDES])
    counts = {name: _counts(modules.get(module, {"cells": {}}), chip.family)
              for name, module in layers.items()}
    return counts | {GLUE: _counts(modules["top"], chip.family)}


def _mapped(folder: Path, script: str, name: str, chip: Target,
            lines: Sequence[str]) -> dict[str, Any]:
    """Modules of the netlist with clearly fewer tables, of what the commands ``lines`` read.

    Leaves it in ``<name>.json``, beside ``<script>.ys`` and ``<script>.log``.
    """
    (begin, *first), (_, *second) = mapping(chip), mapping(chip, way=1)
    (folder / f"{script}.ys").write_text("\n".join((
        *lines, begin, "design -save logic", *first, f"write_json {name}-0.json",
        "design -load logic", *second, f"write_json {name}-1.json", "")))
    run(Tool.YOSYS, (f"{script}.ys",), folder, f"{script}.log")
    files = [folder / f"{name}-{way}.json" for way in range(len(_ABC))]
    netlists = [_read(file) for file in files]
    if chip.family is Family.ECP5:
        for netlist in netlists:
            for module in netlist["modules"].values():
                absorb(module)
    sizes = [sum(_counts(module, chip.family).lut4 for module in netlist["modules"].values())
             for netlist in netlists]
    best = int(sizes[1] < (1 - _WORTHWHILE) * sizes[0])
    if chip.family is Family.ECP5:
        files[best].write_text(json.dumps(netlists[best]))
    os.replace(files[best], folder / f"{name}.json")
    files[1 - best].unlink()
    modules: dict[str, Any] = netlists[best]["modules"]
    return modules


def _rtlil(component: wiring.Component, chip: Target) -> str:
    """RTLIL of ``component`` in which huge memories are what ``chip`` has for them: SPRAM, which
    starts with any contents, or else block RAM."""
    text: str = rtlil.convert(component, name="top", emit_src=False)
    huge = 'attribute \\ram_style "huge"\n'
    if not chip.capacity.spram:
        return text.replace(huge, huge.replace("huge", "block"))
    modules = text.split("\nmodule ")
    for n, module in enumerate(modules):
        for name in re.findall(re.escape(huge) + r"(?:  attribute .*\n)*  memory .* (\S+)\n",
                               module):
            quoted = '"' + name.replace("\\", "\\\\") + '"'
            module = re.sub(r"  cell \$meminit_v2 \S+\n    parameter \\MEMID "
                            + re.escape(quoted) + r"\n(?:    .*\n)*  end\n", "", module)
        modules[n] = module
    return "\nmodule ".join(modules)


def kept_layers(component: wiring.Component, network: str, chip: Target,
                ) -> tuple[str, dict[str, str]]:
    """RTLIL of ``component`` for ``chip`` in which the submodules of ``network`` are not to be
    flattened, and the module that each of them is of, by its instance name."""
    text = _rtlil(component, chip)
    layers = _submodules(text, network)
    for module in layers.values():
        text = text.replace(f"\nmodule \\{module}\n",
                            f"\nattribute \\keep_hierarchy 1\nmodule \\{module}\n")
    return text, layers


def _submodules(text: str, module: str) -> dict[str, str]:
    """Instances in RTLIL's ``module`` and the modules that they are of.

    Amaranth numbers an instance whose name a signal has too (``weights$7``); the number goes.
    """
    body = text.split(f"\nmodule \\{module}\n", 1)[1].split("\nend\n", 1)[0]
    cells = re.findall(r"^  cell \\(\S+) \\(\S+)$", body, re.MULTILINE)
    return {re.sub(r"\$\d+$", "", name): kind for kind, name in cells
            if f"\nmodule \\{kind}\n" in text}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _counts(module: Mapping[str, Any], family: Family) -> Counts:
    types = Counter(cell["type"] for cell in module["cells"].values())

    def count(*prefixes: str) -> int:
        return sum(number for kind, number in types.items() if kind.startswith(prefixes))

    match family:
        case Family.ICE40:
            return Counts(lut4=count("SB_LUT4"), carry=count("SB_CARRY"), ff=count("SB_DFF"),
                          bram=count(*_BLOCK_RAMS), lutram=0, dsp=count("SB_MAC16"),
                          spram=count("SB_SPRAM256KA"))
        case Family.ECP5:
            return Counts(lut4=count("LUT4"), carry=count("CCU2C"), ff=count("TRELLIS_FF"),
                          bram=count(*_BLOCK_RAMS), lutram=count("TRELLIS_DPR16X4"),
                          dsp=count("MULT18X18D"))


def _memories(cells: Mapping[str, Any]) -> dict[str, int]:
    """Block RAMs by the memory that they are a part of: Yosys numbers them behind its name."""
    found = Counter(re.sub(r"(\.\d+)+$", "", name) for name, cell in cells.items()
                    if cell["type"].startswith(_BLOCK_RAMS))
    return dict(sorted(found.items()))


def _least_logic_cells(counts: Counts, cells: Mapping[str, Any], family: Family) -> int:
    """Logic cells that any packing needs, so that a refusal is never wrong.

    iCE40: a cell holds one table, one carry and one flip-flop; a flip-flop shares its cell with
    the table that feeds it and nothing else. ECP5: a flip-flop sits beside any table, a carry
    cell takes two cells and a distributed RAM four.
    """
    match family:
        case Family.ICE40:
            return max(counts.carry, counts.lut4 + counts.ff - _pairs(cells))
        case Family.ECP5:
            return counts.lut4 + 2 * counts.carry + 4 * counts.lutram


def _pairs(cells: Mapping[str, Any]) -> int:
    """Flip-flops of an iCE40 netlist whose input is a table that feeds nothing else."""
    readers: dict[int | str, int] = {}
    tables = set()
    inputs = []
    for cell in cells.values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    readers[bit] = readers.get(bit, 0) + 1
        if cell["type"] == "SB_LUT4":
            tables.add(cell["connections"]["O"][0])
        elif cell["type"].startswith("SB_DFF"):
            inputs.append(cell["connections"]["D"][0])
    return sum(bit in tables and readers[bit] == 1 for bit in inputs)
