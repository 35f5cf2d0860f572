# amaranth: UnusedElaboratable=no
"""Estimates: memories are exact, the rest is near, and what is counted is what matters."""
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.boards.estimate import FITTED, estimate, features, merged, weights_of
from nomul.boards.shell import PinShell
from nomul.boards.targets import Family, target
from nomul.boards.yosys import GLUE, make_netlist
from nomul.compiler.lower import lower
from nomul.compiler.network import Dense, Flatten, Input, Levels, Network, Staircase
from nomul.compiler.planner import make_plan, parse_folds
from nomul.compiler.storage import load
from nomul.costs import Sample, errors, fit, within
from nomul.hw.circuits import StaircaseCircuit
from nomul.hw.table import Storage

ZOO = Path(__file__).parents[2] / "examples" / "zoo"


def circuit(network: Network, fold: str) -> PinShell:
    return PinShell(lower(network, make_plan(network, parse_folds(fold, network))))


@pytest.mark.synth
@pytest.mark.parametrize("chip", ["ice40-hx8k", "ecp5-25k"])
@pytest.mark.parametrize(("name", "fold"), [
    ("digits_pow2_3bit", "1x1"), ("digits_ternary", "dense1=4x4,dense2=2x4"),
    ("digits_binary", "dense1=2x2,dense2=1x2")])
def test_estimates_are_near(chip: str, name: str, fold: str, tmp_path: Path) -> None:
    network = load(ZOO / f"{name}.nomul")
    guess = estimate(circuit(network, fold), "top.network.body", target(chip), tmp_path)
    true = make_netlist(circuit(network, fold), target(chip), tmp_path)
    assert guess.counts.lut4 == pytest.approx(true.counts.lut4, rel=0.1)
    assert guess.counts.ff == pytest.approx(true.counts.ff, rel=0.1)
    for memory in ("bram", "lutram", "dsp"):
        assert getattr(guess.counts, memory) == getattr(true.counts, memory)
    assert guess.logic_cells >= 0.95 * true.least_logic_cells
    assert sum(layer.lut4 for layer in guess.layers.values()) == pytest.approx(
        guess.counts.lut4, abs=len(guess.layers))
    assert {"dense1", "dense2", "argmax", GLUE} <= set(guess.layers)


@pytest.mark.synth
def test_tables_of_codes_in_block_ram_are_counted(tmp_path: Path) -> None:
    """Each output has its own, of short sums; as many block RAMs as synthesis takes."""
    rng = np.random.default_rng(1)
    network = Network(name="own", layers=(
        Input(name="pixels", shape=(1, 1, 6), levels=Levels.uniform(4)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense", inputs=("flat",), dictionary=[-1, 1], bias=np.zeros(24, int),
              assignment=rng.integers(0, 2, (24, 6)), staircase=Staircase(
                  thresholds=np.sort(rng.integers(-6, 7, (24, 15))), levels=Levels.uniform(16)))))
    found = {}
    for storage in (Storage.BLOCK, Storage.LOGIC):
        plan = make_plan(network)
        assert plan["dense"].staircase is StaircaseCircuit.TABLE
        assert plan["dense"].staircase_in is Storage.BLOCK
        plan = replace(plan, layers=(replace(plan["dense"], staircase_in=storage),))
        component = PinShell(lower(network, plan))
        chip = target("ice40-hx8k")
        found[storage] = estimate(component, "top.network.body", chip, tmp_path).counts
        assert found[storage].bram == make_netlist(component, chip, tmp_path).counts.bram
    assert found[Storage.BLOCK].bram > found[Storage.LOGIC].bram
    assert found[Storage.BLOCK].lut4 < found[Storage.LOGIC].lut4


@pytest.mark.synth
def test_more_lanes_are_more_of_everything(tmp_path: Path) -> None:
    network = load(ZOO / "digits_fixed_4bit.nomul")
    small, large = (merged(features(circuit(network, fold), "top.network.body",
                                    target("ecp5-25k"), tmp_path).values())
                    for fold in ("1x1", "4x4"))
    assert large["alu"] > small["alu"] and large["ff"] > small["ff"]
    # A twin that forgets its lanes: the estimate must tell.
    weights = weights_of(Family.ECP5)["lut4"]
    assert sum(weights.get(k, 0) * n for k, n in large.items()) > 1.5 * sum(
        weights.get(k, 0) * n for k, n in small.items())


def test_every_family_has_weights() -> None:
    for family in Family:
        weights = weights_of(family)
        assert set(weights) == set(FITTED)
        assert all(weight > 0 for each in weights.values() for weight in each.values())


def samples(family: Family = Family.ECP5) -> list[Sample]:
    """Circuits of three networks whose tables are 1 a choice, 3 a row and 0.5 a decoder."""
    result = []
    for network in range(3):
        for n in range(1, 6):
            found = Counter({"choice table": 40 * n + 7 * network, "rom": 3 * n * n + 5,
                             "decode": 30 + 11 * network * n})
            result.append(Sample(
                network=f"net{network}", plan=f"{n}", family=family, features=found,
                figures={"lut4": round(found["choice table"] + 3 * found["rom"]
                                       + 0.5 * found["decode"])}))
    return result


def test_the_fit_finds_what_is_behind_the_figures() -> None:
    weights = fit(samples(), "lut4")
    assert weights["choice table"] == pytest.approx(1, abs=0.1)
    assert weights["rom"] == pytest.approx(3, abs=0.3)
    for held_out in (False, True):
        found = errors(samples(), "lut4", held_out=held_out)
        assert len(found) == 15 and within(found, 0.1) == 15

    # What no sample shows is as on paper; and a network that is unlike the others shows.
    assert weights["inversion table"] == 1
    odd = [Sample(network="odd", plan="1", family=Family.ECP5,
                  features=Counter({"choice table": 100}), figures={"lut4": 400})]
    assert within(errors(samples() + odd, "lut4", held_out=True), 0.1) < 16
