# amaranth: UnusedElaboratable=no
"""Every layer kind over a grid of sizes: hardware == golden under random stalls.

`make test` takes a fixed sample of the grid, `make test-full` all of it.
"""
import itertools
import random
from typing import Any

import numpy as np
import pytest

from nomul.compiler.layers import Conv2d, Dense, Flatten, Input, Layer, MaxPool, SumPool, Window
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Network
from nomul.compiler.plan import plan_stages
from nomul.compiler.planner import make_plan
from nomul.compiler.values import Integers, Levels, Staircase
from nomul.hw.stream import beats
from nomul.sim.bench import transfer
from nomul.sim.golden import run

KERNELS, STRIDES, PADDINGS = (1, 2, 3, 5), (1, 2), ("none", "same")
CHANNELS, GROUPS = (1, 3, 8), ("1", "all")
WEIGHT_BITS, CODE_BITS, FOLDS = (1, 2, 4), (1, 2, 4, 8), ("one", "some", "all")

CONVOLUTIONS = list(itertools.product(KERNELS, STRIDES, PADDINGS, CHANNELS, GROUPS, WEIGHT_BITS,
                                      CODE_BITS, FOLDS))
POOLS = list(itertools.product(("max", "sum"), KERNELS, STRIDES, PADDINGS, CHANNELS, CODE_BITS,
                               FOLDS))
DENSE = list(itertools.product((1, 7, 24), WEIGHT_BITS, CODE_BITS, FOLDS))


def sample(grid: list[Any], count: int) -> list[Any]:
    """The same few of the grid for `make test`, the others marked ``full``."""
    chosen = set(random.Random(0).sample(range(len(grid)), count))
    return [pytest.param(*case, id="-".join(map(str, case)),
                         marks=[] if n in chosen else [pytest.mark.full])
            for n, case in enumerate(grid)]


def lanes(fold: str, most: int) -> int:
    """One lane, all of them, or a number between that divides if one does."""
    return {"one": 1, "all": most}.get(fold) or next(
        (n for n in range(2, most) if most % n == 0), most)


def window(kernel: int, stride: int, padding: str) -> Window:
    half, rest = (kernel - 1) // 2, kernel // 2
    return Window(kernel=(kernel, kernel), stride=stride,
                  padding=(half, half, rest, rest) if padding == "same" else (0, 0, 0, 0))


def check(layer: Layer, shape: tuple[int, int, int], code_bits: int, fold: tuple[int, int],
          seed: int) -> None:
    """Hardware of the layer, with a staircase on it, against the golden model."""
    rng = np.random.default_rng(seed)
    levels = Levels.uniform(1 << code_bits)
    before: list[Layer] = [Input(name="pixels", shape=shape, levels=levels)]
    if isinstance(layer, Dense):
        before.append(Flatten(name="flat", inputs=("pixels",)))
    network = Network(name="grid", layers=(*before, layer))
    if isinstance(network.output, Integers):
        low, high = network.output.low, network.output.high
        channels = network.output.shape[-1]
        thresholds = np.sort(rng.integers(low, high + 2, (channels, 3)), axis=1)
        coded = Staircase(thresholds=thresholds, levels=Levels.uniform(4),
                          directions=rng.choice([-1, 1], channels))
        network = Network(name="grid", layers=(
            *before, type(layer)(**{**vars(layer), "staircase": coded})))
    plan = make_plan(network, {layer.name: fold}, input_lanes=int(rng.integers(1, 4)))
    images = rng.integers(0, len(levels), (2, *shape))
    images[0] = rng.choice([0, len(levels) - 1])

    gives = plan_stages(plan, network)[layer.name].gives
    flat = images.reshape(2, -1)
    padded = np.zeros((2, beats(flat.shape[1], plan.input_lanes) * plan.input_lanes), int)
    padded[:, :flat.shape[1]] = flat
    got = transfer(lower_body(network, plan), padded.reshape(-1, plan.input_lanes).tolist(),
                   2 * gives.beats, seed=seed)
    vectors = np.array([list(beat) for beat in got]).reshape(2, gives.vectors, -1)
    result = vectors[:, :, :gives.length].reshape(2, *network.output.shape)
    assert result.tolist() == run(network, images).output.tolist()


@pytest.mark.parametrize(
    "kernel, stride, padding, channels, groups, weight_bits, code_bits, fold",
    sample(CONVOLUTIONS, 60))
def test_convolutions(kernel: int, stride: int, padding: str, channels: int, groups: str,
                      weight_bits: int, code_bits: int, fold: str) -> None:
    seed = CONVOLUTIONS.index((kernel, stride, padding, channels, groups, weight_bits, code_bits,
                               fold))
    rng = np.random.default_rng([5, seed])
    count = channels if groups == "all" else 1
    outputs = channels if count > 1 else 6
    place = window(kernel, stride, padding)
    powers = [0, 1, -1, 2, -2, 4, -4, 8, -8, 16, -16, 32, -32, 64, -64, 128]
    dictionary = powers[:1 << weight_bits] if rng.integers(2) else (
        rng.integers(-9, 10, 1 << weight_bits))
    layer = Conv2d(name="conv", inputs=("pixels",), dictionary=dictionary,
                   assignment=rng.integers(0, 1 << weight_bits,
                                           (outputs, kernel, kernel, channels // count)),
                   bias=rng.integers(-50, 50, outputs), stride=stride, padding=place.padding,
                   groups=count)
    both = lanes(fold, channels) if count > 1 else None
    check(layer, (6, 5, channels), code_bits,
          (both, both) if both else (lanes(fold, outputs), lanes(fold, channels)), seed)


@pytest.mark.parametrize("kind, kernel, stride, padding, channels, code_bits, fold",
                         sample(POOLS, 25))
def test_pools(kind: str, kernel: int, stride: int, padding: str, channels: int, code_bits: int,
               fold: str) -> None:
    seed = POOLS.index((kind, kernel, stride, padding, channels, code_bits, fold))
    pool = {"max": MaxPool, "sum": SumPool}[kind]
    layer = pool(name="pool", inputs=("pixels",), window=window(kernel, stride, padding))
    both = lanes(fold, channels)
    check(layer, (6, 5, channels), code_bits, (both, both), seed)


@pytest.mark.parametrize("outputs, weight_bits, code_bits, fold", sample(DENSE, 12))
def test_dense(outputs: int, weight_bits: int, code_bits: int, fold: str) -> None:
    seed = DENSE.index((outputs, weight_bits, code_bits, fold))
    rng = np.random.default_rng([6, seed])
    layer = Dense(name="dense", inputs=("flat",), dictionary=rng.integers(-9, 10, 1 << weight_bits),
                  assignment=rng.integers(0, 1 << weight_bits, (outputs, 12)),
                  bias=rng.integers(-50, 50, outputs))
    check(layer, (3, 2, 2), code_bits, (lanes(fold, outputs), lanes(fold, 12)), seed)
