"""Plans: folding, circuits, JSON, and what is refused."""
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.boards.targets import TARGETS
from nomul.compiler.blocks import BlockShapes, best_spread, block_rams
from nomul.compiler.errors import DataError, PlanError
from nomul.compiler.network import (
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Levels,
    Network,
    Staircase,
)
from nomul.compiler.plan import check_plan, intervals, least_depth, plan_stages
from nomul.compiler.plan_file import load_plan, plan_json
from nomul.compiler.planner import (
    fastest,
    fold_for_interval,
    make_plan,
    parse_folds,
    parse_products,
)
from nomul.compiler.storage import load
from nomul.hw.circuits import ProductCircuit, StaircaseCircuit
from nomul.hw.spread import spread_size
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.random_networks import random_network, random_plan


def small(dictionary: Any = (-2, 0, 1, 4), thresholds: Any = (8, 16, 24), codes: int = 4,
          ) -> Network:
    rng = np.random.default_rng(0)
    levels = Levels.uniform(4)
    return Network(name="small", layers=(
        Input(name="pixels", shape=(3, 5, 1), levels=Levels.uniform(codes)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense1", inputs=("flat",), dictionary=dictionary, bias=[0] * 7,
              assignment=rng.integers(0, len(dictionary), (7, 15)),
              staircase=Staircase(thresholds=[thresholds], levels=levels)),
        Dense(name="dense2", inputs=("dense1",), dictionary=[-1, 1], bias=[0] * 3,
              assignment=rng.integers(0, 2, (3, 7))),
        Argmax(name="best", inputs=("dense2",))))


@pytest.mark.parametrize("fold, cycles", [
    ((1, 1), 105), ((2, 4), 16), ((7, 15), 1), ((3, 7), 9), ((7, 1), 15)])
def test_interval_is_groups_times_chunks(fold: tuple[int, int], cycles: int) -> None:
    plan = make_plan(small(), {"dense1": fold})
    assert intervals(plan, small()) == {"pixels": 15, "dense1": cycles, "dense2": 21, "best": 3}


def test_the_smallest_exact_circuits_are_chosen() -> None:
    first = make_plan(small())["dense1"]
    assert (first.product, first.staircase) == (
        ProductCircuit.SHIFT_ADD, StaircaseCircuit.SHIFT_CLIP)
    other = make_plan(small(dictionary=(-3, 0, 5), thresholds=(1, 2, 9)))["dense1"]
    assert (other.product, other.staircase) == (
        ProductCircuit.TABLE, StaircaseCircuit.TABLE)
    far = make_plan(small(dictionary=(-3 << 12, 0, 5 << 12), thresholds=(1, 2, 10_000)))["dense1"]
    assert far.staircase is StaircaseCircuit.COMPARATORS


def test_few_lanes_look_products_up_and_many_add_masked_codes() -> None:
    network = small(dictionary=range(-15, 17, 2), codes=16)
    few, many = (make_plan(network, {"dense1": fold})["dense1"] for fold in ((1, 1), (7, 14)))
    assert (few.product, few.products_in) == (ProductCircuit.TABLE, Storage.BLOCK)
    assert many.product is ProductCircuit.MASKED


def test_a_layer_is_unrolled_that_computes_all_at_once() -> None:
    plan = make_plan(small(), fastest(small())[0], input_lanes=15)
    assert [entry.product for entry in plan.layers] == [ProductCircuit.UNROLLED] * 2
    assert set(intervals(plan, small()).values()) == {1}
    other = make_plan(small(), {"dense1": (7, 14)})
    with pytest.raises(PlanError, match="layer 'dense1' must compute all of its outputs and inputs "
                       "at once to be unrolled, not 7 and 14; change its fold or its products"):
        check_plan(replace(other, layers=(
            replace(other.layers[0], product=ProductCircuit.UNROLLED), other.layers[1])), small())


