"""Chips and boards by name."""
from __future__ import annotations

import pytest

from nomul.boards.targets import BOARDS, TARGETS, Capacity, Family, target
from nomul.compiler.errors import PlanError


@pytest.mark.parametrize("name", TARGETS)
def test_a_chip_is_found_by_its_name(name: str) -> None:
    assert target(name).name == name


@pytest.mark.parametrize(("board", "chip"), BOARDS.items())
def test_a_board_stands_for_its_chip(board: str, chip: str) -> None:
    assert target(board) is TARGETS[chip]


def test_capacities() -> None:
    assert target("icebreaker").capacity == Capacity(
        logic_cells=5280, bram=30, bram_block_bits=4096, dsp=8, pins=39, spram=4,
        bram_shapes=((16, 256), (8, 512), (4, 1024), (2, 2048)))
    assert target("ulx3s-85f").capacity == Capacity(
        logic_cells=83640, bram=208, bram_block_bits=18432, dsp=156, pins=205,
        bram_shapes=((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)))


def test_multiplier_blocks_are_open_to_yosys_wherever_there_are_any() -> None:
    for chip in TARGETS.values():
        match chip.family:
            case Family.ICE40:
                assert ("-dsp" in chip.synth_command.split()) == (chip.capacity.dsp > 0)
            case Family.ECP5:
                assert chip.synth_command == "synth_ecp5"


def test_an_unknown_name_is_answered_with_those_known() -> None:
    with pytest.raises(PlanError) as error:
        target("spartan")
    assert str(error.value) == (
        "target 'spartan' must be a known chip (ice40-hx8k, ice40-up5k, ecp5-12k, ecp5-25k, "
        "ecp5-45k, ecp5-85k) or board (ice40-hx8k-b-evn, icebreaker, icesugar-pro, orangecrab, "
        "ulx3s-12f, ulx3s-25f, ulx3s-45f, ulx3s-85f)")
