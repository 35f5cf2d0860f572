"""How tables fill block RAM."""
from __future__ import annotations

from nomul.hw.spread import spread_size

__all__ = ["BlockShapes", "best_spread", "block_rams"]

BlockShapes = tuple[tuple[int, int], ...]
"""What a block RAM can be: bits of a word, and words."""

# Bits of a row for which a block RAM that is saved is worth it: each takes a table and a flip-flop.
_WORTHWHILE = 64
# More rows between two that are spread save next to nothing.
_MOST = 16


def block_rams(shapes: BlockShapes, width: int, rows: int) -> int:
    """The fewest block RAMs side by side, and one behind the other, that hold so many ``rows`` of
    ``width`` bits, all of one shape."""
    return min(-(-width // bits) * -(-rows // words) for bits, words in shapes)


def best_spread(shapes: BlockShapes, width: int, rows: int) -> int:
    """Rows between two that are spread over the words of the others (`nomul.hw.spread`) with which
    a table takes fewest block RAMs; 0 if that saves too few."""
    choices = range(min(_MOST, rows - 1) + 1) if rows > 2 else (0,)
    counts = {spread: block_rams(shapes, *spread_size(width, rows, spread)) for spread in choices}
    best = min(counts, key=lambda spread: (counts[spread], -spread))
    return best if (counts[0] - counts[best]) * _WORTHWHILE >= width else 0
