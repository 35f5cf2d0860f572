# amaranth: UnusedElaboratable=no
"""Boards: their chips, pins and clocks, and a network to a bitstream on one of them."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards import on_board
from nomul.boards.board import LinkKind
from nomul.boards.catalogue import ALL_BOARDS, find_board
from nomul.boards.on_board import synthesize_on_board
from nomul.boards.place import Placement
from nomul.boards.pll import Setting, fastest
from nomul.boards.synth import Synthesis
from nomul.boards.targets import BOARDS, TARGETS, Family, target
from nomul.boards.top import BoardTop, divisor_for, link_top, queue_for
from nomul.boards.yosys import Counts
from nomul.compiler.errors import FitError, PlanError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan, intervals
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.sim.random_networks import random_network

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
PREAMBLE = {Family.ICE40: bytes.fromhex("ff0000ff7eaa997e"), Family.ECP5: bytes.fromhex("ff00")}


def tiny() -> tuple[Network, Plan]:
    network = random_network(1)
    return network, make_plan(network)


def test_every_known_board_is_described() -> None:
    assert ALL_BOARDS.keys() == BOARDS.keys()
    for name, board in ALL_BOARDS.items():
        assert find_board(name) is board
        assert board.target.name == target(name).name
        assert "{file}" in board.loader
        assert board.clock_hz in (12_000_000, 25_000_000, 48_000_000)


def test_an_unknown_board_is_answered_with_those_known() -> None:
    with pytest.raises(PlanError) as error:
        find_board("arty")
    assert str(error.value) == (
        "board 'arty' must be one of ice40-hx8k-b-evn, icebreaker, icesugar-pro, orangecrab, "
        "ulx3s-12f, ulx3s-25f, ulx3s-45f, ulx3s-85f")


@pytest.mark.parametrize(("name", "sites"), [
    # Clock, RX, TX and LED as the boards' schematics and other projects have them.
    ("icebreaker", "35 6 9 11"), ("ice40-hx8k-b-evn", "J3 B10 B12 C3"),
    ("ulx3s-12f", "G2 M1 L4 B2"), ("ulx3s-85f", "G2 M1 L4 B2"),
    ("orangecrab", "A9 N17 M18 M3"), ("icesugar-pro", "P6 A9 B9 A12")])
def test_pins(name: str, sites: str) -> None:
    pins = find_board(name).pins()
    assert [pin.port for pin in pins] == ["clk_pin", "rx", "tx", "led"]
    assert " ".join(pin.site for pin in pins) == sites


@pytest.mark.parametrize(("name", "sites"), [
    # SCK, CS, COPI and CIPO. Of a PMOD the pins 4, 1, 2 and 3, in the order of its standard.
    ("icebreaker", "45 4 2 47"), ("ice40-hx8k-b-evn", "L16 N16 M15 M16"),
    ("ulx3s-12f", "B9 B11 A10 A9"), ("ulx3s-85f", "B9 B11 A10 A9"),
    ("orangecrab", "R17 B8 N16 N15")])
def test_pins_of_spi(name: str, sites: str) -> None:
    board = find_board(name)
    clock, *pins, led = board.pins(LinkKind.SPI)
    assert [pin.port for pin in pins] == ["sck", "cs_n", "copi", "cipo"]
    assert " ".join(pin.site for pin in pins) == sites
    assert not any(pin.inverted for pin in pins)
    # An open chip-select is high.
    assert all(pin.attributes.get("PULLUP") or pin.attributes.get("PULLMODE") == "UP"
               for pin in pins)
    assert (clock, led) == (board.pins()[0], board.pins()[-1])
    taken = [pin.site for pin in (*pins, *board.pins())]
    assert len(set(taken)) == len(taken)
    assert board.spi is not None and "CS" in board.spi


def test_a_board_without_spi_is_refused(tmp_path: Path) -> None:
    network, plan = tiny()
    with pytest.raises(PlanError) as error:
        synthesize_on_board(network, plan, find_board("icesugar-pro"), tmp_path / "s", seeds=(1,),
                            link=LinkKind.SPI)
    assert str(error.value) == (
        "board 'icesugar-pro' must have SPI for --link spi, but none of its pins are known for "
        "it; use --link uart")
    assert not (tmp_path / "s").exists()


def test_pins_and_clocks_as_the_tools_read_them() -> None:
    assert find_board("icebreaker").constraints() == (
        "set_io clk_pin 35\nset_io -pullup yes rx 6\nset_io -pullup yes tx 9\nset_io led 11\n"
        "set_frequency clk_pin 12\n")
    lines = find_board("orangecrab").constraints().splitlines()
    assert lines[2:4] == ['LOCATE COMP "rx" SITE "N17";',
                          'IOBUF PORT "rx" IO_TYPE=LVCMOS33 PULLMODE=UP;']
    assert lines[-1] == 'FREQUENCY PORT "clk_pin" 48 MHZ;'


def test_packages_are_those_of_the_boards() -> None:
    assert find_board("orangecrab").target.nextpnr_flags == (
        "--25k", "--package", "CSFBGA285", "--speed", "8")
    assert find_board("icesugar-pro").target.nextpnr_flags == (
        "--25k", "--package", "CABGA256", "--speed", "6")
    assert find_board("ulx3s-12f").target.nextpnr_flags[0] == "--12k"


def test_the_command_that_loads_names_the_file() -> None:
    assert find_board("ulx3s-85f").load_command("a b.bit") == "openFPGALoader -b ulx3s 'a b.bit'"


@pytest.mark.parametrize(("mhz", "baud", "divisor"), [
    (42, 1_000_000, 42), (12, 115_200, 104), (48, 115_200, 417), (100, 3_000_000, 33)])
def test_cycles_of_a_bit(mhz: int, baud: int, divisor: int) -> None:
    assert divisor_for(clock(mhz), baud) == divisor


def clock(mhz: int) -> Setting:
    return Setting(family=Family.ICE40, reference_hz=12_000_000,
                   frequency=Fraction(mhz) * 1_000_000)


@pytest.mark.parametrize("baud", [4_000_000, 4_999_999, 2_700_000])
def test_bits_that_the_clock_cannot_make_are_refused(baud: int) -> None:
    with pytest.raises(PlanError, match=f"must divide the clock of 12 MHz into at least 4 cycles, "
                                        f"to 2 %, not {baud}; choose a lower --baud"):
        divisor_for(clock(12), baud)
    with pytest.raises(PlanError, match="must be at least 1, not 0"):
        divisor_for(clock(12), 0)


@pytest.mark.parametrize(("mhz", "baud", "divisor"), [
    (42, None, 8), (48, 6_000_000, 8), (48, 5_000_000, 9), (100, 1_000_000, 100)])
def test_cycles_of_a_bit_over_spi(mhz: int, baud: int | None, divisor: int) -> None:
    assert divisor_for(clock(mhz), baud, LinkKind.SPI) == divisor


def test_spi_faster_than_an_eighth_of_the_clock_is_refused() -> None:
    with pytest.raises(PlanError, match="bits a second over SPI must be at most 1 / 8 of the clock "
                                        "of 48 MHz, not 6000001; choose a lower --baud"):
        divisor_for(clock(48), 6_000_001, LinkKind.SPI)


def test_what_comes_in_an_inference_can_wait() -> None:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network)
    assert max(intervals(plan, network).values()) == 2048
    # Two bytes and those that come in 2,048 cycles: up to four are registers, more a block RAM.
    assert queue_for(network, plan, 1030, 1000) == 4
    assert queue_for(network, plan, 1020, 1000) == 256
    assert queue_for(network, plan, 1020, 64) == 64
    assert queue_for(network, make_plan(network, {}), 40, 1 << 20) == 256


@pytest.mark.parametrize("name", ["icebreaker", "ulx3s-25f"])
def test_reset_ends_once_the_clock_is_stable(name: str) -> None:
    network, plan = tiny()
    board = find_board(name)
    core = link_top(network, plan, lower(network, plan), LinkKind.UART, divisor=8, depth=4)
    # The board's own clock, so that the simulator needs no PLL; an LED may be low when lit.
    dut = BoardTop(core, board, fastest(board.target.family, board.clock_hz, board.clock_hz / 1e6))
    led, = (pin for pin in board.pins() if pin.port == "led")
    seen: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.rx, 1)
        for _ in range(5000):
            ctx.set(dut.clk_pin, 1)
            await ctx.delay(1e-8)
            ctx.set(dut.clk_pin, 0)
            await ctx.delay(1e-8)
            seen.append(ctx.get(core.led))
            assert ctx.get(dut.led) == ctx.get(core.led) ^ led.inverted
            assert ctx.get(dut.tx) == 1

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(seen) == 5000


@pytest.mark.synth
@pytest.mark.parametrize("name", ["icebreaker", "ice40-hx8k-b-evn", "ulx3s-12f", "orangecrab",
                                  "icesugar-pro"])
def test_a_network_to_a_bitstream_that_meets_its_clock(name: str, tmp_path: Path) -> None:
    network, plan = tiny()
    board = find_board(name)
    result = synthesize_on_board(network, plan, board, tmp_path / "synth", seeds=(1,),
                                 clock_mhz=20, jobs=1)
    figures = result.as_json()
    facts = figures["board"]
    assert facts["clock_mhz"] <= 20 and facts["clock_mhz"] > 19
    assert facts["timing_met"] and figures["fmax_mhz"]["max"] >= facts["clock_mhz"]
    assert facts["pin_mhz"] * 1e6 == board.clock_hz
    assert facts["divisor"] == round(facts["clock_mhz"] * 1e6 / facts["baud"])
    assert facts["load"] == board.load_command(figures["bitstream"])
    assert json.loads((tmp_path / "synth" / "synthesis.json").read_text())["fmax_mhz"] == (
        figures["fmax_mhz"])
    assert figures["layers"].keys() >= {layer.name for layer in plan.layers}
    content = (tmp_path / "synth" / figures["bitstream"]).read_bytes()
    assert content.startswith(PREAMBLE[board.target.family]) and len(content) > 50_000

    # Every port is on its pin, and the tool knows the clock behind the PLL.
    log = (tmp_path / "synth" / "nextpnr-1.log").read_text()
    for pin in board.pins():
        assert re.search(rf"'{pin.port}(\$tr_io)?' (constrained )?to [bB]el", log)
    assert re.search(rf"Derived frequency constraint of {facts['clock_mhz']:.1f} MHz", log)


@pytest.mark.synth
@pytest.mark.parametrize("name", ["icebreaker", "orangecrab", *(
    pytest.param(name, marks=pytest.mark.full) for name in ("ice40-hx8k-b-evn", "ulx3s-85f"))])
def test_a_network_behind_spi_to_a_bitstream_that_meets_its_clock(name: str, tmp_path: Path,
                                                                  ) -> None:
    network, plan = tiny()
    board = find_board(name)
    result = synthesize_on_board(network, plan, board, tmp_path / "synth", seeds=(1,),
                                 clock_mhz=20, jobs=1, link=LinkKind.SPI)
    figures = result.as_json()
    facts = figures["board"]
    assert facts["timing_met"] and figures["fmax_mhz"]["max"] >= facts["clock_mhz"]
    assert (facts["link"], facts["line"]) == ("spi", board.spi)
    assert facts["divisor"] == 8 and facts["baud"] == int(facts["clock_mhz"] * 1e6 / 8)
    assert figures["layers"].keys() >= {layer.name for layer in plan.layers}
    content = (tmp_path / "synth" / figures["bitstream"]).read_bytes()
    assert content.startswith(PREAMBLE[board.target.family]) and len(content) > 50_000

    log = (tmp_path / "synth" / "nextpnr-1.log").read_text()
    for pin in board.pins(LinkKind.SPI):
        assert re.search(rf"'{pin.port}(\$\w+)?' (constrained )?to [bB]el", log), pin
    # The pin that the controller reads is a cell that can let go of it.
    assert re.search(r"cipo feeds (SB_IO|TRELLIS_IO)", log)
    cells = json.loads((tmp_path / "synth" / "netlist.json").read_text())["modules"]["top"]["cells"]
    port, enable = {Family.ICE40: ("SB_IO", "OUTPUT_ENABLE"),
                    Family.ECP5: ("TRELLIS_IO", "T")}[board.target.family]
    pad, = (cell for cell in cells.values() if cell["type"] == port)
    assert isinstance(pad["connections"][enable][0], int)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Clocks that were tried, with place and route reaching 40 MHz at best, and then less."""
    clocks: list[float] = []

    def pretend(work: Path, component: Any, name: str, chip: Any, *, clock_mhz: float,
                **_options: Any) -> Synthesis:
        rtlil.convert(component, name="top", emit_src=False)
        clocks.append(clock_mhz)
        reached = REACHED[min(len(clocks), len(REACHED)) - 1]
        (work / "synthesis.json").write_text("{}")
        return Synthesis(
            target=chip, counts=Counts(lut4=1, carry=0, ff=0, bram=0, lutram=0, dsp=0),
            multipliers=0, logic_cells=1, failed_seeds=(), layers={}, memories={},
            bitstream="x.bin",
            placements=(Placement(seed=1, fmax_mhz=reached, logic_cells=1, file="x"),))

    monkeypatch.setattr(on_board, "synthesize_in", pretend)
    return clocks


