"""Measures the tables of docs/benchmarks.md: ``python -m nomul.bench docs``.

Every figure comes from the tools' output in this run; networks are those of examples/zoo.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import target
from nomul.compiler.efficiency import lane_use, weight_bits_in_block_ram
from nomul.compiler.emit import emit
from nomul.compiler.files import replace_file
from nomul.compiler.lower import lower
from nomul.compiler.network import Network, Weighted
from nomul.compiler.plan import Plan, plan_interval
from nomul.compiler.planner import Foldings, make_plan, parse_folds
from nomul.compiler.storage import load, load_provenance
from nomul.images import load_images
from nomul.sim.vectors import make_vectors
from nomul.sim.verilator import simulate
from nomul.sizing import plan_within, registered
from nomul.tables import Row, put_in, table, versions

__all__ = ["main"]

SEEDS = (1, 2, 3, 4, 5)
CHIPS = ("ice40-hx8k", "ice40-up5k", "ecp5-25k")
FOLDS = ("1x1", "dense1=2x2,dense2=1x2", "dense1=4x4,dense2=2x4", "dense1=8x4,dense2=5x4")

#: Network, chip, interval in cycles at most, whether the plan is lean, and seeds.
IMAGES = (("mnist_lenet", "ice40-up5k", 30_000_000 // 1000, False, SEEDS),
          ("mnist_lenet", "ice40-hx8k", 6_534, False, SEEDS),
          ("mnist_lenet", "ecp5-25k", 6_534, False, SEEDS),
          ("fashion_lenet", "ice40-up5k", 30_000_000 // 500, True, SEEDS),
          ("fashion_lenet", "ice40-hx8k", 6_534, True, SEEDS),
          ("fashion_lenet", "ecp5-25k", 6_534, False, SEEDS),
          ("cifar10_resnet20", "ecp5-85k", 88_500_000 // 600, True, (1, 2, 3)))


def main(docs: Path, zoo: Path) -> None:
    """Write ``benchmarks.md`` in ``docs`` and the figures in the README beside it."""
    digits = load(zoo / "digits_pow2_3bit.nomul")
    smallest = [_chip_row(digits, make_plan(digits, registered=registered(target(chip))), chip)
                for chip in CHIPS]
    accuracy = load_provenance(zoo / "digits_pow2_3bit.nomul")["accuracy"]
    header = ("chip", "logic cells", "LUT4", "carry", "FF", "block RAM", "DSP",
              "Fmax min / median / max, MHz", "cycles", "inferences/s")
    first = table(header, smallest)
    text = "\n\n".join((
        "# Benchmarks",
        "Made by `make bench`; do not edit. " + versions(
            "pyosys", "nextpnr-ice40", "nextpnr-ecp5", "verilator", "amaranth"),
        "## The smallest plan of the digits network",
        "64-32-10, 3-bit power-of-two dictionary, 4-bit inputs and activations, 1 x 1 lanes,"
        " AXI4-Stream top in the byte-wide pin shell; place and route with seeds 1 to 5."
        " *Cycles* are the interval between inferences, measured in Verilator; inferences a second "
        "at the median clock. *Carry* counts SB_CARRY, or CCU2C of two bits each.",
        first,
        "## Folding",
        "The same network under other plans, seeds 1 to 3. All give the same bits.",
        table(("outputs x inputs at once", "chip", *header[1:]),
               [(fold, *_chip_row(digits, make_plan(digits, parse_folds(fold, digits),
                                                    registered=registered(target(chip))),
                                  chip, seeds=(1, 2, 3)))
                for fold in FOLDS for chip in ("ice40-hx8k", "ecp5-25k")]),
        "## Dictionaries",
        "The zoo's networks, 1 x 1 lanes, ECP5-25, seeds 1 to 3. Accuracies in percent on the 360 "
        "test images.",
        table(("network", "float", "quantized", "weight bits", "circuits", *header[1:]),
               [_zoo_row(path, "ecp5-25k") for path in sorted(zoo.glob("digits_*.nomul"))]),
        "## Images",
        "Convolutional networks of the zoo, the fewest lanes for so many inferences a second: "
        "1,000 (MNIST) or 500 (Fashion-MNIST) at 30 MHz on the UP5K, and 600 at 88.5 MHz "
        "(ResNet-20 on CIFAR-10) on the ECP5-85; and, on the HX8K and the ECP5-25, plans of 6,534 "
        "cycles, in which nearly all lanes work all the time. Plans of ResNet-20, and of "
        "Fashion-MNIST on iCE40, are lean. Seeds 1 to 5, of ResNet-20 1 to 3. Accuracies in "
        "percent on the 10,000 test images. *Lanes* are cycles in which a lane adds a product, of "
        "those in which its layer works, and of all; *filled* is what weights fill of the block "
        "RAMs that hold them.",
        table(("network", "chip", "float", "quantized", "weight bits", "circuits", *header[1:],
               "lanes, %", "filled, %"),
              [_image_row(zoo / f"{name}.nomul", chip, cycles, lean, seeds)
               for name, chip, cycles, lean, seeds in IMAGES]))) + "\n"
    replace_file(docs / "benchmarks.md", text)
    summary = (f"Accuracy {100 * accuracy['quantized_test']:.2f} % "
               f"(float {100 * accuracy['float_test']:.2f} %), 0 of 360 images differ in "
               "Verilator, no multiplier:\n\n" + first)
    put_in(docs.parent / "README.md", "figures", summary)


def _chip_row(network: Network, plan: Plan, chip: str, *, seeds: Sequence[int] = SEEDS) -> Row:
    return (chip, *_figures(network, plan, _synthesize(network, plan, chip, seeds), "digits"))


def _figures(network: Network, plan: Plan, figures: Mapping[str, Any], data: str) -> Row:
    """What the header names from the logic cells on."""
    clock, cycles = figures["fmax_mhz"], _measured_interval(network, plan, data)
    print(f"{network.name} {figures['target']}: {figures['logic_cells']} logic cells, "
          f"{clock['median']:.1f} MHz", flush=True)
    return (figures["logic_cells"], figures["lut4"], figures["carry"], figures["ff"],
            figures["bram"], figures["dsp"] + figures["multipliers"],
            " / ".join(f"{clock[key]:.1f}" for key in ("min", "median", "max")), cycles,
            round(clock["median"] * 1e6 / cycles))


def _synthesize(network: Network, plan: Plan, chip: str, seeds: Sequence[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        return synthesize(PinShell(lower(network, plan)), network.name, target(chip),
                          Path(folder) / "run", seeds=seeds).as_json()


_INTERVALS: dict[tuple[str, Plan], int] = {}


def _measured_interval(network: Network, plan: Plan, data: str) -> int:
    key = (network.digest, plan)
    if key not in _INTERVALS:
        images = load_images(data, network).first(60 if data == "digits" else 3)
        vectors = make_vectors(network, images.codes, images.labels, source=data, split="test")
        result = simulate(network, plan, emit(network, plan), vectors)
        if result.mismatches:
            raise RuntimeError(f"{network.name} is not bit-exact: {result.first_difference}")
        ideal = plan_interval(plan, network)
        if result.interval != ideal:
            print(f"note: interval {result.interval}, ideal {ideal}")
        _INTERVALS[key] = result.interval
    return _INTERVALS[key]


def _zoo_row(path: Path, chip: str) -> Row:
    network, provenance = load(path), load_provenance(path)
    plan = make_plan(network, registered=registered(target(chip)))
    _, *figures = _chip_row(network, plan, chip, seeds=(1, 2, 3))
    return (f"`{path.stem}`", *_quality(network, provenance), _circuits(plan), *figures)


def _quality(network: Network, provenance: Mapping[str, Any]) -> Row:
    """Accuracies of the float net and of the network, and bits of its weights."""
    accuracy = provenance["accuracy"]
    return (f"{100 * accuracy['float_test']:.2f}", f"{100 * accuracy['quantized_test']:.2f}",
            sum(layer.stored_bits for layer in network.layers if isinstance(layer, Weighted)))


def _circuits(plan: Plan) -> str:
    return ", ".join(dict.fromkeys(
        circuit for layer in plan.layers for circuit in (layer.product.value,
                                                         layer.staircase.value)
        if circuit != "none"))


def _image_row(path: Path, chip: str, interval: int, lean: bool, seeds: Sequence[int]) -> Row:
    network, provenance = load(path), load_provenance(path)
    plan = plan_within(network, Foldings(network), target(chip), interval, lean=lean)
    figures = _synthesize(network, plan, chip, seeds)
    use, stored = lane_use(network, plan), weight_bits_in_block_ram(network, plan)
    return (f"`{path.stem}`", chip, *_quality(network, provenance), _circuits(plan),
            *_figures(network, plan, figures, provenance["data"]["name"]),
            f"{100 * use.while_working:.1f} / {100 * use.throughout:.1f}",
            f"{100 * stored / figures['bram_bits']['weights']:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[1]).parent / "examples" / "zoo")
