"""cocotb benches with models of buses that others wrote, run inside the simulator.

The test to run and what it plays come in the file that ``NOMUL_BENCH`` names.
"""
from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Timer, with_timeout
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource
from cocotbext.uart import UartSink, UartSource

PERIOD = 10  # ns


def _bench() -> dict[str, Any]:
    bench: dict[str, Any] = json.loads(Path(os.environ["NOMUL_BENCH"]).read_text())
    return bench


async def _reset(dut: Any, cycles: int = 3) -> None:
    dut.rst.value = 1
    await ClockCycles(dut.clk, cycles)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 1)


@cocotb.test()
async def axi(dut: Any) -> None:
    """Images into ``s_axis``, results out of ``m_axis``, each a frame of bytes; both ends pause."""
    bench = _bench()
    Clock(dut.clk, PERIOD, unit="ns").start()
    dut.rst.value = 1
    source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
    sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
    rng = random.Random(bench["seed"])

    def pauses() -> Iterator[bool]:
        while True:
            yield rng.random() < bench["stall"]

    source.set_pause_generator(pauses())
    sink.set_pause_generator(pauses())
    await _reset(dut)
    for image in bench["images"]:
        await source.send(AxiStreamFrame(bytes.fromhex(image)))
    for number, due in enumerate(bench["results"]):
        frame = await with_timeout(sink.recv(), bench["limit"] * PERIOD, "ns")
        got = bytes(frame.tdata).hex()
        assert got == due, f"result {number} must be {due}, not {got}"
    assert not int(dut.frame_error.value), "frame_error must stay low"


@cocotb.test()
async def uart(dut: Any) -> None:
    """Bytes into ``rx`` and out of ``tx``, with trouble between them."""
    bench = _bench()
    logging.getLogger("cocotb").setLevel(logging.WARNING)
    bit = bench["divisor"] * PERIOD
    Clock(dut.clk, PERIOD, unit="ns").start()
    dut.rst.value = 1
    source = UartSource(dut.rx, baud=1e9 / bit)
    await _reset(dut)
    sink = UartSink(dut.tx, baud=1e9 / bit)
    for step in bench["steps"]:
        match step["do"]:
            case "send":
                await source.write(bytes.fromhex(step["bytes"]))
                await source.wait()
            case "expect":
                due, got = bytes.fromhex(step["bytes"]), b""
                while len(got) < len(due):
                    got += bytes(await with_timeout(sink.read(), bench["limit"] * PERIOD, "ns"))
                assert got == due, f"{step['why']}: must be {due.hex()}, not {got.hex()}"
            case "low":
                dut.rx.value = 0
                await Timer(step["cycles"] * PERIOD, "ns")
                dut.rx.value = 1
            case "idle":
                await Timer(step["bits"] * bit, "ns")
            case "reset":
                await _reset(dut, step["cycles"])
    await Timer(40 * bit, "ns")
    assert sink.empty(), "nothing may come that was not asked for"