REACHED = [41.0, 40.2, 40.1]


@pytest.mark.parametrize(("reached", "wanted", "tried", "missed"), [
    # The goal is missed: then what was reached, until it is met.
    ([41.0, 40.2, 40.1], None, [48, 40.5, 39.75], [48, 40.5]),
    # Much faster than the goal.
    ([90.0, 88.0, 84.0], None, [48, 90, 87], [90, 87]),
    ([90.0, 91.0], None, [48, 90], []),
    # Met, and not worth another try.
    ([49.0], None, [48], []),
    # As asked for, however fast it could be.
    ([49.0], 30, [30], []),
    ([29.0, 29.0], 30, [30, 28.875], [30]),
])
def test_the_clock_is_the_fastest_that_is_met(
        reached: list[float], wanted: float | None, tried: list[float], missed: list[float],
        placed: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, plan = tiny()
    monkeypatch.setitem(globals(), "REACHED", [*reached, 84.0])
    result = synthesize_on_board(network, plan, find_board("icebreaker"), tmp_path / "s",
                                 seeds=(1,), clock_mhz=wanted)
    assert placed[:len(tried)] == tried
    assert [clock for clock, _ in result.missed] == missed
    assert result.setting.mhz == placed[-1]
    assert result.as_json()["board"]["timing_met"]


@pytest.mark.synth
@pytest.mark.parametrize(("queue", "remedy"), [
    (256, "fewer block RAMs (--lean), none for the line (--queue 4) or a larger chip"),
    (4, "fewer lanes (--fold), fewer block RAMs (--lean) or a larger chip")])
def test_where_block_rams_lack_the_queue_is_named(
        queue: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = TARGETS["ice40-up5k"]
    monkeypatch.setattr("nomul.boards.board.TARGETS", {
        chip.name: replace(chip, capacity=replace(chip.capacity, bram=3))})
    network = load(ZOO / "digits_pow2_3bit.nomul")
    with pytest.raises(FitError) as error:
        synthesize_on_board(network, make_plan(network), find_board("icebreaker"), tmp_path / "s",
                            seeds=(1,), queue=queue)
    assert re.search(r"it needs at least \d block RAMs and the chip has 3; use ", str(error.value))
    assert str(error.value).endswith(remedy)


def test_a_circuit_that_meets_no_clock_is_refused(
        placed: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, plan = tiny()
    monkeypatch.setitem(globals(), "REACHED", [41, 40, 39, 38, 37, 36, 35, 30, 29, 28])
    with pytest.raises(FitError, match=r"must meet a clock on icebreaker, but missed 48, 40\.5, "):
        synthesize_on_board(network, plan, find_board("icebreaker"), tmp_path / "s", seeds=(1,))
    assert not (tmp_path / "s").exists()
