# amaranth: UnusedElaboratable=no
"""Fork, Queue, AddStreams and AddSums against lists and NumPy."""
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.branch import AddStreams, AddSums, Fork, Queue
from nomul.sim.bench import measure, transfer
from nomul.sim.formal import prove_streams

DEPTHS = [1, 2, 3, 4, 5, 8, 11]
PERIOD = 1e-6


def play(dut: Any, sources: dict[str, Sequence[Any]], sinks: dict[str, int], *, seed: int = 0,
         stalls: dict[str, float] | None = None, max_cycles: int = 5000,
         ) -> dict[str, list[tuple[Any, int]]]:
    """Feed each of ``sources`` and take so many beats of each of ``sinks``, with their cycles.

    Every stream has a probability of a stall of its own.
    """
    stalls = stalls or {}
    taken: dict[str, list[tuple[Any, int]]] = {name: [] for name in sinks}

    def producer(name: str) -> Any:
        async def produce(ctx: SimulatorContext) -> None:
            rng, port = random.Random(f"{name} {seed}"), getattr(dut, name)
            for payload in sources[name]:
                while rng.random() < stalls.get(name, 0):
                    await ctx.tick()
                ctx.set(port.payload, payload)
                ctx.set(port.valid, 1)
                accepted = False
                while not accepted:
                    _, _, accepted = await ctx.tick().sample(port.ready)
                ctx.set(port.valid, 0)
        return produce

    def consumer(name: str) -> Any:
        async def consume(ctx: SimulatorContext) -> None:
            rng, port, cycle = random.Random(f"{name} {seed}"), getattr(dut, name), 0
            while len(taken[name]) < sinks[name]:
                ready = rng.random() >= stalls.get(name, 0)
                ctx.set(port.ready, ready)
                _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
                if valid and ready:
                    taken[name].append((payload, cycle))
                cycle += 1
            ctx.set(port.ready, 0)
        return consume

    async def watchdog(ctx: SimulatorContext) -> None:
        await ctx.delay(max_cycles * PERIOD)
        raise TimeoutError({name: len(beats) for name, beats in taken.items()})

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    for name in sources:
        simulator.add_testbench(producer(name), background=True)
    for name in sinks:
        simulator.add_testbench(consumer(name))
    simulator.add_testbench(watchdog, background=True)
    simulator.run()
    return taken


