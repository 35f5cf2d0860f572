"""Circuits without a technology: Verilog modules, and how many gates and how much area they take.

All of it by native Yosys. Areas are those of a Liberty file that the user has.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.boards.tools import Tool, run

__all__ = ["Area", "Gates", "area", "gates", "modules", "unreset"]

#: Commands that turn RTLIL into what is written as Verilog. Initial values go before anything could
#: rely on them. Choices among several become trees of choices between two: Verilog has none that
#: is parallel. Flip-flops stay plain, with their reset as a choice in front.
_PLAIN = (
    "proc",
    "setattr -unset init w:*",
    "opt -nodffe -nosdff",
    "wreduce",
    "pmuxtree",
    "opt -nodffe -nosdff",
    "techmap -map whole.v t:$shr t:$sshr t:$shl t:$sshl t:$shift t:$shiftx",
    "opt_clean -purge",
)

#: A shift of which fewer bits are used than come out is cut where one can see it.
_WHOLE = """\
module \\${kind} (A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH <= Y_WIDTH;
  wire [A_WIDTH-1:0] whole;
  \\${kind} #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_WIDTH), .B_WIDTH(B_WIDTH),
    .Y_WIDTH(A_WIDTH)) shift (.A(A), .B(B), .Y(whole));
  assign Y = whole[Y_WIDTH-1:0];
endmodule
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """A circuit of CMOS gates.

    Attributes
    ----------
    gates, flip_flops : int
        Gates are what Yosys's ABC maps to with ``-g cmos``: inverters, NAND and NOR of two inputs,
        XOR and XNOR, AND-OR-inverts and OR-AND-inverts of three and four, multiplexers.
    transistors : int
        By Yosys's estimate, 16 for a flip-flop; those of macros are not among them.
    by_type : dict of str to int
        How many of each, by Yosys's names without ``$_``.
    macro_bits : int
        Bits of memories that are black boxes.
    """

    gates: int
    flip_flops: int
    transistors: int
    by_type: dict[str, int]
    macro_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A circuit of a library's cells.

    Attributes
    ----------
    area : float
        Sum of the cells' areas, in the units of the Liberty file; macros are not among it.
    cells : int
    by_type : dict of str to int
        How many of each of the library's cells.
    """

    area: float
    cells: int
    by_type: dict[str, int]


def modules(rtlil: str, stubs: Mapping[str, str], top: str, folder: Path) -> dict[str, str]:
    """Each module of ``rtlil`` as Verilog of its own, by its name.

    Parameters
    ----------
    rtlil : str
        In Yosys's intermediate language.
    stubs : mapping of str to str
        Verilog of the black boxes in it.
    top : str
        The top module.
    folder : Path
        Working folder.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    (folder / "top.il").write_text(rtlil)
    (folder / "whole.v").write_text("".join(
        _WHOLE.format(kind=kind) for kind in ("shr", "sshr", "shl", "sshl", "shift", "shiftx")))
    (folder / "stubs.v").write_text("".join(stubs.values()))
    _script(folder, "modules", [
        "read_verilog -lib stubs.v", "read_rtlil top.il", f"hierarchy -check -top {top}",
        *_PLAIN, "write_verilog -noattr modules.v"])
    text = (folder / "modules.v").read_text()
    # ``!`` of several bits is legal, but linters want it to be said that it is about all of them.
    text = re.sub(r"= ! ([^;]+);", r"= ~(| \1);", text)
    return {match[1]: match[0] for match in re.finditer(
        r"^module (\w+)\(.*?^endmodule\n", text, re.MULTILINE | re.DOTALL)}


def unreset(found: Mapping[str, str]) -> list[str]:
    """Registers in Verilog of `modules` that ``rst`` does not set: ``<module>.<register>`` each."""
    left = []
    for name, text in found.items():
        given: dict[str, list[str]] = {}
        for wire, value in re.findall(r"^  assign (\w+)\S* = (.*);$", text, re.MULTILINE):
            given.setdefault(wire, []).append(value)
        for register, value in re.findall(r"^ +(\w+)\S* <= (.*);$", text, re.MULTILINE):
            if not all(choice.startswith(("rst ? ", "~ rst"))
                       for choice in given.get(value.split("[")[0], [value])):
                left.append(f"{name}.{register}")
    return left


def gates(files: Sequence[Path], top: str, folder: Path, *, macro_bits: int = 0) -> Gates:
    """Gates and transistors of Verilog ``files``, mapped to CMOS gates."""
    # Resets and enables of flip-flops are gates too: ABC sees them.
    _script(folder, "gates", [
        *_read(files, top), f"synth -flatten -top {top}", "dfflegalize -cell $_DFF_P_ x",
        "abc -g cmos", "opt_clean", "tee -q -o gates.json stat -json -tech cmos"])
    stat = json.loads((folder / "gates.json").read_text())["design"]
    types: dict[str, int] = {name.strip("$_"): count
                             for name, count in stat["num_cells_by_type"].items()
                             if name.startswith("$_")}
    flip_flops = sum(count for name, count in types.items() if name.startswith("DFF"))
    return Gates(gates=sum(types.values()) - flip_flops, flip_flops=flip_flops,
                 transistors=int(str(stat["estimated_num_transistors"]).rstrip("+")),
                 by_type=types, macro_bits=macro_bits)


def area(files: Sequence[Path], top: str, liberty: Path, folder: Path) -> Area:
    """Cells and area of Verilog ``files``, mapped to those of a Liberty file."""
    library = liberty.resolve()
    _script(folder, "area", [
        *_read(files, top), f"synth -flatten -top {top}", f'dfflibmap -liberty "{library}"',
        f'abc -liberty "{library}"', "opt_clean",
        f'tee -q -o area.json stat -json -liberty "{library}"'])
    stat: dict[str, Any] = json.loads((folder / "area.json").read_text())["design"]
    types: dict[str, int] = stat["num_cells_by_type"]
    return Area(area=float(stat["area"]), cells=sum(types.values()), by_type=types)


def _read(files: Sequence[Path], top: str) -> list[str]:
    return [*(f'read_verilog "{file.resolve()}"' for file in files), f"hierarchy -check -top {top}"]


def _script(folder: Path, name: str, lines: list[str]) -> None:
    (folder / f"{name}.ys").write_text("\n".join(lines) + "\n")
    run(Tool.YOSYS, (f"{name}.ys",), folder, f"{name}.log")
