"""Exploration: points, their front, what is kept, and where it is computed."""
from __future__ import annotations

from pathlib import Path

import pytest

from nomul.boards.targets import target
from nomul.compiler.errors import FitError, PlanError, ToolError
from nomul.compiler.plan_file import load_plan
from nomul.compiler.storage import load
from nomul.explore import Explored, explore, front, plot
from nomul.sim.random_networks import random_network

CHIP = target("ecp5-25k")


def point(interval: int, cells: int, **more: object) -> Explored:
    values: dict[str, object] = {
        "name": f"plan-{interval}", "interval": interval, "estimated_cells": cells,
        "estimated_lut4": cells, "estimated_bram": 1, "clock_mhz": 50.0, **more}
    return Explored(**values)  # type: ignore[arg-type]


def test_the_front_holds_what_nothing_beats() -> None:
    points = [point(10, 900), point(20, 950), point(40, 300), point(80, 100),
              point(5, 50, trouble="too large"), point(79, 100)]
    assert [p.interval for p in front(points)] == [79, 40, 10]
    assert point(10, 900, logic_cells=80).cells == 80
    assert point(10, 900).rate == 5e6


@pytest.mark.synth
def test_points_are_placed_kept_and_not_computed_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = random_network(2), []
    monkeypatch.setattr("nomul.explore.engine_lanes", lambda network: [2])
    found = explore(network, CHIP, tmp_path, points=2, seeds=1, jobs=1,
                    progress=lambda *step: seen.append(step[:3]))
    assert len(found) == 3 and seen[-2:] == [("plans", 2, 3), ("plans", 3, 3)]
    assert [each.name for each in found].count("engine-2") == 1
    assert {stage for stage, *_ in seen} == {"estimates", "plans"}
    assert found[0].interval < found[1].interval
    for each in found:
        assert each.logic_cells is not None and each.lut4 is not None and not each.trouble
        assert each.bram == each.estimated_bram
        assert (tmp_path / "synth" / each.name / "synthesis.json").is_file()
        load_plan(tmp_path / f"{each.name}.json", network)
    plot(found, CHIP, network.name, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"

    monkeypatch.setattr("nomul.explore._measure", lambda *_: pytest.fail("computed again"))
    assert explore(network, CHIP, tmp_path, points=2, seeds=1, jobs=1) == found


@pytest.mark.synth
def test_a_dask_cluster_gives_the_same_points(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="make setup installs it")
    network = random_network(2)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False,
                                  protocol="tcp://", dashboard_address=None,
                                  host="127.0.0.1") as cluster:
        there = explore(network, CHIP, tmp_path / "dask", points=2, seeds=0,
                        dask=cluster.scheduler_address)
    assert there == explore(network, CHIP, tmp_path / "here", points=2, seeds=0, jobs=1)
    with pytest.raises(ToolError, match=r"Dask scheduler 'tcp://127.0.0.1:9' must answer"):
        explore(network, CHIP, tmp_path / "nowhere", points=2, seeds=0, dask="tcp://127.0.0.1:9")


@pytest.mark.synth
def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    network = load(Path(__file__).parents[1] / "examples" / "zoo" / "digits_binary.nomul")
    with pytest.raises(PlanError, match="points must be at least 2, not 1"):
        explore(network, CHIP, tmp_path, points=1)
    with pytest.raises(PlanError, match="seeds must be at least 0"):
        explore(network, CHIP, tmp_path, seeds=-1)
    with pytest.raises(FitError, match="too many"):
        explore(network, CHIP, tmp_path, max_cells=10)
    assert not (tmp_path / "explore.json").exists()
