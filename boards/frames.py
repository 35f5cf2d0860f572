"""Frames as the host sends and reads them; docs/link.md says what lies where."""
from __future__ import annotations

import zlib

from nomul.hw.crc import CRC_BYTES
from nomul.hw.frames import ESCAPE, ESCAPED, FLAG

__all__ = ["Decoder", "Sieve", "encode"]


def encode(content: bytes) -> bytes:
    """``content`` as it goes onto the line: flag, bytes, checksum, flag."""
    checked = content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")
    escaped = b"".join(bytes((ESCAPE, byte ^ ESCAPED)) if byte in (FLAG, ESCAPE) else bytes((byte,))
                       for byte in checked)
    return bytes((FLAG, *escaped, FLAG))


class Decoder:
    """Bytes off the line to the frames in them.

    Attributes
    ----------
    damaged : int
        Frames so far whose checksum was wrong.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._frame = bytearray()
        self._escaped = False

    def feed(self, content: bytes) -> list[bytes]:
        """Good frames that ``content`` completes, without their checksums."""
        frames = []
        for byte in content:
            if byte == FLAG:
                whole, checksum = bytes(self._frame[:-CRC_BYTES]), self._frame[-CRC_BYTES:]
                if self._frame or self._escaped:
                    if (not self._escaped and len(checksum) == CRC_BYTES
                            and zlib.crc32(whole) == int.from_bytes(checksum, "little")):
                        frames.append(whole)
                    else:
                        self.damaged += 1
                self._frame.clear()
                self._escaped = False
            elif byte == ESCAPE and not self._escaped:
                self._escaped = True
            else:
                self._frame.append(byte ^ ESCAPED if self._escaped else byte)
                self._escaped = False
        return frames


class Sieve:
    """Bytes off SPI to those that say something.

    Where a board has nothing to say it sends flags, and within a frame pairs of escapes. Flags
    behind a flag and pairs of escapes are left out, and so is all that comes before the first
    flag: a board sends one at least, and what nothing drives is no board.
    """

    def __init__(self) -> None:
        self._begun = False
        self._idle = False  # the last byte was a flag
        self._escaping = False  # it was an escape, and the next one tells what for

    def feed(self, content: bytes) -> bytes:
        """What is left of ``content``."""
        left = bytearray()
        for byte in content:
            self._begun |= byte == FLAG
            if not self._begun:
                continue
            if byte == ESCAPE:
                self._escaping = not self._escaping
                continue
            if self._escaping:
                left.append(ESCAPE)
            if byte != FLAG or self._escaping or not self._idle:
                left.append(byte)
            self._escaping = False
            self._idle = byte == FLAG
        return bytes(left)
