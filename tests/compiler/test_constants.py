# amaranth: UnusedElaboratable=no
"""Folding constants: the same scores and classes, fewer channels, borders right."""
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nomul.compiler.constants import fold_constants
from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    SumPool,
    Weighted,
    Window,
)
from nomul.compiler.lower import lower_body
from nomul.compiler.network import Network
from nomul.compiler.plan import plan_stages
from nomul.compiler.values import Levels, Staircase
from nomul.hw.stream import beats
from nomul.sim.bench import transfer
from nomul.sim.golden import run
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_network, random_plan

LEVELS = Levels(values=[-1, 0, 2, 5])
CODES = Staircase(thresholds=[[0, 3, 9]], levels=LEVELS)
SHAPE = (4, 4, 2)


def images_for(network: Network, seed: int = 0, count: int = 16) -> Any:
    rng = np.random.default_rng([2, seed])
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def stored_bits(network: Network) -> int:
    return sum(layer.stored_bits for layer in network.layers if isinstance(layer, Weighted))


def channels(network: Network, name: str) -> int:
    return network.wires[name].shape[-1]


def check(network: Network, seed: int = 0) -> Network:
    """The law; and the network that it gives."""
    folded = fold_constants(network)
    images = images_for(network, seed)
    before, after = run(network, images), run(folded, images)
    assert after.output.tolist() == before.output.tolist()
    assert after.classes.tolist() == before.classes.tolist()
    assert stored_bits(folded) <= stored_bits(network)
    assert fold_constants(folded) == folded
    return folded


@pytest.mark.parametrize("make", [random_network, random_image_network])
@pytest.mark.parametrize("seed", range(150))
def test_scores_and_classes_are_the_same(make: Any, seed: int) -> None:
    check(make(seed), seed)


@pytest.mark.full
@pytest.mark.parametrize("make", [random_network, random_image_network])
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_scores_and_classes_are_the_same_many(make: Any, seed: int) -> None:
    check(make(seed), seed)


@pytest.mark.parametrize("seed", range(12))
def test_hardware_of_the_folded_is_golden_of_the_whole(seed: int) -> None:
    seed, network = [(n, network) for n in range(100)
                     if fold_constants(network := random_image_network(n)) != network][seed]
    folded, images = fold_constants(network), images_for(network, seed, 2)
    plan = random_plan(folded, seed)
    gives = plan_stages(plan, folded)[folded.layers[-1].name].gives
    flat, lanes = images.reshape(2, -1), plan.input_lanes
    padded = np.zeros((2, beats(flat.shape[1], lanes) * lanes), dtype=int)
    padded[:, :flat.shape[1]] = flat
    got = transfer(lower_body(folded, plan), padded.reshape(-1, lanes).tolist(), 2 * gives.beats,
                   seed=seed)
    values = np.array([list(beat) for beat in got]).reshape(2, gives.vectors, -1)
    assert values[:, :, :gives.length].reshape(2, *network.output.shape).tolist() == (
        run(network, images).output.tolist())


def conv(name: str, source: str, inputs: int, *, constants: tuple[int, ...] = (), outputs: int = 3,
         kernel: int = 3, **options: Any) -> Conv2d:
    """A convolution of 2 bits whose outputs 0 and on have the ``constants`` as accumulators, and
    take 0 bits."""
    rng = np.random.default_rng(len(name))
    assignment = rng.integers(1, 5, (outputs, kernel, kernel, inputs))
    assignment[:len(constants)] = 0
    bias = rng.integers(-3, 4, outputs)
    bias[:len(constants)] = constants
    widths = [0 if n < len(constants) else 2 for n in range(outputs)]
    options = {"staircase": CODES, **options}
    dictionary = [0, -2, -1, 1, 4]
    if not constants:
        assignment, dictionary = assignment - 1, dictionary[1:]
    elif len(constants) == outputs:
        dictionary = dictionary[:1]
    return Conv2d(name=name, inputs=(source,), dictionary=dictionary, assignment=assignment,
                  bias=bias, widths=widths, **options)


def network(*layers: Layer) -> Network:
    return Network(name="net", layers=(Input(name="pixels", shape=SHAPE, levels=LEVELS), *layers))


