"""The ``nomul`` command.

What a user did wrong ends in one sentence on stderr and exit code 2; a circuit that is not
bit-exact in exit code 1.
"""
from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import nomul
from nomul.compiler.errors import DataError, NomulError, PlanError, ToolError
from nomul.compiler.network import Codes, Network, Weighted

__all__ = ["main"]

# A terminal's own width; wide enough for the tables where there is none.
_VECTOR_CODES = 4_000_000

console = Console(width=None if sys.stdout.isatty() else 110)


class Commands(click.Group):
    """Commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nomul.__version__, prog_name="nomul")
def cli() -> None:
    """Neural networks on small FPGAs without a single multiplier.

    \b
    Example, from data to bitstream:
      nomul train digits --dictionary pow2 --bits 3 -o digits.nomul
      nomul build digits.nomul --target ice40-hx8k -o build/
      nomul sim build/
      nomul synth build/
      nomul report build/
    """


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit code 2."""
    try:
        sys.exit(cli.main(standalone_mode=False))  # the code of click's Exit, if there was one
    except click.Abort:
        _complain("stopped; what was there before is as it was")
        sys.exit(130)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except NomulError as error:
        _complain(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        _complain(f"Python package {error.name!r} must be installed for this command; "
                  "pip install 'nomul[all]'")
        sys.exit(2)
    except OSError as error:
        _complain(f"file '{error.filename}' cannot be used ({error.strerror}); "
                  "check the name, the permissions and the free space")
        sys.exit(2)


def _complain(message: str) -> None:
    click.echo(f"nomul: {message}", err=True)


class _Report(Protocol):
    def __call__(self, stage: str, done: int, total: int, text: str = "") -> None: ...


@contextmanager
def _bars() -> Iterator[_Report]:
    """Progress bars: a callable of stage, done, total and text, with a bar for each stage."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int, text: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total,
                            description=f"{stage} {text}" if text else stage)

        yield update


def _command() -> str:
    return shlex.join(["nomul", *sys.argv[1:]])


def _table(title: str, columns: dict[str, bool], rows: list[tuple[Any, ...]]) -> None:
    """Print a table; ``columns`` says of each if it holds numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, is_number in columns.items():
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else f"{cell:,}" if isinstance(cell, int)
                        else str(cell) for cell in row))
    console.print(table)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f} %"


_network_argument = click.argument("network_file", metavar="NETWORK", type=Path)
_build_argument = click.argument("folder", metavar="BUILD", type=Path)


@cli.command()
@click.argument("recipe")
@click.option("--method", type=click.Choice(["lutq"]), default="lutq", show_default=True,
              help="How dictionaries are learned.")
@click.option("--dictionary", default="pow2", show_default=True,
              type=click.Choice(["free", "pow2", "pruned", "binary", "ternary", "fixed"]),
              help="What its entries may be.")
@click.option("--bits", type=int, help="Bits of a weight: the dictionary has 2**bits entries.  "
              "[default: 4; binary 1, ternary 2]")
@click.option("--value-bits", type=int, default=8, show_default=True,
              help="Bits of a dictionary entry.")
@click.option("--fraction", type=float, help="Share of the weights that 'pruned' makes 0.  "
              "[default: 0.7]")
@click.option("--scale", type=click.Choice(["unit", "pow2", "free"]),
              help="Scale of 'binary' and 'ternary'.  [default: free]")
@click.option("--rounding", type=click.Choice(["geometric", "arithmetic"]),
              help="Between two powers of two.  [default: geometric]")