def payloads(taken: list[tuple[Any, int]]) -> list[Any]:
    return [payload for payload, _ in taken]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_every_reader_gets_every_beat(count: int, seed: int) -> None:
    beats = [(7 * n + n // 16) % 16 for n in range(60)]
    stalls = {"i": 0.2, **{f"o_{n}": (0.0, 0.6, 0.3)[(n + seed) % 3] for n in range(count)}}
    sinks = {f"o_{n}": len(beats) for n in range(count)}
    taken = play(Fork(unsigned(4), count), {"i": beats}, sinks, seed=seed, stalls=stalls)
    assert all(payloads(taken[name]) == beats for name in sinks)


def test_a_ready_reader_does_not_wait() -> None:
    taken = play(Fork(4, 3), {"i": list(range(12))}, {"o_0": 12, "o_1": 12, "o_2": 12},
                 stalls={"o_1": 0.8})
    arrivals = np.array([[cycle for _, cycle in taken[name]] for name in ("o_0", "o_1", "o_2")])
    assert (arrivals[0] == arrivals[2]).all()
    # A beat is at hand the cycle after the slowest reader took the one before it.
    assert (arrivals[0, 1:] == arrivals[1, :-1] + 1).all() and (arrivals[0] < arrivals[1]).any()


def test_fork_adds_no_cycle() -> None:
    dut = Fork(4, 2)
    taken = play(dut, {"i": [0] * 10}, {"o_0": 10, "o_1": 10})
    for name in taken:
        assert [cycle - dut.latency for _, cycle in taken[name]] == list(range(10))


@pytest.mark.parametrize("depth", DEPTHS)
def test_queue_keeps_the_order(depth: int) -> None:
    beats = [(5 * n + n // 16) % 16 - 8 for n in range(80)]
    for stall in (0.1, 0.5):
        assert transfer(Queue(signed(4), depth), beats, 80, seed=depth, stall=stall) == beats


def test_queue_keeps_the_fields_of_a_beat() -> None:
    layout = data.StructLayout({"a": signed(3), "b": unsigned(2)})
    beats = [{"a": -4, "b": 3}, {"a": 3, "b": 0}, {"a": -1, "b": 2}]
    for depth in (2, 8):
        got = transfer(Queue(layout, depth), beats, 3, seed=depth)
        assert [{"a": beat.a, "b": beat.b} for beat in got] == beats


@pytest.mark.parametrize("depth", DEPTHS)
def test_queue_latency_and_rate(depth: int) -> None:
    dut = Queue(4, depth)
    assert dut.latency == (1 if depth <= dut.registers else 2)
    assert measure(dut, [0] * 40, 40) == list(range(dut.latency, dut.latency + 40))


def room(dut: Any, *, skipped: int = 0) -> int:
    """Beats that a queue takes while none is taken from it, after ``skipped`` have passed."""
    counts = {"taken": 0}

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.i.valid, skipped > 0)
        ctx.set(dut.o.ready, 1)
        for _ in range(skipped):
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(4)
        ctx.set(dut.o.ready, 0)
        ctx.set(dut.i.valid, 1)
        for _ in range(3 * dut.depth + 6):
            counts["taken"] += ctx.get(dut.i.ready)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run_until(1e-3)
    return counts["taken"]


@pytest.mark.parametrize("depth", DEPTHS)
def test_queue_has_room_for_its_depth(depth: int) -> None:
    assert room(Queue(4, depth)) == depth
    assert room(Queue(4, depth), skipped=7) == depth


@pytest.mark.synth
@pytest.mark.parametrize("name", ["ice40-hx8k", "ecp5-25k"])
@pytest.mark.parametrize("depth, blocks", [(4, 0), (256, 1)])
def test_a_deep_queue_lies_in_block_ram(depth: int, blocks: int, name: str,
                                        tmp_path: Path) -> None:
    assert make_netlist(Queue(16, depth), target(name), tmp_path).counts.bram == blocks


TABLES: dict[str, list[Sequence[int]]] = {
    "codes": [range(16), range(16)],
    "shifts": [range(0, 64, 4), range(4)],
    "offsets": [range(-8, 8), range(5, 37, 2)],
    "falling": [range(0, -32, -2), range(8)],
    "uneven": [[-8, -4, -2, -1, 0, 1, 2, 4], range(-4, 4)],
    "both uneven": [[-7, 0, 3], [100, 101, 103, 120, 121]],
    "single": [[-5], [0, 3]],
    "constant": [[9], [-9]],
    "negative sums": [range(-40, -32), [-100, -1]],
}


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", TABLES)
def test_sums_are_exact(name: str, lanes: int) -> None:
    tables = [np.array(list(table)) for table in TABLES[name]]
    rng = np.random.default_rng(lanes)
    codes = [rng.integers(0, len(table), (50, lanes)) for table in tables]
    for code, table in zip(codes, tables, strict=True):  # both ends of the sum
        code[0], code[1] = table.argmin(), table.argmax()
    expected = tables[0][codes[0]] + tables[1][codes[1]]

    dut = AddStreams([table.tolist() for table in tables], lanes=lanes)
    taken = play(dut, {f"i_{n}": code.tolist() for n, code in enumerate(codes)}, {"o": 50},
                 seed=lanes, stalls={"i_0": 0.3, "i_1": 0.5, "o": 0.3})
    assert [list(beat) for beat in payloads(taken["o"])] == expected.tolist()
    low, high = (int(sum(end(table) for table in tables)) for end in (min, max))
    width = dut.sum_shape.width
    assert dut.sum_shape.signed and -(1 << width - 1) <= low and high < 1 << width - 1
    assert width == 1 or not (-(1 << width - 2) <= low and high < 1 << width - 2)


def test_sum_latency_and_rate() -> None:
    dut = AddStreams([range(4), range(4)], lanes=1)
    taken = play(dut, {"i_0": [[1]] * 20, "i_1": [[2]] * 20}, {"o": 20})
    assert [cycle for _, cycle in taken["o"]] == list(range(dut.latency, dut.latency + 20))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("widths", [(4, 4, 5), (8, 3, 9), (2, 8, 8), (8, 8, 4)])
def test_sums_of_integers_wrap_around_in_their_shape(widths: Sequence[int], lanes: int) -> None:
    rng = np.random.default_rng([lanes, *widths])
    sums = [rng.integers(-(1 << width - 1), 1 << width - 1, (50, lanes)) for width in widths[:2]]
    for values, width in zip(sums, widths, strict=False):
        values[0], values[1] = -(1 << width - 1), (1 << width - 1) - 1
    half = 1 << widths[2] - 1
    expected = (sums[0] + sums[1] + half) % (2 * half) - half

    dut = AddSums([signed(width) for width in widths[:2]], signed(widths[2]), lanes=lanes)
    taken = play(dut, {f"i_{n}": values.tolist() for n, values in enumerate(sums)}, {"o": 50},
                 seed=lanes, stalls={"i_0": 0.3, "i_1": 0.5, "o": 0.3})
    assert [list(beat) for beat in payloads(taken["o"])] == expected.tolist()
    taken = play(dut, {"i_0": [[1] * lanes] * 20, "i_1": [[0] * lanes] * 20}, {"o": 20})
    assert [cycle for _, cycle in taken["o"]] == list(range(dut.latency, dut.latency + 20))


@pytest.mark.parametrize("dut", [AddStreams([range(4), range(4)], lanes=1),
                                 AddSums([signed(4), signed(4)], signed(5), lanes=1)],
                         ids=lambda dut: type(dut).__name__)
def test_takes_both_or_none(dut: Any) -> None:

    async def bench(ctx: SimulatorContext) -> None:
        for first, second, empty in np.ndindex(2, 2, 2):
            ctx.set(dut.i_0.valid, first)
            ctx.set(dut.i_1.valid, second)
            ctx.set(dut.o.ready, empty)
            taken = [valid and ctx.get(port.ready)
                     for valid, port in ((first, dut.i_0), (second, dut.i_1))]
            room = empty or not ctx.get(dut.o.valid)
            assert taken == [first and second and room] * 2
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run_until(1e-4)


@pytest.mark.formal
@pytest.mark.parametrize("dut", [
    Fork(2, 3),
    AddStreams([range(4), [0, 3]], lanes=2),
    AddSums([signed(2), signed(3)], signed(3), lanes=2),
    *(Queue(2, depth) for depth in (1, 2, 4, 5)),
], ids=["fork", "sum of codes", "sum of integers",
        *(f"queue of {n}" for n in (1, 2, 4, 5))])
def test_holds_while_stalled(dut: Any, tmp_path: Path) -> None:
    assert prove_streams(dut, tmp_path)


class Hollow(Queue):
    """Withdraws what it holds when nothing comes in."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.o.valid.eq(self.i.valid)
        return m


class Lazy(Fork):
    """Withdraws a beat from a reader while another one stalls."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.o_1.valid.eq(self.i.valid & self.o_0.ready)
        return m


class Passing(AddStreams):
    """Shows sums as they come."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.sync += self.o.payload[0].eq(self.i_0.payload[0] + self.i_1.payload[0])
        return m


@pytest.mark.formal
@pytest.mark.parametrize("dut", [
    Hollow(2, 2), Lazy(2, 2),
    Passing([[0, 1], [0, 1]], lanes=1),
], ids=["queue", "fork", "sum"])
def test_the_proofs_can_fail(dut: Any, tmp_path: Path) -> None:
    assert not prove_streams(dut, tmp_path)


def test_the_benches_can_fail() -> None:
    class Short(Queue):
        """Has room for one beat less."""

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.queue = queue = Queue(self.shape, self.depth - 1)
            wiring.connect(m, wiring.flipped(self.i), queue.i)
            wiring.connect(m, queue.o, wiring.flipped(self.o))
            return m

    class Forgetful(Fork):
        """Does not know who has the beat."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            for output in self.outputs:
                m.d.comb += output.valid.eq(self.i.valid)
            return m

    assert room(Short(4, 6)) == 5
    # The second reader stops after 9 beats; the first one goes on and takes the tenth again.
    beats = list(range(16))
    taken = play(Forgetful(4, 2), {"i": beats}, {"o_0": 60, "o_1": 9}, stalls={"o_1": 0.5})
    assert payloads(taken["o_0"])[:16] != beats


@pytest.mark.parametrize("make, message", [
    (lambda: Fork(4, 0), "Number of readers must be at least 1, not 0"),
    (lambda: Queue(4, 0), "Queue must have room for at least 1 beat, not 0"),
    (lambda: AddStreams([[0, 1]], lanes=1),
     "There must be two tables of at least one integer each"),
    (lambda: AddStreams([[0, 1], []], lanes=1),
     "There must be two tables of at least one integer each"),
    (lambda: AddStreams([[0], [0]], lanes=0), "Number of lanes must be at least 1, not 0"),
    (lambda: AddSums([signed(2)], signed(3), lanes=1),
     "There must be two shapes of elements, not 1"),
    (lambda: AddSums([signed(2), unsigned(2)], signed(3), lanes=1),
     "Shapes of integers must be signed, not unsigned(2)"),
    (lambda: AddSums([signed(2), signed(2)], signed(3), lanes=0),
     "Number of lanes must be at least 1, not 0"),
])
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
