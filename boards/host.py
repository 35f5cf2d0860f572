"""A network on a board, from the computer that the board is plugged into."""
from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from nomul.boards.frames import Decoder, encode
from nomul.boards.ports import BoardError, LinePort
from nomul.compiler.emit import Port
from nomul.compiler.network import Network
from nomul.compiler.values import Ints
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, VERSION, Command, Refusal, Reply
from nomul.sim.golden import check_images

__all__ = ["Client", "Result", "Status"]

# Times that a request is sent, and reads that may bring nothing but other frames or noise.
_TRIES = 4
_READS = 100_000
# Seconds in which a network that could not keep up may take what it has.
_PAUSE = 0.05
_LOAD = "load the bitstream of this build"
_SILENT = ("does not answer; look at the port, its --baud and whether the bitstream of this build "
           "is loaded")
_DAMAGED = "its answers arrive damaged; look at --baud and at the cable"
_REASONS = {Refusal.COMMAND: f"does not know it; {_LOAD}",
            Refusal.LENGTH: f"takes images of another size; {_LOAD}",
            Refusal.OVERRUN: "cannot take images as fast as they come; make a bitstream with a "
                             "larger --queue or a lower --baud"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a board says of itself; counters since reset, modulo 2**16.

    Attributes
    ----------
    version : int
        Of the protocol.
    digest : bytes
        First bytes of the network's digest.
    image_bytes, result_bytes : int
        Of an image and of a result.
    answered, damaged, refused, overruns : int
        Results that were answered, frames that did not arrive whole, whole frames that were
        refused, and those of them because the network could not keep up.
    """

    version: int
    digest: bytes
    image_bytes: int
    result_bytes: int
    answered: int
    damaged: int
    refused: int
    overruns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a board makes of an image: its class, and the raw scores if the network gives them."""

    label: int
    scores: NDArray[np.int64] | None


@contextmanager
def _unplugged() -> Iterator[None]:
    """Say in a sentence that a port has failed."""
    try:
        yield
    except OSError as error:
        raise BoardError(f"board must stay plugged in, but its port failed ({error}); plug it in "
                         "and run again") from error


class Client:
    """Asks a network on a board.

    Parameters
    ----------
    port : LinePort
        The line to it; its timeout is what an answer may take.
    network : Network
        What must be on the board.
    s_axis, m_axis : Port
        How its images and results lie in beats, as in `nomul.compiler.emit.Emitted`.

    Raises
    ------
    BoardError
        The board does not answer, speaks another version, or holds another network.
    """

    def __init__(self, port: LinePort, network: Network, *, s_axis: Port, m_axis: Port) -> None:
        self._port = port
        self._network = network
        self._code_bytes = s_axis.bits // 8
        self._score_bytes = m_axis.bits // 8
        self._signed = m_axis.signed
        self._decoder = Decoder()
        # Anywhere, so that an answer that an earlier client did not wait for is hardly mistaken
        # for one to this client.
        self._number = secrets.randbelow(256)
        self._check(self.status())

    def status(self) -> Status:
        """What the board says of itself."""
        reply = self._ask(Command.QUERY, b"", Reply.STATUS)
        if len(reply) != 1 + DIGEST_BYTES + 2 * 4 + 4 * 2:
            raise BoardError(f"board must tell its status in version {VERSION} of the protocol, "
                             f"but sent {len(reply)} bytes; {_LOAD}")
        digest, rest = reply[1:1 + DIGEST_BYTES], reply[1 + DIGEST_BYTES:]
        sizes = [int.from_bytes(rest[at:at + 4], "little") for at in (0, 4)]
        counters = [int.from_bytes(rest[at:at + 2], "little") for at in range(8, 16, 2)]
        return Status(version=reply[0], digest=digest, image_bytes=sizes[0],
                      result_bytes=sizes[1], answered=counters[0], damaged=counters[1],
                      refused=counters[2], overruns=counters[3])

    def infer(self, codes: Ints) -> Iterator[Result]:
        """Results of the images ``codes``, shape [images, height, width, channels].

        Raises
        ------
        DataError
            They do not fit the network.
        BoardError
            The board does not answer, even when asked again.
        """
        for image in check_images(self._network, codes):
            content = image.reshape(-1).astype(f"<u{self._code_bytes}").tobytes()
            yield self._result(self._ask(Command.INFER, content, Reply.RESULT))

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def _check(self, status: Status) -> None:
        network = self._network
        expected = bytes.fromhex(network.digest)[:DIGEST_BYTES]
        if status.version != VERSION:
            raise BoardError(f"board must speak version {VERSION} of the protocol, not "
                             f"{status.version}; {_LOAD}")
        if status.digest != expected:
            raise BoardError(f"board must hold network '{network.name}' ({expected.hex()}), not "
                             f"one with digest {status.digest.hex()}; {_LOAD}")
        image_bytes = prod(network.input.shape) * self._code_bytes
        if status.image_bytes != image_bytes or status.result_bytes != self._result_bytes:
            raise BoardError(f"board must take images of {image_bytes} bytes and give results of "
                             f"{self._result_bytes}, not {status.image_bytes} and "
                             f"{status.result_bytes}; {_LOAD}")

    @property
    def _scores(self) -> int:
        elements = prod(self._network.output.shape)
        return elements if elements > 1 else 0

    @property
    def _result_bytes(self) -> int:
        return self._scores * self._score_bytes + CLASS_BYTES

    def _result(self, reply: bytes) -> Result:
        if len(reply) != DIGEST_BYTES + self._result_bytes:
            raise BoardError(f"board must answer with {DIGEST_BYTES + self._result_bytes} bytes, "
                             f"not {len(reply)}; {_LOAD}")
        digest, listed = reply[:DIGEST_BYTES], reply[DIGEST_BYTES:-CLASS_BYTES]
        if digest != bytes.fromhex(self._network.digest)[:DIGEST_BYTES]:
            raise BoardError(f"board must answer for network '{self._network.name}', not for one "
                             f"with digest {digest.hex()}; {_LOAD}")
        scores = None
        if listed:
            scores = np.array([
                int.from_bytes(listed[at:at + self._score_bytes], "little", signed=self._signed)
                for at in range(0, len(listed), self._score_bytes)], dtype=np.int64)
            scores = scores.reshape(self._network.output.shape)
        return Result(label=int.from_bytes(reply[-CLASS_BYTES:], "little"), scores=scores)

    def _ask(self, command: Command, content: bytes, wanted: Reply) -> bytes:
        """What is behind the number in the reply; asks again where none comes, or a refusal that
        may pass."""
        trouble = _SILENT
        for _ in range(_TRIES):
            damaged = self._decoder.damaged
            self._number = (self._number + 1) % 256
            self._send(encode(bytes((command, self._number)) + content))
            reply = self._reply()
            if reply is None:
                trouble = _SILENT if self._decoder.damaged == damaged else _DAMAGED
            elif reply[0] == wanted:
                return reply[2:]
            elif reply[0] == Reply.REFUSED and len(reply) == 3 and reply[2] in _REASONS:
                trouble = _REASONS[Refusal(reply[2])]
                if reply[2] != Refusal.OVERRUN:
                    break
                time.sleep(_PAUSE)
            else:
                trouble = f"sends frames of an unknown kind ({reply[0]:#04x}); {_LOAD}"
        raise BoardError(f"board must answer request {command.name}, but {trouble}")

    def _send(self, content: bytes) -> None:
        with _unplugged():
            self._port.write(content)

    def _reply(self) -> bytes | None:
        """The next frame that answers the latest request; none if the line stays silent."""
        for _ in range(_READS):
            with _unplugged():
                content = self._port.read(1)
                waiting: int = getattr(self._port, "in_waiting", 0)
                content += self._port.read(waiting) if content and waiting else b""
            if not content:
                return None
            for frame in self._decoder.feed(content):
                if len(frame) > 1 and frame[1] == self._number:
                    return frame
        return None  # nothing but noise
