"""The commands ``nomul train`` and ``nomul compare``."""
from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nomul.compiler.errors import PlanError
from nomul.terminal import bars, command_line, complain, percent, print_table

__all__ = ["compare_methods", "train"]


def _method_options(command: Any) -> Any:
    """The options that say how a float net is compressed."""
    choice = click.Choice
    for option in reversed((
        click.option("--method", default="lutq", show_default=True, type=choice(
            ["float", "uniform", "lutq", "lc", "dc", "idc", "tbnu", "cq"]),
            help="How the float net is compressed."),
        click.option("--dictionary",
                     type=choice(["free", "pow2", "pruned", "binary", "ternary", "fixed"]),
                     help="lutq: what its entries may be.  [default: pow2]"),
        click.option("--bits", type=int, help="lutq, uniform: bits of a weight; a dictionary has "
                     "2**bits entries. cq: at most, of a filter.  [default: 4; binary 1, ternary "
                     "2]"),
        click.option("--value-bits", type=int, help="lutq, lc: bits of a dictionary entry.  "
                     "[default: 8]"),
        click.option("--fraction", type=float, help="lutq: share of the weights that 'pruned' "
                     "makes 0.  [default: 0.7]"),
        click.option("--scale", type=choice(["unit", "pow2", "free"]),
                     help="lutq: scale of 'binary' and 'ternary'.  [default: free]"),
        click.option("--rounding", type=choice(["geometric", "arithmetic"]),
                     help="lutq: between two powers of two.  [default: geometric]"),
        click.option("--zero/--no-zero", default=None,
                     help="lutq: whether 'pow2' has the entry 0.  [default: zero]"),
        click.option("--codebook", type=choice(
            ["adaptive", "binary", "ternary", "unit-binary", "unit-ternary", "pow2", "fixed",
             "scaled"]), help="lc, dc, idc: what it may hold.  [default: adaptive]"),
        click.option("--entries", type=int, help="lc: of an adaptive codebook. tbnu: of a layer's "
                     "weights.  [default: 4; tbnu 16]"),
        click.option("--depth", type=int, help="lc: smallest power of two of 'pow2', 2**-depth.  "
                     "[default: 6]"),
        click.option("--values", callback=_numbers, help="lc: entries of 'fixed' and 'scaled', "
                     "for example -1,0,1."),
        click.option("--sparse", type=float, help="lc: share of the weights that are corrected."),
        click.option("--shared", is_flag=True, default=None,
                     help="lc: one codebook for all layers."),
        click.option("--steps", type=int, help="lc: L steps.  [default: 40]"),
        click.option("--step-epochs", type=int, help="lc: epochs of an L step.  [default: 3]"),
        click.option("--mu", type=float, help="lc: penalty of the first L step."),
        click.option("--growth", type=float, help="lc: of the penalty, with each L step."),
        click.option("--codes", type=int, help="tbnu: values of an activation.  [default: 16]"),
        click.option("--levels", type=choice(["fixed", "laplacian", "kmeans"]),
                     help="tbnu: how those values are chosen.  [default: kmeans]"),
        click.option("--budget", type=float, help="cq: average bits of a weight.  [default: 2]"),
        click.option("--last-bits", type=int, help="cq: bits of the last layer's weights.  "
                     "[default: 2]"),
    )):
        command = option(command)
    return command


_norm_option = click.option(
    "--norm", type=click.Choice(["affine", "pow2", "fold"]), help="What batch normalization "
    "multiplies with: anything, powers of two, or nothing, as it is folded into the weights.  "
    "[default: the recipe's]")


def _recipe(name: str, norm: str | None) -> Any:
    from nomul.compiler.quantize.norms import Norm
    from nomul.compiler.quantize.recipes import recipe_of

    recipe = recipe_of(name)
    return replace(recipe, norm=Norm(norm)) if norm else recipe


def _numbers(_context: click.Context, _option: click.Parameter, text: str | None,
             ) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"must be numbers between commas, not {text!r}") from error


@click.command()
@click.argument("recipe")
@_method_options
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option("--float-epochs", type=int, help="Of the float net alone.")
@click.option("--final-epochs", type=int, default=0, help="Epochs more once all is chosen, with "
              "the validation images too; the last one is taken.")
