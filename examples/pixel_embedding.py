"""What a quantized first layer costs: ``python examples/pixel_embedding.py FOLDER [VARIANT ...]``.

Trains one ResNet-20 on CIFAR-10 three times, with the recipe and seed of ``cifar10``, but in one
cycle of the learning rate:

learned      pixels enter through a learned table, and every layer is quantized
thermometer  the same with the fixed table (Tokunaga et al., arXiv 2407.16174)
float        the first convolution and its normalization read pixels, and stay in float

Each goes on from its checkpoint in FOLDER, and leaves its accuracies there; the table at the end
shows all that are done. ``--epochs N`` shortens both trainings of each.
"""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from nomul.compiler.quantize.constraints import PowerOfTwo
from nomul.compiler.quantize.embedding import PixelEmbedding
from nomul.compiler.quantize.methods import LutqMethod
from nomul.compiler.quantize.nets import ResidualNet
from nomul.compiler.quantize.recipes import Recipe, recipe_of
from nomul.compiler.quantize.training import fit


def variants(width: int) -> dict[str, Recipe]:
    """The recipe ``cifar10`` with so many channels, and what it is compared with."""
    def learned() -> nn.Module:
        return ResidualNet(width=width)

    def thermometer() -> nn.Module:
        net = ResidualNet(width=width)
        net.embedding = PixelEmbedding(10, bits=2, fixed=True)
        return net

    recipe = replace(recipe_of("cifar10"), cycles=1)
    return {
        "learned": replace(recipe, model=learned),
        "thermometer": replace(recipe, model=thermometer),
        "float": replace(recipe, model=lambda: ResidualNet(width=width, depth=0),
                         kept=("conv", "norm")),
    }


@click.command()
@click.argument("folder", type=Path)
@click.argument("names", nargs=-1, metavar="[VARIANT]...", type=click.Choice([*variants(1)]))
@click.option("--epochs", type=int, default=36, show_default=True)
@click.option("--width", type=int, default=16, show_default=True,
              help="Channels of the first group; fewer train faster.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, names: tuple[str, ...], epochs: int, width: int, seed: int) -> None:
    """Train each VARIANT, or all of them."""
    recipes = variants(width)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or tuple(recipes):
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
                      TextColumn("{task.fields[text]}")) as bars:
            tasks = {stage: bars.add_task(f"{name}, {stage}", total=epochs, text="")
                     for stage in ("float", "lutq")}
            fitted = fit(
                recipes[name], LutqMethod(constraint=PowerOfTwo(bits=4)), seed=seed,
                epochs=epochs, checkpoint=folder / f"{name}.ckpt",
                progress=lambda stage, done, _all, text, tasks=tasks, bars=bars: bars.update(
                    tasks[stage], completed=done, text=text))
        (folder / f"{name}.json").write_text(json.dumps(fitted.provenance, indent=1))
    table = Table("first layer", "float net, validation", "float net, test", "LUT-Q, validation",
                  "LUT-Q, test")
    for name in recipes:
        file = folder / f"{name}.json"
        if file.exists():
            accuracy = json.loads(file.read_text())["accuracy"]
            table.add_row(name, *(f"{100 * accuracy[key]:.2f} %" for key in (
                "float_validation", "float_test", "quantized_validation", "quantized_test")))
    Console().print(table)


if __name__ == "__main__":
    main()
