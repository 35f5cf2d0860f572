# amaranth: UnusedElaboratable=no
"""Networks of the zoo on the chips they are for."""
from pathlib import Path

import pytest

from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import target
from nomul.compiler.lower import lower
from nomul.compiler.plan import intervals
from nomul.compiler.planner import fold_for_interval, make_plan
from nomul.compiler.storage import load, load_provenance

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
pytestmark = pytest.mark.synth


def test_digits_fit_the_smallest_chips_with_room_to_spare(tmp_path: Path) -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    for chip, clock in (("ice40-hx8k", 60), ("ice40-up5k", 24)):
        result = synthesize(PinShell(lower(network, make_plan(network))), "digits", target(chip),
                            tmp_path / chip, seeds=(1, 2)).as_json()
        assert result["logic_cells"] < 1000 and result["dsp"] == result["multipliers"] == 0
        assert result["fmax_mhz"]["min"] >= clock


def test_mnist_runs_on_a_up5k(tmp_path: Path) -> None:
    path = ZOO / "mnist_lenet.nomul"
    network, accuracy = load(path), load_provenance(path)["accuracy"]
    assert accuracy["quantized_test"] >= 0.99
    plan = make_plan(network, fold_for_interval(network, 30_000_000 // 600))
    result = synthesize(PinShell(lower(network, plan)), "mnist", target("ice40-up5k"),
                        tmp_path / "run", seeds=(1, 2)).as_json()
    assert result["logic_cells"] <= 5280 and result["bram"] <= 30
    assert result["dsp"] == result["multipliers"] == 0
    rate = result["fmax_mhz"]["median"] * 1e6 / max(intervals(plan, network).values())
    assert rate >= 500
