"""The bench of engines measures what it says, and fails where Verilog or cycles are wrong."""
from __future__ import annotations

from pathlib import Path

import pytest

from nomul import engines
from nomul.boards.targets import target
from nomul.compiler.planner import make_engine_plan, make_plan
from nomul.compiler.storage import load, load_provenance
from nomul.engines import Case, main

ZOO = Path(__file__).parents[1] / "examples" / "zoo"


@pytest.mark.cocotb
@pytest.mark.synth
def test_the_page_has_both_styles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "_SEEDS", (1,))
    main(tmp_path, ZOO, (Case(network="digits_pow2_3bit", chip="ice40-up5k", lanes=(1,),
                              loaded=(1,)),))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in (tmp_path / "engine.md").read_text().splitlines() if "digits" in line]
    assert [row[2] for row in rows] == ["1 a layer", "engine, 1", "engine, 1, weights loaded"]
    assert [row[10] for row in rows] == ["2,056", "2,388", "2,388"]
    assert [row[8] for row in rows] == ["0", "1", "2"]  # SPRAM
    assert int(rows[2][7]) < int(rows[1][7])  # block RAM
    assert all(100 < int(row[3]) < 800 for row in rows)


@pytest.mark.cocotb
def test_wrong_cycles_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ZOO / "digits_binary.nomul"
    network, provenance = load(path), load_provenance(path)
    plan = make_engine_plan(network, 8)
    engines._cycles(network, plan, provenance)
    monkeypatch.setattr(engines, "plan_interval", lambda plan, network: 1000)
    with pytest.raises(RuntimeError, match="must take 1000 cycles, but takes"):
        engines._cycles(network, plan, provenance)


@pytest.mark.synth
def test_what_does_not_fit_says_so() -> None:
    network = load(ZOO / "fashion_lenet.nomul")
    row = engines._figures(network, make_plan(network, {"conv2": (8, 8)}), target("ice40-up5k"),
                           {})
    assert "block RAM" in str(row[-1]) and row[0] == "-"
