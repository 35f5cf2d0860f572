# amaranth: UnusedElaboratable=no
"""The host's side of the link: against a board made of Python, and one in Verilator."""
from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nomul.boards.board import LinkKind
from nomul.boards.frames import Decoder, encode
from nomul.boards.host import Client
from nomul.boards.ports import BoardError, SpiPort, link_of, open_port
from nomul.build import write_build
from nomul.compiler.emit import Port
from nomul.compiler.errors import DataError
from nomul.compiler.layers import Dense, Flatten, Input
from nomul.compiler.network import Network
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.compiler.values import Ints, Levels
from nomul.hw.frames import ESCAPE, FLAG
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, VERSION, Command, Refusal, Reply
from nomul.images import Images
from nomul.running import simulated_board
from nomul.sim.golden import run

ZOO = Path(__file__).parents[2] / "examples" / "zoo"
LOAD = "load the bitstream of this build"

# What goes onto the line in place of a reply.
Mischief = Callable[[bytes], bytes]


class FakeBoard:
    """A board in Python, and the port to it. Whatever it is asked, it answers at once.

    Parameters
    ----------
    network : Network
        What it holds.
    s_axis, m_axis : Port
        How its images and results lie in bytes.
    tricks : mischiefs
        What becomes of the first answers; those behind them are sent as they are.
    """

    def __init__(self, network: Network, s_axis: Port, m_axis: Port, *tricks: Mischief) -> None:
        self.network, self.s_axis, self.m_axis = network, s_axis, m_axis
        self.tricks = list(tricks)
        self.requests: list[bytes] = []
        self.closed = False
        self._decoder = Decoder()
        self._waiting = b""

    def write(self, content: bytes) -> int:
        for frame in self._decoder.feed(content):
            self.requests.append(frame)
            trick = self.tricks.pop(0) if self.tricks else encode
            self._waiting += trick(self._answer(frame))
        return len(content)

    def read(self, size: int = 1) -> bytes:
        content, self._waiting = self._waiting[:size], self._waiting[size:]
        return content

    def close(self) -> None:
        self.closed = True

    @property
    def _score_bytes(self) -> int:
        return self.m_axis.bits // 8

    def _answer(self, frame: bytes) -> bytes:
        digest = bytes.fromhex(self.network.digest)[:DIGEST_BYTES]
        shape, scores = self.network.input.shape, prod(self.network.output.shape)
        code_bytes = self.s_axis.bits // 8
        if frame[0] == Command.QUERY:
            sizes = (prod(shape) * code_bytes,
                     (scores > 1) * scores * self._score_bytes + CLASS_BYTES)
            return (bytes((Reply.STATUS, frame[1], VERSION)) + digest
                    + b"".join(size.to_bytes(4, "little") for size in sizes)
                    + b"".join(count.to_bytes(2, "little") for count in (700, 30, 2, 1)))
        assert frame[0] == Command.INFER
        codes = np.frombuffer(frame[2:], f"<u{code_bytes}").astype(np.int64).reshape(1, *shape)
        trace = run(self.network, codes)
        listed = b"" if scores == 1 else b"".join(
            score.to_bytes(self._score_bytes, "little", signed=self.m_axis.signed)
            for score in trace.output.reshape(-1).tolist())
        label = int(trace.classes[0]).to_bytes(CLASS_BYTES, "little")
        return bytes((Reply.RESULT, frame[1])) + digest + listed + label


class RealPort(FakeBoard):
    """As pySerial's, which tells how many bytes have come."""

    @property
    def in_waiting(self) -> int:
        return len(self._waiting)


class FailingPort(FakeBoard):
    """A port that is pulled out."""

    def __init__(self, *arguments: Any, fails: str) -> None:
        super().__init__(*arguments)
        self.fails = fails

    def write(self, content: bytes) -> int:
        if self.fails == "write":
            raise OSError(5, "Input/output error")
        return super().write(content)

    def read(self, size: int = 1) -> bytes:
        raise OSError(6, "Device not configured")


def silent(_reply: bytes) -> bytes:
    return b""


def damaged(reply: bytes) -> bytes:
    frame = bytearray(encode(reply))
    frame[4] ^= 0x01
    return bytes(frame)


def refused(reason: Refusal) -> Mischief:
    return lambda reply: encode(bytes((Reply.REFUSED, reply[1], reason)))


def changed(at: int, value: int) -> Mischief:
    return lambda reply: encode(reply[:at] + bytes((value,)) + reply[at + 1:])


def axis(bits: int = 8, *, signed: bool = False) -> Port:
    return Port(layer="any", lanes=1, bits=bits, signed=signed)


