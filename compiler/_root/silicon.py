"""The commands about silicon: ``nomul faults`` and ``nomul asic``."""
from __future__ import annotations

from pathlib import Path

import click

from nomul.compiler.errors import PlanError
from nomul.terminal import (
    bars,
    build_argument,
    command_line,
    complain,
    console,
    data_option,
    images_of,
    percent,
    print_table,
    split_option,
)

__all__ = ["flip_bits", "for_asic"]


@click.command(name="faults")
@build_argument
@click.option("--upsets", type=click.IntRange(1), default=200, show_default=True,
              help="Bits to flip of each kind, one at a time.")
@click.option("--images", type=click.IntRange(1), default=50, show_default=True,
              help="Images to play with each.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True,
              help="Of the choice of bits and cycles.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at a time.  [default: all cores]")
@data_option
@split_option
@click.option("-o", "--output", type=Path, help="Folder to write.  [default: BUILD/faults]")
def flip_bits(folder: Path, upsets: int, images: int, seed: int, jobs: int | None,
              data: str | None, split: str, output: Path | None) -> None:
    """Flip single bits of the Verilog in BUILD, and see what each does to the results.

    A bit of a read-only memory stays flipped; one of a register, or of a memory that is written,
    is flipped once, in a random cycle. Writes faults.json, with every upset, and faults.png.

    \b
    Example:
      nomul faults build/
      nomul faults build/ --upsets 1000 --images 100 -o faults/
    """
    from nomul.build import open_build
    from nomul.compiler.files import check_replaceable, new_folder
    from nomul.faults import HEADER, inject, rows, write
    from nomul.sim.faults import faults_bench

    built = open_build(folder)
    output = output or folder / "faults"
    check_replaceable(output, "faults.json", "an earlier report of faults")
    chosen = images_of(data, split, built.network, built.provenance).first(images)
    with bars() as report, faults_bench(built.network, built.plan, built.circuit, chosen.codes,
                                        progress=report) as bench:
        found = inject(bench, chosen.labels, upsets=upsets, seed=seed, jobs=jobs, progress=report)
    title = f"{built.network.name}, {found.images} images of {chosen.source} {chosen.split}"
    with new_folder(output) as new:
        write(found, new, title, {
            "network": built.network.digest, "command": command_line(), "data": chosen.source,
            "split": chosen.split})
    print_table(f"{title}; accuracy {percent(found.accuracy) or 'unknown'} without upsets",
                {str(name): number > 0 for number, name in enumerate(HEADER)},
                [tuple(row) for row in rows(found)])
    console.print(f"{output / 'faults.json'}, {output / 'faults.png'}", highlight=False)


@click.command(name="asic")
@build_argument
@click.option("--memories", type=click.Choice(["arrays", "blackbox"]), default="arrays",
              show_default=True, help="What memories become: constants in logic and arrays of "
              "flip-flops, or modules without contents, for macros.")
@click.option("--liberty", type=Path, help="Cells to estimate the area with.")
@click.option("--clock", type=float, default=50.0, show_default=True,
              help="For the constraints, in MHz.")
@click.option("--images", type=click.IntRange(1), default=20, show_default=True,
              help="Images to prove the Verilog with.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at a time.  [default: all cores]")
@data_option
@split_option
@click.option("-o", "--output", type=Path, required=True, help="Folder to write.")
def for_asic(folder: Path, memories: str, liberty: Path | None, clock: float, images: int,
             jobs: int | None, data: str | None, split: str, output: Path) -> None:
    """Write BUILD as Verilog for an ASIC, with constraints and a configuration for LibreLane.

    The Verilog relies on no initial value: it is linted, proved in Verilator from random states of
    registers and memories, and its gates and transistors are counted. Ends with exit code 1 if it
    is not bit-exact.

    \b
    Example:
      nomul asic build/ -o asic/
      nomul asic build/ --memories blackbox --liberty cells.lib -o asic/
    """
    from nomul.asic import write_asic
    from nomul.build import open_build
    from nomul.compiler.asic import Memories

    if not 0 < clock < 100_000:
        raise PlanError(f"clock must be above 0 and below 100,000 MHz, not {clock:g}")
    built = open_build(folder)
    chosen = images_of(data, split, built.network, built.provenance).first(images)
    with bars() as report:
        done = write_asic(
            output, built.network, built.plan, built.circuit, chosen.codes,
            memories=Memories(memories), liberty=liberty, clock_mhz=clock, jobs=jobs,
            command=command_line(), progress=report)
    macros = [macro for macro in done.verilog.macros if macro.rows is None]
    rows: list[tuple[str, object]] = [
        ("gates", done.gates.gates), ("flip-flops", done.gates.flip_flops),
        ("transistors, macros apart", done.gates.transistors),
        ("bits of read-only memory", sum(m.bits for m in done.verilog.macros) - sum(
            m.bits for m in macros)),
        ("bits of memory that is written", sum(m.bits for m in macros)),
        ("images proved, from random states", done.proof.images),
        ("mismatches", done.proof.mismatches)]
    if done.area and liberty:
        rows.append((f"area by {liberty.name}, in its units", f"{done.area.area:,.1f}"))
    print_table(f"{output}: {built.network.name}, memories as {memories}",
                {"figure": False, "value": True}, rows)
    if done.proof.mismatches:
        complain(f"{done.proof.mismatches} of {done.proof.images} images differ; please report it")
        raise click.exceptions.Exit(1)
