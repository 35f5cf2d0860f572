# amaranth: UnusedElaboratable=no
"""The bench of lanes: what it counts, and that a dearer circuit would show."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from nomul import lanes
from nomul.compiler.raised import RaisedTable
from nomul.hw.circuits import ProductCircuit
from nomul.hw.table import Storage
from nomul.lanes import Case, Measured, NaiveLane, cases, markdown, measure
from nomul.staircases import circuits

BINARY = Case(dictionary="binary", entries=(-1, 1), code_bits=4)


def test_every_circuit_is_measured_where_it_is_exact() -> None:
    circuits = {case.dictionary: case.circuits for case in cases() if case.code_bits == 4}
    assert circuits["16 powers of two"] == [ProductCircuit.SHIFT_ADD]
    assert circuits["binary"] == [ProductCircuit.SHIFT_ADD, ProductCircuit.MASKED,
                                  ProductCircuit.TABLE]
    assert circuits["any 2 values"] == [ProductCircuit.MASKED, ProductCircuit.TABLE]
    assert circuits["any 4 values"] == [ProductCircuit.MASKED, ProductCircuit.TABLE]
    assert circuits["any 16 values"] == [ProductCircuit.BUCKETS, ProductCircuit.MULTIPLY]


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.dictionary)
def test_the_obvious_lane_adds_up(case: Case) -> None:
    rng = np.random.default_rng(0)
    weights, codes = (rng.integers(0, n, 50) for n in (len(case.entries), 1 << case.code_bits))
    dut = NaiveLane(case)
    m, totals = Module(), []
    m.submodules.dut = dut
    m.d.sync += Signal().eq(1)  # a clock, whatever is in the circuit

    async def bench(context) -> None:  # type: ignore[no-untyped-def]
        for weight, code in zip(weights.tolist(), codes.tolist(), strict=True):
            context.set(dut.weight, weight)
            context.set(dut.code, code)
            await context.tick()
            totals.append(context.get(dut.total))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert totals == np.cumsum(np.array(case.entries)[weights] * codes).tolist()


@pytest.mark.synth
def test_a_tree_is_smaller_than_lanes_of_one_input() -> None:
    found = measure(BINARY, "ice40-hx8k")
    assert [m.circuit for m in found] == BINARY.circuits
    for m in found:
        assert m.tree and 0 < m.more < m.tree < m.single and m.naive > 0


@pytest.mark.synth
def test_buckets_are_smaller_than_a_multiplier_in_logic() -> None:
    case = next(case for case in cases()
                if (case.dictionary, case.code_bits) == ("any 16 values", 8))
    buckets, multiply = measure(case, "ecp5-25k")
    assert buckets.tree is None and 0 < buckets.more < buckets.single < buckets.naive
    assert (buckets.dsp, multiply.dsp) == (0, 4)


@pytest.mark.synth
def test_a_dearer_lane_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: products by a table that is not simplified, of codes twice as wide."""
    good, = (m for m in measure(BINARY, "ice40-hx8k") if m.circuit is ProductCircuit.MASKED)
    wide = Case(dictionary="binary", entries=(-1, 1), code_bits=8)
    monkeypatch.setattr(lanes, "_engine", lambda case, *rest, engine=lanes._engine:
                        engine(wide, *rest))
    bad, = (m for m in measure(BINARY, "ice40-hx8k") if m.circuit is ProductCircuit.MASKED)
    assert bad.tree and good.tree and bad.tree > good.tree and bad.naive == good.naive


@pytest.mark.synth
def test_any_four_values_take_half_of_the_given_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows of their table are raised; as they are, they take more: the broken twin."""
    case, = (c for c in cases() if c.dictionary == "any 4 values" and c.code_bits == 2)

    def cells() -> float:
        engine = lanes._engine(case, ProductCircuit.TABLE, 4, 8, 0)
        return lanes._cells(lanes._counts(engine, "ecp5-25k"), "ecp5-25k") / 32

    assert case.floor == 40 and cells() <= case.floor / 2
    monkeypatch.setattr(lanes, "raised_table", lambda products, search: RaisedTable(
        products=products, words=np.arange(4), constants=np.zeros(4, dtype=np.int64)))
    assert cells() > case.floor / 2


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    page = markdown([Measured(case=BINARY, chip="ecp5-25k", circuit=ProductCircuit.MASKED,
                              naive=40, single=30.04, tree=10.0, more=8.0, bram=2, dsp=0),
                     Measured(case=replace(BINARY, code_bits=8), chip="ecp5-25k",
                              circuit=ProductCircuit.TABLE, naive=39, single=44.0, tree=24.0,
                              more=12.0, bram=2, dsp=0),
                     Measured(case=BINARY, chip="ecp5-25k", circuit=ProductCircuit.BUCKETS,
                              naive=40, single=50.0, tree=None, more=20.0, bram=3, dsp=1)],
                    [("search", 1, 4, "logic", "ecp5-25k", 1234, 2, 3, 4)])
    assert ("| binary | 4 | ecp5-25k | masked-sums |  | 40 | 30.0 | 10.0 | 8.0 |  |  | 20 % | "
            "2 | 0 |" in page)
    assert ("| binary | 8 | ecp5-25k | table | 48 | 39 | 44.0 | 24.0 | 12.0 | 50 % | 25 % | 31 % | "
            "2 | 0 |" in page)
    assert "| bucket-accumulate |  | 40 | 50.0 |  | 20.0 |  |  | 50 % | 3 | 1 |" in page
    assert "| search | 1 | 4 | logic | ecp5-25k | 1,234 | 2 | 3 | 4 |" in page
    assert "pyosys" in page


def test_all_staircases_are_measured() -> None:
    names = [name for name, _ in circuits(64, 16, Storage.BLOCK)]
    assert names == ["shift-clip, common shift", "shift-clip, own shifts", "table, common",
                     "table, own", "comparators", "search"]
    assert [name for name, _ in circuits(1, 256, Storage.BLOCK)] == [
        "shift-clip, common shift", "table, common", "search"]
