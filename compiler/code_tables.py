"""Staircases as tables of codes, addressed by the upper bits of accumulators: found exactly."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.compiler.values import Ints, Staircase
from nomul.hw.code_table import table_size

__all__ = ["MOST_WORDS", "TableTerms", "table_terms"]

#: Places of all tables of a layer: as many as one block RAM of an ECP5 has for codes of 4 bits, and
#: four of an iCE40. The longest activation table that nomul trains has 1,024.
MOST_WORDS = 4096


@dataclass(frozen=True, kw_only=True)
class TableTerms:
    """A staircase as tables: ``code = tables[which][clip((accumulator + offset) >> shift, 0,
    words - 1)]``. One that falls has a table that does."""

    shift: int
    offsets: Ints
    """Shape [outputs]."""
    tables: Ints
    """Codes, shape [tables, words]."""
    which: Ints
    """Shape [outputs]: the number of each one's table."""

    @property
    def words(self) -> int:
        """Places that all tables take together."""
        return len(self.tables) * table_size(self.tables.shape[1])


def table_terms(staircase: Staircase, low: Ints, high: Ints) -> TableTerms | None:
    """The shortest tables that give the same codes for every accumulator from ``low`` to ``high``,
    shape [outputs]; None if they would have more than `MOST_WORDS` places.

    Outputs whose thresholds are the same but for an offset share a table. Only thresholds matter
    that an accumulator of one of these outputs can lie on both sides of, and those in between: all
    of a table's must be multiples of ``2**shift`` apart. An output whose code never changes takes
    a place in a table of others, if there is one for it.
    """
    outputs, top = len(low), len(staircase.levels) - 1
    directions = np.broadcast_to(staircase.directions, outputs)
    constants = np.broadcast_to(staircase.constants, outputs)
    falling = directions < 0
    # Where the code becomes another one: x <= t is passed until t + 1.
    starts = np.broadcast_to(staircase.thresholds, (outputs, top)) + falling[:, None]
    passed = (starts <= low[:, None]).sum(axis=1)
    still = (directions == 0) | (passed == (starts <= high[:, None]).sum(axis=1))
    codes = np.where(directions == 0, constants, np.where(falling, top - passed, passed))

    shapes = np.concatenate([starts - starts[:, :1], falling[:, None]], axis=1)
    moving = np.flatnonzero(~still)
    kinds, kind_of = np.unique(shapes[moving], axis=0, return_inverse=True)
    groups = [moving[kind_of.reshape(-1) == kind] for kind in range(len(kinds))]
    inner = [_inside(starts[group], low[group], high[group]) for group in groups]
    shift = min((_common_twos(places) for places in inner if len(places) > 1),
                default=int((high - low).max()).bit_length())
    step = 1 << shift

    offsets, which = np.zeros(outputs, dtype=np.int64), np.zeros(outputs, dtype=np.int64)
    tables: dict[tuple[int, ...], int] = {}
    for group, places in zip(groups, inner, strict=True):
        size = (int(places[-1] - places[0]) >> shift) + 2
        if size + sum(map(len, tables)) > MOST_WORDS:
            return None
        # Below the first place any integer stands for all: the nearest one is within reach.
        at = places[0] + np.concatenate([[-1], np.arange(size - 1) << shift])
        rises = np.searchsorted(starts[group[0]] - starts[group[0], 0], at, side="right")
        table = tuple((top - rises if falling[group[0]] else rises).tolist())
        which[group] = tables.setdefault(table, len(tables))
        offsets[group] = step - places[0] - starts[group, 0]
    if not tables:
        tables[tuple(np.unique(codes).tolist())] = 0
    for output in np.flatnonzero(still).tolist():
        which[output], offsets[output] = _place(tables, int(codes[output]), step, int(low[output]),
                                                int(high[output]))

    words = max(map(len, tables))
    found = TableTerms(shift=shift, offsets=offsets, which=which, tables=np.array(
        [[*table, *[table[-1]] * (words - len(table))] for table in tables]))
    return found if found.words <= MOST_WORDS else None


def _inside(starts: Ints, low: Ints, high: Ints) -> Ints:
    """Where the codes of outputs change that are the same but for an offset, counted from the
    first threshold: between the lowest and the highest that any of them reaches."""
    places = np.unique(starts[0] - starts[0, 0])
    reach = (low - starts[:, 0]).min(), (high - starts[:, 0]).max()
    found: Ints = places[(places > reach[0]) & (places <= reach[1])]
    return found


def _common_twos(places: Ints) -> int:
    """The logarithm of the largest power of two that divides all their distances."""
    distance = int(np.gcd.reduce(places - places[0]))
    return (distance & -distance).bit_length() - 1


def _place(tables: dict[tuple[int, ...], int], code: int, step: int, low: int, high: int,
           ) -> tuple[int, int]:
    """The number of a table and an offset for which sums from ``low`` to ``high`` have ``code``;
    a table is added to ``tables`` if they lack one."""
    for table, number in tables.items():
        if code not in table:
            continue
        first, last = table.index(code), len(table) - 1 - table[::-1].index(code)
        if first == 0:
            return number, (last + 1) * step - 1 - high
        if last == len(table) - 1 or high - low < (last + 1 - first) * step:
            return number, first * step - low
    return tables.setdefault((code,), len(tables)), 0
