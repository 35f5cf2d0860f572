"""Running components in Amaranth's simulator."""
from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

__all__ = ["measure", "transfer"]

PERIOD = 1e-6  # seconds; Amaranth 0.5 takes floats here


def transfer(dut: Any, inputs: Iterable[Any], count: int, *, seed: int,
             stall: float = 0.3, max_cycles: int = 100_000) -> list[Any]:
    """Feed ``inputs`` to ``dut.i``; return ``count`` payloads of ``dut.o``.

    Both ends stall at random, from ``seed``; a hang is an error, not a wait.
    """
    return [payload for payload, _ in _run(dut, inputs, count, seed, stall, max_cycles)]


def measure(dut: Any, inputs: Iterable[Any], count: int, *, max_cycles: int = 100_000,
            ) -> list[int]:
    """Feed ``inputs`` to ``dut.i`` as fast as it takes them; return the cycles, counted from
    the first one in which an input is offered, in which each of ``count`` outputs leaves."""
    return [cycle for _, cycle in _run(dut, inputs, count, 0, 0.0, max_cycles)]


def _run(dut: Any, inputs: Iterable[Any], count: int, seed: int, stall: float,
         max_cycles: int) -> list[tuple[Any, int]]:
    outputs: list[tuple[Any, int]] = []
    finished = False

    async def produce(ctx: SimulatorContext) -> None:
        rng = random.Random(f"produce {seed}")
        for payload in inputs:
            while rng.random() < stall and not finished:
                await ctx.tick()
            ctx.set(dut.i.payload, payload)
            ctx.set(dut.i.valid, 1)
            taken = False
            while not (taken or finished):
                _, _, taken = await ctx.tick().sample(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def consume(ctx: SimulatorContext) -> None:
        nonlocal finished
        rng = random.Random(f"consume {seed}")
        for cycle in range(max_cycles):
            if len(outputs) == count:
                break
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid and ready:
                outputs.append((payload, cycle))
        ctx.set(dut.o.ready, 0)
        finished = True

    sim = Simulator(dut)
    sim.add_clock(PERIOD)
    sim.add_testbench(produce)
    sim.add_testbench(consume)
    sim.run()
    if len(outputs) < count:
        raise TimeoutError(f"{len(outputs)} of {count} outputs after {max_cycles} cycles")
    return outputs
