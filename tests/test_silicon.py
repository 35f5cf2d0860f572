"""``nomul faults`` and ``nomul asic``: what they write, and one sentence for what is wrong."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nomul.compiler.storage import save
from nomul.sim.random_networks import random_network

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def built(run: Run, tmp_path: Path) -> Path:
    """A build with parity; its data set is unknown, so that images are random."""
    save(random_network(2), tmp_path / "net.nomul")
    assert run("build", tmp_path / "net.nomul", "--parity", "-o", tmp_path / "build")[0] == 0
    return tmp_path / "build"


@pytest.mark.cocotb
def test_faults_are_written_and_can_be_repeated(run: Run, built: Path, tmp_path: Path) -> None:
    assert json.loads((built / "manifest.json").read_text())["ports"]["parity_error"] is True
    code, out, err = run("faults", built, "--upsets", 12, "--images", 4, "--seed", 3, "--jobs", 2)
    assert code == 0, err
    assert "4 images of random" in out and "faults.json" in out.replace("\n", "")
    report = json.loads((built / "faults" / "faults.json").read_text())
    assert (built / "faults" / "faults.png").stat().st_size > 10_000
    assert report["parity"] is True and report["images"] == 4 and report["accuracy"] is None
    fields = report["upset"]
    for kind, facts in report["kinds"].items():
        assert sum(facts["harms"].values()) == len(facts["upsets"]) <= 12
        for values in facts["upsets"]:
            upset = dict(zip(fields, values, strict=True))
            assert upset["place"].startswith("random2.") and upset["accuracy"] is None
            if kind == "assignments" and upset["harm"] != "no effect":
                assert upset["parity_error"]
    again = run("faults", built, "--upsets", 12, "--images", 4, "--seed", 3, "--jobs", 1, "-o",
                tmp_path / "again")
    assert again[0] == 0
    repeated = json.loads((tmp_path / "again" / "faults.json").read_text())
    assert repeated["kinds"] == report["kinds"]


@pytest.mark.cocotb
@pytest.mark.synth
def test_asic_is_written(run: Run, built: Path, tmp_path: Path) -> None:
    code, out, err = run("asic", built, "--images", 5, "--jobs", 1, "-o", tmp_path / "asic")
    assert code == 0, err
    assert "transistors" in out
    report = json.loads((tmp_path / "asic" / "asic.json").read_text())
    assert report["proof"]["images"] == 5 and report["proof"]["mismatches"] == 0
    assert "parity_error" in (tmp_path / "asic" / "constraints.sdc").read_text()


@pytest.mark.parametrize(("arguments", "words"), [
    (("asic", "--clock", 0), "clock must be above 0 and below 100,000 MHz, not 0"),
    (("asic", "--liberty", "none.lib"), "Liberty file 'none.lib' must exist"),
    (("asic", "--data", "none.npz"), "none.npz"),
    (("faults", "--data", "none.npz"), "none.npz"),
])
def test_what_is_wrong_is_one_sentence(run: Run, built: Path, tmp_path: Path,
                                       arguments: tuple[object, ...], words: str) -> None:
    command, *options = arguments
    code, _, err = run(command, built, *options, "-o", tmp_path / "new")
    assert code == 2 and words in err and err.count("\n") == 1, err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["faults", "asic"])
def test_foreign_folders_stay(run: Run, built: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    code, _, err = run(command, built, "-o", tmp_path / "mine")
    assert code == 2 and "must be new, empty or hold an earlier" in err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_parity_is_a_part_of_the_plan(run: Run, built: Path, tmp_path: Path) -> None:
    code, _, err = run("build", tmp_path / "net.nomul", "--parity", "--plan", built / "plan.json",
                       "-o", tmp_path / "new")
    assert code == 2 and "--parity" in err and "change it there" in err
    plan = json.loads((built / "plan.json").read_text())
    assert all(layer["parity"] is True for layer in plan["layers"])
    plan["layers"][0]["parity"] = "yes"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    code, _, err = run("build", tmp_path / "net.nomul", "--plan", tmp_path / "plan.json", "-o",
                       tmp_path / "new")
    assert code == 2 and "parity must be true or false, not 'yes'" in err
    for layer in plan["layers"]:
        del layer["parity"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run("build", tmp_path / "net.nomul", "--plan", tmp_path / "plan.json", "-o",
               tmp_path / "new")[0] == 0
    assert "parity" not in (tmp_path / "new" / "random2.v").read_text()
