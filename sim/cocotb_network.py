"""cocotb bench of a whole network, run inside the simulator.

Plays images into ``s_axis`` and takes the results from ``m_axis``. What every layer gives on
the way is recorded by the Verilog around the network (`nomul.sim.records`). It sleeps until
a handshake changes, so that idle cycles cost no Python.
"""
from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Combine, FallingEdge, First, RisingEdge, Timer

PERIOD = 10  # ns
LONG_PAUSES = 2
"""Very long pauses of an image at most, on average, at either end."""


def pauses(rng: random.Random, chance: float, longest: int, beats: int) -> Iterator[int]:
    """Lengths of pauses, in cycles: mostly none or short, now and then very long."""
    rare = min(chance / 10, LONG_PAUSES / beats)
    while True:
        if rng.random() < rare:
            yield rng.randrange(longest)
        else:
            length = 0
            while rng.random() < chance:
                length += 1
            yield length


async def pass_cycles(clk: Any, count: int) -> None:
    """Sleep from one rising edge to the one ``count`` cycles later."""
    await Timer(count * PERIOD - PERIOD // 2, unit="ns")
    await RisingEdge(clk)


async def transfer(clk: Any, valid: Any, ready: Any) -> None:
    """Wait for a cycle in which a beat is transferred; return in the middle of it."""
    await FallingEdge(clk)
    while True:
        if not int(valid.value):
            await RisingEdge(valid)
        elif not int(ready.value):
            await RisingEdge(ready)
        else:
            return
        await FallingEdge(clk)


async def play(dut: Any, run: dict[str, Any]) -> None:
    """Play all images of ``run`` once and write when they entered and left."""
    count, chance, longest = run["images"], run["stall"], run["longest_stall"]
    entered: list[int] = []
    left: list[int] = []

    Clock(dut.clk, PERIOD, unit="ns").start()
    dut.rst.value, dut.s_axis_tvalid.value, dut.m_axis_tready.value = 1, 0, 0
    dut.s_axis_tdata.value, dut.s_axis_tlast.value = 0, 0
    dut.run.value, dut.images.value = run["number"], count
    dut.weights_stall.value = run["weights_stall"]
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    if run["wait"] and not int(dut.ready_to_play.value):
        await First(RisingEdge(dut.ready_to_play), Timer(run["limit"] * PERIOD, unit="ns"))
        await RisingEdge(dut.clk)

    async def produce() -> None:
        lanes, bits = run["lanes"], run["bits"]
        beats = -(-len(run["values"][0]) // lanes)
        waits = pauses(random.Random(f"{run['seed']} in"), chance, longest, beats)
        for values in run["values"]:
            for beat in range(beats):
                if pause := next(waits):
                    dut.s_axis_tvalid.value = 0
                    await pass_cycles(dut.clk, pause)
                dut.s_axis_tdata.value = sum(
                    value << lane * bits
                    for lane, value in enumerate(values[beat * lanes:(beat + 1) * lanes]))
                dut.s_axis_tlast.value = int(beat == beats - 1)
                dut.s_axis_tvalid.value = 1
                await transfer(dut.clk, dut.s_axis_tvalid, dut.s_axis_tready)
                if not beat:
                    entered.append(int(dut.cycle.value))
                await RisingEdge(dut.clk)
        dut.s_axis_tvalid.value = 0

    async def consume() -> None:
        beats = run["result_beats"]
        waits = pauses(random.Random(f"{run['seed']} out"), chance, longest, beats)
        for image in range(count):
            for beat in range(beats):
                if pause := next(waits):
                    dut.m_axis_tready.value = 0
                    await pass_cycles(dut.clk, pause)
                dut.m_axis_tready.value = 1
                await transfer(dut.clk, dut.m_axis_tvalid, dut.m_axis_tready)
                last = int(dut.m_axis_tlast.value)
                assert last == (beat == beats - 1), f"tlast is {last} at beat {beat}"
                if beat == beats - 1:
                    left.append(int(dut.cycle.value))
                await RisingEdge(dut.clk)
            if (image + 1) % run["report_every"] == 0 or image + 1 == count:
                Path(run["progress"]).write_text(f"{run['played_before'] + image + 1}")

    async def recorded() -> None:
        if not int(dut.done.value):
            await RisingEdge(dut.done)

    tasks = [cocotb.start_soon(job) for job in (produce(), consume(), recorded())]
    await First(Combine(*tasks), Timer(run["limit"] * PERIOD, unit="ns"))
    Path(run["output"]).write_text(json.dumps({
        "finished": all(task.done() for task in tasks), "entered": entered, "left": left,
        "frame_error": int(dut.frame_error.value)}))


def _run(name: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(Path(os.environ["NOMUL_BENCH"]).read_text())[name]
    return run


@cocotb.test()
async def free(dut: Any) -> None:
    """No stalls: latency, interval and the timeline."""
    await play(dut, _run("free"))


@cocotb.test()
async def stalled(dut: Any) -> None:
    """Random stalls on both ends, all images."""
    await play(dut, _run("stalled"))
