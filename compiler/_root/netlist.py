"""A build folder's netlist, the one that is placed, against the golden model."""
from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nomul.boards.netlist import netlist_verilog
from nomul.boards.shell import PinShell
from nomul.boards.targets import Target
from nomul.boards.tools import RunFailure, Tool, require
from nomul.boards.yosys import make_netlist
from nomul.build import BuildFolder
from nomul.compiler.emit import with_digest
from nomul.compiler.errors import ToolError
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.values import Ints
from nomul.sim.batch import Batch, play_all
from nomul.sizing import check_memories

__all__ = ["NetlistRun", "play_netlist"]


@dataclass(frozen=True, kw_only=True)
class NetlistRun:
    """What images through a netlist showed.

    Parameters
    ----------
    batch : Batch
        Of the netlist's results.
    placed : bool
        Whether the netlist is the file that `nomul synth` placed; if not, it was made anew, by the
        same commands.
    sha256 : str
        Of the netlist.
    """

    batch: Batch
    placed: bool
    sha256: str


def play_netlist(build: BuildFolder, chip: Target, codes: Ints, *, stall: float = 0.0,
                 seed: int = 1, jobs: int | None = None,
                 progress: Callable[[str, int, int], None] | None = None) -> NetlistRun:
    """Play images ``codes`` into the netlist of ``build`` for ``chip``, pin shell and all.

    It is the one that `nomul synth` placed, if it did.

    Parameters
    ----------
    stall, seed, jobs, progress
        See `nomul.sim.batch.play_all`.

    Raises
    ------
    DataError
        If network and images do not belong together.
    ToolError
        If a tool is missing or fails, or the circuit hangs.
    """
    check_memories(build.plan, chip)
    require(Tool.YOSYS)
    report = progress or (lambda stage, done, total: None)
    report("netlist", 0, 1)
    placed = build.path / "synth" / chip.name / "netlist.json"
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        try:
            file = placed if placed.is_file() else folder / make_netlist(
                PinShell(lower(build.network, build.plan)), chip, folder).file
            text = netlist_verilog(file, build.network.name, chip.family, folder)
        except RunFailure as failure:
            log = build.path / f"netlist-{chip.name}.log"
            replace_file(log, failure.log.read_bytes())
            raise ToolError(f"network '{build.network.name}': {failure.tool.title} failed with "
                            f"'{failure.reason}'; see its log '{log}'") from failure
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    report("netlist", 1, 1)
    circuit = replace(build.circuit, verilog=with_digest(build.network, text), taps=())
    return NetlistRun(
        batch=play_all(build.network, circuit, codes, byte_wide=True, stall=stall, seed=seed,
                       jobs=jobs, progress=progress),
        placed=placed.is_file(), sha256=digest)
