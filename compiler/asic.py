"""Networks to Verilog without a technology: memories apart, and no register that starts by itself.

An FPGA fills block RAM and sets every register when it is configured; an ASIC does neither. Here a
memory that nothing writes becomes constants in logic, or a macro whose contents lie in a file; one
that is written starts with anything, as do all registers until ``rst``.
"""
from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, Shape, Value
from amaranth.lib import memory

from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan

__all__ = ["AsicDesign", "Macro", "Memories", "lower_asic"]


class Memories(enum.Enum):
    """What a memory is in Verilog."""

    ARRAYS = "arrays"
    """Read-only ones: constants in logic; others: an array, which becomes flip-flops."""
    BLACKBOX = "blackbox"
    """A module without contents, to be replaced by a macro of the foundry or a memory compiler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """A memory as a module: a read port whose word comes a cycle later and, unless it is
    read-only, a write port.

    Parameters
    ----------
    name : str
        The module.
    path : str
        The submodule that it is in, by Amaranth's names.
    width, depth : int
        Bits of a word, and words.
    rows : tuple of int or None
        Contents of a read-only memory, as unsigned numbers.
    """

    name: str
    path: str
    width: int
    depth: int
    rows: tuple[int, ...] | None

    @property
    def bits(self) -> int:
        return self.width * self.depth

    @property
    def address_width(self) -> int:
        return (self.depth - 1).bit_length()

    def ports(self, data: str) -> str:
        """The head of the module; ``data`` is what its output is, wire or reg."""
        address, word = _range(self.address_width), _range(self.width)
        write = "" if self.rows is not None else (
            f"    input wire w_en,\n    input wire {address}w_addr,\n"
            f"    input wire {word}w_data,\n")
        return (f"module {self.name} (\n    input wire clk,\n{write}    input wire r_en,\n"
                f"    input wire {address}r_addr,\n    output {data} {word}r_data\n);\n")

    def verilog(self) -> str:
        """The module as constants in logic, or as an array."""
        if self.rows is None:
            return self._array("")
        digits = -(-self.width // 4)
        cases = "".join(f"      {self.address_width}'d{n}: word = {self.width}'h{row:0{digits}x};\n"
                        for n, row in enumerate(self.rows))
        return (f"{self.ports('reg')}  reg {_range(self.width)}word;\n"
                f"  always @* begin\n    case (r_addr)\n{cases}"
                f"      default: word = {self.width}'h0;\n    endcase\n  end\n"
                "  always @(posedge clk) if (r_en) r_data <= word;\nendmodule\n")

    def blackbox(self) -> str:
        """The module's ports alone."""
        return f"(* blackbox *)\n{self.ports('wire')}endmodule\n"

    def model(self) -> str:
        """The module for simulation; a read-only one takes its contents from a file."""
        return self._array("" if self.rows is None else
                           f'  initial $readmemh("{self.name}.hex", rows);\n')

    def hex(self) -> str:
        """Contents for ``$readmemh``, a word a line; of read-only memories alone."""
        assert self.rows is not None, "a memory that is written has no contents"
        return "".join(f"{row:0{-(-self.width // 4)}x}\n" for row in self.rows)

    def _array(self, initial: str) -> str:
        write = "" if self.rows is not None else (
            "  always @(posedge clk) if (w_en) rows[w_addr] <= w_data;\n")
        return (f"{self.ports('reg')}  reg {_range(self.width)}rows [0:{self.depth - 1}];\n"
                f"{initial}{write}"
                "  always @(posedge clk) if (r_en) r_data <= rows[r_addr];\nendmodule\n")


def _range(width: int) -> str:
    return "" if width == 1 else f"[{width - 1}:0] "


@dataclass(frozen=True, kw_only=True)
class AsicDesign:
    """A network's circuit without its memories.

    Parameters
    ----------
    rtlil : str
        Yosys's intermediate language; modules and instances have names that are C identifiers.
    macros : tuple of Macro
        What its memories are.
    """

    rtlil: str
    macros: tuple[Macro, ...]


class _Platform:
    """Makes an instance of a macro of each of Amaranth's memories."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.memories: dict[str, memory.Memory] = {}

    def get_memory(self, contents: memory.Memory) -> Module:
        kind = "ram" if contents.write_ports else "rom"
        name = f"{self.prefix}_{kind}_{len(self.memories)}"
        self.memories[name] = contents
        read, = contents.read_ports
        assert read.domain == "sync" and not read.transparent_for, "as all our memories"
        ports: dict[str, Value] = {"i_clk": ClockSignal(), "i_r_en": read.en,
                                   "i_r_addr": read.addr, "o_r_data": Value.cast(read.data)}
        for write in contents.write_ports:
            ports |= {"i_w_en": write.en, "i_w_addr": write.addr,
                      "i_w_data": Value.cast(write.data)}
        m = Module()
        m.submodules.macro = Instance(name, **ports)
        return m


def lower_asic(network: Network, plan: Plan) -> AsicDesign:
    """The hardware of ``network`` built as ``plan`` says, for any technology."""
    platform = _Platform(network.name)
    text = rtlil.convert(lower(network, plan), name=network.name, platform=platform,
                         emit_src=False)
    paths = dict((macro, module) for module, body in re.findall(
        r"^module \\(\S+)$(.*?)^end$", text, re.MULTILINE | re.DOTALL)
        for macro in re.findall(r"^  cell \\(\S+) \\macro$", body, re.MULTILINE))
    macros = tuple(_macro(name, paths[name], contents)
                   for name, contents in platform.memories.items())
    return AsicDesign(rtlil=_plain_names(text, {macro.name for macro in macros}), macros=macros)


def _macro(name: str, path: str, contents: memory.Memory) -> Macro:
    width = Shape.cast(contents.shape).width
    rows = None if contents.write_ports else tuple(
        int(row) & (1 << width) - 1 for row in contents.init)
    return Macro(name=name, path=path, width=width, depth=contents.depth, rows=rows)


def _plain_names(text: str, taken: set[str]) -> str:
    """RTLIL whose modules have names that no tool has to escape: Amaranth's have dots."""
    plain: dict[str, str] = {}
    for module in re.findall(r"^module \\(\S+)$", text, re.MULTILINE):
        name = stem = re.sub(r"\W", "_", module)
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        plain[module] = name
        taken.add(name)
    text = re.sub(r"^module \\(\S+)$", lambda match: f"module \\{plain[match[1]]}", text,
                  flags=re.MULTILINE)
    return re.sub(r"^  cell \\(\S+) \\(\S+)$",
                  lambda match: f"  cell \\{plain.get(match[1], match[1])} "
                                f"\\{re.sub(r'[^A-Za-z0-9_]', '_', match[2])}",
                  text, flags=re.MULTILINE)
