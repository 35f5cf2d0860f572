# amaranth: UnusedElaboratable=no
"""A network behind a serial line in Verilator: through noise, breaks and resets, never wrong."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring

from nomul.boards.board import LinkKind
from nomul.boards.frames import Decoder, encode
from nomul.boards.top import link_top
from nomul.compiler.errors import ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.hw.frames import Unframer
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, Command, Reply
from nomul.sim.golden import run
from nomul.sim.line import LineSimulation, Play, compiled_line
from nomul.sim.noise import Tally, disturb, judge

pytestmark = pytest.mark.cocotb

DIGITS = Path(__file__).parents[2] / "examples" / "zoo" / "digits_pow2_3bit.nomul"
DIVISOR = 8
PATIENCE = 40_000


def board_verilog(network: Network) -> str:
    plan = make_plan(network)
    core = link_top(network, plan, lower(network, plan), LinkKind.UART, divisor=DIVISOR)
    return str(verilog.convert(core, name="board", emit_src=False, strip_internal_attrs=True))


def start(program: Path, **options: Any) -> LineSimulation:
    return LineSimulation(program, **{"divisor": DIVISOR, "patience": PATIENCE, **options})


@pytest.fixture(scope="module")
def digits() -> Network:
    return load(DIGITS)


@pytest.fixture(scope="module")
def program(digits: Network) -> Iterator[Path]:
    with compiled_line(board_verilog(digits), "board") as path:
        yield path


@pytest.fixture
def board(program: Path) -> Iterator[LineSimulation]:
    with start(program) as line:
        yield line


def images(network: Network, count: int, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def request(number: int, image: Ints) -> bytes:
    return encode(bytes((Command.INFER, number)) + image.astype(np.uint8).tobytes())


def answer(network: Network, number: int, image: Ints) -> bytes:
    digest = bytes.fromhex(network.digest)[:DIGEST_BYTES]
    label = int(run(network, image[np.newaxis]).classes[0])
    return bytes((Reply.RESULT, number)) + digest + label.to_bytes(CLASS_BYTES, "little")


def converse(network: Network, line: LineSimulation, count: int, chance: float, seed: int,
             ) -> Tally:
    """Send ``count`` images over a line that disturbs bytes with ``chance``."""
    sent = images(network, count, seed)
    noisy = disturb((request(n % 256, image) for n, image in enumerate(sent)), chance, seed=seed)
    line.play(noisy.items)
    decoder = Decoder()
    got = decoder.feed(line.finish())
    assert not decoder.damaged
    return judge(noisy, got, network, sent)


def check(tally: Tally) -> None:
    assert 0.4 * tally.frames < tally.intact < 0.6 * tally.frames  # 0.99 ** 72
    assert (tally.wrong, tally.missing, tally.strange) == (0, 0, 0)
    assert tally.answered >= tally.intact


def test_a_noisy_line_costs_only_what_it_disturbs(digits: Network, board: LineSimulation) -> None:
    check(converse(digits, board, 300, 0.01, seed=1))


@pytest.mark.full
def test_ten_thousand_frames_of_which_one_byte_in_a_hundred_is_disturbed(
        digits: Network, board: LineSimulation) -> None:
    tally = converse(digits, board, 10_000, 0.01, seed=2)
    print(tally)
    check(tally)


def test_the_test_of_noise_can_fail(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trusting(Unframer):
        """Takes every frame for good, whatever its checksum."""

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.inner = inner = Unframer()
            wiring.connect(m, wiring.flipped(self.i), inner.i)
            m.d.comb += [
                self.o.p.byte.eq(inner.o.p.byte), self.o.p.end.eq(inner.o.p.end),
                self.o.p.good.eq(1), self.o.valid.eq(inner.o.valid),
                inner.o.ready.eq(self.o.ready),
            ]
            return m

    monkeypatch.setattr("nomul.hw.link.Unframer", Trusting)
    with (compiled_line(board_verilog(digits), "board") as program, start(program) as line):
        tally = converse(digits, line, 300, 0.01, seed=1)
    assert tally.strange or tally.wrong
    with pytest.raises(AssertionError):
        check(tally)


def ask(line: LineSimulation, frame: bytes, length: int) -> list[bytes]:
    """Send a frame; the frames in the ``length`` bytes that come."""
    line.write(frame)
    return Decoder().feed(line.read(length))


@pytest.mark.parametrize(("name", "items"), [
    ("nothing", []),
    ("a frame that stops", [(byte, Play.BYTE) for byte in b"\x7e\x02\x05\x01\x02\x03"]),
    ("a reset within a frame", [*((byte, Play.BYTE) for byte in b"\x7e\x02\x05\x01\x02\x03"),
                                (5, Play.RESET)]),
    ("a glitch", [(3, Play.LOW), (12, Play.IDLE)]),
    ("a break", [(255, Play.LOW), (12, Play.IDLE)]),
    ("noise", [*((byte * 37 % 256, Play.BYTE) for byte in range(200)), (12, Play.IDLE)]),
    ("noise without stop bits", [*((byte * 41 % 256, Play.BROKEN) for byte in range(50)),
                                 (12, Play.IDLE)]),
])
def test_after_any_trouble_the_next_frame_is_answered(
        name: str, items: list[tuple[int, Play]], digits: Network, board: LineSimulation) -> None:
    del name
    image, later = images(digits, 2, seed=3)
    due = [answer(digits, 9, image), answer(digits, 10, later)]
    # Twice the trouble, so that what the first one left does not pile up.
    for _ in range(2):
        board.play(items)
        for number, (one, reply) in enumerate(zip((image, later), due, strict=True), 9):
            assert ask(board, request(number, one), len(encode(reply))) == [reply]


def test_the_simulation_says_why_it_ended(board: LineSimulation) -> None:
    board.play([(0, 77)])  # type: ignore[list-item]
    with pytest.raises(ToolError, match="simulation must run on, but ended: unknown kind 77"):
        board.read(1)


def test_a_silent_circuit_is_waited_for_no_longer_than_told(program: Path) -> None:
    with start(program, patience=1000, timeout=0.2) as line:
        assert line.read(1) == b""


def test_a_missing_simulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_arguments: Any) -> None:
        return None

    monkeypatch.setattr("shutil.which", missing)
    with pytest.raises(ToolError, match=r"g\+\+ must be installed"):
        with compiled_line("module board; endmodule", "board"):
            pass
