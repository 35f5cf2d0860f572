# amaranth: UnusedElaboratable=no
# (Parts may be made only to be asked for their latency.)
"""From sums to codes: what is added to a layer's sums, and the circuit of its staircase."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.compiler.circuits import SumTerms, shift_clip_terms, threshold_rows
from nomul.compiler.code_tables import TableTerms, table_terms
from nomul.compiler.plan import LayerPlan
from nomul.compiler.values import Ints, Staircase
from nomul.hw.circuits import StaircaseCircuit
from nomul.hw.code_table import CodeTable
from nomul.hw.shapes import signed_range
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.hw.thresholds import Comparators, Search

__all__ = ["Moves", "Parts", "coders", "moves_of", "staircase_parts"]

Parts = dict[str, Any]
"""Components that follow each other, by name."""


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What is done to a layer's sums before their codes are made; shapes are [outputs].

    They are subtracted from the ``offsets`` where ``negate`` is 1, and else added; then they are
    from ``low`` to ``high``. What else they lack, ``left``, moves into the thresholds.
    """

    offsets: Ints
    negate: Ints
    left: Ints
    low: int
    high: int
    shifts: Ints | None
    """Of a shift-and-clip."""
    table: TableTerms | None = None
    """Of a table of codes."""

    @property
    def shape(self) -> Any:
        """Shape of the moved sums."""
        return signed_range(self.low, self.high)

    @property
    def own(self) -> bool:
        """Whether outputs have shifts or signs of their own."""
        return self.shifts is not None and bool(np.ptp(self.shifts) or np.ptp(self.negate))


def moves_of(staircase: Staircase | None, terms: SumTerms, plan: LayerPlan) -> Moves:
    """What the sums of ``terms`` need for the circuit that ``plan`` names."""
    none = np.zeros_like(terms.offsets)
    offsets, negate, left, shifts, table = terms.offsets, none, none, None, None
    if plan.staircase is StaircaseCircuit.SHIFT_CLIP:
        assert staircase
        found = shift_clip_terms(staircase, terms.low + offsets, terms.high + offsets)
        assert found, "the plan is checked"
        negate, shifts = found.negate, found.shifts
        offsets = found.offsets + np.where(negate, -offsets, offsets)
    elif plan.staircase is StaircaseCircuit.TABLE:
        assert staircase
        table = table_terms(staircase, terms.low + offsets, terms.high + offsets)
        assert table, "the plan is checked"
        offsets = offsets + table.offsets
    elif staircase and (not np.ptp(offsets) or staircase.per_channel):
        # An own offset for each output is added; a common one moves into the thresholds.
        offsets, left = none, offsets
    low = np.where(negate, -terms.high, terms.low) + offsets
    high = np.where(negate, -terms.low, terms.high) + offsets
    return Moves(offsets=offsets, negate=negate, left=left, low=int(low.min()),
                  high=int(high.max()), shifts=shifts, table=table)


def staircase_parts(staircase: Staircase | None, terms: SumTerms, plan: LayerPlan, lanes: int,
                    sums: Any) -> Parts:
    """Add what the sums lack, and make codes; maybe nothing."""
    moves, shape = moves_of(staircase, terms, plan), sums.elem_shape
    parts: Parts = {}
    if (moves.offsets.any() or moves.negate.any()) and not moves.own:
        offsets = moves.offsets.tolist()
        parts["offset"] = Offset(
            shape, moves.shape, lanes=lanes, negate=bool(moves.negate[0]),
            offsets=offsets if np.ptp(moves.offsets) else offsets[:1], storage=plan.constants_in,
            parity=plan.parity)
        shape = moves.shape
    return parts | coders(staircase, moves, shape, plan, lanes)


def coders(staircase: Staircase | None, moves: Moves, shape: Any, plan: LayerPlan, lanes: int,
           ) -> Parts:
    """Make codes of moved sums of ``shape``, or of others where outputs have their own shifts."""
    options: dict[str, Any] = {"lanes": lanes, "storage": plan.constants_in,
                               "parity": plan.parity}
    if staircase is None:
        return {}
    codes = len(staircase.levels)
    if moves.own:
        assert moves.shifts is not None
        return {"staircase": ShiftClipRows(
            shape, moves.shape, offsets=moves.offsets.tolist(), shifts=moves.shifts.tolist(),
            negate=moves.negate.tolist(), codes=codes, **options)}
    if moves.shifts is not None:
        return {"staircase": ShiftClip(shape, shift=int(moves.shifts[0]), codes=codes,
                                       lanes=lanes)}
    if moves.table is not None:
        which = moves.table.which.tolist()
        return {"staircase": CodeTable(
            shape, moves.table.tables.tolist(), shift=moves.table.shift, codes=codes,
            which=which if len(moves.table.tables) > 1 else which[:1],
            tables_in=plan.staircase_in, **options)}
    thresholds, falling = threshold_rows(staircase, moves.left, moves.low, moves.high)
    circuit = Comparators if plan.staircase is StaircaseCircuit.COMPARATORS else Search
    return {"staircase": circuit(shape, thresholds.tolist(), falling=falling, **options)}