@click.option("--zero/--no-zero", default=None, help="Whether 'pow2' has the entry 0.  "
              "[default: zero]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option("--checkpoint", type=Path, help="File to go on from, and to write on the way.")
@click.option("-o", "--output", type=Path, required=True, help="Network file to write.")
def train(recipe: str, method: str, dictionary: str, bits: int | None, value_bits: int,
          fraction: float | None, scale: str | None, rounding: str | None, zero: bool | None,
          seed: int, epochs: int | None, checkpoint: Path | None, output: Path) -> None:
    """Train RECIPE with small dictionaries and write the integer network.

    \b
    Recipes:
      digits          8 x 8 images, a 64-32-10 net
      mnist, fashion  28 x 28 images, a LeNet-class net
      cifar10         32 x 32 colour images, ResNet-20 behind a pixel embedding
      cifar10_mobile  the same images, a depthwise-separable net
    The images of all but digits are fetched when they are first used.
    Example:
      nomul train digits --method lutq --dictionary pow2 --bits 4 -o digits.nomul
    """
    from nomul.compiler.quantize import recipes, training
    from nomul.compiler.storage import save

    constraint = recipes.constraint_from_names(
        dictionary, bits, value_bits=value_bits, fraction=fraction, scale=scale,
        rounding=rounding, zero=zero)
    with _bars() as bars:
        trained = training.train(recipes.recipe_of(recipe), constraint, seed=seed, epochs=epochs,
                                 checkpoint=checkpoint, progress=bars)
    save(trained.network, output, provenance={**trained.provenance, "command": _command()})
    accuracy = trained.provenance["accuracy"]
    _table(f"{output}: {method}, {dictionary}", {"net": False, "validation": True, "test": True},
           [(kind, _percent(accuracy[f"{kind}_validation"]), _percent(accuracy[f"{kind}_test"]))
            for kind in ("float", "quantized")])


@cli.command()
@_network_argument
def info(network_file: Path) -> None:
    """Show the layers of NETWORK, its weights and what they save.

    Memory is that of the LUT-Q paper: N ceil(log2 K) + K B bits for N weights and K
    dictionary entries of B bits.

    \b
    Example:
      nomul info digits.nomul
    """
    from nomul.compiler.storage import load, load_provenance

    network, provenance = load(network_file), load_provenance(network_file)
    _table(f"{network.name}  {network.digest[:12]}",
           {"layer": False, "output": False, "weights": True, "bits": True, "memory": True,
            "dictionary": False},
           [_layer_row(network, layer.name) for layer in network.layers])
    sums = [(layer, prod(network.wires[layer.name].shape)) for layer in network.layers
            if isinstance(layer, Weighted)]
    before = sum(layer.fan_in * count for layer, count in sums)
    regrouped = sum(min(layer.fan_in, len(layer.dictionary)) * count for layer, count in sums)
    console.print(f"[bold]multiplications[/] {before:,} an inference in a float net, {regrouped:,} "
                  "with inputs grouped by dictionary entry (the paper), 0 in hardware",
                  highlight=False)
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value)
        console.print(f"[bold]{key}[/] {text}", highlight=False)


def _layer_row(network: Network, name: str) -> tuple[Any, ...]:
    layer, wire = network[name], network.wires[name]
    shape = "x".join(map(str, wire.shape))
    output = (f"{shape}, {wire.levels.bits} bit codes" if isinstance(wire, Codes)
              else f"{shape}, {wire.low:,} to {wire.high:,}")
    if not isinstance(layer, Weighted):
        return (name, output, *[None] * 4)
    from nomul.compiler.quantize.memory import memory_bits
    entries = layer.dictionary.tolist()
    shown = " ".join(map(str, entries)) if len(entries) <= 8 else (
        f"{len(entries)}: {entries[0]} … {entries[-1]}")
    value_bits = max(v.bit_length() + (min(entries) < 0) for v in map(abs, entries))
    return (name, output, layer.assignment.size, layer.assignment_bits,
            memory_bits(layer.assignment.size, len(entries), value_bits),
            f"{shown}  (x 2^{layer.exponent})")


_data_option = click.option(
    "--data", help="Images: a data set (digits), a .npz file with images and labels, a .npy file "
    "of images, or random.  [default: what the network was trained on]")