SAME = (1, 1, 1, 1)
ZERO, TWO = 0, 4  # accumulators of which `CODES` makes the levels 0 and 2


def test_a_constant_goes_into_the_bias() -> None:
    first = conv("first", "pixels", 2, constants=(TWO,), padding=SAME)
    folded = check(network(first, conv("second", "first", 3)))
    assert channels(folded, "first") == 2
    second = folded["second"]
    assert isinstance(second, Conv2d)
    removed = conv("second", "first", 3).weights[..., 0].sum(axis=(1, 2))
    assert (second.bias - conv("second", "first", 3).bias).tolist() == (2 * removed).tolist()
    first, = (layer for layer in folded.layers if isinstance(layer, Conv2d) and layer is not second)
    assert first.widths is not None and first.widths.tolist() == [2, 2]
    assert first.dictionary.tolist() == [-2, -1, 1, 4]


def test_it_stays_in_front_of_padding_unless_its_level_is_0() -> None:
    before = network(conv("first", "pixels", 2, constants=(TWO, ZERO), outputs=4, padding=SAME),
                     conv("second", "first", 4, padding=SAME))
    folded = check(before)
    assert channels(folded, "first") == 3
    first = folded["first"]
    assert isinstance(first, Conv2d) and first.widths is not None
    assert first.widths.tolist() == [0, 2, 2]
    # Folded into the bias, it would be wrong at the border.
    trace = run(before, images_for(before))
    assert (trace["first"][..., 0] == 2).all() and (trace["first"][..., 1] == 1).all()


