"""Table entries, counted, and activation tables that are the staircases they come from."""
import numpy as np
import pytest

from nomul.compiler.compactness import TableRow, activation_table, compactness
from nomul.compiler.network import (
    Argmax,
    Dense,
    Flatten,
    Input,
    Levels,
    Network,
    PixelEmbedding,
    Staircase,
)
from nomul.sim.golden import apply_staircase


def stair(*rows: list[int]) -> Staircase:
    return Staircase(thresholds=np.array(rows), levels=Levels.uniform(len(rows[0]) + 1))


@pytest.mark.parametrize("thresholds, shift, entries", [
    ([-24, -16, 8, 40], 3, 10),
    ([3, 11, 19], 3, 4),  # multiples of 8, but for an offset
    ([5], 0, 2),
    ([6, 6, 6], 0, 2),
    ([0, 1, 7], 0, 9),
    ([-12, 0, 24], 2, 11),  # the step is a power of two
])
def test_the_table_is_the_staircase(thresholds: list[int], shift: int, entries: int) -> None:
    staircase = stair(thresholds)
    table = activation_table(staircase)
    assert table is not None
    assert (table.shift, len(table.codes)) == (shift, entries)
    accs = np.arange(-200, 200)
    assert np.array_equal(table(accs), apply_staircase(staircase, accs[:, np.newaxis])[:, 0])
    assert table.codes[0] == 0 and table.codes[-1] == len(thresholds)


def test_a_table_that_would_be_too_long_is_none() -> None:
    assert activation_table(stair([0, 4094])) is not None
    assert activation_table(stair([0, 4095])) is None


def test_channels_with_thresholds_of_their_own_have_no_table() -> None:
    assert activation_table(stair([1, 2], [1, 3])) is None
    falling = Staircase(thresholds=[[1, 2]], levels=Levels.uniform(3), directions=[-1])  # type: ignore[arg-type]
    assert activation_table(falling) is None


def network(staircase: Staircase) -> Network:
    table = np.array([[5, -7, 0, 16], [0, 1, 2, 3], [-16, 1, 1, 1]])
    dense = Dense(name="dense", inputs=("flatten",), dictionary=np.arange(3), table=table,
                  assignment=np.zeros((2, 6), int), bias=np.zeros(2, int), staircase=staircase)
    scores = Dense(name="scores", inputs=("dense",), dictionary=np.array([-3, 4]),
                   assignment=np.zeros((2, 2), int), bias=np.zeros(2, int))
    pixels = np.arange(256)[:, np.newaxis] // 64
    return Network(name="net", layers=(
        Input(name="pixels", shape=(2, 3, 1), levels=Levels.uniform(256)),
        PixelEmbedding(name="embed", inputs=("pixels",), table=pixels[np.newaxis],
                       levels=Levels.uniform(4)),
        Flatten(name="flatten", inputs=("embed",)), dense, scores,
        Argmax(name="argmax", inputs=("scores",))))


def test_entries_are_counted() -> None:
    found = compactness(network(stair([-24, -16, 8, 40])))
    assert found.rows == (
        TableRow(name="embed", codes=256, entries=0, products=0, product_bits=0, activations=256,
                 thresholds=0),
        TableRow(name="dense", codes=4, entries=3, products=12, product_bits=6, activations=10,
                 thresholds=0),
        TableRow(name="scores", codes=5, entries=2, products=10, product_bits=6, activations=0,
                 thresholds=0))
    assert (found.largest, found.products, found.activations, found.thresholds) == (12, 22, 266, 0)


def test_thresholds_of_channels_are_counted_apart() -> None:
    found = compactness(network(stair([-24, -16, 8, 40], [1, 2, 3, 4])))
    assert (found.activations, found.thresholds) == (256, 8)
