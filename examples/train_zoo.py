"""Train the networks of the zoo again: ``python examples/train_zoo.py examples/zoo``.

Each is what one ``nomul train`` command gives; the command, its seed, the digest of the data and
the accuracies are in the file (``nomul info``) and in the zoo's README.
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
}


def main(folder: Path) -> None:
    """Train all of them into ``folder`` and write its README."""
    rows = []
    for name, options in ZOO.items():
        file = folder / f"{name}.nomul"
        subprocess.run([sys.executable, "-m", "nomul.cli", "train", *options, "-o", str(file)],
                       check=True)
        network, provenance = load(file), load_provenance(file)
        accuracy, layers = provenance["accuracy"], [
            layer for layer in network.layers if isinstance(layer, Weighted)]
        rows.append(
            f"| `{file.name}` | `{provenance['command']}` | {provenance['seed']} | "
            f"{sum(layer.assignment.size * layer.assignment_bits for layer in layers):,} | "
            + " | ".join(f"{100 * accuracy[key]:.2f}" for key in (
                "float_validation", "float_test", "quantized_validation", "quantized_test"))
            + f" | `{provenance['data']['digest'][:12]}` | `{network.digest[:12]}` |")
    (folder / "README.md").write_text("\n".join((
        "# Trained networks", "",
        "Made by `make zoo`. Accuracies in percent; epochs were chosen on the validation images, "
        "the test images were only reported. *Bits* are those of all assignments.", "",
        "| file | command | seed | bits | float, validation | float, test | validation | test | "
        "data | network |",
        "|---|---|---|---|---|---|---|---|---|---|", *rows, "")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
