"""The documents tell the truth: the README's commands run, the catalogue is the code's."""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nomul.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[1]


def test_the_catalogue_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "components.md").read_text() == catalogue(), (
        "run: python -m nomul.catalogue docs")


def test_every_component_says_latency_and_throughput() -> None:
    rows = [line for line in catalogue().splitlines() if line.startswith("| `")]
    silent = [row for row in rows if row.endswith("|  |") or "|  |" in row]
    # Ports and chains have the latency of what is inside.
    assert {re.match(r"\| `nomul\.hw\.(\w+\.\w+)`", row)[1] for row in silent} == {  # type: ignore
        "axis.AxisTop", "chain.Chain", "graph.Graph", "link.Link", "serial_top.LinkedNetwork",
        "serial_top.SerialTop", "serial_top.SpiTop"}


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name


def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "examples" / "own_module.py")], check=True,
                          capture_output=True, text=True)
    assert "360 test images, exact" in done.stdout


@pytest.mark.cocotb
@pytest.mark.synth
@pytest.mark.train
def test_the_quick_start_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "nomul"
        done = subprocess.run([sys.executable, "-m", "nomul.cli", *arguments], cwd=tmp_path,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    hx8k = facts["synthesis"]["ice40-hx8k"]
    # What the README promises of its first network.
    assert facts["accuracy"]["rtl"] == facts["accuracy"]["golden"] >= 0.975
    assert facts["accuracy"]["float"] - facts["accuracy"]["golden"] <= 0.01
    assert facts["bitexact"] | {"images": 360, "mismatches": 0} == facts["bitexact"]
    assert facts["cycles"]["interval"] <= 1.05 * facts["cycles"]["ideal_interval"]
    assert hx8k["logic_cells"] < 1000 and hx8k["dsp"] == 0 and hx8k["multipliers"] == 0
