# amaranth: UnusedElaboratable=no
"""DecodeMultiplyProducts against NumPy; dot products of it; and the multipliers that it takes."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.estimate import features, merged
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.dots import DotProducts
from nomul.hw.multiply import DecodeMultiplyProducts
from nomul.hw.product import Products, ShiftAddProducts
from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.bench import transfer

ANY = (-119, -90, -53, -31, -17, -7, -3, 0, 1, 5, 11, 23, 47, 66, 101, 127)


def dots(products: Products, weights: Any) -> DotProducts:
    peak = int(np.abs(products.table).max()) * weights.shape[1]
    chunks = beats(weights.shape[1], products.inputs)
    o_lanes = next(n for n in range(1, products.lanes + 1)
                   if products.lanes % n == 0 and n * chunks >= products.lanes)
    return DotProducts(products, weights.tolist(), o_lanes=o_lanes, storage=Storage.LOGIC,
                       acc_shape=signed_range(-peak, peak))


@pytest.mark.parametrize("slopes", [ANY, (5,), (-3, -128), (0, 0), (0, 77, 3)])
@pytest.mark.parametrize("storage", Storage)
def test_every_product(slopes: tuple[int, ...], storage: Storage) -> None:
    table = np.outer(slopes, np.arange(16))
    dut = DecodeMultiplyProducts(table.tolist(), lanes=1, inputs=1, storage=storage)

    async def bench(context: SimulatorContext) -> None:
        context.set(dut.enable, 1)
        for (entry, code), product in np.ndenumerate(table):
            context.set(dut.indices, [[dut.encoding[entry]]])
            context.set(dut.codes, [code])
            for _ in range(dut.latency):
                await context.tick()
            assert context.get(dut.products[0][0]) == product

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("outputs, inputs, lanes, at_once", [
    (1, 1, 1, 1), (5, 7, 2, 3), (6, 4, 6, 4), (7, 9, 3, 2)])
def test_sums_are_exact(storage: Storage, outputs: int, inputs: int, lanes: int,
                        at_once: int) -> None:
    rng = np.random.default_rng([outputs, inputs, lanes])
    weights = rng.integers(0, 16, (outputs, inputs))
    vectors = rng.integers(0, 16, (5, inputs))
    vectors[0] = 15 * (np.array(ANY)[weights[0]] > 0)
    vectors[1] = 15 * (np.array(ANY)[weights[0]] < 0)
    dut = dots(DecodeMultiplyProducts(np.outer(ANY, np.arange(16)).tolist(), lanes=lanes,
                                      inputs=at_once, storage=storage, parity=True), weights)
    padded = np.full((5, dut.chunks * at_once), 9)
    padded[:, :inputs] = vectors
    chunks = padded.reshape(5, 1, -1).repeat(dut.groups, axis=1).reshape(-1, at_once).tolist()
    got = transfer(dut, chunks, 5 * beats(outputs, dut.o_lanes), seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(5, -1)[:, :outputs]
    assert sums.tolist() == (vectors @ np.array(ANY)[weights].T).tolist()


@pytest.mark.synth
@pytest.mark.parametrize("chip, blocks", [("ecp5-25k", 4), ("ice40-up5k", 4), ("ice40-hx8k", 0)])
def test_multiplier_blocks_are_counted(chip: str, blocks: int, tmp_path: Path) -> None:
    """And multiplications, where there is no block for them; of the estimate too."""
    weights = np.random.default_rng(0).integers(0, 16, (4, 10))
    table = np.outer(ANY, np.arange(256)).tolist()
    dut = dots(DecodeMultiplyProducts(table, lanes=2, inputs=2, storage=Storage.LOGIC), weights)
    netlist = make_netlist(dut, target(chip), tmp_path)
    assert (netlist.multipliers, netlist.counts.dsp) == (4, blocks)
    assert merged(features(dut, "top", target(chip), tmp_path).values())["dsp"] == blocks


@pytest.mark.synth
@pytest.mark.parametrize("chip", ["ecp5-25k", "ice40-up5k"])
def test_other_products_take_none(chip: str, tmp_path: Path) -> None:
    """The broken twin: shifts and additions of the same sizes."""
    weights = np.random.default_rng(0).integers(0, 4, (4, 10))
    table = np.outer([-64, 0, 16, 128], np.arange(256)).tolist()
    netlist = make_netlist(dots(ShiftAddProducts(table, lanes=2, inputs=2), weights),
                           target(chip), tmp_path)
    assert (netlist.multipliers, netlist.counts.dsp) == (0, 0)


@pytest.mark.parametrize("table", [[[0, 3, 5]], [[0, 1], [0, 2], [1, 3]]])
def test_products_of_no_two_numbers_are_refused(table: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=re.escape(
            "Multiplied products must be slopes times the code; use a table")):
        DecodeMultiplyProducts(table, lanes=1, inputs=1, storage=Storage.LOGIC)
