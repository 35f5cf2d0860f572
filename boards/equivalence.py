# amaranth: UnusedElaboratable=no
"""Netlists of small components are proved equal to the components, cell by cell.

Equal means: whatever comes, and whenever it resets, every ``valid`` and every ``ready`` of both is
the same in each cycle, and so is every payload that is valid. What lies on a payload that is not
valid means nothing, and differs: places of a queue that hold no beat, and read registers of
memories before the first row, start with anything.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    ClockSignal,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Value,
)
from amaranth.lib.wiring import In

from nomul.boards.targets import TARGETS, Family, Target
from nomul.boards.yosys import make_netlist
from nomul.sim.formal import Proof, decide, stream_ports
from nomul.sim.obligations import Example, Obligation

__all__ = ["Equivalence", "equivalences"]

# Models of the cells, among Yosys's files, and the parameter with a table's contents.
_MODELS = {Family.ICE40: "+/ice40/cells_sim.v", Family.ECP5: "+/lattice/cells_sim_ecp5.v"}
_TABLES = {Family.ICE40: ("SB_LUT4", "LUT_INIT"), Family.ECP5: ("LUT4", "INIT")}


class _Same(Elaboratable):
    """Two modules, ``gold`` and ``gate``, that see the same give the same.

    Parameters
    ----------
    example : Example
        What both are, and what may be relied on of each beat that comes.
    """

    def __init__(self, example: Example) -> None:
        signature = example.make().signature
        self.assume = example.assume
        self.gold, self.gate = (signature.create(path=(name,)) for name in ("gold", "gate"))

    @property
    def inputs(self) -> list[Value]:
        """Signals that may be anything."""
        return [signal for port in stream_ports(self.gold) for signal in
                ((*port.wires, port.valid) if port.is_input else (port.ready,))]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, face in (("gold", self.gold), ("gate", self.gate)):
            wires = {f"{'i' if member.flow is In else 'o'}_{'__'.join(path)}": Value.cast(value)
                     for path, member, value in face.signature.flatten(face)}
            m.submodules[name] = Instance(
                name, i_clk=ClockSignal(), i_rst=ResetSignal(),
                **{wire: value for wire, value in wires.items() if len(value)})

        for gold, gate in zip(stream_ports(self.gold), stream_ports(self.gate), strict=True):
            payload = Value.cast(gold.payload)
            if gold.is_input:
                m.d.comb += [to.eq(wire) for to, wire in zip(gate.wires, gold.wires, strict=True)]
                m.d.comb += [gate.valid.eq(gold.valid), Assert(gate.ready == gold.ready)]
                if self.assume is not None:
                    m.d.comb += Assume(~gold.valid | self.assume(gold.name, gold.payload))
            else:
                m.d.comb += [
                    gate.ready.eq(gold.ready),
                    Assert(gate.valid == gold.valid),
                    Assert(~gold.valid | (Value.cast(gate.payload) == payload)),
                ]
        return m


@dataclass(frozen=True, kw_only=True)
class Equivalence(Obligation):
    """That the netlist of a component gives what the component gives, whatever comes.

    The component is that of ``example``; its broken twin is a netlist with one table inverted.

    Parameters
    ----------
    example : Example
    chip : Target
        The chip that the netlist is for.
    """

    example: Example
    chip: Target

    def prove(self, folder: Path) -> Proof:
        return self._compare(folder, broken=False)

    def refute(self, folder: Path) -> Proof:
        return self._compare(folder, broken=True)

    def _compare(self, folder: Path, *, broken: bool) -> Proof:
        file = folder / make_netlist(self.example.make(), self.chip, folder).file
        if broken:
            netlist = json.loads(file.read_text())
            _invert_a_table(netlist["modules"]["top"]["cells"], *_TABLES[self.chip.family])
            file.write_text(json.dumps(netlist))
        both = self.make()
        (folder / "gold.il").write_text(
            rtlil.convert(self.example.make(), name="gold", emit_src=False))
        (folder / "both.il").write_text(rtlil.convert(
            both, ports=both.inputs, name="top", platform="formal", emit_src=False))
        return decide([
            "read_rtlil gold.il",
            "hierarchy -check -top gold",
            "proc",
            "flatten",
            "design -stash gold",
            f"read_json {file.name}",
            "hierarchy -top top",
            f"techmap -wb -D EQUIV -autoproc -map {_MODELS[self.chip.family]}",
            "flatten",
            "rename top gate",
            "design -stash gate",
            "read_rtlil both.il",
            "design -copy-from gold gold",
            "design -copy-from gate gate",
            "hierarchy -check -top top",
            "proc",
            "flatten",
        ], folder, simplify="scorr;")


def _invert_a_table(cells: Mapping[str, Mapping[str, object]], kind: str, parameter: str) -> None:
    """Invert the first table by name."""
    name = min(name for name, cell in cells.items() if cell["type"] == kind)
    parameters = cells[name]["parameters"]
    assert isinstance(parameters, dict)
    parameters[parameter] = parameters[parameter].translate(str.maketrans("01", "10"))


def equivalences(examples: Sequence[Example]) -> Iterator[Equivalence]:
    """Of each of ``examples``, on one chip of each family."""
    for example in examples:
        for chip in (TARGETS["ice40-hx8k"], TARGETS["ecp5-25k"]):
            yield Equivalence(
                component=example.component, sizes=f"{example.sizes}, {chip.family.value}",
                claim="the netlist gives what the circuit gives", twin="one table is inverted",
                make=partial(_Same, example), broken=partial(_Same, example), example=example,
                chip=chip)