def dense(*, levels: int = 4, seed: int = 1) -> Network:
    """A network whose result is its three raw sums."""
    rng = np.random.default_rng(seed)
    return Network(name="tiny", layers=(
        Input(name="pixels", shape=(2, 3, 1), levels=Levels.uniform(levels)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="sums", inputs=("flat",), dictionary=np.array([-2, -1, 1]),
              assignment=rng.integers(0, 3, (3, 6)), bias=rng.integers(-9, 9, 3))))


@pytest.fixture
def digits() -> Network:
    return load(ZOO / "digits_pow2_3bit.nomul")


def images(network: Network, count: int, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    return rng.integers(0, len(network.input.levels), (count, *network.input.shape))


def client(board: FakeBoard) -> Client:
    return Client(board, board.network, s_axis=board.s_axis, m_axis=board.m_axis)


def complaint(board: FakeBoard) -> str:
    """What is said when the board is opened, or asked of an image; one sentence."""
    with pytest.raises(BoardError) as error:
        list(client(board).infer(images(board.network, 1, seed=0)))
    said = str(error.value)
    assert said.startswith("board must ") and "\n" not in said and "; " in said
    return said


@pytest.mark.parametrize("kind", [FakeBoard, RealPort])
def test_answers_are_those_of_the_golden_model(kind: type[FakeBoard], digits: Network) -> None:
    board = kind(digits, axis(), axis())
    sent = images(digits, 300, seed=1)  # numbers of requests wrap
    asked = client(board)
    results = list(asked.infer(sent))
    assert [result.label for result in results] == run(digits, sent).classes.tolist()
    assert {result.scores for result in results} == {None}
    numbers = [frame[1] for frame in board.requests]
    assert numbers == [(numbers[0] + n) % 256 for n in range(301)]
    assert not board.closed
    asked.close()
    assert board.closed


def test_the_status_is_what_the_board_says(digits: Network) -> None:
    status = client(FakeBoard(digits, axis(), axis())).status()
    assert status.digest.hex() == digits.digest[:2 * DIGEST_BYTES]
    assert (status.version, status.image_bytes, status.result_bytes) == (VERSION, 64, 2)
    assert (status.answered, status.damaged, status.refused, status.overruns) == (700, 30, 2, 1)


@pytest.mark.parametrize(("network", "s_axis", "m_axis"), [
    (dense(), axis(), axis(signed=True)),
    (dense(levels=300), axis(16), axis(16, signed=True)),
], ids=["bytes", "words"])
def test_raw_scores(network: Network, s_axis: Port, m_axis: Port) -> None:
    sent = images(network, 20, seed=2)
    trace = run(network, sent)
    assert trace.output.min() < 0 < trace.output.max()
    results = list(client(FakeBoard(network, s_axis, m_axis)).infer(sent))
    for result, scores, label in zip(results, trace.output, trace.classes, strict=True):
        assert result.label == label
        assert result.scores is not None and result.scores.dtype == np.int64
        np.testing.assert_array_equal(result.scores, scores)


def test_images_that_do_not_fit_are_not_sent(digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis())
    opened = client(board)
    with pytest.raises(DataError, match="images must have shape"):
        list(opened.infer(np.zeros((1, 28, 28, 1), int)))
    assert len(board.requests) == 1


@pytest.mark.parametrize(("tricks", "said"), [
    # Of the status: bytes 0 and 1 repeat what was asked, 2 is the version.
    ([changed(2, 9)], f"board must speak version 1 of the protocol, not 9; {LOAD}"),
    ([changed(11, 65)], "board must take images of 64 bytes and give results of 2, not 65 and 2; "
                        f"{LOAD}"),
    ([changed(15, 20)], "board must take images of 64 bytes and give results of 2, not 64 and "
                        f"20; {LOAD}"),
    ([lambda reply: encode(reply[:-1])], "board must tell its status in version 1 of the protocol, "
                                         f"but sent 24 bytes; {LOAD}"),
    ([refused(Refusal.COMMAND)], f"board must answer request QUERY, but does not know it; {LOAD}"),
    # Of a result.
    ([encode, lambda reply: encode(reply + b"\0")], "board must answer with 10 bytes, not 11; "
                                                    f"{LOAD}"),
    ([encode, lambda reply: encode(reply[:2])], f"board must answer with 10 bytes, not 0; {LOAD}"),
    ([encode, refused(Refusal.LENGTH)], "board must answer request INFER, but takes images of "
                                        f"another size; {LOAD}"),
    ([encode, *[changed(0, 0x83)] * 4], "board must answer request INFER, but sends frames of an "
                                        f"unknown kind (0x83); {LOAD}"),
    ([encode, *[refused(77)] * 4],  # type: ignore[arg-type]
     f"board must answer request INFER, but sends frames of an unknown kind (0xff); {LOAD}"),
])
def test_a_board_of_another_build_is_refused(tricks: list[Mischief], said: str, digits: Network,
                                             ) -> None:
    assert complaint(FakeBoard(digits, axis(), axis(), *tricks)) == said


def test_another_network_is_refused(digits: Network) -> None:
    other = load(ZOO / "digits_binary.nomul")
    board = FakeBoard(other, axis(), axis())
    with pytest.raises(BoardError) as error:
        Client(board, digits, s_axis=axis(), m_axis=axis())
    assert str(error.value) == (
        f"board must hold network 'digits' ({digits.digest[:16]}), not one with digest "
        f"{other.digest[:16]}; {LOAD}")
    # A board that was loaded anew behind the client's back.
    board = FakeBoard(digits, axis(), axis(), encode, changed(2, 0xEE))
    assert complaint(board) == (
        "board must answer for network 'digits', not for one with digest "
        f"ee{digits.digest[2:16]}; {LOAD}")


def test_a_silent_board_is_asked_four_times(digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis(), *[silent] * 4)
    assert complaint(board) == (
        "board must answer request QUERY, but does not answer; look at the port, its --baud and "
        "whether the bitstream of this build is loaded")
    assert len(board.requests) == 4


def test_answers_that_are_always_damaged_are_told_from_silence(digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis(), *[damaged] * 4)
    assert complaint(board) == ("board must answer request QUERY, but its answers arrive damaged; "
                                "look at --baud and at the cable")


def late(reply: bytes) -> bytes:
    """The answer to the request before, which nobody waits for any more."""
    return encode(bytes((reply[0], (reply[1] - 1) % 256)) + bytes(len(reply) - 2))


@pytest.mark.parametrize("trouble", [
    silent, damaged, late, changed(0, 0x99), lambda reply: b"noise", lambda reply: encode(b"\x82"),
    lambda reply: encode(reply)[:-1]], ids=["silence", "damage", "an old answer", "another kind",
                                            "noise", "a frame too short", "no flag"])
def test_after_any_trouble_it_asks_again(trouble: Mischief, digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis(), encode, encode, trouble, trouble, trouble)
    sent = images(digits, 3, seed=3)
    results = list(client(board).infer(sent))
    assert [result.label for result in results] == run(digits, sent).classes.tolist()
    # The second image went four times, each time with another number.
    assert [frame[2:] for frame in board.requests[1:]] == [
        sent[n].astype(np.uint8).tobytes() for n in (0, 1, 1, 1, 1, 2)]
    assert len({frame[1] for frame in board.requests}) == len(board.requests)


def test_old_answers_before_the_right_one_are_passed_over(digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis(), encode, lambda reply: late(reply) + encode(reply))
    sent = images(digits, 1, seed=4)
    result, = client(board).infer(sent)
    assert result.label == run(digits, sent).classes[0]
    assert len(board.requests) == 2


def test_a_line_that_never_falls_silent_is_given_up(digits: Network,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    class Babble(FakeBoard):
        def read(self, size: int = 1) -> bytes:
            return b"\x55" * size

    monkeypatch.setattr("nomul.boards.host._READS", 50)
    assert "does not answer" in complaint(Babble(digits, axis(), axis()))


def test_an_overrun_is_tried_again_after_a_pause(digits: Network,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("nomul.boards.host.time.sleep", pauses.append)
    overrun = refused(Refusal.OVERRUN)
    board = FakeBoard(digits, axis(), axis(), encode, overrun, overrun, overrun)
    sent = images(digits, 2, seed=5)
    results = list(client(board).infer(sent))
    assert [result.label for result in results] == run(digits, sent).classes.tolist()
    assert len(board.requests) == 6 and len(pauses) == 3 and min(pauses) > 0
    board = FakeBoard(digits, axis(), axis(), encode, *[overrun] * 4)
    assert complaint(board) == (
        "board must answer request INFER, but cannot take images as fast as they come; make a "
        "bitstream with a larger --queue or a lower --baud")


@pytest.mark.parametrize(("fails", "reason"), [
    ("write", "[Errno 5] Input/output error"), ("read", "[Errno 6] Device not configured")])
def test_a_board_that_is_pulled_out(fails: str, reason: str, digits: Network) -> None:
    said = complaint(FailingPort(digits, axis(), axis(), fails=fails))
    assert said == (f"board must stay plugged in, but its port failed ({reason}); plug it in and "
                    "run again")


@pytest.mark.parametrize("name", ["/dev/nomul-none", ".", "bad://x", ""])
def test_a_port_that_cannot_be_opened(name: str) -> None:
    with pytest.raises(BoardError, match=re.escape(
            f"port '{name}' must be a serial port that can be opened, but: ")) as error:
        open_port(name, 115_200)
    assert "\n" not in str(error.value)
    assert "look at its name and permissions" in str(error.value)


def test_a_port_opens_with_its_rate_and_gives_back_what_was_sent(digits: Network) -> None:
    port = open_port("loop://", 250_000, timeout=0.01)
    assert port.baudrate == 250_000 and port.timeout == 0.01  # type: ignore[attr-defined]
    # A line whose ends are joined: requests come back as if they were answers.
    with pytest.raises(BoardError, match=r"sends frames of an unknown kind \(0x01\)"):
        Client(port, digits, s_axis=axis(), m_axis=axis())
    port.close()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "serial":
            raise ModuleNotFoundError(name=name)
        return imported(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BoardError, match=r"'pyserial' must be installed .* 'nomul\[host\]'"):
        open_port("loop://", 9600)


class FakeSpi:
    """A controller, and behind it a board that answers a few bytes later, with pauses.

    Parameters
    ----------
    board : FakeBoard
    floating : bool
        Whether nothing drives the pin.
    """

    def __init__(self, board: FakeBoard, *, floating: bool = False) -> None:
        self.board = board
        self.floating = floating
        self.lengths: list[int] = []
        self._queue: list[int] = []

    def exchange(self, content: bytes) -> bytes:
        self.lengths.append(len(content))
        out = bytes((self._queue.pop(0) if self._queue else FLAG) for _ in content)
        self.board.write(content)
        while answer := self.board.read(1):
            self._queue += [*answer, *([ESCAPE] * 4 if self._pauses(answer) else [])]
        return b"\xff" * len(out) if self.floating else out

    def _pauses(self, last: bytes) -> bool:
        """Within a frame, but not between an escape and what it escapes."""
        return last not in (bytes((FLAG,)), bytes((ESCAPE,))) and len(self._queue) % 3 == 0

    def close(self) -> None:
        self.board.close()


def over_spi(network: Network, board: FakeBoard, **options: Any) -> Client:
    port = SpiPort(FakeSpi(board, **options), timeout=0.05)
    return Client(port, network, s_axis=board.s_axis, m_axis=board.m_axis)


def test_answers_over_spi(digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis())
    sent = images(digits, 300, seed=1)
    asked = over_spi(digits, board)
    assert [result.label for result in asked.infer(sent)] == run(digits, sent).classes.tolist()
    assert len(board.requests) == 301
    asked.close()
    assert board.closed


def test_escaped_bytes_pass_between_pauses(digits: Network) -> None:
    values = bytes((FLAG, ESCAPE, 0x5E, 0x5D, 0x20, 0, 255)) * 30
    board = FakeBoard(digits, axis(), axis(), lambda _reply: encode(values))
    port = SpiPort(FakeSpi(board), timeout=0.05)
    port.write(encode(bytes((Command.QUERY, 1))))
    got = b""
    while not got.endswith(b"\x7e") or len(got) < 2:
        got += port.read(1) + port.read(port.in_waiting)
    assert got == encode(values)
    assert port.read(1) == b""


@pytest.mark.parametrize("trouble", [silent, damaged, late, lambda reply: encode(reply)[:-1]])
def test_after_any_trouble_over_spi_it_asks_again(trouble: Mischief, digits: Network) -> None:
    board = FakeBoard(digits, axis(), axis(), encode, trouble, trouble, trouble)
    sent = images(digits, 2, seed=3)
    results = list(over_spi(digits, board).infer(sent))
    assert [result.label for result in results] == run(digits, sent).classes.tolist()


def test_a_pin_that_nothing_drives_is_silence(digits: Network) -> None:
    with pytest.raises(BoardError, match="board must answer request QUERY, but does not answer"):
        over_spi(digits, FakeBoard(digits, axis(), axis()), floating=True)


def test_long_requests_go_in_several_transactions(digits: Network) -> None:
    controller = FakeSpi(FakeBoard(digits, axis(), axis()))
    assert SpiPort(controller, timeout=0.05).write(bytes(10_000)) == 10_000
    assert controller.lengths == [4096, 4096, 1808]


@pytest.mark.parametrize(("name", "link"), [
    ("/dev/spidev0.0", LinkKind.SPI), ("/dev/spidev10.2", LinkKind.SPI),
    ("ftdi://ftdi:232h/1", LinkKind.SPI), ("/dev/ttyUSB0", LinkKind.UART), ("COM5", LinkKind.UART),
    ("loop://", LinkKind.UART), ("/dev/spidev", LinkKind.UART)])
def test_ports_are_told_by_their_names(name: str, link: LinkKind) -> None:
    assert link_of(name) is link


class FakeDevice:
    """As ``spidev.SpiDev``."""

    def __init__(self) -> None:
        self.mode = self.max_speed_hz = -1
        self.closed = False

    def open(self, bus: int, select: int) -> None:
        if bus == 9:
            raise FileNotFoundError(2, "No such file or directory")
        self.place = (bus, select)

    def xfer2(self, values: list[int]) -> list[int]:
        return [255 - value for value in values]

    def close(self) -> None:
        self.closed = True


def test_spi_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeDevice] = []

    def make() -> FakeDevice:
        made.append(FakeDevice())
        return made[-1]

    monkeypatch.setitem(sys.modules, "spidev", SimpleNamespace(SpiDev=make))
    port = open_port("/dev/spidev1.2", 5_000_000, timeout=0.01)
    device, = made
    assert (device.place, device.mode, device.max_speed_hz) == ((1, 2), 0, 5_000_000)
    port.write(b"\x81\x02")
    assert port.read(2) == b"\x7e\xfd"
    port.close()
    assert device.closed
    with pytest.raises(BoardError) as error:
        open_port("/dev/spidev9.0", 5_000_000)
    assert str(error.value) == (
        "port '/dev/spidev9.0' must be an SPI device that can be opened, but: [Errno 2] No such "
        "file or directory; look at its name and permissions, and whether the board is plugged in")


@pytest.mark.parametrize(("fastest", "baud", "asked"), [
    # The chip divides its clock by whole numbers, and pyftdi takes the nearest one.
    (30e6, 5_062_500, 5e6), (30e6, 4_000_000, 3.75e6), (6e6, 5_062_500, 3e6), (30e6, 50e6, 30e6)])
def test_spi_of_an_ftdi_chip(fastest: float, baud: int, asked: float,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Controller:
        frequency_max = fastest

        def configure(self, url: str) -> None:
            calls.append(url)

        def get_port(self, **options: Any) -> Any:
            calls.append(options)
            return self

        def exchange(self, content: bytes, *, duplex: bool) -> bytes:
            assert duplex
            return content[::-1]

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr("pyftdi.spi.SpiController", Controller)
    port = open_port("ftdi://ftdi:232h/1", baud, timeout=0.01)
    assert calls == ["ftdi://ftdi:232h/1", {"cs": 0, "freq": asked, "mode": 0}]
    port.write(b"\x05\x7e")
    assert port.read(2) == b"\x7e\x05"
    port.close()
    assert calls[-1] == "closed"


@pytest.mark.parametrize("name", ["ftdi://ftdi:232h:none/1", "ftdi://nomul", "ftdi://ftdi:232h/9"])
def test_an_ftdi_chip_that_is_not_there(name: str) -> None:
    with pytest.raises(BoardError, match=re.escape(
            f"port '{name}' must be an FTDI chip that can be opened, but: ")) as error:
        open_port(name, 1_000_000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "package"), [("/dev/spidev0.0", "spidev"),
                                               ("ftdi://ftdi:232h/1", "pyftdi")])
def test_a_missing_package_for_spi_is_named(name: str, package: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(module: str, *more: Any) -> Any:
        if module.startswith(package):
            raise ModuleNotFoundError(name=module)
        return imported(module, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BoardError, match=rf"'{package}' must be installed .* 'nomul\[spi\]'"):
        open_port(name, 9600)


@pytest.mark.cocotb
@pytest.mark.parametrize("link", LinkKind)
def test_a_network_with_scores_in_verilator(link: LinkKind, tmp_path: Path) -> None:
    network = dense(seed=6)
    sent = images(network, 12, seed=7)
    built = write_build(tmp_path / "build", network, make_plan(network),
                        Images(source="random", split="", codes=sent, labels=None))
    with simulated_board(built, link) as line:
        asked = Client(line, network, s_axis=built.circuit.s_axis, m_axis=built.circuit.m_axis)
        results = list(asked.infer(sent))
        # A frame that says nothing, which the board counts and does not answer.
        line.write(b"\x7e\x55\x7e")
        status = asked.status()
    trace = run(network, sent)
    assert [result.label for result in results] == trace.classes.tolist()
    for result, scores in zip(results, trace.output, strict=True):
        np.testing.assert_array_equal(result.scores, scores)
    assert (status.answered, status.damaged, status.refused, status.overruns) == (12, 1, 0, 0)