def test_the_fastest_plan_is_no_wider_than_it_must_be() -> None:
    network = small()
    folds, lanes = fastest(network)
    assert (folds, lanes) == ({"dense1": (7, 15), "dense2": (3, 7)}, 15)
    # A layer that takes 9 cycles at best, one output pixel after the other, holds up the others.
    rng = np.random.default_rng(0)
    image = Network(name="image", layers=(
        Input(name="pixels", shape=(3, 3, 2), levels=Levels.uniform(4)),
        Conv2d(name="conv", inputs=("pixels",), dictionary=[-1, 1], bias=[0] * 4,
               assignment=rng.integers(0, 2, (4, 3, 3, 2)),
               staircase=Staircase(thresholds=[[8, 16, 24]], levels=Levels.uniform(4))),
        Flatten(name="flat", inputs=("conv",)),
        Dense(name="dense", inputs=("flat",), dictionary=[-1, 1], bias=[0] * 5,
              assignment=rng.integers(0, 2, (5, 4)))))
    folds, lanes = fastest(image)
    assert max(intervals(make_plan(image, folds, input_lanes=lanes), image).values()) == 9
    assert folds["conv"] == (4, 2)
    assert folds["dense"][0] * folds["dense"][1] == 3, "20 products in 9 cycles"
    assert lanes == 2


@pytest.mark.parametrize("outputs, storage", [(16, (Storage.LOGIC, Storage.LOGIC)),
                                              (17, (Storage.BLOCK, Storage.LOGIC)),
                                              (65, (Storage.BLOCK, Storage.BLOCK))])
def test_lean_plans_hold_no_more_than_they_must(outputs: int, storage: tuple[Storage, Storage],
                                                ) -> None:
    rng = np.random.default_rng(0)
    network = Network(name="lean", layers=(
        Input(name="pixels", shape=(9, 9, 7), levels=Levels.uniform(2)),
        Conv2d(name="conv", inputs=("pixels",), dictionary=[-1, 1], bias=[0] * outputs,
               assignment=rng.integers(0, 2, (outputs, 3, 3, 7)),
               staircase=Staircase(thresholds=[[1, 2, 3]], levels=Levels.uniform(4))),
        Flatten(name="flat", inputs=("conv",)),
        Dense(name="dense", inputs=("flat",), dictionary=[-1, 1], bias=[0] * 2,
              assignment=rng.integers(0, 2, (2, 49 * outputs)))))
    plans = [make_plan(network, lean=lean) for lean in (False, True)]
    assert tuple(plan["conv"].constants_in for plan in plans) == storage
    least = least_depth(network, network["dense"], (1, 1))
    roomy, lean = (plan["dense"].depth for plan in plans)
    assert least == 49 * outputs <= lean < 2 * least <= roomy
    assert plans[0]["conv"].depth == plans[1]["conv"].depth


_ICE40, _ECP5 = (TARGETS[name].capacity.bram_shapes for name in ("ice40-up5k", "ecp5-25k"))


@pytest.mark.parametrize("shapes, width, rows, spread, blocks", [
    (_ECP5, 64, 2304, 8, (10, 8)),  # 9 bits for 8, and 8 words for 9
    (_ECP5, 64, 2048, 0, (8, 8)),
    (_ECP5, 4, 640, 0, (1, 1)),
    (_ECP5, 36, 513, 0, (2, 2)),
    (_ECP5, 72, 1030, 0, (6, 6)),  # one of 6 is not worth 72 tables
    (_ICE40, 12, 320, 4, (2, 1)),
])
def test_spreading_saves_block_rams(shapes: BlockShapes, width: int, rows: int, spread: int,
                                    blocks: tuple[int, int]) -> None:
    assert best_spread(shapes, width, rows) == spread
    assert blocks == (block_rams(shapes, width, rows),
                      block_rams(shapes, *spread_size(width, rows, spread)))