def test_the_law_can_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding as if a padded border saw the constant, too."""
    before = network(conv("first", "pixels", 2, constants=(TWO,), padding=SAME),
                     conv("second", "first", 3, padding=SAME))
    check(before)
    monkeypatch.setattr("nomul.compiler.constants._seen",
                        lambda network, layer, reach, name: reach[name])
    with pytest.raises(AssertionError):
        check(before)


def test_an_addition_keeps_it_unless_both_branches_are_constant() -> None:
    def residual(*constants: int) -> Network:
        return network(conv("one", "pixels", 2, constants=(TWO, ZERO), padding=SAME),
                       conv("other", "pixels", 2, constants=constants, padding=SAME),
                       Add(name="add", inputs=("one", "other"), shifts=(1, 0), staircase=CODES),
                       conv("last", "add", 3))
    assert channels(check(residual()), "add") == 3
    assert channels(check(residual(TWO)), "add") == 2
    assert channels(check(residual(TWO, ZERO)), "add") == 1


@pytest.mark.parametrize("pool", [
    MaxPool(name="pool", inputs=("first",), window=Window(kernel=(2, 2), padding=(1, 0, 0, 1))),
    SumPool(name="pool", inputs=("first",), window=Window(kernel=(2, 2), stride=2),
            staircase=Staircase(thresholds=[[-4, 0, 4], [0, 8, 9], [0, 5, 9]], levels=LEVELS)),
    SumPool(name="pool", inputs=("first",), staircase=CODES)], ids=["max", "sum", "global"])
def test_it_passes_pools_on_its_way_to_a_dense_layer(pool: Layer) -> None:
    rng = np.random.default_rng(0)
    first = conv("first", "pixels", 2, constants=(TWO,))
    size = int(np.prod(network(first, pool).output.shape))
    dense = Dense(name="dense", inputs=("flat",), dictionary=[-3, 1, 2, 7], bias=[1, 2, 3],
                  assignment=rng.integers(0, 4, (3, size)))
    folded = check(network(first, pool, Flatten(name="flat", inputs=("pool",)), dense,
                           Argmax(name="best", inputs=("dense",))))
    assert channels(folded, "pool") == 2 and channels(folded, "flat") == size * 2 // 3
    assert folded["dense"].widths is None  # type: ignore[attr-defined]


def test_corrections_stay_with_their_weights() -> None:
    """Those of an input that goes become constants; those of an output that goes, nothing."""
    rng = np.random.default_rng(0)
    first = conv("first", "pixels", 2, constants=(TWO,))
    size = int(np.prod(network(first).output.shape))
    places = np.sort(rng.choice(4 * size, 2 * size, replace=False))
    hidden = Dense(name="hidden", inputs=("flat",), dictionary=[-3, 1, 2, 7], bias=[1, 2, 3, 4],
                   assignment=rng.integers(0, 4, (4, size)), staircase=Staircase(
                       thresholds=[[0, 1, 9], [-2, 5, 9], [10**6, 10**6, 10**6], [-9, 0, 1]],
                       levels=LEVELS),
                   corrections=np.stack([places // size, places % size,
                                         rng.choice([-9, 5, 80], 2 * size)], axis=1))
    last = Dense(name="last", inputs=("hidden",), dictionary=[-3, 1, 2, 7], bias=[1, 2, 3],
                 assignment=rng.integers(0, 4, (3, 4)), corrections=[[0, 2, 5], [2, 2, -2]])
    folded = check(network(first, Flatten(name="flat", inputs=("first",)), hidden, last))
    assert channels(folded, "flat") == size * 2 // 3 and channels(folded, "hidden") < 4
    assert folded["last"].corrections is None  # type: ignore[attr-defined]
    kept = folded["hidden"].corrections  # type: ignore[attr-defined]
    assert 0 < len(kept) < len(hidden.corrections)  # type: ignore[arg-type]


def test_a_sum_pool_with_padding_keeps_it_unless_its_level_is_0() -> None:
    pool = SumPool(name="pool", inputs=("first",), staircase=CODES,
                   window=Window(kernel=(2, 2), padding=(1, 0, 0, 1)))
    first = conv("first", "pixels", 2, constants=(TWO, ZERO))
    assert channels(check(network(first, pool, conv("last", "pool", 3, kernel=1))), "pool") == 2


@pytest.mark.parametrize("each", [1, 2])
def test_depthwise_filters_of_no_bits_take_their_input_with_them(each: int) -> None:
    middle = conv("middle", "first", 1, constants=(TWO, ZERO)[:each], outputs=3 * each, groups=3,
                  padding=SAME)
    folded = check(network(conv("first", "pixels", 2), middle, conv("last", "middle", 3 * each,
                                                                    kernel=1)))
    assert (channels(folded, "first"), channels(folded, "middle")) == (2, 2 * each)
    assert folded["middle"].groups == 2  # type: ignore[attr-defined]


def test_other_groups_keep_theirs() -> None:
    first = conv("first", "pixels", 2, constants=(TWO,), outputs=4)
    folded = check(network(first, conv("second", "first", 2, outputs=2, groups=2, kernel=2)))
    assert folded == network(first, conv("second", "first", 2, outputs=2, groups=2, kernel=2))


def test_channels_whose_weights_are_all_0_go_though_they_vary() -> None:
    second = conv("second", "first", 3, constants=(ZERO,), padding=SAME)
    assignment = second.assignment.copy()
    assignment[..., 1] = assignment[0, 0, 0, 0]
    unread = replace(second, dictionary=[0, 0, 1, 4, -2], assignment=np.where(
        (np.arange(3) == 1) & (np.arange(3) > 0)[:, None, None, None], 1, assignment))
    assert channels(check(network(conv("first", "pixels", 2, padding=SAME), unread,
                                  conv("last", "second", 3))), "first") == 2


def test_a_filter_that_its_staircase_makes_constant_stores_nothing() -> None:
    """It stays for the border, but its 2 bits a weight go."""
    never = Staircase(thresholds=[[0, 1, 999], [0, 3, 9], [0, 3, 9]], levels=LEVELS)
    first = conv("first", "pixels", 2, padding=SAME, staircase=never)
    first = replace(first, bias=[500, 0, 0])
    folded = check(network(first, conv("second", "first", 3, padding=SAME)))
    assert stored_bits(folded) == stored_bits(network(first, conv("second", "first", 3))) - 36


def test_a_layer_keeps_one_channel_at_least() -> None:
    everything = conv("first", "pixels", 2, constants=(TWO, ZERO, TWO))
    folded = check(network(everything, conv("last", "first", 3, kernel=1)))
    assert channels(folded, "first") == 1 and stored_bits(folded) == 0
