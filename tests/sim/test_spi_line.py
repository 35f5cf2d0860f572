# amaranth: UnusedElaboratable=no
"""A network behind SPI in Verilator: through lost edges, spikes and resets, never wrong."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Const, Module, Signal, Value

from nomul.boards.board import LinkKind
from nomul.boards.frames import Decoder, Sieve, encode
from nomul.boards.top import link_top
from nomul.compiler.errors import ToolError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints
from nomul.hw.frames import FLAG
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, Command, Reply
from nomul.hw.spi import SCK_CYCLES, SpiPeripheral
from nomul.sim.golden import run
from nomul.sim.line import compiled_line
from nomul.sim.noise import Tally, disturb_spi, judge
from nomul.sim.spi_line import SpiPlay, SpiSimulation

pytestmark = pytest.mark.cocotb

DIGITS = Path(__file__).parents[2] / "examples" / "zoo" / "digits_pow2_3bit.nomul"
ASK = bytes((FLAG,)) * 80


def board_verilog(network: Network) -> str:
    plan = make_plan(network)
    core = link_top(network, plan, lower(network, plan), LinkKind.SPI, divisor=SCK_CYCLES)
    return str(verilog.convert(core, name="board", emit_src=False, strip_internal_attrs=True))


@pytest.fixture(scope="module")
def digits() -> Network:
    return load(DIGITS)


@pytest.fixture(scope="module")
def program(digits: Network) -> Iterator[Path]:
    with compiled_line(board_verilog(digits), "board", "spi_line") as path:
        yield path


@pytest.fixture
def board(program: Path) -> Iterator[SpiSimulation]:
    with SpiSimulation(program) as controller:
        yield controller


def images(network: Network, count: int, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def request(number: int, image: Ints) -> bytes:
    return encode(bytes((Command.INFER, number)) + image.astype(np.uint8).tobytes())


def answer(network: Network, number: int, image: Ints) -> bytes:
    digest = bytes.fromhex(network.digest)[:DIGEST_BYTES]
    label = int(run(network, image[np.newaxis]).classes[0])
    return bytes((Reply.RESULT, number)) + digest + label.to_bytes(CLASS_BYTES, "little")


def converse(network: Network, line: SpiSimulation, count: int, seed: int) -> Tally:
    """Send ``count`` images, with one byte in a hundred disturbed."""
    sent = images(network, count, seed)
    noisy = disturb_spi((request(n % 256, image) for n, image in enumerate(sent)), 0.01, seed=seed)
    line.play(noisy.items)
    decoder = Decoder()
    got = decoder.feed(Sieve().feed(line.finish()))
    return judge(noisy, got, network, sent)


def check(tally: Tally) -> None:
    assert 0.4 * tally.frames < tally.intact < 0.6 * tally.frames  # 0.99 ** 72
    assert (tally.wrong, tally.missing, tally.strange) == (0, 0, 0)
    assert tally.answered >= tally.intact


def test_noise_costs_only_what_it_disturbs(digits: Network, board: SpiSimulation) -> None:
    check(converse(digits, board, 300, seed=1))


@pytest.mark.full
def test_ten_thousand_frames_of_which_one_byte_in_a_hundred_is_disturbed(
        digits: Network, board: SpiSimulation) -> None:
    tally = converse(digits, board, 10_000, seed=2)
    print(tally)
    check(tally)


def test_the_test_of_noise_can_fail(digits: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(SpiPeripheral):
        """Goes on with a byte that was cut off, in the next transaction."""

        def _receive(self, m: Module, copi: Value, rises: Value, bit: Value, *,
                     cut: Value) -> None:
            kept = Signal(3)
            with m.If(rises):
                m.d.sync += kept.eq(kept + 1)
            super()._receive(m, copi, rises, kept, cut=Const(0))

    monkeypatch.setattr("nomul.hw.serial_top.SpiPeripheral", Endless)
    with (compiled_line(board_verilog(digits), "board", "spi_line") as program,
          SpiSimulation(program) as line):
        tally = converse(digits, line, 300, seed=1)
    assert tally.missing > 0
    with pytest.raises(AssertionError):
        check(tally)


def ask(line: SpiSimulation, frame: bytes) -> list[bytes]:
    """Send a frame; the frames that come meanwhile and then."""
    return Decoder().feed(Sieve().feed(line.exchange(frame) + line.exchange(ASK)))


PART = [(byte, SpiPlay.BYTE) for byte in b"\x7e\x02\x05\x01\x02\x03"]


@pytest.mark.parametrize(("name", "items"), [
    ("nothing", []),
    ("a frame that stops", PART),
    ("a chip-select that rises within a frame", [*PART, (2, SpiPlay.DESELECT)]),
    ("one that rises within a byte", [*PART, (9, SpiPlay.CUT)]),
    ("one that rises within the flag", [(FLAG, SpiPlay.CUT)]),
    ("a lost edge", [*PART, (9, SpiPlay.LOST), *PART]),
    ("an edge too many", [*PART, (9, SpiPlay.EXTRA), *PART]),
    ("eight edges too many", [*PART, *[(9, SpiPlay.EXTRA)] * 8]),
    ("spikes on SCK", [*PART, *[(1, SpiPlay.SPIKE)] * 3]),
    ("spikes on SCK while not selected", [(1, SpiPlay.SPIKE)] * 5),
    ("a reset within a frame", [*PART, (5, SpiPlay.RESET)]),
    ("a reset within a frame that goes on", [*PART, (5, SpiPlay.RESET), *PART]),
    ("noise", [(byte * 37 % 256, SpiPlay.BYTE) for byte in range(200)]),
    ("noise with lost edges", [(byte * 41 % 256, SpiPlay.LOST) for byte in range(50)]),
])
def test_after_any_trouble_the_next_frame_is_answered(
        name: str, items: list[tuple[int, SpiPlay]], digits: Network, board: SpiSimulation,
        ) -> None:
    del name
    image, later = images(digits, 2, seed=3)
    due = [answer(digits, 9, image), answer(digits, 10, later)]
    # Twice the trouble, so that what the first one left does not pile up.
    for _ in range(2):
        board.play([*items, (8, SpiPlay.DESELECT)])
        board.read(sum(kind <= SpiPlay.CUT for _, kind in items))
        for number, (one, reply) in enumerate(zip((image, later), due, strict=True), 9):
            assert ask(board, request(number, one)) == [reply]


def test_an_answer_may_be_fetched_in_pieces(digits: Network, board: SpiSimulation) -> None:
    image, = images(digits, 1, seed=4)
    content = board.exchange(request(7, image))
    for length in (1, 2, 3, 5, 1, 40, 1, 1, 30):
        content += board.exchange(ASK[:length])
    assert Decoder().feed(Sieve().feed(content)) == [answer(digits, 7, image)]


def test_an_answer_of_which_bits_get_lost_is_damaged(digits: Network, board: SpiSimulation,
                                                     ) -> None:
    image, = images(digits, 1, seed=5)
    board.exchange(request(7, image))
    board.play([*[(FLAG, SpiPlay.BYTE)] * 4, (FLAG, SpiPlay.EXTRA), (8, SpiPlay.DESELECT)])
    decoder = Decoder()
    assert decoder.feed(Sieve().feed(board.read(5) + board.exchange(ASK))) == []
    assert decoder.damaged == 1
    assert ask(board, request(8, image)) == [answer(digits, 8, image)]


def test_errors_are_counted(digits: Network, board: SpiSimulation) -> None:
    board.play([*PART, (9, SpiPlay.CUT)])
    board.read(7)
    status, = ask(board, encode(bytes((Command.QUERY, 3))))
    assert status[:3] == bytes((Reply.STATUS, 3, 1))
    counters = [int.from_bytes(status[at:at + 2], "little") for at in range(19, 27, 2)]
    assert counters == [0, 1, 0, 0]  # answered, damaged, refused, overruns


def test_the_simulation_says_why_it_ended(board: SpiSimulation) -> None:
    board.play([(0, 77)])  # type: ignore[list-item]
    with pytest.raises(ToolError, match="simulation must run on, but ended: unknown kind 77"):
        board.read(1)
