"""cocotb bench of a whole network, run inside the simulator.

Plays images into ``s_axis``, checks the results on ``m_axis`` and, on the way, what every
layer gives. It sleeps until a handshake changes, so that idle cycles cost no Python.
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
from cocotb.utils import get_sim_time

PERIOD = 10  # ns


class Tap:
    """A place where beats can be watched, and the beats that are due there."""

    def __init__(self, description: dict[str, Any], payload: Any, valid: Any, ready: Any) -> None:
        self.name: str = description["name"]
        self.shape: list[int] = description["shape"]
        self.lanes: int = description["lanes"]
        self.bits: int = description["bits"]
        self.signed: bool = description["signed"]
        self.values: list[list[int]] = description["values"]
        self.payload, self.valid, self.ready = payload, valid, ready
        self.got: list[list[int]] = [[] for _ in self.values]
        self.cycles: list[list[int]] = [[] for _ in self.values]
        self.wrong: set[int] = set()
        self.first_difference: dict[str, Any] | None = None

    @property
    def seen(self) -> int:
        """Beats seen so far."""
        return sum(map(len, self.cycles))

    def check(self, image: int, beat: int, word: int) -> None:
        """Compare a beat with what is due, and remember the first difference."""
        self.cycles[image].append(cycle())
        start, mask = beat * self.lanes, (1 << self.bits) - 1
        for lane, due in enumerate(self.values[image][start:start + self.lanes]):
            got = word >> lane * self.bits & mask
            if self.signed:
                got -= (got >> self.bits - 1) << self.bits
            self.got[image].append(got)
            if got != due:
                self.wrong.add(image)
                if not self.first_difference:
                    self.first_difference = {
                        "layer": self.name, "image": image, "cycle": cycle(),
                        "position": position(start + lane, self.shape),
                        "expected": due, "got": got}

    async def watch(self, clk: Any) -> None:
        """Check beat after beat, until the last one of the last image."""
        for image, values in enumerate(self.values):
            for beat in range(-(-len(values) // self.lanes)):
                await self.transfer(clk)
                self.check(image, beat, int(self.payload.value))
                await RisingEdge(clk)

    async def transfer(self, clk: Any) -> None:
        """Wait for a cycle in which a beat is transferred; return in the middle of it."""
        await FallingEdge(clk)
        while True:
            if not int(self.valid.value):
                await RisingEdge(self.valid)
            elif not int(self.ready.value):
                await RisingEdge(self.ready)
            else:
                return
            await FallingEdge(clk)


def cycle() -> int:
    """The present clock cycle."""
    return int(get_sim_time("ns")) // PERIOD


def position(index: int, shape: list[int]) -> list[int]:
    """Coordinates of element ``index`` of an array of ``shape``."""
    place = []
    for size in reversed(shape):
        place.append(index % size)
        index //= size
    return place[::-1]


def stalls(rng: random.Random, chance: float, longest: int) -> Iterator[int]:
    """Lengths of pauses, in cycles: mostly none or short, now and then very long."""
    while True:
        if rng.random() < chance / 10:
            yield rng.randrange(longest)
        else:
            length = 0
            while rng.random() < chance:
                length += 1
            yield length


async def play(dut: Any, run: dict[str, Any]) -> None:
    """Play all images of ``run`` once and write what was seen."""
    source, count = run["source"], run["images"]
    chance, longest = run["stall"], run["longest_stall"]

    Clock(dut.clk, PERIOD, unit="ns").start()
    dut.rst.value, dut.s_axis_tvalid.value, dut.m_axis_tready.value = 1, 0, 0
    dut.s_axis_tdata.value, dut.s_axis_tlast.value = 0, 0
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await RisingEdge(dut.clk)

    body = dut.body
    taps = [Tap(layer, *(getattr(body, f"{layer['name']}__{wire}")
                         for wire in ("payload", "valid", "ready"))) for layer in run["taps"]]
    result = Tap(run["result"], dut.m_axis_tdata, dut.m_axis_tvalid, dut.m_axis_tready)
    entered: list[int] = []
    left: list[int] = []

    async def produce() -> None:
        pauses = stalls(random.Random(f"{run['seed']} in"), chance, longest)
        lanes, bits = source["lanes"], source["bits"]
        for values in source["values"]:
            beats = -(-len(values) // lanes)
            for beat in range(beats):
                if pause := next(pauses):
                    dut.s_axis_tvalid.value = 0
                    await ClockCycles(dut.clk, pause)
                dut.s_axis_tdata.value = sum(
                    value << lane * bits
                    for lane, value in enumerate(values[beat * lanes:(beat + 1) * lanes]))
                dut.s_axis_tlast.value = int(beat == beats - 1)
                dut.s_axis_tvalid.value = 1
                if not beat:
                    entered.append(cycle())
                await FallingEdge(dut.clk)
                while not int(dut.s_axis_tready.value):
                    await RisingEdge(dut.s_axis_tready)
                    await FallingEdge(dut.clk)
                await RisingEdge(dut.clk)
        dut.s_axis_tvalid.value = 0

    async def consume() -> None:
        pauses = stalls(random.Random(f"{run['seed']} out"), chance, longest)
        beats = -(-len(result.values[0]) // result.lanes)
        for image in range(count):
            for beat in range(beats):
                if pause := next(pauses):
                    dut.m_axis_tready.value = 0
                    await ClockCycles(dut.clk, pause)
                dut.m_axis_tready.value = 1
                await result.transfer(dut.clk)
                result.check(image, beat, int(dut.m_axis_tdata.value))
                last = int(dut.m_axis_tlast.value)
                assert last == (beat == beats - 1), f"tlast is {last} at beat {beat}"
                await RisingEdge(dut.clk)
            left.append(cycle() - 1)
            if (image + 1) % 10 == 0 or image + 1 == count:
                Path(run["progress"]).write_text(f"{image + 1}")

    tasks = [cocotb.start_soon(job) for job in
             (produce(), consume(), *(tap.watch(dut.clk) for tap in taps))]
    done = Combine(*tasks)
    await First(done, Timer(run["limit"] * PERIOD, unit="ns"))
    finished = all(task.done() for task in tasks)
    first = [tap.first_difference for tap in (*taps, result) if tap.first_difference]
    Path(run["output"]).write_text(json.dumps({
        "finished": finished,
        "seen": {tap.name: tap.seen for tap in taps},
        "results": len(left), "got": result.got,
        "wrong": sorted(result.wrong | set().union(*(tap.wrong for tap in taps))),
        "first_difference": min(first, key=lambda d: d["cycle"], default=None),
        "frame_error": int(dut.frame_error.value),
        "entered": entered, "left": left,
        "timeline": [{"layer": tap.name, "image": image, "first": cycles[0], "last": cycles[-1]}
                     for tap in taps for image, cycles in enumerate(tap.cycles) if cycles],
    }))


@cocotb.test()
async def free(dut: Any) -> None:
    """No stalls: latency, interval and the timeline."""
    await play(dut, json.loads(Path(os.environ["NOMUL_BENCH"]).read_text())["free"])


@cocotb.test()
async def stalled(dut: Any) -> None:
    """Random stalls on both ends, all images."""
    await play(dut, json.loads(Path(os.environ["NOMUL_BENCH"]).read_text())["stalled"])
