# amaranth: UnusedElaboratable=no
"""DotProducts and its product circuits against NumPy."""
import itertools
import re
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Shape, Signal, signed
from amaranth.sim import Simulator, SimulatorContext

from nomul.hw.affine import Affine, signed_digits
from nomul.hw.chain import Chain
from nomul.hw.dots import DotProducts
from nomul.hw.product import (
    MaskedProducts,
    Products,
    ShiftAddProducts,
    TableProducts,
    add_with_one,
    masks_of,
    shift_add_slopes,
)
from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer

POW2 = np.outer([0, 1, -1, 2, -2, 4, -8], np.arange(16))
# Slopes whose sign and shift fill an index, start above 1, repeat, or are all of one sign.
FULL = np.outer([-8, -4, -2, -1, 0, 1, 2, 4], np.arange(8))
SHIFTED = np.outer([16, -32, 64, 16, -16], np.arange(4))
REPEATED = np.outer([0, 1, -1, 0, 1], np.arange(4))
NEGATIVE = np.outer([-1, -2, -4, -8, -1], np.arange(8))
# A sign and a shift take more bits than an index.
FAR = np.outer([0, 1, -64], np.arange(4))
ANY = np.outer([3, -7, 11, 0, 5], np.arange(8)) // 2  # rounded: no product of two numbers


def engine(circuit: type[Products], table: Any, weights: Any, lanes: int, inputs: int,
           storage: Storage = Storage.LOGIC, packed: Any = None) -> DotProducts:
    options = {"storage": storage} if circuit is TableProducts else {}
    products = circuit(table.tolist(), lanes=lanes, inputs=inputs, **options)
    peak = int(np.abs(table).max()) * weights.shape[1]
    chunks = beats(weights.shape[1], inputs)
    o_lanes = next(n for n in range(1, lanes + 1) if lanes % n == 0 and n * chunks >= lanes)
    return DotProducts(products, weights.tolist(), o_lanes=o_lanes, storage=storage,
                       acc_shape=signed_range(-peak, peak), packed=packed)


def in_chunks(vectors: Any, dut: DotProducts) -> list[list[int]]:
    """Beats of the vectors, each as often as there are groups; absent lanes hold nonsense."""
    lanes = dut.products.inputs
    padded = np.full((len(vectors), dut.chunks * lanes), dut.products.code_shape.width)
    padded[:, :vectors.shape[1]] = vectors
    repeated = padded.reshape(len(vectors), 1, dut.chunks, lanes).repeat(dut.groups, axis=1)
    return repeated.reshape(-1, lanes).tolist()


def products(table: Any, weights: Any, vectors: Any) -> Any:
    return table[weights[None], vectors[:, None, :]].sum(axis=2)


@pytest.mark.parametrize("circuit, table, storage", [
    (ShiftAddProducts, POW2, Storage.LOGIC), (TableProducts, POW2, Storage.LOGIC),
    (ShiftAddProducts, FULL, Storage.BLOCK), (ShiftAddProducts, SHIFTED, Storage.LOGIC),
    (ShiftAddProducts, REPEATED, Storage.LOGIC), (ShiftAddProducts, NEGATIVE, Storage.LOGIC),
    (ShiftAddProducts, FAR, Storage.LOGIC),
    (TableProducts, ANY, Storage.LOGIC), (TableProducts, ANY, Storage.BLOCK),
    (TableProducts, ANY, Storage.REGISTERED), (ShiftAddProducts, POW2, Storage.REGISTERED),
    (ShiftAddProducts, POW2[:1], Storage.BLOCK), (TableProducts, ANY[1:3, :2], Storage.LOGIC)])
@pytest.mark.parametrize("outputs, inputs, lanes, at_once", [
    (1, 1, 1, 1), (5, 7, 1, 1), (5, 7, 2, 3), (6, 4, 6, 4), (7, 9, 3, 2), (4, 8, 2, 8),
    (8, 3, 4, 2)])
