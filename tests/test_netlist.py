"""The netlist that is placed gives the golden model's results; one wrong bit of it shows."""
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.boards.shell import PinShell
from nomul.boards.targets import target
from nomul.boards.tools import Tool
from nomul.boards.yosys import make_netlist
from nomul.build import BuildFolder, write_build
from nomul.compiler.errors import PlanError, ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.planner import fold_for_interval, make_engine_plan, make_plan
from nomul.compiler.storage import load
from nomul.hw.circuits import CodeMemory, WeightMemory
from nomul.images import Images, load_images
from nomul.netlist import play_netlist
from nomul.sim.random_networks import random_network
from nomul.sizing import registered

pytestmark = [pytest.mark.cocotb, pytest.mark.synth]

ZOO = Path(__file__).parents[1] / "examples" / "zoo"


def scores() -> Network:
    """The digits network without its argmax: every bit of every score is compared."""
    network = load(ZOO / "digits_pow2_3bit.nomul")
    return Network(name="scores", layers=network.layers[:-1])


def build(folder: Path, network: Network, chip: str, images: Images, *, interval: int | None = None,
          ) -> BuildFolder:
    folds = {} if interval is None else fold_for_interval(network, interval)
    plan = make_plan(network, folds, registered=registered(target(chip)))
    return write_build(folder, network, plan, images)


@pytest.fixture
def digits() -> Images:
    return load_images("digits", load(ZOO / "digits_pow2_3bit.nomul")).first(30)


@pytest.mark.parametrize("chip", [pytest.param("ice40-hx8k", marks=pytest.mark.full), "ecp5-25k"])
def test_every_score_is_that_of_the_golden_model(chip: str, digits: Images, tmp_path: Path) -> None:
    seen = []
    built = build(tmp_path / "build", scores(), chip, digits)
    run = play_netlist(built, target(chip), digits.codes, stall=0.4, seed=7,
                       progress=lambda *step: seen.append(step))
    assert (run.batch.images, run.batch.mismatches, run.batch.first_mismatch) == (30, 0, None)
    assert not run.placed and len(run.sha256) == 64
    assert ("netlist", 1, 1) in seen and ("simulate", 30, 30) in seen


def test_weights_are_loaded_into_spram(digits: Images, tmp_path: Path) -> None:
    network = scores()
    plan = make_engine_plan(network, 4, codes_in=CodeMemory.SINGLE_PORT,
                            weights_in=WeightMemory.SPRAM)
    built = write_build(tmp_path / "build", network, plan, digits.first(1))
    run = play_netlist(built, target("ice40-up5k"), digits.codes, stall=0.4, seed=3)
    assert (run.batch.images, run.batch.mismatches) == (30, 0)
    weights = built.circuit.weights
    one_off = replace(built, circuit=replace(built.circuit, weights=weights[:-1] + bytes(
        [weights[-1] ^ 4])))
    with pytest.raises(ToolError, match="the weights are refused"):
        play_netlist(one_off, target("ice40-up5k"), digits.codes[:1])
    with pytest.raises(PlanError, match="weights in block RAM on ecp5-25k, which has no SPRAM; use "
                       r"a chip that has \(ice40-up5k\)"):
        play_netlist(built, target("ecp5-25k"), digits.codes)


def in_the_table_of_a_result(cells: dict[str, Any], data: list[int]) -> tuple[dict[str, str], str]:
    """The table that makes the lowest bit of the bytes that leave."""
    register, = (cell for cell in cells.values() if cell["connections"].get("Q") == data[:1])
    table, = (cell for cell in cells.values()
              if cell["connections"].get("O") == register["connections"]["D"])
    return table["parameters"], "LUT_INIT"


def in_a_weight(cells: dict[str, Any], data: list[int]) -> tuple[dict[str, str], str]:
    """The memory with the weights of the last layer."""
    memory, = (cell for name, cell in cells.items()
               if cell["type"] == "DP16KD" and "dense2.dots.weights" in name)
    return memory["parameters"], "INITVAL_00"


@pytest.mark.parametrize("chip, find", [
    pytest.param("ice40-hx8k", in_the_table_of_a_result, marks=pytest.mark.full),
    ("ecp5-25k", in_a_weight)])
def test_one_wrong_bit_is_found(chip: str, find: Callable[..., tuple[dict[str, str], str]],
                                digits: Images, tmp_path: Path) -> None:
    """The file that was placed is the one that is played: its lowest bit is another one."""
    built = build(tmp_path / "build", scores(), chip, digits)
    placed = built.path / "synth" / chip
    placed.mkdir(parents=True)
    make_netlist(PinShell(lower(built.network, built.plan)), target(chip), placed)
    netlist = json.loads((placed / "netlist.json").read_text())
    top = netlist["modules"]["top"]
    parameters, name = find(top["cells"], top["ports"]["m_axis_tdata"]["bits"])
    parameters[name] = parameters[name][:-1] + str(1 - int(parameters[name][-1]))
    (placed / "netlist.json").write_text(json.dumps(netlist))
    run = play_netlist(built, target(chip), digits.codes, stall=0.4)
    assert run.placed and run.batch.mismatches > 0 and run.batch.first_mismatch is not None


def test_a_broken_netlist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(2)
    codes = np.zeros((1, *network.input.shape), dtype=np.int64)
    images = Images(source="zeros", split="", codes=codes, labels=None)
    built = build(tmp_path / "build", network, "ice40-hx8k", images)
    placed = built.path / "synth" / "ice40-hx8k"
    placed.mkdir(parents=True)
    (placed / "netlist.json").write_text("{}")
    with pytest.raises(ToolError, match=r"pyosys failed .* see its log"):
        play_netlist(built, target("ice40-hx8k"), codes)
    assert (built.path / "netlist-ice40-hx8k.log").is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=f"tool '{Tool.YOSYS.title}' must be installed"):
        play_netlist(built, target("ice40-hx8k"), codes)


@pytest.mark.full
@pytest.mark.parametrize("name, data, count, chip, interval", [
    ("digits_pow2_3bit", "digits", 360, "ice40-hx8k", None),
    ("digits_pow2_3bit", "digits", 360, "ecp5-25k", None),
    ("mnist_lenet", "mnist", 20, "ice40-up5k", 30_000),
    ("mnist_lenet", "mnist", 20, "ecp5-25k", 30_000),
])
def test_networks_of_the_zoo_are_bit_exact(name: str, data: str, count: int, chip: str,
                                           interval: int | None, tmp_path: Path) -> None:
    network = load(ZOO / f"{name}.nomul")
    images = load_images(data, network).first(count)
    built = build(tmp_path / "build", network, chip, images.first(1), interval=interval)
    batch = play_netlist(built, target(chip), images.codes, stall=0.3).batch
    assert (batch.images, batch.mismatches) == (count, 0)
    assert batch.classes.tolist() == batch.golden_classes.tolist()
