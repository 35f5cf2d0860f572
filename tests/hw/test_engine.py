# amaranth: UnusedElaboratable=no
"""The engine by itself: small sums, and what it refuses. Proofs are in nomul.sim.proofs."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from amaranth.hdl import Shape, signed, unsigned

from nomul.hw.engine import Engine, SharedProducts
from nomul.hw.product import ShiftAddProducts
from nomul.hw.table import Storage
from nomul.hw.tasks import Constant, Padding, Task, check_places
from nomul.sim.bench import transfer

ONCE = (1, 0)
LAST = Task(loops=((2, 1), ONCE, ONCE, (2, 0), ONCE, ONCE, ONCE), origin=0, outputs=2, weights=0,
            again=False, table=0, constants=0, shared=False, highest=0, target=None,
            reads_image=True, frees_image=True)


def engine(**changes: Any) -> Engine:
    """Two dot products of two codes: 3 a - b + 5 and a + 4 b - 2, by one lane."""
    options: dict[str, Any] = {
        "tasks": [LAST], "words": [[0], [1], [2], [3]],
        "products": SharedProducts([[0] * 4, [3, -1, 1, 4]], lanes=1, storage=Storage.LOGIC),
        "constants": [Constant(offset=5, negate=False, which=0),
                      Constant(offset=-2, negate=False, which=0)],
        "thresholds": None, "code_shape": 1, "image_shape": 1, "image_length": 2, "depths": [],
        "one_port": False,
        "acc_shape": signed(4), "sum_shape": signed(5), "o_shape": signed(5), "raw": True,
        "storage": Storage.BLOCK, **changes}
    return Engine(options.pop("tasks"), **options)


def test_two_dot_products() -> None:
    images = [(a, b) for a in (0, 1) for b in (0, 1)]
    got = transfer(engine(), [[code] for image in images for code in image], 8, seed=1)
    expected = [v for a, b in images for v in (3 * a - b + 5, a + 4 * b - 2)]
    assert [beat[0] for beat in got] == expected


def test_shared_products_need_a_table() -> None:
    for table in ([], [[]], [[1], [1, 2]]):
        with pytest.raises(ValueError, match="at least one row and one column"):
            SharedProducts(table, lanes=1, storage=Storage.LOGIC)
    with pytest.raises(ValueError, match="Lanes must be at least 1, not 0"):
        SharedProducts([[1]], lanes=0, storage=Storage.LOGIC)


@pytest.mark.parametrize(("changes", "message"), [
    ({"tasks": []}, "at least one task, one word of weights, one constant"),
    ({"words": [[0, 1]]}, "must be of 1 lanes"),
    ({"tasks": [replace(LAST, target=0)]}, "Results of the last task must leave"),
    ({"tasks": [replace(LAST, frees_image=False)]}, "One task must be the last that reads"),
    ({"storage": Storage.LOGIC}, "must be block or registered, not logic"),
    ({"thresholds": [[1], [1, 2]]}, "rows? of thresholds, all of one length"),
])
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(**changes)


#: A convolution of 2 x 2 over a padded image of 3 x 3, a position for each pixel.
PADDED = replace(LAST, loops=(ONCE, (2, 1), (2, 3), ONCE, ONCE, (3, 1), (3, 3)), origin=-4,
                 outputs=1, padding=Padding(height=3, width=3, top=1, left=1, stride=1, code=0))
#: Two codes of different memories at a time, and their results behind the first ones.
FIRST = replace(LAST, loops=((2, 14), ONCE, ONCE, ONCE, ONCE, (3, 1), ONCE), origin=2, outputs=1,
                target=5, reads_image=True, frees_image=False)


def test_places_are_those_of_the_loops() -> None:
    assert LAST.reads() == [(0, 0), (1, 1)] and PADDED.reads() == [(0, 8)]
    assert FIRST.reads() == [(2, 4), (16, 18)]
    assert replace(PADDED, padding=replace(PADDED.padding, top=5)).reads() == []
    strided = replace(PADDED, loops=(ONCE, (1, 1), (1, 3), ONCE, ONCE, (2, 2), (2, 6)),
                      padding=replace(PADDED.padding, stride=2))
    assert strided.reads() == [(4, 4)]  # -1 and 1, both ways
    check_places([FIRST], [8], 9)
    check_places([PADDED], [], 9)


@pytest.mark.parametrize(("task", "depths", "message"), [
    (replace(LAST, origin=1), [], "Task 0 must read addresses of one memory, not 2 to 2; memories "
                                  "are 0 to 1"),
    (replace(LAST, origin=-1), [], "Task 0 must read addresses of one memory, not -1 to -1"),
    (LAST, [1], "Task 0 must read addresses of one memory, not 1 to 1; memories are 0 to 0, 2 to "
                "3"),
    (replace(LAST, loops=((3, 1), *LAST.loops[1:])), [], "not 0 to 2; memories are 0 to 1"),
    (replace(PADDED, origin=-3), [], "not 1 to 9; memories are 0 to 1"),
    (replace(LAST, target=1), [2], "Task 0 must write addresses of one memory, not 1 to 2; "
                                   "memories are 0 to 1"),
    (replace(LAST, target=0), [], "must write addresses of one memory, not 0 to 1; memories are "
                                  "none"),
])
def test_places_outside_of_memories_are_refused(task: Task, depths: list[int], message: str,
                                                ) -> None:
    with pytest.raises(ValueError, match=message):
        check_places([task], depths, 2)
    if task.target is None:
        with pytest.raises(ValueError, match=message):
            engine(tasks=[task], depths=depths)


def test_a_task_has_seven_loops() -> None:
    with pytest.raises(ValueError, match="must have 7 loops of at least one turn"):
        replace(LAST, loops=LAST.loops[:6])
    with pytest.raises(ValueError, match="must have 7 loops of at least one turn"):
        replace(LAST, loops=((0, 1), *LAST.loops[1:]))


def test_slopes_are_shifts() -> None:
    products = ShiftAddProducts([[0, -2], [0, 1], [0, 4], [0, 0]], lanes=1, inputs=1)
    got = transfer(engine(products=products), [[1], [1]], 2, seed=2)
    assert [beat[0] for beat in got] == [-2 + 1 + 5, 4 + 0 - 2]
    assert Shape.cast(products.code_shape) == unsigned(1)
