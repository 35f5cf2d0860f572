"""Noise on a line: frames of which some bytes are changed, lost or doubled, and what is due."""
from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nomul.compiler.network import Network
from nomul.compiler.values import Ints
from nomul.hw.frames import FLAG
from nomul.hw.link import CLASS_BYTES, DIGEST_BYTES, Reply
from nomul.sim.golden import run
from nomul.sim.line import Play
from nomul.sim.spi_line import SpiPlay

__all__ = ["Noisy", "Tally", "disturb", "disturb_spi", "judge"]

# Frames behind the one answered last among which the next one answered is looked for.
_AHEAD = 200


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Frames as they go over a noisy line.

    Parameters
    ----------
    items : tuple of (int, Play or SpiPlay)
        What the line does.
    intact, whole : tuple of bool
        Of each frame, whether all of its bytes arrive as they were sent; and whether all between
        its flags do: such a frame may be read right, because flags of its neighbours are as good.
    bytes_sent, bytes_disturbed : int
        In all.
    """

    items: tuple[tuple[int, enum.IntEnum], ...]
    intact: tuple[bool, ...]
    whole: tuple[bool, ...]
    bytes_sent: int
    bytes_disturbed: int


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a noisy conversation came to: frames that arrived as they were sent, answers, wrong
    ones, intact frames without one, and answers to what did not arrive whole."""

    frames: int
    intact: int
    answered: int
    wrong: int
    missing: int
    strange: int
    bytes_sent: int
    bytes_disturbed: int


_Items = Sequence[tuple[int, enum.IntEnum]]


def disturb(frames: Iterable[bytes], chance: float, *, seed: int, gap: int = 2) -> Noisy:
    """``frames`` on a serial line on which each byte is disturbed with ``chance``.

    Of the disturbed bytes 7 in 10 have some bits changed, and 1 in 10 each is lost, comes twice, or
    comes with a low stop bit. ``gap`` bits of silence follow each frame, and a byte's time after a
    low stop bit, as a line has it between a stop bit that was disturbed and the next start.
    """
    def disturbed(byte: int, at: int, rng: random.Random) -> tuple[_Items, bool]:
        del at
        kind = rng.randrange(10)
        if kind < 7:
            return [(byte ^ rng.randrange(1, 256), Play.BYTE)], True
        items: _Items = {7: [], 8: [(byte, Play.BYTE)] * 2,
                         9: [(byte, Play.BROKEN), (10, Play.IDLE)]}[kind]
        return items, True

    return _disturb(frames, chance, seed, Play.BYTE, disturbed, [(gap, Play.IDLE)])


def disturb_spi(frames: Iterable[bytes], chance: float, *, seed: int, asked: int = 80) -> Noisy:
    """``frames`` over SPI, each in a transaction, with each byte disturbed with ``chance``.

    Of the disturbed bytes 1 in 4 has some bits changed, and 1 in 8 each is lost, comes twice, lacks
    an edge of SCK, has one too many, is cut off by the chip-select, or comes after a spike on SCK.
    A transaction of ``asked`` flags follows each frame.
    """
    def disturbed(byte: int, at: int, rng: random.Random) -> tuple[_Items, bool]:
        kind = rng.randrange(8)
        if kind < 2:
            return [(byte ^ rng.randrange(1, 256), SpiPlay.BYTE)], True
        items: _Items = {
            2: [], 3: [(byte, SpiPlay.BYTE)] * 2, 4: [(byte, SpiPlay.LOST)],
            5: [(byte, SpiPlay.EXTRA)], 6: [(byte, SpiPlay.CUT)],
            7: [(rng.randrange(1, 4), SpiPlay.SPIKE), (byte, SpiPlay.BYTE)],
        }[kind]
        # A spike before a transaction begins is none.
        return items, kind < 4 or (kind == 7 and at == 0)

    between = [(8, SpiPlay.DESELECT), *[(FLAG, SpiPlay.BYTE)] * asked, (8, SpiPlay.DESELECT)]
    return _disturb(frames, chance, seed, SpiPlay.BYTE, disturbed, between)


def _disturb(frames: Iterable[bytes], chance: float, seed: int, plain: enum.IntEnum,
             disturbed: Callable[[int, int, random.Random], tuple[_Items, bool]],
             between: _Items) -> Noisy:
    """``disturbed`` gives what becomes of a byte at its place in a frame, and whether those behind
    it arrive as they were."""
    rng = random.Random(seed)
    items: list[tuple[int, enum.IntEnum]] = []
    intact, inner = [], []
    sent = hit = 0
    for frame in frames:
        good = whole = True
        for at, byte in enumerate(frame):
            sent += 1
            if rng.random() >= chance:
                items.append((byte, plain))
                continue
            hit += 1
            good = False
            instead, alone = disturbed(byte, at, rng)
            whole &= alone and at in (0, len(frame) - 1)
            items += instead
        intact.append(good)
        inner.append(whole)
        items += between
    return Noisy(items=tuple(items), intact=tuple(intact), whole=tuple(inner),
                 bytes_sent=sent, bytes_disturbed=hit)


def judge(noisy: Noisy, replies: Iterable[bytes], network: Network, codes: Ints) -> Tally:
    """What came of images ``codes``, which were sent as ``noisy`` with their numbers modulo 256.

    Replies are matched in their order: each one must be that of a frame behind the one that was
    answered last, and arrived whole.
    """
    classes = np.concatenate([run(network, codes[at:at + 256]).classes
                              for at in range(0, len(codes), 256)])
    digest = bytes.fromhex(network.digest)[:DIGEST_BYTES]
    due = [n for n, whole in enumerate(noisy.whole) if whole]
    answered = set()
    wrong = strange = at = 0
    for frame in replies:
        if frame[0] != Reply.RESULT or frame[2:2 + DIGEST_BYTES] != digest:
            strange += 1
            continue
        later = next((k for k in range(at, min(at + _AHEAD, len(due)))
                      if due[k] % 256 == frame[1]), None)
        if later is None:
            strange += 1  # an answer to nothing that arrived whole
            continue
        at = later + 1
        answered.add(due[later])
        wrong += int.from_bytes(frame[-CLASS_BYTES:], "little") != classes[due[later]]
    intact = {n for n, good in enumerate(noisy.intact) if good}
    return Tally(frames=len(codes), intact=len(intact), answered=len(answered), wrong=wrong,
                 missing=len(intact - answered), strange=strange, bytes_sent=noisy.bytes_sent,
                 bytes_disturbed=noisy.bytes_disturbed)
