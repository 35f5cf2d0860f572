"""The ``nomul`` command.

What a user did wrong ends in one sentence on stderr and exit code 2; a circuit that is not
bit-exact in exit code 1.
"""
from __future__ import annotations

import json
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import nomul
from nomul.compiler.errors import DataError, NomulError, PlanError, ToolError
from nomul.compiler.network import Codes, Network, Weighted
from nomul.learning import compare_methods, train
from nomul.planning import build, explore_plans
from nomul.running import run_on_board
from nomul.silicon import flip_bits, for_asic
from nomul.terminal import (
    bars,
    build_argument,
    command_line,
    complain,
    console,
    data_option,
    images_of,
    network_argument,
    percent,
    print_table,
    split_option,
)

if TYPE_CHECKING:
    from nomul.boards.board import Board
    from nomul.boards.targets import Target
    from nomul.build import BuildFolder
    from nomul.images import Images

__all__ = ["main"]


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
        complain("stopped; what was there before is as it was")
        sys.exit(130)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except NomulError as error:
        complain(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        complain(f"Python package {error.name!r} must be installed for this command; "
                  "pip install 'nomul[all]'")
        sys.exit(2)
    except OSError as error:
        complain(f"file '{error.filename}' cannot be used ({error.strerror}); "
                  "check the name, the permissions and the free space")
        sys.exit(2)


for command in (train, compare_methods, build, explore_plans, run_on_board):
    cli.add_command(command)


@cli.command()
@network_argument
def info(network_file: Path) -> None:
    """Show the layers of NETWORK, its weights and what they save.

    Memory is that of the LUT-Q paper: N ceil(log2 K) + K B bits for N weights and K
    dictionary entries of B bits. Tables are those of table-based neural units (docs/tbnu.md).

    \b
    Example:
      nomul info digits.nomul
    """
    from nomul.compiler.compactness import compactness
    from nomul.compiler.storage import load, load_provenance

    network, provenance = load(network_file), load_provenance(network_file)
    print_table(f"{network.name}  {network.digest[:12]}",
           {"layer": False, "output": False, "weights": True, "bits": True, "memory": True,
            "dictionary": False},
           [_layer_row(network, layer.name) for layer in network.layers])
    sums = [(layer, prod(network.wires[layer.name].shape)) for layer in network.layers
            if isinstance(layer, Weighted)]
    before = sum(layer.fan_in * count for layer, count in sums)
    regrouped = sum(min(layer.fan_in, len(layer.dictionary)) * count + layer.corrected
                    for layer, count in sums)
    console.print(f"[bold]multiplications[/] {before:,} an inference in a float net, {regrouped:,} "
                  "with inputs grouped by dictionary entry (the paper), 0 in hardware",
                  highlight=False)
    tables = compactness(network)
    console.print(f"[bold]tables[/] {tables.products:,} products of an entry and a code, at most "
                  f"{tables.largest:,} a layer; {tables.activations:,} entries and "
                  f"{tables.thresholds:,} thresholds of activations", highlight=False)
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
    entries = layer.dictionary.tolist()
    shown = " ".join(map(str, entries)) if len(entries) <= 8 else (
        f"{len(entries)}: {entries[0]} … {entries[-1]}")
    value_bits = max(v.bit_length() + (min(entries) < 0) for v in map(abs, entries))
    widths = [*layer.segments]
    corrected = "" if layer.corrections is None else f", {len(layer.corrections):,} corrected"
    return (name, output, layer.assignment.size,
            widths[0] if len(widths) == 1 else f"{widths[0]}-{widths[-1]}",
            layer.stored_bits + len(entries) * max(1, value_bits),
            f"{shown}  (x 2^{layer.exponent}{corrected})")


@cli.command("eval")
@network_argument
@click.argument("data", required=False)
@split_option
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
    images = images_of(data, split, network, provenance)
    classes = []
    with bars() as report:
        for start in range(0, len(images.codes), 256):
            classes.append(run(network, images.codes[start:start + 256]).classes)
            report("golden model", min(start + 256, len(images.codes)), len(images.codes))
    got = np.concatenate(classes)
    if images.labels is None:
        counts = Counter(got.tolist())
        print_table(f"{network.name} on {images.source} {images.split}: no labels",
               {"class": True, "images": True}, sorted(counts.items()))
        return
    rows: list[tuple[Any, ...]] = [
        (int(label), int((images.labels == label).sum()),
         percent(float((got == label)[images.labels == label].mean())))
        for label in np.unique(images.labels)]
    rows.append(("all", len(got), percent(float((got == images.labels).mean()))))
    print_table(f"{network.name} on {images.source} {images.split}",
           {"class": True, "images": True, "accuracy": True}, rows)


@cli.command()
@build_argument
@click.option("--images", type=int, help="How many to play.  [default: all vectors]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the stalls.")
@click.option("--stall", type=float, default=0.3, show_default=True,
              help="Chance that a beat waits a cycle more, at either end.")
@click.option("--batch", is_flag=True, help="Play a whole data set, on all cores, and compare "
              "results alone: some hundred times faster.")
@click.option("--netlist", metavar="TARGET", help="Like --batch, but play the netlist for this "
              "chip or board: the one that 'nomul synth' placed, if it did.")
@data_option
@split_option
@click.option("--jobs", type=click.IntRange(1), help="Processes of --batch and --netlist.  "
              "[default: all cores]")
def sim(folder: Path, images: int | None, seed: int, stall: float, batch: bool,
        netlist: str | None, data: str | None, split: str, jobs: int | None) -> None:
    """Prove the Verilog in BUILD bit-exact in Verilator, under random stalls.

    Every beat of every layer is compared with the golden model, for the images that the build
    has vectors of; or, with --batch, the results of all images of a data set; or, with --netlist,
    those of the cells that synthesis makes of it. Ends with exit code 1 and the first difference
    if there is one.

    \b
    Example:
      nomul sim build/
      nomul sim build/ --batch
      nomul sim build/ --netlist ice40-hx8k
    """
    from dataclasses import asdict

    from nomul.build import open_build
    from nomul.compiler.files import replace_file
    from nomul.sim.verilator import simulate

    if images is not None and images < 1:
        raise DataError(f"number of images must be at least 1, not {images}")
    if batch and netlist is not None:
        raise click.UsageError("--batch and --netlist exclude each other; give one of them")
    built = open_build(folder)
    if batch or netlist is not None:
        chosen = images_of(data, split, built.network, built.provenance)
        chosen = chosen.first(len(chosen.codes) if images is None else images)
        _play_all(built, chosen, netlist, seed=seed, stall=stall, jobs=jobs)
        return
    if data is not None or jobs is not None:
        raise click.UsageError("--data and --jobs belong to --batch and --netlist; give one too")
    with bars() as report:
        result = simulate(built.network, built.plan, built.circuit, built.vectors, seed=seed,
                          stall=stall, images=images, log=folder / "sim.log", progress=report)
    facts = asdict(result)
    cycles = {name: facts.pop(name) for name in ("latency", "ideal_latency", "interval",
                                                 "ideal_interval")}
    labels = built.vectors.labels
    replace_file(folder / "sim.json", json.dumps({
        "network": built.network.digest, "command": command_line(), **facts, "cycles": cycles,
        "data": built.vectors.source, "split": built.vectors.split or built.vectors.source,
        "labels": None if labels is None else labels[:result.images].tolist(),
        "predictions": result.classes,
    }, indent=1) + "\n")
    print_table(f"{built.network.name} in {result.simulator}", {"figure": False, "value": True}, [
        ("images", result.images), ("mismatches", result.mismatches),
        ("accuracy, Verilog", percent(result.accuracy)),
        ("accuracy, golden model", percent(result.golden_accuracy)),
        ("latency, cycles", result.latency),
        ("ideal latency, cycles", result.ideal_latency),
        ("interval, cycles", result.interval),
        ("ideal interval, cycles", result.ideal_interval)])
    if result.mismatches:
        d = result.first_difference or {}
        complain(f"{result.mismatches} of {result.images} images differ; first: layer "
                  f"{d.get('layer')!r}, image {d.get('image')}, position {d.get('position')}, "
                  f"cycle {d.get('cycle')}: expected {d.get('expected')}, got {d.get('got')}")
        raise click.exceptions.Exit(1)


def _play_all(built: BuildFolder, chosen: Images, netlist: str | None, **options: Any) -> None:
    """``nomul sim --batch`` or ``--netlist``: writes batch.json or netlist.json, and shows it."""
    from nomul.boards.targets import target as find_target
    from nomul.build import merge_targets
    from nomul.compiler.files import replace_file
    from nomul.netlist import play_netlist
    from nomul.sim.batch import play_all

    chip = None if netlist is None else find_target(netlist)
    made: dict[str, Any] = {}
    with bars() as report:
        if chip is None:
            result = play_all(built.network, built.circuit, chosen.codes, progress=report,
                              **options)
        else:
            run = play_netlist(built, chip, chosen.codes, progress=report, **options)
            result, made = run.batch, {"placed": run.placed, "sha256": run.sha256}
    accuracy, golden = (None if chosen.labels is None else
                        float((classes == chosen.labels).mean())
                        for classes in (result.classes, result.golden_classes))
    facts = {
        **made, "data": chosen.source, "split": chosen.split, "images": result.images,
        "mismatches": result.mismatches, "first_mismatch": result.first_mismatch,
        "accuracy": accuracy, "golden_accuracy": golden, "cycles": result.cycles,
        "stall": result.stall, "seed": result.seed, "simulator": result.simulator,
        "classes": result.classes.tolist()}
    if chip is None:
        replace_file(built.path / "batch.json", json.dumps({
            "network": built.network.digest, "command": command_line(), **facts},
            indent=1) + "\n")
    else:
        merge_targets(built, "netlist.json", {chip.name: facts}, command_line())
    what = "Verilog" if chip is None else f"netlist for {chip.name}"
    print_table(f"{built.network.name} on {chosen.source} {chosen.split} in {result.simulator}",
                {"figure": False, "value": True}, [
        ("images", result.images), ("mismatches", result.mismatches),
        (f"accuracy, {what}", percent(accuracy)), ("accuracy, golden model", percent(golden)),
        ("cycles", result.cycles), ("cycles a second", round(result.cycles / result.seconds))])
    if result.mismatches:
        complain(f"{result.mismatches} of {result.images} images differ; first: image "
                 f"{result.first_mismatch}; 'nomul sim {built.path}' finds the layer"
                 + ("" if chip is None else ", unless synthesis is to blame"))
        raise click.exceptions.Exit(1)


@cli.command()
@build_argument
@click.option("--target", "targets", multiple=True, help="Chip; may be given several times.  "
              "[default: those of the build]")
@click.option("--board", "boards", multiple=True, help="Board, with its pins, clock and link; "
              "may be given several times.  [default: those of the build]")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True,
              help="Placements to try.")
