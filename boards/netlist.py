"""The netlist that is placed, as Verilog that simulates: its cells, and a model of each.

The models are those that Yosys brings along, and our own of ECP5's block RAM and multiplier block
(``sim/dp16kd.v``, ``sim/mult18x18d.v``), which Yosys has none of. Nothing is simplified on the way.
"""
from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import nomul.sim
from nomul.boards.targets import Family
from nomul.boards.tools import Tool, run

__all__ = ["cell_models", "netlist_verilog"]

# Files of models, in Yosys's share folder.
_MODELS = {Family.ICE40: ("ice40/cells_sim.v",),
           Family.ECP5: ("lattice/common_sim.vh", "lattice/ccu2c_sim.vh")}


def netlist_verilog(netlist: Path, name: str, family: Family, folder: Path) -> str:
    """Verilog of the module ``top`` in a netlist's JSON, and of all cells that it may hold.

    Leaves ``write.log`` in ``folder``, a working folder.

    Parameters
    ----------
    netlist : Path
        What `nomul.boards.yosys.make_netlist` wrote, and what nextpnr reads.
    name : str
        What the module is called in the Verilog.
    family : Family
        Whose cells these are.

    Raises
    ------
    RunFailure
        Yosys ended with an error.
    """
    if netlist != folder / "netlist.json":
        shutil.copy(netlist, folder / "netlist.json")
    (folder / "write.ys").write_text("read_json netlist.json\nhierarchy -top top\n"
                                     f"rename top {name}\nwrite_verilog -noattr netlist.v\n")
    run(Tool.YOSYS, ("write.ys",), folder, "write.log")
    return f"{(folder / 'netlist.v').read_text()}\n{cell_models(family)}"


def cell_models(family: Family) -> str:
    """Verilog of the cells of ``family``, without those that another tool's netlists hold."""
    spec = find_spec(Tool.YOSYS.module)
    assert spec is not None and spec.origin is not None
    models = [Path(spec.origin).parent / "share" / file for file in _MODELS[family]]
    if family is Family.ECP5:
        own = Path(nomul.sim.__path__[0])
        models += [own / "dp16kd.v", own / "mult18x18d.v"]
    return "\n".join(("`define NO_INCLUDES", *(model.read_text() for model in models)))
