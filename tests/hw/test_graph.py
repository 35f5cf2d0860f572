# amaranth: UnusedElaboratable=no
"""Graph: links, checks, and a residual block against NumPy."""
import re
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator, SimulatorContext

from nomul.hw.branch import AddStreams, Fork, Queue
from nomul.hw.chain import Chain
from nomul.hw.graph import Graph
from nomul.hw.staircase import Offset, ShiftClip
from nomul.hw.stream import Regroup, vector
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer

CODES = vector(2, 1).members["payload"].shape
RESIDUAL = (("i", "before"), ("before", "fork"), ("fork.o_0", "slow"), ("fork.o_1", "queue"),
            ("slow", "add.i_0"), ("queue", "add.i_1"), ("add", "after"), ("after", "o"))


def holds(length: int) -> Chain:
    """Takes a whole vector in before its first beat comes out, as a window does."""
    return Chain({"gather": Regroup(2, i_lanes=1, o_lanes=length, length=length),
                  "split": Regroup(2, i_lanes=length, o_lanes=1, length=length)})


def residual(length: int, depth: int, **other: Any) -> Graph:
    parts = {"before": Queue(CODES, 1), "fork": Fork(CODES, 2), "slow": holds(length),
             "queue": Queue(CODES, depth),
             "add": AddStreams([[-6, -1, 1, 6], range(4)], lanes=1),
             "after": ShiftClip(signed(5), shift=1, codes=4, lanes=1)}
    return Graph({**parts, **other}, RESIDUAL)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length, depth", [(2, 2), (6, 6), (6, 9)])
def test_residual_block(length: int, depth: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 4, 12 * length)
    sums = np.array([-6, -1, 1, 6])[codes] + codes
    expected = np.clip(sums >> 1, 0, 3)
    got = transfer(residual(length, depth), codes.reshape(-1, 1).tolist(), len(codes), seed=seed,
                   stall=(0.0, 0.3, 0.6, 0.8)[seed])
    assert [beat[0] for beat in got] == expected.tolist()


def taken_in(dut: Graph, cycles: int) -> int:
    """Beats that go in while everything that comes out is taken."""
    counts = {"taken": 0}

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(cycles):
            counts["taken"] += ctx.get(dut.i.ready)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-3)
    return counts["taken"]


@pytest.mark.parametrize("depth, flows", [(4, False), (5, True), (6, True)])
def test_a_queue_that_is_too_short_deadlocks(depth: int, flows: bool) -> None:
    # The slow branch needs 6 beats; the last of them it gets while the queue's waits in the fork.
    assert (taken_in(residual(6, depth), 300) > 50) == flows


def test_residual_block_keeps_the_rate() -> None:
    # Behind the last beat of a vector the slow branch needs two cycles, and so many beats more.
    cycles = measure(residual(6, 16), [[1]] * 60, 60)
    assert cycles[-1] - cycles[0] < 2 * 60


def offset(constant: int) -> Offset:
    return Offset(signed(5), signed(5), offsets=[constant], lanes=1, negate=False,
                  storage=Storage.LOGIC)


def test_a_chain_is_a_graph() -> None:
    parts = {"a": offset(1), "b": offset(2), "c": offset(-5)}
    links = [("i", "a"), ("a", "b"), ("b", "c"), ("c", "o")]
    inputs = [[n] for n in range(-8, 8)]
    graph, chain = Graph(parts, links[::-1]), Chain(parts)
    assert ([list(beat) for beat in transfer(graph, inputs, 16, seed=1)]
            == [list(beat) for beat in transfer(chain, inputs, 16, seed=1)]
            == [[n - 2] for n in range(-8, 8)])
    assert (rtlil.convert(Graph(parts, links), emit_src=False)
            == rtlil.convert(chain, emit_src=False))


def test_streams_behind_parts_are_visible() -> None:
    text = rtlil.convert(residual(2, 2), emit_src=False)
    for part in ("before", "slow", "queue", "add", "after"):
        for wire in ("payload", "valid", "ready"):
            assert f" \\{part}__{wire}\n" in text
    assert "fork__" not in text


class Source(wiring.Component):  # type: ignore[misc]
    """A stream output alone."""

    def __init__(self) -> None:
        super().__init__({"o": Out(vector(2, 1))})


@pytest.mark.parametrize("parts, links, message", [
    ({}, [], "Graph must have at least one part"),
    ({"a.b": Queue(2, 1)}, [],
     "Name of a part must be an identifier other than i and o, not 'a.b'"),
    ({"i": Queue(2, 1)}, [], "Name of a part must be an identifier other than i and o, not 'i'"),
    ({"a": Queue(2, 1)}, [("i", "a"), ("a", "o"), ("a", "b")],
     "Link end 'b' must name an input stream; there is none"),
    ({"a": Fork(2, 2)}, [("i", "a"), ("a", "o")],
     "Link end 'a' must name an output stream; there is none"),
    ({"a": Queue(2, 1)}, [("a.i", "o"), ("i", "a")],
     "Link end 'a.i' must name an output stream; there is none"),
    ({"a": Queue(2, 1)}, [("o", "a"), ("a", "o")],
     "Link end 'o' must name an output stream; there is none"),
    ({"a": Fork(2, 2)}, [("i", "a"), ("a.o_0", "o")],
     "Port 'a.o_1' must be linked exactly once, not 0 times"),
    ({"a": Queue(2, 1), "b": Queue(2, 1)}, [("i", "a"), ("a", "o"), ("a", "b")],
     "Port 'a.o' must be linked exactly once, not 2 times"),
    ({"a": Queue(2, 1)}, [("i", "a")], "Port 'o' must be linked exactly once, not 0 times"),
    ({"a": Queue(2, 1)}, [("a", "a"), ("i", "o")], "Port 'i' must feed a part, not 'o'"),
    ({"a": AddStreams([range(4), range(4)], lanes=1), "s": Source()}, [("s", "a.i_0"), ("a", "o")],
     "Port 'i' must be linked exactly once, not 0 times"),
    ({"a": AddStreams([range(4), range(4)], lanes=1), "f": Fork(CODES, 2), "b": Queue(CODES, 1)},
     [("i", "a.i_0"), ("a", "b"), ("b", "f"), ("f.o_0", "a.i_1"), ("f.o_1", "o")],
     "Links must not make a cycle: b -> f -> a -> b"),
])
def test_links_are_checked(parts: dict[str, Any], links: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Graph(parts, links)


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeError, match=r"^Link from 'a' to 'b': stream of .* cannot feed a "
                                        r"stream of unsigned\(3\)$"):
        Graph({"a": Queue(2, 1), "b": Queue(3, 1)}, [("i", "a"), ("a", "b"), ("b", "o")])
