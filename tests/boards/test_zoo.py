# amaranth: UnusedElaboratable=no
"""Networks of the zoo on the chips they are for."""
from pathlib import Path

import numpy as np
import pytest

from nomul.boards.place import packed_cells
from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.compiler.emit import emit
from nomul.compiler.lower import lower
from nomul.compiler.plan import intervals
from nomul.compiler.planner import fold_for_interval, make_plan
from nomul.compiler.storage import load, load_provenance
from nomul.hw.circuits import ProductCircuit
from nomul.sim.vectors import make_vectors
from nomul.sim.verilator import simulate

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
pytestmark = pytest.mark.synth


def test_digits_fit_the_smallest_chips_with_room_to_spare(tmp_path: Path) -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    for chip, clock in (("ice40-hx8k", 60), ("ice40-up5k", 24)):
        result = synthesize(PinShell(lower(network, make_plan(network))), "digits", target(chip),
                            tmp_path / chip, seeds=(1, 2)).as_json()
        assert result["logic_cells"] < 1000 and result["dsp"] == result["multipliers"] == 0
        assert result["fmax_mhz"]["min"] >= clock


@pytest.mark.parametrize("chip", ["ice40-hx8k", "ecp5-25k"])
def test_the_planner_takes_the_smaller_products(chip: str, tmp_path: Path) -> None:
    """Small tables where several inputs come at once, and shifts else; the other one is larger."""
    network, cells = load(ZOO / "digits_ternary.nomul"), {}
    for fold, smaller in (((1, 1), ProductCircuit.SHIFT_ADD), ((4, 4), ProductCircuit.TABLE)):
        assert {layer.product for layer in make_plan(network, default=fold).layers} == {smaller}
        for product in (ProductCircuit.SHIFT_ADD, ProductCircuit.TABLE):
            plan = make_plan(network, default=fold,
                             products={"dense1": product, "dense2": product})
            netlist = make_netlist(PinShell(lower(network, plan)), target(chip), tmp_path)
            cells[product] = packed_cells(netlist.file, target(chip), tmp_path)
        assert cells[smaller] == min(cells.values()) < max(cells.values())


@pytest.mark.parametrize("name, accurate, fps, lean", [
    ("mnist_lenet", 0.99, 1000, False), ("fashion_lenet", 0.90, 500, True)])
def test_images_run_on_a_up5k(tmp_path: Path, name: str, accurate: float, fps: int, lean: bool,
                              ) -> None:
    path = ZOO / f"{name}.nomul"
    network, accuracy = load(path), load_provenance(path)["accuracy"]
    assert accuracy["quantized_test"] >= accurate
    assert accuracy["float_test"] - accuracy["quantized_test"] <= 0.015
    plan = make_plan(network, fold_for_interval(network, 30_000_000 // fps), lean=lean)
    result = synthesize(PinShell(lower(network, plan)), name, target("ice40-up5k"),
                        tmp_path / "run", seeds=(1, 2)).as_json()
    assert result["logic_cells"] <= 5280 and result["bram"] <= 30
    assert result["dsp"] == result["multipliers"] == 0
    rate = result["fmax_mhz"]["median"] * 1e6 / max(intervals(plan, network).values())
    assert rate >= fps


@pytest.mark.full
def test_resnet20_fits_the_ecp5_85k_and_is_exact(tmp_path: Path) -> None:
    network = load(ZOO / "cifar10_resnet20.nomul")
    plan = make_plan(network, fold_for_interval(network, 50_000_000 // 800))
    netlist = make_netlist(PinShell(lower(network, plan)), target("ecp5-85k"), tmp_path)
    assert netlist.least_logic_cells <= 83_640 and netlist.counts.bram <= 208
    assert netlist.counts.dsp == netlist.multipliers == 0
    codes = np.random.default_rng(0).integers(0, 256, (3, *network.input.shape))
    vectors = make_vectors(network, codes, None, source="random", split="")
    result = simulate(network, plan, emit(network, plan), vectors)
    assert result.mismatches == 0
    assert result.interval <= 1.05 * max(intervals(plan, network).values())