@_norm_option
@click.option("--checkpoint", type=Path, help="File to go on from, and to write on the way.")
@click.option("-o", "--output", type=Path, required=True, help="Network file to write.")
def train(recipe: str, method: str, seed: int, epochs: int | None, float_epochs: int | None,
          final_epochs: int, norm: str | None, checkpoint: Path | None, output: Path,
          **settings: Any) -> None:
    """Train RECIPE, compress it and write the integer network.

    \b
    Recipes:
      digits          8 x 8 images, a 64-32-10 net
      mnist, fashion  28 x 28 images, a LeNet-class net
      lenet300        the images of mnist, a 784-300-100-10 net
      cifar10         32 x 32 colour images, ResNet-20 behind a pixel embedding
      cifar10_mobile  the same images, a depthwise-separable net
    The images of all but digits are fetched when they are first used.
    \b
    Methods:
      float           8-bit weights and activations, not trained any more
      uniform         evenly spaced weights
      lutq            small dictionaries, learned by iterated k-means
      lc, dc, idc     learning-compression, and its two baselines
      tbnu            tables of products and activations
      cq              bits for each filter by what it means to the classes
    \b
    Example:
      nomul train digits --method lutq --dictionary pow2 --bits 4 -o digits.nomul
      nomul train lenet300 --method lc --entries 2 -o lenet300.nomul
    """
    from nomul.compiler.quantize import names, training
    from nomul.compiler.storage import save

    chosen = names.method_from_names(method, **settings)
    with bars() as report:
        trained = training.train(_recipe(recipe, norm), chosen, seed=seed, epochs=epochs,
                                 float_epochs=float_epochs, final_epochs=final_epochs,
                                 checkpoint=checkpoint, progress=report)
    save(trained.network, output, provenance={**trained.provenance, "command": command_line()})
    accuracy = trained.provenance["accuracy"]
    print_table(f"{output}: {method}", {"net": False, "validation": True, "test": True},
                [(kind, percent(accuracy[f"{kind}_validation"]),
                  percent(accuracy[f"{kind}_test"])) for kind in ("float", "quantized")])


@click.command(name="compare")
@click.argument("recipe")
@click.argument("specs", metavar="METHOD...", nargs=-1, required=True)
@click.option("--target", default="ecp5-25k", show_default=True, help="Chip to synthesize for.")
@click.option("--fps", type=float, help="Inferences a second to reach at --clock, with the fewest "
              "lanes.  [default: one lane]")
@click.option("--clock", type=float, default=50.0, show_default=True,
              help="Clock that --fps counts with, in MHz.")
@click.option("--images", type=click.IntRange(1), default=100, show_default=True,
              help="Test images to play in Verilator.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="Placements to try.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the training.")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@_norm_option
@click.option("-o", "--output", "folder", type=Path, required=True, help="Folder to write.")
def compare_methods(recipe: str, specs: tuple[str, ...], target: str, fps: float | None,
                    clock: float, images: int, seeds: int, seed: int, epochs: int | None,
                    norm: str | None, folder: Path) -> None:
    """Compress RECIPE's float net with each METHOD; train, prove and synthesize all of them.

    A METHOD is what follows --method of 'nomul train', in quotes. compare.md and compare.png are
    written into the folder. What is interrupted goes on where it was.

    \b
    Example:
      nomul compare digits float "uniform --bits 4" "lutq --bits 3" -o digits/
    """
    from nomul.boards.targets import target as find_target
    from nomul.compare import cells, compare, markdown, plot
    from nomul.compiler.files import replace_file
    from nomul.compiler.quantize import names

    methods = {}
    for spec in specs:
        arguments = [recipe, "--method", *shlex.split(spec), "-o", "-"]
        chosen = {**train.make_context("compare", arguments).params}
        for name in ("recipe", "seed", "epochs", "float_epochs", "final_epochs", "norm",
                     "checkpoint", "output"):
            del chosen[name]
        methods[spec] = names.method_from_names(chosen.pop("method"), **chosen)
    if fps is not None and not (0 < fps < float("inf") and 0 < clock < float("inf")):
        raise PlanError(f"inferences a second and clock must be above 0, not {fps} and {clock}")
    with bars() as report:
        rows = compare(_recipe(recipe, norm), methods, folder, chip=find_target(target),
                       interval=None if fps is None else int(clock * 1e6 / fps), images=images,
                       seeds=seeds, seed=seed, epochs=epochs, progress=report)
    replace_file(folder / "compare.md", f"`{command_line()}`\n\n{markdown(rows)}")
    plot(rows, folder / "compare.png")
    header, lines = cells(rows)
    print_table(str(folder), {name: name != "method" for name in header},
                [tuple(line) for line in lines])
    if any(row.mismatches for row in rows):
        complain("the Verilog of a network is not bit-exact; see the last column")
        raise click.exceptions.Exit(1)
