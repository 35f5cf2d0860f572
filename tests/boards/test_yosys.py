# amaranth: UnusedElaboratable=no
"""The netlist: multipliers show, layers are told apart, and it computes what the circuit does."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.estimate import estimate
from nomul.boards.shell import PinShell
from nomul.boards.targets import Family, target
from nomul.boards.tools import RunFailure, Tool, run
from nomul.boards.yosys import GLUE, count_layers, make_netlist, mapping
from nomul.compiler.lower import lower
from nomul.compiler.planner import make_engine_plan
from nomul.hw.circuits import CodeMemory, WeightMemory
from nomul.sim.random_images import residual_network
from nomul.sizing import spram_blocks

pytestmark = pytest.mark.synth

Term = Callable[[Value, Value], Value]

# Behaviour of the cells of each family, among Yosys's files, and a command that spoils tables.
CELLS = {Family.ICE40: "+/ice40/cells_sim.v", Family.ECP5: "+/lattice/cells_sim_ecp5.v"}
SPOIL = {Family.ICE40: "setparam -set LUT_INIT 16'b0110100110010111 t:SB_LUT4",
         Family.ECP5: "setparam -set INIT 16'b0110100110010111 t:LUT4"}


class Accumulator(wiring.Component):  # type: ignore[misc]
    """Sum of ``term`` of two 8-bit inputs, which are registered first."""

    total: Signal

    def __init__(self, term: Term) -> None:
        self.term = term
        super().__init__({"a": In(8), "b": In(8), "total": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = Signal(8), Signal(8)
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.total.eq(self.total + self.term(a, b))]
        return m


class Pair(wiring.Component):  # type: ignore[misc]
    """Two accumulators of one kind, and a register of its own."""

    def __init__(self, term: Term) -> None:
        self.term = term
        super().__init__({"a": In(8), "b": In(8), "total": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.first = first = Accumulator(self.term)
        m.submodules.second = second = Accumulator(lambda a, b: a + b)
        for part in (first, second):
            m.d.comb += [part.a.eq(self.a), part.b.eq(self.b)]
        # A signal by the name of a submodule: Amaranth renames one of them.
        mixed = Signal(16, name="second")
        m.d.comb += mixed.eq(first.total ^ second.total)
        m.d.sync += self.total.eq(mixed)
        return m


@pytest.mark.parametrize(("chip", "blocks"), [
    ("ice40-hx8k", 0), ("ice40-up5k", 1), ("ecp5-25k", 1)])
def test_a_multiplier_is_counted(chip: str, blocks: int, tmp_path: Path) -> None:
    netlist = make_netlist(Accumulator(lambda a, b: a * b), target(chip), tmp_path)
    assert netlist.multipliers == 1
    assert netlist.counts.dsp == blocks


@pytest.mark.parametrize("chip", ["ice40-up5k", "ecp5-25k"])
@pytest.mark.parametrize(("term", "multipliers"), [
    (lambda a, b: a + b, 0), (lambda a, b: a * 4 - b, 0), (lambda a, b: a * 5, 1)],
    ids=["sum", "shift", "times-five"])
def test_a_shift_is_no_multiplier(chip: str, term: Term, multipliers: int, tmp_path: Path) -> None:
    netlist = make_netlist(Accumulator(term), target(chip), tmp_path)
    assert netlist.multipliers == multipliers
    assert netlist.pins == 8 + 8 + 16 + 2  # with clock and reset


@pytest.mark.parametrize("chip", ["ice40-up5k", "ecp5-25k"])
def test_layers_are_counted_apart(chip: str, tmp_path: Path) -> None:
    layers = count_layers(Pair(lambda a, b: a * b), "top", target(chip), tmp_path)
    assert list(layers) == ["first", "second", GLUE]
    assert [counts.dsp for counts in layers.values()] == [1, 0, 0]
    # The first layer's multiplier block may take its input registers in.
    assert layers["first"].ff <= layers["second"].ff == 32
    assert layers[GLUE].ff == 16
    assert layers["second"].carry > 0
    assert layers[GLUE].carry == 0
    assert layers[GLUE].lut4 == 16


@pytest.mark.parametrize("chip", ["ice40-hx8k", "ecp5-25k"])
@pytest.mark.parametrize("works", [True, False], ids=["equal", "broken"])
def test_netlist_equals_circuit(chip: str, works: bool, tmp_path: Path) -> None:
    """Proven by Yosys; the broken twin has other tables."""
    part = target(chip)
    (tmp_path / "top.il").write_text(rtlil.convert(Pair(lambda a, b: a ^ b), name="top"))
    spoil = () if works else (SPOIL[part.family],)
    (tmp_path / "map.ys").write_text("\n".join([*mapping(part), *spoil]) + "\n")
    (tmp_path / "prove.ys").write_text(
        "read_rtlil top.il\nhierarchy -top top\nproc\nflatten\nopt\n"
        f"equiv_opt -assert -map {CELLS[part.family]} script map.ys\n")
    if works:
        run(Tool.YOSYS, ("prove.ys",), tmp_path, "prove.log")
    else:
        with pytest.raises(RunFailure, match="unproven \\$equiv"):
            run(Tool.YOSYS, ("prove.ys",), tmp_path, "prove.log")


@pytest.mark.synth
@pytest.mark.parametrize("lanes, codes_in", [(2, CodeMemory.SINGLE_PORT), (9, CodeMemory.BLOCK)])
def test_an_engines_weights_lie_in_spram(tmp_path: Path, lanes: int, codes_in: CodeMemory) -> None:
    network, chip = residual_network(1), target("ice40-up5k")
    plan = make_engine_plan(network, lanes, codes_in=codes_in, weights_in=WeightMemory.SPRAM)
    counts = make_netlist(PinShell(lower(network, plan)), chip, tmp_path).counts
    estimated = estimate(PinShell(lower(network, plan)), "top.network.body", chip, tmp_path).counts
    assert (counts.spram, counts.bram) == (estimated.spram, estimated.bram)
    assert counts.spram == spram_blocks(network, plan)
    assert plan.engine is not None
    block = replace(plan, engine=replace(plan.engine, weights_in=WeightMemory.BLOCK))
    assert estimate(PinShell(lower(network, block)), "top.network.body", chip,
                    tmp_path).counts.bram > counts.bram


@pytest.mark.synth
@pytest.mark.parametrize("chip, spram", [("ice40-up5k", 3), ("ice40-hx8k", 0), ("ecp5-25k", 0)])
def test_an_engines_codes_lie_in_spram_where_there_is_one(tmp_path: Path, chip: str,
                                                          spram: int) -> None:
    network = residual_network(1)
    plan = make_engine_plan(network, 2, codes_in=CodeMemory.SINGLE_PORT)
    counts = make_netlist(PinShell(lower(network, plan)), target(chip), tmp_path).counts
    assert counts.spram == spram and (counts.bram + counts.lutram > 0)
    estimated = estimate(PinShell(lower(network, plan)), "top.network.body", target(chip), tmp_path)
    assert estimated.counts.spram == spram and estimated.counts.bram == counts.bram
