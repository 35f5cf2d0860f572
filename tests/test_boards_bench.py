"""The bench of boards writes what it measured, on its page and in the README."""
from pathlib import Path
from typing import Any

import pytest

from nomul import boards_bench
from nomul.boards.board import Board
from nomul.boards.catalogue import ALL_BOARDS
from nomul.boards_bench import Measured, main
from nomul.compiler.network import Network


def fake(network: Network, board: Board, folder: Path) -> Measured:
    figures: dict[str, Any] = {
        "target": board.target.name, "logic_cells": 1000, "lut4": 900, "carry": 80, "ff": 70,
        "bram": 6, "capacity": {"logic_cells": 5000, "bram": 30}, "fmax_mhz": {"max": 45.67},
        "board": {"clock_mhz": 40.5, "timing_met": board.name != "orangecrab",
                  "missed_mhz": [48.0]}}
    return Measured(board=board, figures=figures, interval=2048)


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside a README, and a bench that measures at once."""
    network = Path(boards_bench._NETWORK).resolve()
    monkeypatch.setattr(boards_bench, "_NETWORK", network)
    monkeypatch.setattr(boards_bench, "measure", fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("<!-- boards -->\nold\n<!-- /boards -->\n")
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


def test_all_boards_are_on_the_page_and_in_the_readme(docs: Path) -> None:
    main(docs)
    page, readme = (docs / "boards.md").read_text(), (docs.parent / "README.md").read_text()
    for name, board in ALL_BOARDS.items():
        met = "no" if name == "orangecrab" else "yes"
        assert (f"| {name} | {board.target.name} | 1,000 | 5,000 | 900 | 80 | 70 | 6 | 30 | 40.50 "
                f"| 45.7 | {met} | 48.00 | 19,775 |") in page
        assert (f"| {board.title} | {board.target.name} | 1,000 | 5,000 | 40.50 | {met} | 19,775 |"
                in readme)
    assert "old" not in readme


def test_some_boards_leave_the_readme_alone(docs: Path) -> None:
    main(docs, ["icebreaker"])
    page = (docs / "boards.md").read_text()
    assert "| icebreaker | ice40-up5k | 1,000 |" in page
    assert "| ulx3s-25f | ecp5-25k | 1,000 |" not in page
    assert "old" in (docs.parent / "README.md").read_text()
