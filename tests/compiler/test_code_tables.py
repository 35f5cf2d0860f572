"""Tables of codes are the staircases they come from, and as short as can be."""
import numpy as np
import pytest

from nomul.compiler.code_tables import MOST_WORDS, TableTerms, table_terms
from nomul.compiler.network import Levels, Staircase
from nomul.compiler.values import Ints
from nomul.sim.golden import apply_staircase
from nomul.sim.random_networks import random_staircase


def ends(*pairs: tuple[int, int]) -> tuple[Ints, Ints]:
    low, high = np.array(pairs).T
    return low, high


def stair(*rows: list[int], **rest: list[int]) -> Staircase:
    return Staircase(thresholds=np.array(rows), levels=Levels.uniform(len(rows[0]) + 1), **rest)  # type: ignore[arg-type]


def differences(found: TableTerms, staircase: Staircase, low: Ints, high: Ints) -> int:
    """Accumulators within reach whose code is another one."""
    values = np.arange(low.min(), high.max() + 1)[:, None]
    reach = (values >= low) & (values <= high)
    index = np.clip(values + found.offsets >> found.shift, 0, found.tables.shape[1] - 1)
    golden = apply_staircase(staircase, np.broadcast_to(values, reach.shape))
    return int(((found.tables[found.which, index] != golden) & reach).sum())


def changes(staircase: Staircase, low: Ints, high: Ints) -> list[Ints]:
    """For each output, where its code becomes another one."""
    rows = []
    for n, (least, most) in enumerate(zip(low, high, strict=True)):
        values = np.broadcast_to(np.arange(least, most + 1)[:, None], (most + 1 - least, len(low)))
        rows.append(least + 1 + np.flatnonzero(np.diff(apply_staircase(staircase, values)[:, n])))
    return rows


def test_tables_are_the_staircases() -> None:
    found = own = shared = shifted = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        outputs = int(rng.integers(1, 7))
        middle, reach = rng.integers(-60, 60, outputs), rng.integers(0, 150, outputs)
        low, high = middle - reach, middle + reach
        staircase = random_staircase(rng, outputs, int(low.min()), int(high.max()))
        terms = table_terms(staircase, low, high)
        assert terms is not None, "reaches are short"
        assert differences(terms, staircase, low, high) == 0
        found, shifted = found + (len(terms.tables) == 1), shifted + (terms.shift > 0)
        own += len(terms.tables) == outputs > 1
        shared += 1 < len(terms.tables) < outputs
        # No larger shift would do: outputs of one table change at places of one grid.
        places = changes(staircase, low, high)
        assert all(not np.ptp(row % (1 << terms.shift)) for row in places if len(row))
        if not staircase.per_channel:
            together = np.unique(np.concatenate(places))
            between = staircase.thresholds[0] + (staircase.directions[0] < 0)
            if len(together) > 1 and staircase.directions[0]:
                inner = between[(between >= together[0]) & (between <= together[-1])]
                assert np.ptp(inner % (2 << terms.shift))
    assert min(found, own, shared, shifted) > 10


def test_a_wrong_code_is_seen() -> None:
    staircase, (low, high) = stair([-24, -16, 8, 40]), ends((-50, 50))
    terms = table_terms(staircase, low, high)
    assert terms is not None and differences(terms, staircase, low, high) == 0
    wrong = TableTerms(shift=terms.shift, offsets=terms.offsets + 1, tables=terms.tables,
                       which=terms.which)
    assert differences(wrong, staircase, low, high) == 4


@pytest.mark.parametrize("thresholds, reach, shift, table", [
    ([-24, -16, 8, 40], (-50, 50), 3, [0, 1, 2, 2, 2, 3, 3, 3, 3, 4]),
    ([3, 11, 19], (-50, 50), 3, [0, 1, 2, 3]),  # multiples of 8, but for an offset
    ([-24, -16, 8, 41], (-50, 40), 3, [0, 1, 2, 2, 2, 3]),  # the last one is out of reach
    ([-23, -16, 8, 40], (-23, 50), 3, [1, 2, 2, 2, 3, 3, 3, 3, 4]),  # the first one is passed
    ([0, 1, 7], (-8, 7), 0, [0, 1, 2, 2, 2, 2, 2, 2, 3]),
    ([6, 6, 6], (0, 9), 4, [0, 3]),  # one step: the index is above 0 or not
    ([6, 7, 8], (9, 30), 5, [3]),
])
def test_the_longest_step_is_found(thresholds: list[int], reach: tuple[int, int], shift: int,
                                   table: list[int]) -> None:
    low, high = ends(reach)
    terms = table_terms(stair(thresholds), low, high)
    assert terms is not None and differences(terms, stair(thresholds), low, high) == 0
    assert (terms.shift, terms.tables.tolist()) == (shift, [table])


def test_outputs_share_tables() -> None:
    # The same shape three times: moved, reached from one side, from the other one. A constant, and
    # an output that never changes, find a place in it; a falling one has its own.
    staircase = stair([0, 4, 12, 16], [7, 11, 19, 23], [-8, -4, 4, 8], [0, 0, 0, 0],
                      [90, 91, 92, 93], [0, 4, 12, 16],
                      directions=[1, 1, 1, 0, 1, -1], constants=[0, 0, 0, 4, 0, 0])
    low, high = ends((-40, 10), (15, 50), (-20, 20), (-99, 99), (-99, 89), (-9, 30))
    terms = table_terms(staircase, low, high)
    assert terms is not None and differences(terms, staircase, low, high) == 0
    assert terms.shift == 2
    assert len(terms.tables) == 2 and terms.which.tolist()[:5] == [terms.which[0]] * 5
    assert terms.tables[terms.which[5]].tolist()[0] == 4 and terms.words == 16


def test_a_table_that_would_be_too_long_is_none() -> None:
    longest = MOST_WORDS - 2
    low, high = ends((-9, 9000))
    assert table_terms(stair([0, 1, longest]), low, high) is not None
    assert table_terms(stair([0, 1, longest + 1]), low, high) is None
    assert table_terms(stair([0, 2, longest + 2]), low, high) is not None, "in steps of two"
    # Outputs together: tables of 512 places each, of which 8 are not too many.
    rows = [[0, 1 + n, 510 - n] for n in range(9)]
    for count, legal in ((8, True), (9, False)):
        low, high = ends(*[(-9, 9000)] * count)
        assert (table_terms(stair(*rows[:count]), low, high) is not None) == legal