def test_weights_fill_block_ram() -> None:
    """As they lie on an ECP5: spread where that saves some, in logic where they fill next to
    nothing and the plan is lean; as ever for a chip that is not known."""
    rng = np.random.default_rng(0)

    def layer(name: str, before: str, outputs: int, inputs: int) -> Conv2d:
        return Conv2d(name=name, inputs=(before,), dictionary=list(range(16)),
                      bias=[0] * outputs, assignment=rng.integers(0, 16, (outputs, 3, 3, inputs)),
                      staircase=Staircase(thresholds=[[1, 2, 3]], levels=Levels.uniform(4)))

    network = Network(name="filling", layers=(
        Input(name="pixels", shape=(5, 5, 64), levels=Levels.uniform(4)),
        layer("large", "pixels", 64, 64), layer("small", "large", 1, 64)))
    folds = {"large": (1, 16), "small": (1, 16)}

    def weights(**options: Any) -> list[tuple[Storage, int]]:
        plan = make_plan(network, folds, **options)
        return [(entry.weights_in, entry.spread) for entry in plan.layers]

    large, small = (Storage.REGISTERED, 8), (Storage.REGISTERED, 0)
    assert weights(registered=True, blocks=_ECP5) == [large, small]
    assert weights(registered=True, blocks=_ECP5, lean=True) == [large, (Storage.LOGIC, 0)]
    assert weights(registered=True, lean=True) == [(Storage.REGISTERED, 0), small]
    assert weights(blocks=_ECP5) == [(Storage.BLOCK, 0), (Storage.BLOCK, 0)]


def test_a_layer_of_many_weights_is_not_unrolled_unasked() -> None:
    rng = np.random.default_rng(0)
    network = Network(name="wide", layers=(
        Input(name="pixels", shape=(300, 1, 1), levels=Levels.uniform(2)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense", inputs=("flat",), dictionary=[-1, 1], bias=[0] * 60,
              assignment=rng.integers(0, 2, (60, 300)))))
    plan = make_plan(network, {"dense": (60, 300)})
    assert plan["dense"].product is not ProductCircuit.UNROLLED


ANY = (-119, -90, -53, -31, -17, -7, -3, 0, 1, 5, 11, 23, 47, 66, 101, 127)


def wide(codes: int, inputs: int = 60, outputs: int = 8) -> Network:
    """A layer of 16 arbitrary values."""
    rng = np.random.default_rng(0)
    return Network(name="wide", layers=(
        Input(name="pixels", shape=(1, 1, inputs), levels=Levels.uniform(codes)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense", inputs=("flat",), dictionary=ANY, bias=[0] * outputs,
              assignment=rng.integers(0, 16, (outputs, inputs)))))


@pytest.mark.parametrize("codes, inputs, fold, product", [
    (256, 60, (4, 1), ProductCircuit.BUCKETS), (256, 47, (4, 1), ProductCircuit.BUCKETS),
    (256, 46, (4, 1), ProductCircuit.TABLE), (256, 60, (4, 2), ProductCircuit.TABLE),
    (64, 60, (4, 1), ProductCircuit.TABLE), (64, 60, (5, 1), ProductCircuit.BUCKETS),
    (16, 60, (5, 1), ProductCircuit.TABLE)])
def test_buckets_are_filled_where_tables_would_be_larger(
        codes: int, inputs: int, fold: tuple[int, int], product: ProductCircuit) -> None:
    """And not where they would take longer, as they do of fewer than 47 inputs."""
    network = wide(codes, inputs)
    plan = make_plan(network, {"dense": fold})
    assert plan["dense"].product is product
    assert intervals(plan, network)["dense"] == beats(8, fold[0]) * beats(inputs, fold[1])


def test_a_drain_that_takes_longer_counts() -> None:
    network = wide(4, 10)
    buckets = {"dense": ProductCircuit.BUCKETS}
    for fold, cycles in (((1, 1), 8 * 47), ((4, 1), 2 * 47), ((8, 1), 47)):
        plan = make_plan(network, {"dense": fold}, products=buckets)
        assert intervals(plan, network)["dense"] == cycles
        assert plan_stages(plan, network)["dense"].gives.lanes == fold[0], "all at once"
    slow = wide(4, 100)
    plan = make_plan(slow, {"dense": (8, 1)}, products=buckets)
    assert intervals(plan, slow)["dense"] == 100
    assert plan_stages(plan, slow)["dense"].gives.lanes == 4, "half of them, then the other half"