_split_option = click.option("--split", type=click.Choice(["train", "validation", "test", "all"]),
                             default="test", show_default=True, help="Part of a data set.")


def _images(data: str | None, split: str, network: Network, provenance: dict[str, Any]) -> Any:
    from nomul.images import RANDOM, load_images

    trained_on = provenance.get("data")
    known = trained_on.get("name") if isinstance(trained_on, dict) else None
    return load_images(data or (known if isinstance(known, str) else RANDOM), network, split=split)


@cli.command("eval")
@_network_argument
@click.argument("data", required=False)
@_split_option
def evaluate(network_file: Path, data: str | None, split: str) -> None:
    """Accuracy of NETWORK's golden model on DATA.

    \b
    DATA is a data set (digits), or a .npz file with the arrays images and labels.
    Example:
      nomul eval digits.nomul digits
      nomul eval digits.nomul mine.npz
    """
    from nomul.compiler.storage import load, load_provenance
    from nomul.sim.golden import run

    network, provenance = load(network_file), load_provenance(network_file)
    images = _images(data, split, network, provenance)
    classes = []
    with _bars() as bars:
        for start in range(0, len(images.codes), 256):
            classes.append(run(network, images.codes[start:start + 256]).classes)
            bars("golden model", min(start + 256, len(images.codes)), len(images.codes))
    got = np.concatenate(classes)
    if images.labels is None:
        counts = Counter(got.tolist())
        _table(f"{network.name} on {images.source} {images.split}: no labels",
               {"class": True, "images": True}, sorted(counts.items()))
        return
    rows: list[tuple[Any, ...]] = [
        (int(label), int((images.labels == label).sum()),
         _percent(float((got == label)[images.labels == label].mean())))
        for label in np.unique(images.labels)]
    rows.append(("all", len(got), _percent(float((got == images.labels).mean()))))
    _table(f"{network.name} on {images.source} {images.split}",
           {"class": True, "images": True, "accuracy": True}, rows)


@cli.command()
@_network_argument
@click.option("--fold", help="Outputs x inputs at once: 4x8 for all layers, or "
              "dense1=4x8,dense2=2x16.  [default: 1x1, the smallest]")
@click.option("--plan", "plan_file", type=Path, help="Plan to follow: a JSON file like a build's "
              "plan.json.")
@click.option("--fps", type=float, help="Inferences a second to reach at --clock, with the fewest "
              "lanes.")
@click.option("--clock", type=float, default=24.0, show_default=True,
              help="Clock that --fps counts with, in MHz.")
@click.option("--input-lanes", type=int, help="Codes that enter at once.  [default: 1]")
@click.option("--target", "targets", multiple=True, help="Chip, for 'nomul synth'; may be given "
              "several times.")
@click.option("--board", "boards", multiple=True, help="Board; takes the chip on it.")
@_data_option
@_split_option
@click.option("--vectors", type=click.IntRange(1), help="Images to write test vectors of, the "
              "first ones.  [default: all, but no more than 4 million codes need]")
