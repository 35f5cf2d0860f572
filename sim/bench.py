"""Running components in Amaranth's simulator."""
from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from amaranth.lib import stream
from amaranth.sim import Simulator, SimulatorContext

__all__ = ["measure", "stream_get", "stream_put", "transfer"]

PERIOD = 1e-6  # seconds; Amaranth 0.5 takes floats here


async def stream_put(ctx: SimulatorContext, sink: stream.Interface, payload: Any) -> None:
    """Offer ``payload`` until it is taken."""
    ctx.set(sink.payload, payload)
    ctx.set(sink.valid, 1)
    await ctx.tick().until(sink.ready)
    ctx.set(sink.valid, 0)


async def stream_get(ctx: SimulatorContext, source: stream.Interface) -> Any:
    """Wait for a payload and take it."""
    ctx.set(source.ready, 1)
    payload, = await ctx.tick().sample(source.payload).until(source.valid)
    ctx.set(source.ready, 0)
    return payload


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

    async def produce(ctx: SimulatorContext) -> None:
        rng = random.Random(f"produce {seed}")
        for payload in inputs:
            while rng.random() < stall:
                await ctx.tick()
            await stream_put(ctx, dut.i, payload)

    async def consume(ctx: SimulatorContext) -> None:
        rng = random.Random(f"consume {seed}")
        cycle = 0
        while len(outputs) < count:
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid and ready:
                outputs.append((payload, cycle))
            cycle += 1
        ctx.set(dut.o.ready, 0)

    async def watchdog(ctx: SimulatorContext) -> None:
        await ctx.delay(max_cycles * PERIOD)
        raise TimeoutError(f"{len(outputs)} of {count} outputs after {max_cycles} cycles")

    sim = Simulator(dut)
    sim.add_clock(PERIOD)
    sim.add_testbench(produce)
    sim.add_testbench(consume)
    sim.add_testbench(watchdog, background=True)
    sim.run()
    return outputs
