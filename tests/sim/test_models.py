# amaranth: UnusedElaboratable=no
"""The pins of a network against models of their buses; others wrote them, but for SPI."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Module, Signal, Value

from nomul.boards.board import LinkKind
from nomul.boards.frames import encode
from nomul.boards.top import link_top
from nomul.compiler.emit import emit
from nomul.compiler.errors import ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, Command, Reply
from nomul.hw.spi import SCK_CYCLES, SpiPeripheral
from nomul.hw.uart import UartReceiver
from nomul.sim.golden import run
from nomul.sim.verilator import run_bench

pytestmark = pytest.mark.cocotb

DIVISOR = 8
BENCH = "nomul.sim.cocotb_models"


@pytest.fixture(scope="module")
def digits() -> Network:
    return load(Path(__file__).parents[2] / "examples" / "zoo" / "digits_pow2_3bit.nomul")


def images(network: Network, count: int) -> Ints:
    rng = np.random.default_rng(11)
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def axi_bench(network: Network, codes: Ints, results: list[int]) -> dict[str, Any]:
    return {"images": [image.astype(np.uint8).tobytes().hex() for image in codes],
            "results": [bytes((label,)).hex() for label in results], "seed": 5, "stall": 0.3,
            "limit": 20_000}


def test_axi_streams(digits: Network, tmp_path: Path) -> None:
    codes = images(digits, 12)
    results = run(digits, codes).classes.tolist()
    circuit = emit(digits, make_plan(digits))
    run_bench(circuit.verilog, "digits", BENCH, "axi", axi_bench(digits, codes, results),
              tmp_path)


def test_the_test_of_axi_streams_can_fail(digits: Network, tmp_path: Path) -> None:
    codes = images(digits, 3)
    results = run(digits, codes).classes.tolist()
    results[2] = (results[2] + 1) % 10
    circuit = emit(digits, make_plan(digits))
    with pytest.raises(ToolError, match="test 'axi' of 'digits' must pass, but failed"):
        run_bench(circuit.verilog, "digits", BENCH, "axi", axi_bench(digits, codes, results),
                  tmp_path)


def send(content: bytes) -> dict[str, Any]:
    return {"do": "send", "bytes": content.hex()}


def request(number: int, image: Ints) -> bytes:
    return encode(bytes((Command.INFER, number)) + image.astype(np.uint8).tobytes())


def conversation(network: Network) -> Iterator[dict[str, Any]]:
    """A good frame after each kind of trouble."""
    codes = images(network, 10)
    classes = run(network, codes).classes.tolist()
    whole = request(99, codes[0])
    silence = {"do": "idle", "bits": 12}
    troubles: list[tuple[str, list[dict[str, Any]]]] = [
        ("nothing before", []),
        ("a frame cut off", [send(whole[:30])]),
        ("a byte dropped", [send(whole[:20] + whole[21:])]),
        ("the closing flag dropped, and more", [send(whole[:-9])]),
        ("bits changed", [send(whole[:40] + bytes((whole[40] ^ 0x10,)) + whole[41:])]),
        ("noise", [send(bytes(n * 73 % 251 for n in range(150))), silence]),
        ("a glitch on the line", [{"do": "low", "cycles": 3}, silence]),
        ("a break on the line", [send(whole[:25]), {"do": "low", "cycles": 30 * DIVISOR},
                                 silence]),
        ("a reset within a frame", [send(whole[:33]), {"do": "reset", "cycles": 4}]),
        ("a reset while it computes", [send(whole), {"do": "reset", "cycles": 2}, silence]),
    ]
    digest = bytes.fromhex(network.digest)[:DIGEST_BYTES]
    for number, ((why, trouble), image, label) in enumerate(
            zip(troubles, codes, classes, strict=True)):
        reply = bytes((Reply.RESULT, number)) + digest + label.to_bytes(CLASS_BYTES, "little")
        yield from trouble
        yield send(request(number, image))
        yield {"do": "expect", "bytes": encode(reply).hex(), "why": f"after {why}"}


def uart_bench(network: Network) -> dict[str, Any]:
    return {"divisor": DIVISOR, "steps": list(conversation(network)), "limit": 40_000}


def board_verilog(network: Network, link: LinkKind = LinkKind.UART) -> str:
    plan = make_plan(network)
    core = link_top(network, plan, lower(network, plan), link, divisor=DIVISOR, depth=64)
    return str(verilog.convert(core, name="board", emit_src=False, strip_internal_attrs=True))


def test_serial_line(digits: Network, tmp_path: Path) -> None:
    run_bench(board_verilog(digits), "board", BENCH, "uart", uart_bench(digits), tmp_path)


def test_the_test_of_the_serial_line_can_fail(digits: Network, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(UartReceiver):
        """Samples bits at their ends, and so takes the next one for each."""

        def elaborate(self, platform: object) -> Module:
            self.divisor = 2 * DIVISOR
            return super().elaborate(platform)

    monkeypatch.setattr("nomul.hw.serial_top.UartReceiver", Late)
    with pytest.raises(ToolError, match="test 'uart' of 'board' must pass, but failed"):
        run_bench(board_verilog(digits), "board", BENCH, "uart", uart_bench(digits), tmp_path)


def spi_conversation(network: Network) -> Iterator[dict[str, Any]]:
    """A good frame after each kind of trouble."""
    codes = images(network, 11)
    classes = run(network, codes).classes.tolist()
    whole = request(99, codes[0])
    forget = {"do": "forget"}
    troubles: list[tuple[str, list[dict[str, Any]]]] = [
        ("nothing before", []),
        ("a frame cut off between bytes", [send(whole[:30])]),
        ("a frame cut off within a byte", [{**send(whole), "trouble": {"bits": 203}}]),
        ("a byte dropped", [send(whole[:20] + whole[21:])]),
        ("bits changed", [send(whole[:40] + bytes((whole[40] ^ 0x10,)) + whole[41:])]),
        ("an edge of SCK lost", [{**send(whole), "trouble": {"lost": 100}}]),
        ("an edge of SCK too many", [{**send(whole), "trouble": {"extra": 100}}]),
        ("an edge lost in the first flag", [{**send(whole), "trouble": {"lost": 3}}]),
        ("noise", [send(bytes(n * 73 % 251 for n in range(150))), forget]),
        ("a reset within a frame", [send(whole[:33]), {"do": "reset", "cycles": 4}]),
        ("a reset while it computes", [send(whole), {"do": "reset", "cycles": 2}, forget]),
    ]
    digest = bytes.fromhex(network.digest)[:DIGEST_BYTES]
    for number, ((why, trouble), image, label) in enumerate(
            zip(troubles, codes, classes, strict=True)):
        reply = bytes((Reply.RESULT, number)) + digest + label.to_bytes(CLASS_BYTES, "little")
        yield from trouble
        yield send(request(number, image))
        yield {"do": "expect", "bytes": encode(reply).hex(), "why": f"after {why}"}


def spi_bench(network: Network, period: float) -> dict[str, Any]:
    return {"period": period, "phase": 0.37, "steps": list(spi_conversation(network)),
            "limit": 40}


@pytest.mark.parametrize("period", [SCK_CYCLES, 11.3])
def test_spi(period: float, digits: Network, tmp_path: Path) -> None:
    run_bench(board_verilog(digits, LinkKind.SPI), "board", BENCH, "spi",
              spi_bench(digits, period), tmp_path)


def test_the_test_of_spi_can_fail(digits: Network, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(SpiPeripheral):
        """Gives each bit two cycles later than it says."""

        def _send(self, m: Module, begins: Value, falls: Value, *, load: Value) -> None:
            pin, self.cipo = self.cipo, Signal()
            super()._send(m, begins, falls, load=load)
            once = Signal()
            m.d.sync += [once.eq(self.cipo), pin.eq(once)]
            self.cipo = pin

    monkeypatch.setattr("nomul.hw.serial_top.SpiPeripheral", Late)
    with pytest.raises(ToolError, match="test 'spi' of 'board' must pass, but failed"):
        run_bench(board_verilog(digits, LinkKind.SPI), "board", BENCH, "spi",
                  spi_bench(digits, SCK_CYCLES), tmp_path)