@click.option("--clock", type=float, help="Clock to aim at, in MHz; a board gets one that it "
              "meets.  [default: the chip's; of a board the fastest that it meets]")
@click.option("--link", type=click.Choice(("uart", "spi")), default="uart", show_default=True,
              help="What joins a board to its host: a serial line or SPI.")
@click.option("--baud", type=int, help="Bits a second on a board's line; over SPI at most.  "
              "[default: the board's; over SPI the clock / 8]")
@click.option("--queue", type=click.IntRange(1), help="Bytes off a board's line that may "
              "wait before the network.  [default: those that come in an inference]")
@click.option("--jobs", type=click.IntRange(1), help="Placements at a time.  [default: all cores]")
def synth(folder: Path, targets: tuple[str, ...], boards: tuple[str, ...], seeds: int,
          clock: float | None, link: str, baud: int | None, queue: int | None,
          jobs: int | None) -> None:
    """Synthesize BUILD, place and route it, and pack a bitstream.

    For a chip, pins are anywhere, and Fmax says what the clock could be. For a board, the
    bitstream is ready to be loaded.

    \b
    Example:
      nomul synth build/ --target ice40-hx8k --target ecp5-25k
      nomul synth build/ --board icebreaker
      nomul synth build/ --board icebreaker --link spi
    """
    from nomul.boards.board import LinkKind
    from nomul.boards.catalogue import find_board
    from nomul.boards.targets import target as find_target
    from nomul.build import open_build
    from nomul.synthesis import synthesize_build

    built = open_build(folder)
    if not (targets or boards):
        targets, boards = built.targets, built.boards
    if not (targets or boards):
        raise ToolError("a chip or a board must be named: add --target or --board, for example "
                        "--target ice40-hx8k")
    if clock is not None and not 0 < clock < 1000:
        raise PlanError(f"clock must be above 0 and below 1000 MHz, not {clock:g}")
    chips: dict[str, Target | Board] = {chip.name: chip for chip in map(find_target, targets)}
    chips |= {board.name: board for board in map(find_board, boards)}
    with bars() as report:
        results, errors = synthesize_build(
            built, list(chips.values()), seeds=range(1, seeds + 1), clock_mhz=clock,
            link=LinkKind(link), baud=baud, queue=queue, jobs=jobs,
            command=command_line(), progress=report)
    print_table(f"{built.network.name} on gates",
           {"chip": False, "logic cells": True, "of": True, "LUT4": True, "carry": True,
            "FF": True, "block RAM": True, "DSP": True, "Fmax min / median / max (MHz)": True},
           [(name, r["logic_cells"], r["capacity"]["logic_cells"], r["lut4"], r["carry"], r["ff"],
             r["bram"], r["dsp"],
             " / ".join(f"{r['fmax_mhz'][k]:.1f}" for k in ("min", "median", "max")))
            for name, r in results.items()])
    on_boards = {name: r["board"] for name, r in results.items() if "board" in r}
    if on_boards:
        print_table("On boards", {"board": False, "clock (MHz)": True, "link": False,
                                  "bits/s": True, "to load it": False},
                    [(name, f"{b['clock_mhz']:.2f}, met", b["link"], b["baud"], b["load"])
                     for name, b in on_boards.items()])
    for name, b in on_boards.items():
        if b["missed_mhz"]:
            complain(f"note: {name}: no placement met "
                     f"{', '.join(f'{mhz:.2f}' for mhz in b['missed_mhz'])} MHz, so the PLL was "
                     f"set down to {b['clock_mhz']:.2f} MHz")
    for error in errors:
        complain(str(error))
    if errors:
        raise click.exceptions.Exit(2)


for command in (flip_bits, for_asic):
    cli.add_command(command)


@cli.command()
@build_argument
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

    Ends with exit code 2 if one is missing that is not optional.

    \b
    Example:
      nomul doctor
    """
    from nomul.boards.doctor import diagnose

    checks = diagnose()
    print_table("Tools", {"tool": False, "version": False, "for": False, "to do": False},
           [(check.tool, check.version or ("optional" if check.optional else "missing"),
             check.purpose, "" if check.version else check.remedy) for check in checks])
    missing = [check.tool for check in checks if check.version is None and not check.optional]
    if missing:
        complain(f"{len(missing)} of {len(checks)} tools are missing: {', '.join(missing)}")
        raise click.exceptions.Exit(2)
    console.print("All tools are there that are not optional.")


if __name__ == "__main__":
    main()
