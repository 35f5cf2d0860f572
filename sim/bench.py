"""Running components in Amaranth's simulator."""
from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

__all__ = ["measure", "transfer"]

Beside = Sequence[tuple[Any, Iterable[Any]]]

PERIOD = 1e-6  # seconds; Amaranth 0.5 takes floats here


def transfer(dut: Any, inputs: Iterable[Any], count: int, *, seed: int,
             stall: float = 0.3, max_cycles: int = 100_000, beside: Beside = ()) -> list[Any]:
    """Feed ``inputs`` to ``dut.i``; return ``count`` payloads of ``dut.o``.

    Both ends stall at random, from ``seed``; a hang is an error, not a wait. ``beside`` are other
    streams within ``dut``, and what is fed to them meanwhile.
    """
    return [payload for payload, _ in _run(dut, inputs, count, seed, stall, max_cycles, beside)]


def measure(dut: Any, inputs: Iterable[Any], count: int, *, max_cycles: int = 100_000,
            beside: Beside = (), idle: int = 0) -> list[int]:
    """Feed ``inputs`` to ``dut.i`` as fast as it takes them, after so many ``idle`` cycles; return
    the cycles, counted from the first one in which an input is offered, in which each of ``count``
    outputs leaves. ``beside`` as of `transfer`."""
    return [cycle - idle for _, cycle in _run(dut, inputs, count, 0, 0.0, idle + max_cycles,
                                              beside, idle)]


def _run(dut: Any, inputs: Iterable[Any], count: int, seed: int, stall: float,
         max_cycles: int, beside: Beside, idle: int = 0) -> list[tuple[Any, int]]:
    outputs: list[tuple[Any, int]] = []
    finished = False

    def producer(name: str, sink: Any, payloads: Iterable[Any], idle: int = 0) -> Any:
        async def produce(ctx: SimulatorContext) -> None:
            rng = random.Random(f"{name} {seed}")
            if idle:
                await ctx.tick().repeat(idle)
            for payload in payloads:
                while rng.random() < stall and not finished:
                    await ctx.tick()
                ctx.set(sink.payload, payload)
                ctx.set(sink.valid, 1)
                taken = False
                while not (taken or finished):
                    _, _, taken = await ctx.tick().sample(sink.ready)
                ctx.set(sink.valid, 0)

        return produce

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
    sim.add_testbench(producer("produce", dut.i, inputs, idle))
    for n, (sink, payloads) in enumerate(beside):
        sim.add_testbench(producer(f"beside {n}", sink, payloads))
    sim.add_testbench(consume)
    sim.run()
    if len(outputs) < count:
        raise TimeoutError(f"{len(outputs)} of {count} outputs after {max_cycles} cycles")
    return outputs