@click.option("-o", "--output", "folder", type=Path, required=True, help="Folder to write.")
def build(network_file: Path, fold: str | None, plan_file: Path | None, fps: float | None,
          clock: float, input_lanes: int | None, targets: tuple[str, ...],
          boards: tuple[str, ...], data: str | None, split: str, vectors: int | None,
          folder: Path) -> None:
    """Build NETWORK: Verilog, test vectors, plan and manifest.

    \b
    Example:
      nomul build digits.nomul --target ice40-hx8k -o build/
      nomul build digits.nomul --fold dense1=8x4,dense2=5x4 -o build/fast
      nomul build digits.nomul --fps 10000 --clock 48 -o build/paced
    """
    from nomul.boards.targets import target as find_target
    from nomul.build import write_build
    from nomul.compiler.plan import intervals, load_plan
    from nomul.compiler.planner import fold_for_interval, make_plan, parse_folds
    from nomul.compiler.storage import load, load_provenance

    if sum(choice is not None for choice in (fold, plan_file, fps)) > 1:
        raise click.UsageError("--fold, --plan and --fps exclude each other; give one of them")
    if plan_file and input_lanes is not None:
        raise click.UsageError("--input-lanes is part of the plan; change it there")
    chips = [find_target(name).name for name in (*targets, *boards)]
    network, provenance = load(network_file), load_provenance(network_file)
    if plan_file:
        plan = load_plan(plan_file, network)
    else:
        folds = parse_folds(fold, network) if fold else {}
        if fps is not None:
            if not (0 < fps < float("inf") and 0 < clock < float("inf")):
                raise PlanError("plan: inferences a second and clock must be above 0, "
                                f"not {fps} and {clock}")
            folds = fold_for_interval(network, int(clock * 1e6 / fps))
        plan = make_plan(network, folds, input_lanes=1 if input_lanes is None else input_lanes)
    each = sum(prod(wire.shape) for wire in network.wires.values())
    images = _images(data, split, network, provenance).first(
        vectors or max(20, _VECTOR_CODES // each))
    built = write_build(folder, network, plan, images, provenance=provenance,
                        targets=list(dict.fromkeys(chips)), command=_command())

    cycles = intervals(plan, network)
    if fps is not None and max(cycles.values()) > clock * 1e6 / fps:
        slowest = max(cycles, key=lambda name: cycles[name])
        _complain(f"note: {fps:g} inferences a second are not reached at {clock:g} MHz, because "
                  f"{slowest!r} takes {cycles[slowest]} cycles; see --input-lanes")
    rows: list[tuple[Any, ...]] = []
    for name, count in cycles.items():
        entry = next((e for e in plan.layers if e.name == name), None)
        rows.append((name, f"{entry.outputs} x {entry.inputs}" if entry else None,
                     entry.product.value if entry else None,
                     entry.staircase.value if entry else None,
                     entry.weights_in.value if entry else None, count))
    _table(f"{folder}: {network.name}, {len(built.vectors.images)} test vectors "
           f"({built.vectors.source} {built.vectors.split})",
           {"layer": False, "outputs x inputs": False, "products": False, "staircase": False,
            "weights in": False, "cycles": True}, rows)


@cli.command()
@_build_argument
@click.option("--images", type=int, help="How many to play.  [default: all vectors]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the stalls.")
@click.option("--stall", type=float, default=0.3, show_default=True,
              help="Chance that a beat waits a cycle more, at either end.")
def sim(folder: Path, images: int | None, seed: int, stall: float) -> None:
    """Prove the Verilog in BUILD bit-exact in Verilator, under random stalls.

    Every beat of every layer is compared with the golden model. Ends with exit code 1 and
    the first difference if there is one.

    \b
    Example:
      nomul sim build/
    """
    from dataclasses import asdict

    from nomul.build import open_build
    from nomul.compiler.files import replace_file
    from nomul.sim.verilator import simulate

    if images is not None and images < 1:
        raise DataError(f"number of images must be at least 1, not {images}")
    built = open_build(folder)
    with _bars() as bars:
        result = simulate(built.network, built.plan, built.circuit, built.vectors, seed=seed,
                          stall=stall, images=images, log=folder / "sim.log", progress=bars)
    facts = asdict(result)
    cycles = {name: facts.pop(name) for name in ("latency", "interval", "ideal_interval")}
    labels = built.vectors.labels
    replace_file(folder / "sim.json", json.dumps({
        "network": built.network.digest, "command": _command(), **facts, "cycles": cycles,
        "data": built.vectors.source, "split": built.vectors.split or built.vectors.source,
        "labels": None if labels is None else labels[:result.images].tolist(),
        "predictions": result.classes,
    }, indent=1) + "\n")
    _table(f"{built.network.name} in {result.simulator}", {"figure": False, "value": True}, [
        ("images", result.images), ("mismatches", result.mismatches),
        ("accuracy, Verilog", _percent(result.accuracy)),
        ("accuracy, golden model", _percent(result.golden_accuracy)),
        ("latency, cycles", result.latency), ("interval, cycles", result.interval),
        ("ideal interval, cycles", result.ideal_interval)])
    if result.mismatches:
        d = result.first_difference or {}
        _complain(f"{result.mismatches} of {result.images} images differ; first: layer "
                  f"{d.get('layer')!r}, image {d.get('image')}, position {d.get('position')}, "
                  f"cycle {d.get('cycle')}: expected {d.get('expected')}, got {d.get('got')}")
        raise click.exceptions.Exit(1)


@cli.command()
@_build_argument
@click.option("--target", "targets", multiple=True, help="Chip; may be given several times.  "
              "[default: those of the build]")
@click.option("--board", "boards", multiple=True, help="Board; takes the chip on it.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True,
              help="Placements to try.")
@click.option("--clock", type=float, help="Clock to aim at, in MHz.  [default: the chip's]")
@click.option("--jobs", type=click.IntRange(1), help="Placements at a time.  [default: all cores]")
def synth(folder: Path, targets: tuple[str, ...], boards: tuple[str, ...], seeds: int,
          clock: float | None, jobs: int | None) -> None:
    """Synthesize BUILD, place and route it, and pack a bitstream.

    \b
    Example:
      nomul synth build/ --target ice40-hx8k --target ecp5-25k
    """
    from nomul.boards.targets import target as find_target
    from nomul.build import open_build
    from nomul.synthesis import synthesize_build

    built = open_build(folder)
    names = (*targets, *boards) or built.targets
    if not names:
        raise ToolError("a chip must be named: add --target, for example --target ice40-hx8k")
    if clock is not None and not 0 < clock < 1000:
        raise PlanError(f"clock must be above 0 and below 1000 MHz, not {clock:g}")
    chips = list({chip.name: chip for chip in map(find_target, names)}.values())
    with _bars() as bars:
        results, errors = synthesize_build(
            built, chips, seeds=range(1, seeds + 1), clock_mhz=clock, jobs=jobs,
            command=_command(), progress=bars)
    _table(f"{built.network.name} on gates",
           {"chip": False, "logic cells": True, "of": True, "LUT4": True, "carry": True,
            "FF": True, "block RAM": True, "DSP": True, "Fmax min / median / max (MHz)": True},
           [(name, r["logic_cells"], r["capacity"]["logic_cells"], r["lut4"], r["carry"], r["ff"],
             r["bram"], r["dsp"],
             " / ".join(f"{r['fmax_mhz'][k]:.1f}" for k in ("min", "median", "max")))
            for name, r in results.items()])
    for error in errors:
        _complain(str(error))
    if errors:
        raise click.exceptions.Exit(2)


@cli.command()
@_build_argument
def report(folder: Path) -> None:
    """Write report.html, one page with everything, and report.json into BUILD.

    \b
    Example:
      nomul report build/
    """
    from nomul.report import write_report

    console.print(f"{write_report(folder)}", highlight=False)


@cli.command()
def doctor() -> None:
    """Show which tools are there, their versions, and how to get those that are missing.

    Ends with exit code 2 if one is missing.

    \b
    Example:
      nomul doctor
    """
    from nomul.boards.doctor import diagnose

    checks = diagnose()
    _table("Tools", {"tool": False, "version": False, "for": False, "to do": False},
           [(check.tool, check.version or "missing", check.purpose,
             "" if check.version else check.remedy) for check in checks])
    missing = [check.tool for check in checks if check.version is None]
    if missing:
        _complain(f"{len(missing)} of {len(checks)} tools are missing: {', '.join(missing)}")
        raise click.exceptions.Exit(2)
    console.print(f"All {len(checks)} tools are there.")


if __name__ == "__main__":
    main()
