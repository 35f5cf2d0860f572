"""Noise on a line: frames of which some bytes are changed, lost or doubled, and what is due."""
from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nomul.sim.line import Play

__all__ = ["Noisy", "disturb"]


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Frames as they go over a noisy line.

    Parameters
    ----------
    items : tuple of (int, Play)
        What the line does.
    intact, whole : tuple of bool
        Of each frame, whether all of its bytes arrive as they were sent; and whether all between
        its flags do: such a frame may be read right, because flags of its neighbours are as good.
    bytes_sent, bytes_disturbed : int
        In all.
    """

    items: tuple[tuple[int, Play], ...]
    intact: tuple[bool, ...]
    whole: tuple[bool, ...]
    bytes_sent: int
    bytes_disturbed: int


def disturb(frames: Iterable[bytes], chance: float, *, seed: int, gap: int = 2) -> Noisy:
    """``frames`` on a line on which each byte is disturbed with ``chance``.

    Of the disturbed bytes 7 in 10 have some bits changed, and 1 in 10 each is lost, comes twice, or
    comes with a low stop bit. ``gap`` bits of silence follow each frame, and a byte's time after a
    low stop bit, as a line has it between a stop bit that was disturbed and the next start.
    """
    rng = random.Random(seed)
    items: list[tuple[int, Play]] = []
    intact, inner = [], []
    sent = disturbed = 0
    for frame in frames:
        good = whole = True
        for at, byte in enumerate(frame):
            sent += 1
            if rng.random() >= chance:
                items.append((byte, Play.BYTE))
                continue
            disturbed += 1
            good = False
            whole &= at in (0, len(frame) - 1)
            items += _disturbed(byte, rng)
        intact.append(good)
        inner.append(whole)
        items.append((gap, Play.IDLE))
    return Noisy(items=tuple(items), intact=tuple(intact), whole=tuple(inner),
                 bytes_sent=sent, bytes_disturbed=disturbed)


def _disturbed(byte: int, rng: random.Random) -> Sequence[tuple[int, Play]]:
    kind = rng.randrange(10)
    if kind < 7:
        return [(byte ^ rng.randrange(1, 256), Play.BYTE)]
    return {7: [], 8: [(byte, Play.BYTE)] * 2,
            9: [(byte, Play.BROKEN), (10, Play.IDLE)]}[kind]