def test_sums_are_exact(circuit: type[Products], table: Any, storage: Storage, outputs: int,
                        inputs: int, lanes: int, at_once: int) -> None:
    rng = np.random.default_rng([outputs, inputs, lanes])
    weights = rng.integers(0, len(table), (outputs, inputs))
    vectors = rng.integers(0, table.shape[1], (5, inputs))
    # Vectors 0 and 1 drive output 0 to both ends of its range.
    vectors[0] = table[weights[0]].argmax(axis=1)
    vectors[1] = table[weights[0]].argmin(axis=1)
    dut = engine(circuit, table, weights, lanes, at_once, storage)

    per_vector = beats(outputs, dut.o_lanes)
    got = transfer(dut, in_chunks(vectors, dut), 5 * per_vector, seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(5, -1)[:, :outputs]
    assert sums.tolist() == products(table, weights, vectors).tolist()


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("outputs, inputs, lanes, at_once", [
    (1, 1, 1, 1), (5, 7, 2, 3), (7, 9, 3, 2), (4, 8, 2, 8), (8, 3, 4, 2)])
def test_unsigned_sums_are_exact(storage: Storage, own: bool, outputs: int, inputs: int,
                                 lanes: int, at_once: int) -> None:
    """Raised products, and what weight 0 adds at code 0 in places without an input."""
    rng = np.random.default_rng([outputs, inputs, own])
    table = ANY[1:] - ANY[1:].min(axis=1, keepdims=True) + [[2], [0], [0], [5]]
    widths = rng.integers(0, 3, (outputs, 1)) * own + 2 * (not own)
    weights = (1 << widths) * own + rng.integers(0, 1 << widths, (outputs, inputs))
    packed = rng.integers(0, 4, 8) if own else np.arange(4)
    vectors = rng.integers(0, 8, (5, inputs))
    entries = packed[weights]
    vectors[0] = table[entries[0]].argmax(axis=1)
    vectors[1] = table[entries[0]].argmin(axis=1)
    chunks = beats(inputs, at_once)
    more = int(table[packed[0], 0]) * (chunks * at_once - inputs)
    # As narrow as can be.
    high = int(table.max(axis=1)[entries].sum(axis=1).max()) + more
    o_lanes = next(n for n in range(1, lanes + 1) if lanes % n == 0 and n * chunks >= lanes)
    circuit = TableProducts(table.tolist(), lanes=lanes, inputs=at_once, storage=storage)
    assert not circuit.product_shape.signed
    dut = DotProducts(circuit, weights.tolist(), o_lanes=o_lanes, storage=storage,
                      acc_shape=signed_range(0, high), lane_shape=range(high + 1),
                      packed=packed.tolist() if own else None)
    got = transfer(dut, in_chunks(vectors, dut), 5 * beats(outputs, o_lanes), seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(5, -1)[:, :outputs]
    assert sums.tolist() == (products(table, entries, vectors) + more).tolist()


@pytest.mark.parametrize("slopes", [
    (7, -3), (-5, -6, -5), (0, 9), (-77, 77), (-3, 0, 3), (13, 3, -2, 8), (5, 5, 6), (-8, -7, -5),
    (-8, 77, 8, 31), (0, -90, 1, 33, 0), (100, 3, 4)])
@pytest.mark.parametrize("outputs, inputs, lanes, at_once", [
    (1, 1, 1, 1), (5, 7, 2, 3), (6, 4, 6, 4), (7, 9, 3, 2), (4, 8, 2, 8)])
def test_masked_sums_are_exact(slopes: tuple[int, ...], outputs: int, inputs: int, lanes: int,
                               at_once: int) -> None:
    """With what the factors make of them, behind a stream that stalls."""
    rng = np.random.default_rng([outputs, inputs, lanes])
    table = np.outer(slopes, np.arange(8))
    weights = rng.integers(0, len(slopes), (outputs, inputs))
    vectors = rng.integers(0, 8, (5, inputs))
    vectors[0], vectors[1] = 7, 0
    products = MaskedProducts(table.tolist(), lanes=lanes, inputs=at_once)
    chunks = beats(inputs, at_once)
    o_lanes = next(n for n in range(1, lanes + 1) if lanes % n == 0 and n * chunks >= lanes)
    masks = products.masks
    # As narrow as can be: the first vector drives a lane to the end of its range.
    most = 7 * max(int(np.array(counts)[weights].sum(axis=1).max()) for counts in masks.counts)
    total = masks.base != 0
    dots = DotProducts(products, weights.tolist(), o_lanes=o_lanes, storage=Storage.LOGIC,
                       acc_shape=signed_range(0, max(most, 7 * inputs if total else 0)),
                       lane_shape=range(most + 1), total=total)
    peak = int(np.abs(table).max()) * inputs
    dut = Chain({"dots": dots, "affine": Affine(
        dots.acc_shape, signed_range(-peak, peak), base=masks.base, steps=masks.steps,
        lanes=o_lanes)})
    got = transfer(dut, in_chunks(vectors, dots), 5 * beats(outputs, o_lanes), seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(5, -1)[:, :outputs]
    assert sums.tolist() == (table[weights[None], vectors[:, None, :]].sum(axis=2)).tolist()


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("acc_width", [1, 3, 9])
def test_sums_are_exact_below_the_step_of_products(acc_width: int, at_once: int) -> None:
    """Weights of 0 alone need no wider accumulator, however wide products may be."""
    table = np.outer([16, 0, -32], np.arange(4))
    dut = DotProducts(ShiftAddProducts(table.tolist(), lanes=2, inputs=at_once), [[1] * 3] * 4,
                      acc_shape=signed(acc_width), o_lanes=2, storage=Storage.LOGIC)
    got = transfer(dut, in_chunks(np.array([[0, 3, 2], [3, 3, 3]]), dut), 4, seed=at_once)
    assert [list(beat) for beat in got] == [[0, 0]] * 4


@pytest.mark.parametrize("total, term, place", [
    (signed(5), signed(5), 0), (signed(3), signed(6), 0), (signed(6), signed(3), 2),
    (signed(4), signed(4), 3), (signed(1), signed(4), 2)])
def test_a_one_is_added_exactly(total: Shape, term: Shape, place: int) -> None:
    def values(shape: Shape) -> range:
        reach = 1 << shape.width - 1
        return range(0, reach, 1 << place) if reach < 1 << place else range(
            -reach, reach, 1 << place)

    a, b, one = Signal(total), Signal(term), Signal()
    got = Signal(signed(10))
    m = Module()
    m.d.comb += got.eq(add_with_one(a, b, one, place))

    async def bench(context: SimulatorContext) -> None:
        for first, second, carry in itertools.product(values(total), values(term), (0, 1)):
            for signal, value in ((a, first), (b, second), (one, carry)):
                context.set(signal, value)
            assert context.get(got) == first + second + (carry << place)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("table, place", [
    (POW2, 0), (FULL, 0), (SHIFTED, 4), (NEGATIVE, 0), (FAR, 0), (-4 * FAR, 2),
    (np.abs(POW2), None), (POW2[:1], None)])
def test_products_lack_something_where_a_weight_may_be_negative(
        table: Any, place: int | None) -> None:
    dut = ShiftAddProducts(table.tolist(), lanes=1, inputs=1)
    assert dut.complement == place
    least = int(table.min()) - (0 if place is None else 1 << place)
    assert dut.product_shape == signed_range(least, int(table.max()))
    assert TableProducts(table.tolist(), lanes=1, inputs=1,
                         storage=Storage.LOGIC).complement is None


@pytest.mark.parametrize("slopes", [
    (1,), (2,), (0, 1), (1, 2), (0, 1, 2), (0, 1, 2, 4), (1, 2, 4, 8, 16, 32, 64), (0, 8, 16),
    (-1,), (-1, 1), (0, -1, 1), (0, 1, -1, 2), (0, -2, -4), (-8, -16, -32, -64),
    (0, *(sign << shift for shift in range(7) for sign in (1, -1)), 128)])
def test_every_product_of_powers_of_two(slopes: tuple[int, ...]) -> None:
    table = np.outer(slopes, np.arange(16))
    dut = ShiftAddProducts(table.tolist(), lanes=1, inputs=1)
    lacking = 0 if dut.complement is None else 1 << dut.complement

    async def bench(context: SimulatorContext) -> None:
        context.set(dut.enable, 1)
        for (entry, code), product in np.ndenumerate(table):
            context.set(dut.indices, [[dut.encoding[entry]]])
            context.set(dut.codes, [code])
            await context.tick()
            got = context.get(dut.products[0][0])
            assert got + lacking * (got < 0) == product

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("slopes, steps", [
    ((7, -3), 1), ((13, 3, -2, 8), 1), ((0, 2, 4, 2), 1), ((-77, 77, 77), 1), ((0, 1, 64), 2),
    ((5, 90, 1, 33, 90), 3)])
def test_masks_are_exact(slopes: tuple[int, ...], steps: int) -> None:
    masks = masks_of(np.outer(slopes, np.arange(5)).tolist())
    assert masks is not None and len(masks.steps) == len(masks.counts) == steps
    assert (masks.base + np.array(masks.steps) @ np.array(masks.counts)).tolist() == list(slopes)
    assert masks.base == 0 or 0 not in slopes
    for counts in masks.counts:
        assert min(counts) == 0 < max(counts)


def test_masks_are_found_only_where_there_are_some() -> None:
    assert masks_of([[0, 3, 6], [0, 4, 9]]) is None, "no product of two numbers"
    assert masks_of([[0, 3], [0, 3]]) is None, "one slope alone"


@pytest.mark.parametrize("base, steps", [
    (0, [1]), (1, [0]), (-1, [3]), (23, [-45]), (-7, [-8]), (1023, [683]), (0, [5, -11, 90]),
    (-3, [1, 64])])
def test_factors_are_exact(base: int, steps: list[int]) -> None:
    count, common = len(steps), int(base != 0)
    vectors = np.random.default_rng(0).integers(-16, 16, (20, 2 * count + common))
    reach = 16 * (abs(base) + sum(map(abs, steps)))
    dut = Affine(signed(5), signed_range(-reach, reach), base=base, steps=steps, lanes=2)
    got = transfer(dut, vectors.tolist(), 20, seed=3)
    own = vectors[:, :2 * count].reshape(20, 2, count) @ np.array(steps)
    expected = own + base * vectors[:, -1:] * common
    assert [list(beat) for beat in got] == expected.tolist()


def test_signed_digits_are_the_fewest() -> None:
    for value in range(-300, 301):
        digits = signed_digits(value)
        assert sum(sign << place for sign, place in digits) == value
        places = [place for _, place in digits]
        assert all(b - a > 1 for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("circuit, storage", [
    (ShiftAddProducts, Storage.LOGIC), (ShiftAddProducts, Storage.BLOCK),
    (TableProducts, Storage.LOGIC), (TableProducts, Storage.BLOCK),
    (TableProducts, Storage.REGISTERED), (ShiftAddProducts, Storage.REGISTERED)])
@pytest.mark.parametrize("outputs, inputs, lanes, at_once", [
    (1, 1, 1, 1), (5, 7, 1, 1), (5, 7, 2, 3), (6, 4, 6, 4), (7, 9, 3, 2), (4, 8, 2, 8),
    (9, 9, 4, 9)])
def test_sums_are_exact_where_every_output_has_its_width(
        circuit: type[Products], storage: Storage, outputs: int, inputs: int, lanes: int,
        at_once: int) -> None:
    rng = np.random.default_rng([outputs, inputs, lanes])
    widths = rng.integers(0, 5, (outputs, 1))
    weights = (1 << widths) + rng.integers(0, 1 << widths, (outputs, inputs))
    values = rng.choice([0, 1, -1, 2, -2, 4, -8], 32) if circuit is ShiftAddProducts else (
        rng.integers(-9, 10, 32))
    table = np.outer(values, np.arange(8))
    packed = rng.integers(0, 32, 32)  # some numbers stand for the same entry
    vectors = rng.integers(0, 8, (5, inputs))
    dut = engine(circuit, table, weights, lanes, at_once, storage, packed)

    per_vector = beats(outputs, dut.o_lanes)
    got = transfer(dut, in_chunks(vectors, dut), 5 * per_vector, seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(5, -1)[:, :outputs]
    assert sums.tolist() == products(table[packed], weights, vectors).tolist()


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("lanes, at_once", [(1, 1), (2, 4), (8, 8)])
def test_takes_a_beat_every_cycle_where_every_output_has_its_width(
        lanes: int, at_once: int, storage: Storage) -> None:
    rng = np.random.default_rng(lanes)
    widths = rng.integers(0, 3, (8, 1))
    weights = (1 << widths) + rng.integers(0, 1 << widths, (8, 16))
    dut = engine(ShiftAddProducts, FULL, weights, lanes, at_once, storage, range(8))
    vectors = rng.integers(0, 8, (4, 16))
    cycles = measure(dut, in_chunks(vectors, dut), 4 * beats(8, dut.o_lanes))
    first = [cycles[n * beats(8, dut.o_lanes)] for n in range(4)]
    assert np.diff(first).tolist() == [dut.chunks * dut.groups] * 3
    assert first[0] == dut.chunks - 1 + dut.latency + 2  # and two cycles to fetch the first weights


@pytest.mark.parametrize("lanes, at_once", [(1, 1), (2, 4), (4, 1), (8, 8)])
def test_takes_a_beat_every_cycle(lanes: int, at_once: int) -> None:
    rng = np.random.default_rng(lanes)
    weights, vectors = rng.integers(0, 7, (8, 16)), rng.integers(0, 16, (4, 16))
    dut = engine(ShiftAddProducts, POW2, weights, lanes, at_once)
    cycles = measure(dut, in_chunks(vectors, dut), 4 * beats(8, dut.o_lanes))
    interval = dut.chunks * dut.groups
    first = [cycles[n * beats(8, dut.o_lanes)] for n in range(4)]
    assert np.diff(first).tolist() == [interval] * 3
    assert first[0] == dut.chunks - 1 + dut.latency + 1  # and a cycle to fetch the first weights


@pytest.mark.parametrize("inputs, waits", [(2, True), (3, False)])
def test_ready_follows_the_sums_only_where_they_leave_all_the_time(inputs: int, waits: bool,
                                                                   ) -> None:
    """Two sums leave one by one: in two cycles of a pass of two, or of three."""
    rng = np.random.default_rng(inputs)
    dut = engine(ShiftAddProducts, POW2, rng.integers(0, 7, (4, inputs)), 2, 1)
    assert dut.o_lanes == 1 and dut.chunks == inputs
    followed = stalled = False

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal followed, stalled
        ctx.set(dut.i.valid, 1)
        for _ in range(200):
            ready = []
            for value in (0, 1):
                ctx.set(dut.o.ready, value)
                ready.append(ctx.get(dut.i.ready))
            followed |= ready[0] != ready[1]
            stalled |= not ready[0]
            ctx.set(dut.o.ready, int(rng.integers(2)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert stalled and followed == waits


@pytest.mark.parametrize("table, split", [
    (POW2, True), (FULL, True), (SHIFTED, True), (REPEATED, True), (NEGATIVE, True), (FAR, False),
    (POW2[:1], False)])
def test_weights_are_held_as_sign_and_shift_where_that_takes_no_more_bits(
        table: Any, split: bool) -> None:
    products = ShiftAddProducts(table.tolist(), lanes=1, inputs=1)
    assert products.split == split
    # Entries share a word only if they are equal, and every word fits the index.
    words = dict(zip(products.encoding, products.slopes, strict=True))
    assert [words[word] for word in products.encoding] == list(products.slopes)
    assert max(words) < 1 << products.index_shape.width


def test_slopes_are_found_only_where_they_are_exact() -> None:
    assert shift_add_slopes(POW2.tolist()) == (0, 1, -1, 2, -2, 4, -8)
    assert shift_add_slopes([[0, 3, 6]]) is None
    assert shift_add_slopes([[0, 2, 5]]) is None
    assert shift_add_slopes([[0]]) == (0,)


@pytest.mark.parametrize("make, message", [
    (lambda: ShiftAddProducts([[0, 3]], lanes=1, inputs=1),
     "Shift-add products must be a signed power of two, or zero, times the code; use a table"),
    (lambda: MaskedProducts([[0, 1], [0, 1]], lanes=1, inputs=1),
     "Masked products must be at least two slopes times the code; use a table"),
    (lambda: Affine(4, signed(4), base=1, steps=[1], lanes=1),
     "Shapes of integers must be signed, not unsigned(4) and signed(4)"),
    (lambda: Affine(signed(4), signed(4), base=1, steps=[], lanes=1),
     "There must be at least 1 lane and 1 step, not 1 and 0"),
    (lambda: ShiftAddProducts([[1, 1]], lanes=1, inputs=1),
     "Shift-add products must be a signed power of two, or zero, times the code; use a table"),
    (lambda: MaskedProducts([[0, 1], [1, 3]], lanes=1, inputs=1),
     "Masked products must be at least two slopes times the code; use a table"),
    (lambda: ShiftAddProducts([[0, 1]], lanes=0, inputs=1),
     "Lanes and inputs must be at least 1, not 0 and 1"),
    (lambda: ShiftAddProducts([], lanes=1, inputs=1),
     "Product table must have at least one row and one column, and rows of equal length"),
    (lambda: DotProducts(ShiftAddProducts([[0, 1]], lanes=4, inputs=1), [[0]] * 4, o_lanes=1,
                         acc_shape=signed(4), storage=Storage.LOGIC),
     "Output lanes must divide the 4 lanes and be at least 4, not 1"),
    (lambda: DotProducts(ShiftAddProducts([[0, 1]], lanes=1, inputs=1), [[]], o_lanes=1,
                         acc_shape=signed(4), storage=Storage.LOGIC),
     "Rows of weights must be of one length, at least 1"),
    (lambda: DotProducts(ShiftAddProducts([[0, 1]], lanes=1, inputs=1), [[0]], o_lanes=1,
                         acc_shape=4, storage=Storage.LOGIC),
     "Accumulator shape must be signed, not unsigned(4)"),
])
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
