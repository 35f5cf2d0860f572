"""LUT-Q on a module of one's own: ``python examples/own_module.py``.

Trains a small net on the digits for a few epochs with a ternary dictionary, exports it, and checks
that torch and the integer network agree on every code.
"""
from __future__ import annotations

import torch
from torch import nn

from nomul.compiler.quantize.activations import QuantizedInput
from nomul.compiler.quantize.constraints import Ternary
from nomul.compiler.quantize.convert import quantize_model
from nomul.compiler.quantize.datasets import load
from nomul.compiler.quantize.export import layer_codes, model_input, to_network
from nomul.compiler.quantize.lutq import update_dictionaries
from nomul.sim.golden import run


def main() -> None:
    """Train, export, compare."""
    torch.manual_seed(0)
    digits = load("digits")
    images, labels = model_input(digits.images, digits.levels), torch.tensor(digits.labels)
    train = torch.tensor(digits.train)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    model = quantize_model(net, Ternary(), entry=QuantizedInput(bits=4, exponent=-4),
                           calibration=images[train].float(), activation_bits=4)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(20):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            scores = model(images[batch].float())
            nn.functional.cross_entropy(scores, labels[batch]).backward()
            optimizer.step()
            update_dictionaries(model)  # the k-means step that makes it LUT-Q

    network = to_network(model.eval(), "own", digits.shape)
    golden = run(network, digits.images)
    for name, codes in layer_codes(model, digits.images).items():
        assert (codes == golden[name]).all()
    right = (golden.classes == digits.labels)[digits.test].mean()
    print(f"{network.name}: {100 * right:.1f} % of {len(digits.test)} test images, exact")


if __name__ == "__main__":
    main()
