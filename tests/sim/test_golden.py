"""The golden model against the one equation, written out."""
import re

import numpy as np
import pytest

from nomul.compiler.errors import DataError
from nomul.compiler.network import Argmax, Dense, Flatten, Input, Levels, Network, Staircase
from nomul.sim.golden import apply_staircase, run

LEVELS = Levels(values=[-3, 0, 1, 7])


def network(table: object = None, bias: object = (5, -100, 0)) -> Network:
    rng = np.random.default_rng(5)
    return Network(name="small", layers=(
        Input(name="pixels", shape=(2, 3, 1), levels=LEVELS),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="hidden", inputs=("flat",), dictionary=[-4, 0, 9], bias=bias, table=table,
              assignment=rng.integers(0, 3, (3, 6)),
              staircase=Staircase(thresholds=[[-20, 0, 30]], levels=LEVELS)),
        Dense(name="scores", inputs=("hidden",), dictionary=[1, -2], bias=(0, 1),
              assignment=[[0, 1, 1], [1, 1, 0]]),
        Argmax(name="best", inputs=("scores",))))


@pytest.mark.parametrize("table", [None, [[1, 2, 3, 4], [0, 0, -9, 2], [5, -5, 5, -5]]])
def test_every_layer_is_look_up_add_look_up(table: object) -> None:
    net = network(table)
    images = np.random.default_rng(1).integers(0, 4, (20, 2, 3, 1))
    trace = run(net, images)
    hidden, scores = net["hidden"], net["scores"]
    assert isinstance(hidden, Dense) and isinstance(scores, Dense)
    products = hidden.products(LEVELS)
    for n, image in enumerate(images):
        codes = image.reshape(-1)
        for o in range(3):
            acc = hidden.bias[o] + sum(products[hidden.assignment[o, i], codes[i]]
                                       for i in range(6))
            assert trace.accumulators["hidden"][n, o] == acc
            assert trace["hidden"][n, o] == sum(acc >= t for t in (-20, 0, 30))
        raw = [scores.bias[o] + sum(scores.weights[o, i] * LEVELS.values[trace["hidden"][n, i]]
                                    for i in range(3)) for o in range(2)]
        assert trace["scores"][n].tolist() == raw
        assert trace.classes[n] == trace.output[n, 0] == (raw[1] > raw[0])


def test_staircases_of_every_direction() -> None:
    staircase = Staircase(thresholds=[[-1, 2, 2], [-1, 2, 2], [0, 0, 0]], levels=LEVELS,
                          directions=[1, -1, 0], constants=[0, 0, 2])
    values = np.arange(-3, 5)
    codes = apply_staircase(staircase, np.stack([values] * 3, axis=1))
    assert codes[:, 0].tolist() == [0, 0, 1, 1, 1, 3, 3, 3]
    assert codes[:, 1].tolist() == [3, 3, 3, 2, 2, 2, 0, 0]
    assert codes[:, 2].tolist() == [2] * 8


@pytest.mark.parametrize("images, message", [
    (np.zeros((1, 2, 2, 1), int), "images must have shape [images, 2, 3, 1] for network 'small', "
     "not [1, 2, 2, 1]; crop or resize them"),
    (np.full((1, 2, 3, 1), 4), "images must hold the input codes 0 to 3 of network 'small', "
     "not 4; quantize them"),
    (np.full((1, 2, 3, 1), -1), "images must hold the input codes 0 to 3 of network 'small', "
     "not -1; quantize them"),
    (np.zeros((1, 2, 3, 1)), "images must be integers, the input codes of network 'small', "
     "not float64"),
])
def test_images_are_checked(images: object, message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        run(network(), images)  # type: ignore[arg-type]
