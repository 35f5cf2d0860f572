"""Train the networks of the zoo again: ``python examples/train_zoo.py examples/zoo [NAME ...]``.

Each is what one ``nomul train`` command gives; the command, its seed, the digest of the data and
the accuracies are in the file (``nomul info``) and in the zoo's README. Without names all of them
are trained, which takes about ten hours on two cores, most of it for ``cifar10_resnet20``.
"""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nomul.compiler.network import Weighted
from nomul.compiler.storage import load, load_provenance

# File name: recipe and options of `nomul train`.
ZOO = {
    "digits_pow2_3bit": ("digits", "--dictionary", "pow2", "--bits", "3"),
    "digits_free_4bit": ("digits", "--dictionary", "free", "--bits", "4"),
    "digits_binary": ("digits", "--dictionary", "binary"),
    "digits_ternary": ("digits", "--dictionary", "ternary"),
    "digits_pruned_4bit": ("digits", "--dictionary", "pruned", "--bits", "4",
                           "--fraction", "0.7"),
    "digits_fixed_4bit": ("digits", "--dictionary", "fixed", "--bits", "4"),
    "mnist_lenet": ("mnist", "--dictionary", "pow2", "--bits", "4"),
    "fashion_lenet": ("fashion", "--dictionary", "pow2", "--bits", "4"),
    "cifar10_resnet20": ("cifar10", "--dictionary", "pow2", "--bits", "4", "--float-epochs", "80",
                         "--epochs", "140", "--final-epochs", "60", "--checkpoint",
                         "cifar10_resnet20.ckpt"),
    "cifar10_mobile": ("cifar10_mobile", "--dictionary", "pow2", "--bits", "4", "--float-epochs",
                       "14", "--epochs", "14", "--checkpoint", "cifar10_mobile.ckpt"),
}


def main(folder: Path, names: list[str]) -> None:
    """Train the networks called ``names`` into ``folder``."""
    for name in names:
        subprocess.run([sys.executable, "-m", "nomul.cli", "train", *ZOO[name],
                        "-o", str(folder / f"{name}.nomul")], check=True)
    write_readme(folder)


def write_readme(folder: Path) -> None:
    """The table of all networks in ``folder``."""
    rows = []
    for file in sorted(folder.glob("*.nomul")):
        network, provenance = load(file), load_provenance(file)
        accuracy = provenance["accuracy"]
        bits = sum(layer.stored_bits for layer in network.layers if isinstance(layer, Weighted))
        percent = (f"{100 * accuracy[key]:.2f}" for key in (
            "float_validation", "float_test", "quantized_validation", "quantized_test"))
        rows.append(f"| `{file.name}` | `{provenance['command']}` | {provenance['seed']} | "
                    f"{bits:,} | {' | '.join(percent)} | `{provenance['data']['digest'][:12]}` | "
                    f"`{network.digest[:12]}` |")
    (folder / "README.md").write_text("\n".join((
        "# Trained networks", "",
        "Made by `make zoo`. Accuracies in percent; epochs were chosen on the validation images, "
        "the test images were only reported. *Bits* are those of all assignments. Two exceptions: "
        "test accuracies of earlier variants of the fashion recipe were seen before this one was "
        "chosen on the validation images, and that of `cifar10_resnet20` before its final epochs, "
        "89.75, before these were added. After `--final-epochs`, which learn from the validation "
        "images too and choose nothing, *validation* is of the network before them; the float "
        "net has not seen those images.", "",
        "| file | command | seed | bits | float, validation | float, test | validation | test | "
        "data | network |",
        "|---|---|---|---|---|---|---|---|---|---|", *rows, "")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(ZOO))
