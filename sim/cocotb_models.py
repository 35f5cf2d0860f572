"""cocotb benches with models of buses, run inside the simulator; but for SPI, others wrote them.

The test to run and what it plays come in the file that ``NOMUL_BENCH`` names.
"""
from __future__ import annotations

import json
import logging
import os
import random
import re
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


class _Controller:
    """An SPI controller in mode 0, whose clock has nothing to do with the circuit's.

    cocotbext-spi 0.5 has one too, but for cocotb 1.
    """

    def __init__(self, dut: Any, period: float) -> None:
        self._dut = dut
        self._half = round(period * PERIOD * 500)  # in picoseconds
        dut.sck.value, dut.cs_n.value, dut.copi.value = 0, 1, 0

    async def transfer(self, content: bytes, *, bits: int | None = None, lost: int = -1,
                       extra: int = -1) -> bytes:
        """Bytes that come while ``content`` goes; only the first ``bits`` of it, with one pulse of
        the clock lost or doubled where ``lost`` or ``extra`` say."""
        dut, read = self._dut, []
        levels = [byte >> 7 - n & 1 for byte in content for n in range(8)][:bits]
        dut.cs_n.value = 0
        for number, level in enumerate(levels):
            dut.copi.value = level
            await Timer(self._half, "ps")
            for _ in range((number != lost) + (number == extra)):
                assert int(dut.cipo_oe.value), "CIPO must be driven while selected"
                read.append(int(dut.cipo.value))
                dut.sck.value = 1
                await Timer(self._half, "ps")
                dut.sck.value = 0
                if number == extra:
                    await Timer(self._half, "ps")
        await Timer(self._half, "ps")
        dut.cs_n.value = 1
        await Timer(self._half, "ps")
        assert not int(dut.cipo_oe.value), "CIPO must be released when not selected"
        return bytes(sum(bit << 7 - n for n, bit in enumerate(read[at:at + 8]))
                     for at in range(0, len(read) - 7, 8))


@cocotb.test()
async def spi(dut: Any) -> None:
    """Frames to the circuit and from it, with trouble between them."""
    bench = _bench()
    Clock(dut.clk, PERIOD, unit="ns").start()
    controller = _Controller(dut, bench["period"])
    await _reset(dut)
    await Timer(round(bench["phase"] * 1000 * PERIOD), "ps")
    raw = b""
    for step in bench["steps"]:
        match step["do"]:
            case "send":
                raw += await controller.transfer(bytes.fromhex(step["bytes"]),
                                                 **step.get("trouble", {}))
            case "expect":
                due, got = bytes.fromhex(step["bytes"]), b""
                for _ in range(bench["limit"]):
                    raw += await controller.transfer(b"\x7e" * 5)
                    # Pairs of escapes, and flags beside each other, say nothing.
                    got = re.sub(rb"\x7e+", b"\x7e", raw.replace(b"\x7d\x7d", b""))
                    if got.count(b"\x7e") > 2 and raw.endswith(b"\x7e"):
                        break
                assert got.strip(b"\x7e") == due.strip(b"\x7e"), (
                    f"{step['why']}: must be {due.hex()}, not {got.hex()}")
                raw = b""
            case "forget":
                raw = b""
            case "reset":
                await _reset(dut, step["cycles"])