def test_buckets_take_one_input_at_once_and_no_corrections() -> None:
    with pytest.raises(PlanError, match="layer 'dense' must compute 1 input at once for "
                       "bucket-accumulate, not 2: a bucket takes one code a cycle; change its "
                       "fold or its products"):
        make_plan(wide(4), {"dense": (1, 2)}, products={"dense": ProductCircuit.BUCKETS})
    network = wide(256)
    layer = network["dense"]
    assert isinstance(layer, Dense)
    network = Network(name="corrected", layers=(*network.layers[:2], replace(
        layer, corrections=np.array([[0, 3, 9]]))))
    assert make_plan(network)["dense"].product is ProductCircuit.TABLE
    with pytest.raises(PlanError, match="layer 'dense' must have no corrections for "
                       "bucket-accumulate, not 1: they would wait for its buckets; change its "
                       "products"):
        make_plan(network, products={"dense": ProductCircuit.BUCKETS})


def test_multipliers_are_only_taken_if_they_are_asked_for() -> None:
    network = wide(16)
    for fold in ((1, 1), (8, 1), (1, 60), (8, 60)):
        plan = make_plan(network, default=fold)
        assert plan["dense"].product is not ProductCircuit.MULTIPLY
    asked = make_plan(network, products={"dense": ProductCircuit.MULTIPLY})
    assert (asked["dense"].product, asked["dense"].products_in) == (
        ProductCircuit.MULTIPLY, Storage.LOGIC)


def test_products_are_asked_for_by_layer_or_for_all() -> None:
    network = small()
    assert parse_products(["table"], network) == dict.fromkeys(
        ("dense1", "dense2"), ProductCircuit.TABLE)
    assert parse_products(["bucket-accumulate", "dense2=decode-multiply"], network) == {
        "dense1": ProductCircuit.BUCKETS, "dense2": ProductCircuit.MULTIPLY}
    for text in ("magic", "dense1=", "none", "=", "dense1=magic"):
        with pytest.raises(PlanError, match="product: must be CIRCUIT or LAYER=CIRCUIT, with one "
                           f"of shift-add, .*, decode-multiply, not '{text}'"):
            parse_products([text], network)
    with pytest.raises(PlanError, match="layer 'conv9' must be one of network 'small'"):
        make_plan(network, products=parse_products(["conv9=table"], network))
    with pytest.raises(PlanError, match=r"layer 'dense1' must make its products by .*, "
                       "not shift-add: that circuit would give other bits"):
        make_plan(small(dictionary=(-3, 0, 5)),
                  products=parse_products(["shift-add"], network))


@pytest.mark.parametrize("seed", range(20))
def test_json_gives_the_plan_back(tmp_path: Path, seed: int) -> None:
    network = random_network(seed)
    plan = random_plan(network, seed)
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert load_plan(tmp_path / "plan.json", network) == plan


