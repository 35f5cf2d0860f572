# amaranth: UnusedElaboratable=no
"""PinShell: beats of any width through byte-wide pins, under stalls at both ends."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.place import Placement, place
from nomul.boards.shell import ByteCollector, ByteSplitter, PinShell
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist

WIDTHS = [(1, 1), (2, 2), (3, 3), (1, 4), (4, 1), (5, 2), (8, 3)]


def axi_members(input_bytes: int, output_bytes: int) -> dict[str, wiring.Member]:
    return {
        "s_axis_tdata": In(8 * input_bytes), "s_axis_tvalid": In(1), "s_axis_tready": Out(1),
        "s_axis_tlast": In(1), "m_axis_tdata": Out(8 * output_bytes), "m_axis_tvalid": Out(1),
        "m_axis_tready": In(1), "m_axis_tlast": Out(1), "frame_error": Out(1),
    }


class Echo(wiring.Component):  # type: ignore[misc]
    """Top that returns each beat, cut short or repeated to its output's width, a cycle later."""

    latency = 1

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        super().__init__(axi_members(input_bytes, output_bytes))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        copies = -(-len(self.m_axis_tdata) // len(self.s_axis_tdata))
        m.d.comb += self.s_axis_tready.eq(~self.m_axis_tvalid | self.m_axis_tready)
        with m.If(self.s_axis_tready):
            m.d.sync += [
                self.m_axis_tdata.eq(Cat(*[self.s_axis_tdata] * copies)),
                self.m_axis_tlast.eq(self.s_axis_tlast),
                self.m_axis_tvalid.eq(self.s_axis_tvalid),
            ]
        with m.If(self.s_axis_tvalid & self.s_axis_tready & (self.s_axis_tdata[:8] == 0xEE)):
            m.d.sync += self.frame_error.eq(1)
        return m


def echoed(beat: list[int], output_bytes: int) -> list[int]:
    return (beat * output_bytes)[:output_bytes]


def play(shell: PinShell, frame: list[tuple[int, int]], count: int, *, stall: float,
         seed: int) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Send ``(byte, last)`` pairs and take ``count``; the cycles of each transfer come along.

    Fails where the output changes or vanishes before it is taken.
    """
    taken: list[tuple[int, int]] = []
    sent_at: list[int] = []
    taken_at: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        rng = np.random.default_rng(seed)
        waiting = list(frame)
        offered = False
        held: tuple[int, int] | None = None
        for cycle in range(40 * (len(frame) + count) + 40):
            # An offer once made stays until it is taken.
            offered = bool(waiting) and (offered or rng.random() >= stall)
            ready = bool(rng.random() >= stall)
            byte, last = waiting[0] if offered else (int(rng.integers(256)), 1)
            ctx.set(shell.s_axis_tvalid, offered)
            ctx.set(shell.s_axis_tdata, byte)
            ctx.set(shell.s_axis_tlast, last)
            ctx.set(shell.m_axis_tready, ready)
            shown = (ctx.get(shell.m_axis_tdata), ctx.get(shell.m_axis_tlast))
            valid = ctx.get(shell.m_axis_tvalid)
            assert held is None or (valid and shown == held)
            if offered and ctx.get(shell.s_axis_tready):
                waiting.pop(0)
                sent_at.append(cycle)
                offered = False
            held = shown if valid and not ready else None
            if valid and ready:
                taken.append(shown)
                taken_at.append(cycle)
            await ctx.tick()
            if len(taken) == count:
                return
        raise AssertionError(f"only {len(taken)} of {count} bytes came out")

    simulator = Simulator(shell)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return taken, sent_at, taken_at


def frames(beats: int, input_bytes: int, output_bytes: int, *, seed: int,
           ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Random bytes in and what must come out; every third beat ends a frame."""
    rng = np.random.default_rng(seed)
    sent, expected = [], []
    for number in range(beats):
        last = number % 3 == 2
        beat = rng.integers(256, size=input_bytes).tolist()
        result = echoed(beat, output_bytes)
        sent += [(byte, int(last and at == input_bytes - 1)) for at, byte in enumerate(beat)]
        expected += [(byte, int(last and at == output_bytes - 1))
                     for at, byte in enumerate(result)]
    return sent, expected


@pytest.mark.parametrize(("input_bytes", "output_bytes"), WIDTHS)
@pytest.mark.parametrize("stall", [0.0, 0.3, 0.7])
def test_beats_pass_under_stalls(input_bytes: int, output_bytes: int, stall: float) -> None:
    seed = 100 * input_bytes + output_bytes
    sent, expected = frames(24, input_bytes, output_bytes, seed=seed)
    shell = PinShell(Echo(input_bytes, output_bytes))
    taken, _, _ = play(shell, sent, len(expected), stall=stall, seed=seed)
    assert taken == expected


@pytest.mark.parametrize(("input_bytes", "output_bytes"), WIDTHS)
def test_latency_and_throughput(input_bytes: int, output_bytes: int) -> None:
    sent, expected = frames(12, input_bytes, output_bytes, seed=1)
    shell = PinShell(Echo(input_bytes, output_bytes))
    _, sent_at, taken_at = play(shell, sent, len(expected), stall=0, seed=1)
    assert taken_at[0] - sent_at[input_bytes - 1] == shell.latency + Echo.latency
    # The wider side goes at one byte a cycle throughout.
    busy = sent_at if input_bytes >= output_bytes else taken_at
    assert np.diff(busy).tolist() == [1] * (len(busy) - 1)


def test_early_last_ends_the_beat() -> None:
    sent = [(1, 0), (2, 0), (3, 0), (4, 1), (5, 0), (6, 0), (7, 1)]
    shell = PinShell(Echo(3, 3))
    taken, _, _ = play(shell, sent, 9, stall=0.4, seed=5)
    assert taken == [(1, 0), (2, 0), (3, 0), (4, 0), (2, 0), (3, 1), (5, 0), (6, 0), (7, 1)]


def test_frame_error_passes() -> None:
    shell = PinShell(Echo(1, 1))
    seen = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(shell.m_axis_tready, 1)
        ctx.set(shell.s_axis_tvalid, 1)
        for byte in (0, 0, 0xEE, 0, 0, 0, 0, 0):
            ctx.set(shell.s_axis_tdata, byte)
            await ctx.tick()
            seen.append(ctx.get(shell.frame_error))

    simulator = Simulator(shell)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    # Into the first register with the third byte, through the network's and into the pin's.
    assert seen == [0, 0, 0, 0, 1, 1, 1, 1]


class Stripped(wiring.Component):  # type: ignore[misc]
    """Top with a plain counter for a port: no AXI4-Stream."""

    count: Signal

    def __init__(self) -> None:
        super().__init__({"count": Out(8)})

    def elaborate(self, platform: object) -> Module:
        return Module()


def test_other_ports_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must have the members s_axis_tdata, .* not count$"):
        PinShell(Stripped())


def test_odd_width_is_refused() -> None:
    class Odd(Echo):
        def __init__(self) -> None:
            wiring.Component.__init__(self, axi_members(1, 1) | {"m_axis_tdata": Out(12)})

    with pytest.raises(ValueError, match="Width of m_axis_tdata must be a multiple of 8, not 12"):
        PinShell(Odd())


@pytest.mark.parametrize("converter", [ByteCollector, ByteSplitter])
def test_a_beat_of_one_byte_needs_no_converter(
        converter: type[ByteCollector] | type[ByteSplitter]) -> None:
    with pytest.raises(ValueError, match="must be at least 2, not 1"):
        converter(1)


@pytest.mark.parametrize(("input_bytes", "output_bytes"), [(1, 1), (3, 2)])
def test_no_pin_is_combinational(input_bytes: int, output_bytes: int) -> None:
    top = Echo(input_bytes, output_bytes)
    shell = PinShell(top)
    inputs = (shell.s_axis_tdata, shell.s_axis_tvalid, shell.s_axis_tlast, shell.m_axis_tready)
    watched = (shell.s_axis_tready, shell.m_axis_tdata, shell.m_axis_tvalid, shell.m_axis_tlast,
               shell.frame_error, top.s_axis_tdata, top.s_axis_tvalid, top.s_axis_tlast,
               top.m_axis_tready)
    seen = set()

    async def bench(ctx: SimulatorContext) -> None:
        rng = np.random.default_rng(7)
        for _ in range(300):
            before = [ctx.get(signal) for signal in watched]
            for signal in inputs:
                ctx.set(signal, int(rng.integers(1 << len(signal))))
            assert [ctx.get(signal) for signal in watched] == before
            seen.add(tuple(before))
            await ctx.tick()

    simulator = Simulator(shell)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(seen) > 50


@pytest.mark.synth
def test_pins_are_registers_and_cost_little(tmp_path: Path) -> None:
    chip = target("ice40-hx8k")
    cells = []
    for component in (PinShell(Echo(1, 1)), Echo(1, 1)):
        netlist = make_netlist(component, chip, tmp_path)
        (placement,) = place(netlist.file, chip, tmp_path, (1,), clock_mhz=100, jobs=1)
        assert isinstance(placement, Placement)
        cells.append(placement.logic_cells)
        if isinstance(component, PinShell):
            module = json.loads((tmp_path / netlist.file).read_text())["modules"]["top"]
            registers = {cell["connections"]["Q"][0] for cell in module["cells"].values()
                         if cell["type"].startswith("SB_DFF")}
            outputs = {bit for port in module["ports"].values() if port["direction"] == "output"
                       for bit in port["bits"]}
            assert len(outputs) == 12
            assert outputs <= registers
    assert 0 < cells[0] - cells[1] < 60


def test_the_bench_can_fail() -> None:
    class Careless(Echo):
        """Takes a beat whether or not there is room for it."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.sync += self.m_axis_tvalid.eq(self.s_axis_tvalid)
            return m

    sent, expected = frames(24, 1, 1, seed=3)
    with pytest.raises(AssertionError, match="bytes came out"):
        play(PinShell(Careless(1, 1)), sent, len(expected), stall=0.5, seed=3)
