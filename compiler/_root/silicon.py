"""The commands about silicon: ``nomul faults``."""
from __future__ import annotations

from pathlib import Path

import click

from nomul.terminal import (
    bars,
    build_argument,
    command_line,
    console,
    data_option,
    images_of,
    percent,
    print_table,
    split_option,
)

__all__ = ["flip_bits"]


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
