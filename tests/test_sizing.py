"""The fastest plan within a number of cells."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nomul import sizing
from nomul.boards.estimate import Estimate
from nomul.boards.targets import Target, target
from nomul.boards.tools import RunFailure, Tool
from nomul.boards.yosys import Counts
from nomul.compiler.errors import FitError, PlanError, ToolError
from nomul.compiler.network import Argmax, Flatten, Network
from nomul.compiler.plan import Plan, intervals
from nomul.compiler.planner import Foldings, fold_for_interval
from nomul.compiler.storage import load
from nomul.hw.circuits import CodeMemory, WeightMemory
from nomul.sizing import (
    engine_lanes,
    estimate_plan,
    fastest_within,
    spram_blocks,
    with_weights_in_spram,
)

ZOO = Path(__file__).parents[1] / "examples" / "zoo"
CHIP = target("ice40-hx8k")

Size = Callable[[Plan], tuple[int, int]]


@pytest.fixture
def digits() -> Network:
    return load(ZOO / "digits_pow2_3bit.nomul")


def lanes(plan: Plan) -> int:
    return sum(layer.outputs * layer.inputs for layer in plan.layers)


def sizes(monkeypatch: pytest.MonkeyPatch, size: Size, *, engines: bool = False) -> list[Plan]:
    """Let ``size`` say logic cells and block RAMs of a plan; returns those that were asked for."""
    asked: list[Plan] = []
    if not engines:
        monkeypatch.setattr(sizing, "engine_lanes", lambda network: [])

    def guess(network: Network, plan: Plan, chip: Target) -> Estimate:
        asked.append(plan)
        cells, bram = size(plan)
        counts = Counts(lut4=cells, carry=0, ff=0, bram=bram, lutram=0, dsp=0)
        return Estimate(counts=counts, logic_cells=cells, layers={"dense1": counts, "dense2":
                                                                  replace(counts, lut4=1)})

    monkeypatch.setattr(sizing, "estimate_plan", guess)
    return asked


@pytest.mark.parametrize("limit", [250, 400, 1000, 3000, 7000])
def test_it_is_the_fastest_that_fits(digits: Network, monkeypatch: pytest.MonkeyPatch,
                                     limit: int) -> None:
    def cells(plan: Plan) -> int:
        return 200 + 20 * lanes(plan)

    asked = sizes(monkeypatch, lambda plan: (cells(plan), 4))
    chosen = fastest_within(digits, CHIP, max_cells=limit)
    assert cells(chosen.best.plan) <= limit
    assert len(asked) <= 24
    foldings = Foldings(digits)
    faster = [i for i in foldings.intervals() if i < chosen.best.interval]
    assert all(200 + 20 * sum(p * s for p, s in foldings.within(i).values()) > limit
               for i in faster)
    assert faster and "the next faster one found" in chosen.limit


def test_the_fastest_of_all_is_tried(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes(monkeypatch, lambda plan: (500 if lanes(plan) in (2, 64 * 32 + 32 * 10) else 9000, 0))
    chosen = fastest_within(digits, CHIP)
    assert chosen.best.interval == 1
    assert chosen.limit == "no faster one exists"


def test_lean_plans_where_block_ram_is_short(digits: Network,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    depths = {layer.name: layer.depth
              for layer in sizing.make_plan(digits, fold_for_interval(digits, 2048)).layers}
    sizes(monkeypatch, lambda plan: (
        100 * lanes(plan), 40 if plan["dense1"].depth >= depths["dense1"] else 30))
    chosen = fastest_within(digits, CHIP, max_cells=300)
    assert chosen.best.plan["dense1"].depth < depths["dense1"]


def test_what_does_not_fit_is_said(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes(monkeypatch, lambda plan: (1000, 34))
    with pytest.raises(FitError, match="about 1,000 logic cells of 900, 100 too many and about 34 "
                       "block RAMs of 32, 2 too many; layer 'dense1' takes most"):
        fastest_within(digits, CHIP, max_cells=900)
    with pytest.raises(PlanError, match="at least 1, not 0"):
        fastest_within(digits, CHIP, max_cells=0)


def test_an_engine_competes(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def size(plan: Plan) -> tuple[int, int]:
        return (300 + 10 * plan.engine.lanes if plan.engine else 2000), 4

    asked = sizes(monkeypatch, size, engines=True)
    chosen = fastest_within(digits, CHIP, max_cells=400)
    assert chosen.best.plan.engine and chosen.best.plan.engine.lanes == 8
    assert "the next faster one found" in chosen.limit and len(asked) < 8
    assert str(chosen.best).startswith("an engine of 8 lanes: ")
    with pytest.raises(FitError, match="about 310 logic cells of 300, 10 too many; one engine for "
                       "all layers takes them"):
        fastest_within(digits, CHIP, max_cells=300)
    chosen = fastest_within(digits, CHIP, max_cells=4000)
    assert not chosen.best.plan.engine and chosen.best.interval == 1


def test_weights_go_to_spram_where_block_ram_is_short(digits: Network,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def size(plan: Plan) -> tuple[int, int]:
        engine = plan.engine
        if engine is None:
            return 9000, 40
        return 300, 10 if engine.weights_in is WeightMemory.SPRAM else 31

    up5k = target("ice40-up5k")
    asked = sizes(monkeypatch, size, engines=True)
    chosen = fastest_within(digits, up5k)
    engine = chosen.best.plan.engine
    assert engine and (engine.lanes, engine.weights_in) == (32, WeightMemory.SPRAM)
    # Words of 12 bytes would take 6 SPRAMs, so codes do not go there.
    assert engine.codes_in is CodeMemory.BLOCK
    assert str(chosen.best).startswith("an engine of 32 lanes, weights in SPRAM: ")
    assert any(plan.engine and plan.engine.codes_in is CodeMemory.SINGLE_PORT for plan in asked)
    with pytest.raises(FitError, match="about 31 block RAMs of 30, 1 too many"):
        fastest_within(digits, up5k, loads=False)
    # There is no such way where a chip has no SPRAM.
    asked.clear()
    with pytest.raises(FitError):
        fastest_within(digits, target("ice40-hx8k"), max_cells=200)
    assert all(plan.engine is None or plan.engine.weights_in is WeightMemory.BLOCK
               for plan in asked)


@pytest.mark.parametrize(("lanes", "codes", "spram"), [
    (1, CodeMemory.SINGLE_PORT, 2), (8, CodeMemory.SINGLE_PORT, 3), (16, CodeMemory.SINGLE_PORT, 4),
    (32, CodeMemory.BLOCK, 6)])
def test_codes_lie_in_spram_beside_weights_if_there_is_room(
        digits: Network, lanes: int, codes: CodeMemory, spram: int) -> None:
    plan = with_weights_in_spram(digits, lanes, [target("ice40-up5k")], registered=False)
    assert plan.engine and plan.engine.codes_in is codes
    assert spram_blocks(digits, plan) == spram
    with pytest.raises(PlanError, match="weights in block RAM on ice40-hx8k, which has no SPRAM"):
        estimate_plan(digits, plan, CHIP)


def test_lanes_of_engines(digits: Network) -> None:
    assert engine_lanes(digits) == [1, 2, 4, 8, 16, 32]
    idle = Network(name="idle", layers=(digits.layers[0], Flatten(
        name="flat", inputs=(digits.layers[0].name,)), Argmax(name="best", inputs=("flat",))))
    assert engine_lanes(idle) == []


def test_progress_ends(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes(monkeypatch, lambda plan: (20 * lanes(plan), 0))
    seen: list[tuple[int, int]] = []
    fastest_within(digits, CHIP, max_cells=900, progress=lambda n, m, _: seen.append((n, m)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_a_failure_of_yosys_is_a_sentence(digits: Network,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RunFailure(Tool.YOSYS, "no luck", Path("coarse.log"))

    monkeypatch.setattr("nomul.boards.estimate.run", fail)
    with pytest.raises(ToolError, match="network 'digits': Yosys failed with 'no luck'"):
        estimate_plan(digits, sizing.make_plan(digits), CHIP)


@pytest.mark.parametrize("cycles", [1, 7, 64, 100, 2048, 5000])
def test_foldings_are_the_fewest_lanes(digits: Network, cycles: int) -> None:
    foldings = Foldings(digits)
    for name, options in foldings.options.items():
        fold = foldings.within(cycles)[name]
        took = dict((f, t) for t, f in options)
        assert took[fold] <= max(cycles, min(took.values()))
        assert all(t > cycles for f, t in took.items() if f[0] * f[1] < fold[0] * fold[1])
    assert foldings.intervals() == sorted(foldings.intervals())
    plan = sizing.make_plan(digits, foldings.within(foldings.intervals()[-1]))
    assert max(intervals(plan, digits).values()) == foldings.intervals()[-1]
