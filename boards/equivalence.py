# amaranth: UnusedElaboratable=no
"""Netlists of small components are proved equal to the components, cell by cell."""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil

from nomul.boards.targets import TARGETS, Family, Target
from nomul.boards.yosys import make_netlist
from nomul.sim.formal import Proof, decide
from nomul.sim.obligations import Example, Obligation

__all__ = ["Equivalence", "equivalences"]

# Models of the cells, among Yosys's files, and the parameter with a table's contents.
_MODELS = {Family.ICE40: "+/ice40/cells_sim.v", Family.ECP5: "+/lattice/cells_sim_ecp5.v"}
_TABLES = {Family.ICE40: ("SB_LUT4", "LUT_INIT"), Family.ECP5: ("LUT4", "INIT")}


@dataclass(frozen=True, kw_only=True)
class Equivalence(Obligation):
    """That the netlist of a component gives what the component gives, whatever comes.

    The component is what ``make`` makes; its broken twin is a netlist with one table inverted.

    Parameters
    ----------
    chip : Target
        The chip that the netlist is for.
    """

    chip: Target

    def prove(self, folder: Path) -> Proof:
        return self._compare(folder, broken=False)

    def refute(self, folder: Path) -> Proof:
        return self._compare(folder, broken=True)

    def _compare(self, folder: Path, *, broken: bool) -> Proof:
        file = folder / make_netlist(self.make(), self.chip, folder).file
        if broken:
            netlist = json.loads(file.read_text())
            _invert_a_table(netlist["modules"]["top"]["cells"], *_TABLES[self.chip.family])
            file.write_text(json.dumps(netlist))
        (folder / "gold.il").write_text(rtlil.convert(self.make(), name="gold", emit_src=False))
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
            "design -stash gate",
            "design -copy-from gold -as gold gold",
            "design -copy-from gate -as gate top",
            "miter -equiv -make_assert -flatten gold gate top",
            "hierarchy -check -top top",
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
                make=example.make, broken=example.make, chip=chip)
