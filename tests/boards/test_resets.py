# amaranth: UnusedElaboratable=no
"""Resets of many flip-flops take a network for clocks."""
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.boards import place as placing
from nomul.boards.place import Placement, place
from nomul.boards.resets import buffer_resets
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist


def register(reset: Any, data: int, held: int) -> dict[str, Any]:
    return {"type": "TRELLIS_FF", "parameters": {},
            "port_directions": {"DI": "input", "LSR": "input", "Q": "output"},
            "connections": {"DI": [data], "LSR": [reset], "Q": [held]}}


def registers() -> dict[str, Any]:
    """Three with one reset, one with another, one with none; a table reads the first reset too."""
    cells = {f"q{n}": register(reset, 10 + n, 20 + n) for n, reset in enumerate([1, 1, 1, 2, "0"])}
    cells["t"] = {"type": "LUT4", "parameters": {},
                  "port_directions": {"A": "input", "Z": "output"},
                  "connections": {"A": [1], "Z": [30]}}
    return {"cells": cells, "netnames": {}}


def test_a_reset_of_many_is_buffered() -> None:
    module = registers()
    assert buffer_resets(module, 3) == 1
    cells = module["cells"]
    buffer, = (cell for cell in cells.values() if cell["type"] == "DCCA")
    assert buffer["connections"]["CLKI"] == [1]
    driven = buffer["connections"]["CLKO"]
    assert driven[0] > 30, "a net of its own"
    assert [cells[f"q{n}"]["connections"]["LSR"] for n in range(5)] == [
        driven, driven, driven, [2], ["0"]]
    assert cells["t"]["connections"]["A"] == [1], "logic keeps the net that it reads"
    assert [cells[f"q{n}"]["connections"]["DI"] for n in range(5)] == [[10 + n] for n in range(5)]
    assert driven in [net["bits"] for net in module["netnames"].values()]


def test_others_stay_as_they_are() -> None:
    module = registers()
    assert buffer_resets(module, 4) == 0 and module == registers()
    assert buffer_resets(module, 1) == 2, "constants are no resets"


class Shift(wiring.Component):
    """A bit, late by so many cycles."""

    i: In(1)
    o: Out(1)

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stages = Signal(self.length)
        m.d.sync += stages.eq(Cat(self.i, stages))
        m.d.comb += self.o.eq(stages[-1])
        return m


@pytest.mark.synth
def test_place_and_route_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nextpnr routes the reset on a network for clocks; the twin below the bound does not."""
    chip = target("ecp5-25k")
    netlist = make_netlist(Shift(60), chip, tmp_path).file
    for least, nets in ((60, 2), (61, 1)):
        monkeypatch.setattr(placing, "_LARGE_RESET", least)
        result, = place(netlist, chip, tmp_path, [1], clock_mhz=50.0, jobs=1)
        assert isinstance(result, Placement)
        log = (tmp_path / "nextpnr-1.log").read_text()
        assert log.count("routing clock net") == nets