def test_registers_stand_behind_block_rams_alone(tmp_path: Path) -> None:
    network = load(Path(__file__).parents[2] / "examples" / "zoo" / "mnist_lenet.nomul")
    plain, fast = (make_plan(network, registered=registered) for registered in (False, True))
    names = ("products_in", "weights_in", "constants_in", "buffer_in")
    seen = {(getattr(before, name), getattr(after, name)) for name in names
            for before, after in zip(plain.layers, fast.layers, strict=True)}
    assert seen == {(Storage.LOGIC, Storage.LOGIC), (Storage.BLOCK, Storage.REGISTERED)}
    assert intervals(plain, network) == intervals(fast, network)

    # Plans of earlier versions do not say what buffers and tables of codes are.
    content = json.loads(plan_json(plain))
    for layer in content["layers"]:
        del layer["buffer_in"], layer["staircase_in"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert load_plan(tmp_path / "plan.json", network) == plain


def test_folds_as_typed() -> None:
    assert parse_folds("2x3", small()) == {"dense1": (2, 3), "dense2": (2, 3)}
    assert parse_folds("dense2=1x7, dense1=7x4", small()) == {"dense1": (7, 4), "dense2": (1, 7)}


@pytest.mark.parametrize("cycles", [1, 2, 5, 15, 40, 1000])
def test_fewest_lanes_for_an_interval(cycles: int) -> None:
    folds = fold_for_interval(small(), cycles)
    plan = make_plan(small(), folds)
    for name, count in intervals(plan, small()).items():
        if name in folds:
            assert count <= cycles
    brute = min(p * s for p in range(1, 8) for s in range(1, 16)
                if -(-7 // p) * -(-15 // s) <= cycles)
    assert folds["dense1"][0] * folds["dense1"][1] == brute


@pytest.mark.parametrize("text", ["4", "x", "a=1", "1x2x3", "dense1:1x1", ""])
def test_folds_that_cannot_be_read(text: str) -> None:
    with pytest.raises(PlanError, match=r"^fold: must be OUTPUTSxINPUTS .* for example"):
        parse_folds(text, small())


@pytest.mark.parametrize("folds, message", [
    ({"dense1": (0, 1)}, "plan: layer 'dense1' must compute 1 to 7 outputs at once, not 0; "
     "change its fold"),
    ({"dense1": (1, 16)}, "plan: layer 'dense1' must compute 1 to 15 inputs at once, not 16; "
     "change its fold"),
    ({"conv1": (1, 1)}, "plan: layer 'conv1' must be one of network 'small' that are planned: "
     "dense1, dense2"),
])
def test_folds_that_are_illegal(folds: Any, message: str) -> None:
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        make_plan(small(), folds)


def changed(**changes: Any) -> Any:
    plan = make_plan(small())
    first = replace(plan.layers[0], **changes)
    return replace(plan, layers=(first, *plan.layers[1:]))


@pytest.mark.parametrize("plan, message", [
    (changed(depth=0), "must have a buffer of at least 15 beats, not 0; increase its depth"),
    (changed(depth=14), "must have a buffer of at least 15 beats, not 14; increase its depth"),
    (changed(buffer_in=Storage.LOGIC), "must have its buffer in block or registered, not in logic"),
    (changed(spread=-1), "must spread its weights by 1 to 104, not -1; change its spread"),
    (changed(spread=105), "must spread its weights by 1 to 104, not 105; change its spread"),
    (changed(outputs=7, inputs=15, product=ProductCircuit.UNROLLED, spread=1), "must spread its "
     "weights by 0, because it does not read three words of one width, not 1; change its spread"),
    (changed(staircase=StaircaseCircuit.NONE), "must make its staircase by shift-clip or "
     "table or comparators or search, not none: that circuit would give other bits"),
    (replace(make_plan(small()), layers=()), "must have the layers dense1, dense2 in this order, "
     "not none"),
    (replace(make_plan(small()), input_lanes=0), "input lanes must be 1 to 15, not 0; change"),
    (make_plan(random_network(1)), "must be of network 'small'"),
])
def test_plans_that_are_illegal(plan: Any, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        check_plan(plan, small())


def test_a_circuit_that_gives_other_bits_is_refused() -> None:
    network = small(dictionary=(-3, 0, 5))
    plan = make_plan(network)
    wrong = replace(plan, layers=(replace(plan.layers[0], product=ProductCircuit.SHIFT_ADD),
                                  plan.layers[1]))
    with pytest.raises(PlanError, match="make its products by table or masked-sums or "
                       "bucket-accumulate or unrolled or decode-multiply, not shift-add"):
        check_plan(wrong, network)


@pytest.mark.parametrize("change, message", [
    (lambda c: c.update(version=2), "version must be 1, not 2"),
    (lambda c: c.pop("layers"), "'layers' is missing"),
    (lambda c: c.update(colour=1), "'colour' is unknown"),
    (lambda c: c["layers"][0].update(outputs=1.5), "sizes must be whole numbers, not 1.5"),
    (lambda c: c["layers"][0].update(outputs=0), "must compute 1 to 7 outputs at once, not 0"),
    (lambda c: c["layers"][0].update(product="magic"),
     "ProductCircuit must be one of none, shift-add, masked-sums, table, "
         "bucket-accumulate, unrolled, decode-multiply, not 'magic'"),
    (lambda c: c["layers"][0].update(name="conv9"), "layer 'conv9' must be one of"),
    (lambda c: c.update(layers=3), "'int' object is not iterable"),
])
def test_plan_files_that_are_wrong(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "plan.json"
    content = json.loads(plan_json(make_plan(small())))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=re.escape(message)):
        load_plan(path, small())


def test_plan_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be readable \(No such file or directory\)"):
        load_plan(tmp_path / "plan.json", small())
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="must be JSON"):
        load_plan(tmp_path / "plan.json", small())
