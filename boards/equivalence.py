# amaranth: UnusedElaboratable=no
"""Netlists of small components are proved equal to the components, cell by cell.

Equal means: whatever comes, and whenever it resets, every ``valid`` and every ``ready`` of both is
the same in each cycle, and so is every payload that is valid. What lies on a payload that is not
valid means nothing, and differs: places of a queue that hold no beat, and read registers of
memories before the first row, start with anything.
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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

import nomul.sim
from nomul.boards.targets import TARGETS, Family, Target
from nomul.boards.yosys import make_netlist
from nomul.sim.formal import Proof, decide, stream_ports
from nomul.sim.obligations import Example, Obligation

__all__ = ["Equivalence", "equivalences"]

Factory = Callable[[], Any]

_CHIPS = (TARGETS["ice40-hx8k"], TARGETS["ecp5-25k"])

# Models of the cells, among Yosys's files.
_MODELS = {Family.ICE40: "+/ice40/cells_sim.v", Family.ECP5: "+/lattice/cells_sim_ecp5.v"}
# Tables, and the parameter with their contents.
_TABLES = {Family.ICE40: ("SB_LUT4", "LUT_INIT"), Family.ECP5: ("LUT4", "INIT")}
# Commands that put our own model of a cell in the place of a black box.
_OWN_MODELS = {Family.ICE40: (), Family.ECP5: (
    "delete =DP16KD", "read_verilog -defer -formal -sv dp16kd.v",
    "delete =MULT18X18D", "read_verilog mult18x18d.v")}


def _instance(module: str, face: Any) -> Instance:
    """A module of Yosys's with the ports of ``face``, in the clock domain of what holds it."""
    wires = {f"{'i' if member.flow is In else 'o'}_{'__'.join(path)}": Value.cast(value)
             for path, member, value in face.signature.flatten(face)}
    return Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(),
                    **{name: value for name, value in wires.items() if len(value)})


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
        m.submodules.gold = _instance("gold", self.gold)
        m.submodules.gate = _instance("gate", self.gate)

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


def _of_netlist(make: Factory) -> Any:
    """A claim about a component, about the module ``gate`` instead."""
    claim = make()

    class Netlist(type(claim.dut)):  # type: ignore[misc]
        """The component's ports and parameters, and the netlist's circuit."""

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.gate = _instance("gate", self)
            return m

    claim.dut.__class__ = Netlist
    return claim


@dataclass(frozen=True, kw_only=True)
class Equivalence(Obligation):
    """Something to prove of the netlist of a component.

    ``make`` makes the claim, about a module ``gate``, which is the netlist, and where there is
    one, a module ``gold``, which is the component.

    Parameters
    ----------
    dut : callable
        Makes the component.
    broken_dut : callable, optional
        Makes that of the broken twin. If omitted, the twin is a netlist with one table inverted,
        or, if it holds none, with an output tied low.
    chip : Target
        The chip that the netlist is for.
    """

    dut: Factory
    chip: Target
    broken_dut: Factory | None = None

    def prove(self, folder: Path) -> Proof:
        return self._decide(self.make(), self._netlist(self.dut, folder), folder)

    def refute(self, folder: Path) -> Proof:
        file = self._netlist(self.broken_dut or self.dut, folder)
        if self.broken_dut is None:
            netlist = json.loads(file.read_text())
            _break(netlist["modules"]["top"], *_TABLES[self.chip.family])
            file.write_text(json.dumps(netlist))
        return self._decide(self.broken(), file, folder)

    def _netlist(self, dut: Factory, folder: Path) -> Path:
        return folder / make_netlist(dut(), self.chip, folder).file

    def _decide(self, claim: Any, netlist: Path, folder: Path) -> Proof:
        for model in ("dp16kd.v", "mult18x18d.v"):
            shutil.copy(Path(nomul.sim.__path__[0]) / model, folder)
        (folder / "gold.il").write_text(rtlil.convert(self.dut(), name="gold", emit_src=False))
        (folder / "claim.il").write_text(rtlil.convert(
            claim, ports=claim.inputs, name="top", platform="formal", emit_src=False))
        return decide([
            "read_rtlil gold.il",
            "hierarchy -check -top gold",
            "proc",
            "flatten",
            "design -stash gold",
            f"read_json {netlist.name}",
            *_OWN_MODELS[self.chip.family],
            "hierarchy -top top",
            f"techmap -wb -D EQUIV -autoproc -map {_MODELS[self.chip.family]}",
            "flatten",
            "rename top gate",
            "design -stash gate",
            "read_rtlil claim.il",
            "design -copy-from gold gold",
            "design -copy-from gate gate",
            "hierarchy -check -top top",
            "proc",
            "flatten",
        ], folder, simplify="scorr;")


def _break(module: Mapping[str, Any], kind: str, parameter: str) -> None:
    """Invert the first table by name; tie an output low where there is none."""
    tables = [name for name, cell in module["cells"].items() if cell["type"] == kind]
    if tables:
        parameters = module["cells"][min(tables)]["parameters"]
        parameters[parameter] = parameters[parameter].translate(str.maketrans("01", "10"))
        return
    name = next(name for name, port in module["ports"].items() if port["direction"] == "output")
    for known in (module["ports"], module["netnames"]):
        known[name]["bits"][0] = "0"


def equivalences(examples: Sequence[Example], others: Sequence[Obligation],
                 ) -> Iterator[Equivalence]:
    """What there is to prove of netlists, for one chip of each family.

    Not slow is one of every second component of ``examples``, for the families in turn.

    Parameters
    ----------
    examples : sequence of Example
        The netlist gives what the component gives.
    others : sequence of Obligation
        Of components without streams, or with pins beside them: what is claimed of them holds for
        their netlists.
    """
    seen: set[type] = set()
    for example in examples:
        at_once = None if example.component in seen else len(seen) % (2 * len(_CHIPS))
        seen.add(example.component)
        make = partial(_Same, example)
        for n, chip in enumerate(_CHIPS):
            yield Equivalence(
                component=example.component, sizes=f"{example.sizes}, {chip.family.value}",
                claim="the netlist gives what the circuit gives",
                twin="a table is inverted, or an output tied low", make=make, broken=make,
                dut=example.make, chip=chip, slow=n != at_once)
    for other in others:
        for chip in _CHIPS:
            yield Equivalence(
                component=other.component, sizes=f"{other.sizes}, {chip.family.value}",
                claim=f"{other.claim}, from the netlist", twin=other.twin,
                make=partial(_of_netlist, other.make), broken=partial(_of_netlist, other.broken),
                dut=partial(_dut, other.make), broken_dut=partial(_dut, other.broken), chip=chip,
                slow=True)


def _dut(make: Factory) -> Any:
    """What a claim is about."""
    return make().dut
