# amaranth: UnusedElaboratable=no
"""Every streaming component keeps the stream rules, whatever its neighbours do."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, signed

from nomul.hw.affine import Affine
from nomul.hw.argmax import Argmax
from nomul.hw.chain import Chain
from nomul.hw.dots import DotProducts
from nomul.hw.product import MaskedProducts, ShiftAddProducts, TableProducts
from nomul.hw.replay import Replay
from nomul.hw.sparse import SparseDots
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.hw.stream import Regroup
from nomul.hw.table import Storage
from nomul.hw.thresholds import Comparators, Search
from nomul.hw.unrolled import AdderGraph, Sum, Term, UnrolledDots
from nomul.sim.formal import prove_streams

pytestmark = pytest.mark.formal

TABLE = [[0, 1], [0, -2]]


def dots(products: Any) -> DotProducts:
    return DotProducts(products, [[0, 1, 1], [1, 0, 1], [1, 1, 1]], acc_shape=signed(4),
                       o_lanes=1, storage=Storage.LOGIC)


def packed_dots(storage: Storage) -> DotProducts:
    products = ShiftAddProducts([[0, 1], [0, -1], [0, -2]], lanes=2, inputs=1)
    return DotProducts(products, [[2, 3, 3], [1, 1, 1], [3, 2, 3]], acc_shape=signed(4), o_lanes=1,
                       storage=storage, packed=[0, 0, 1, 2])


def unrolled_dots(*, depth: int) -> UnrolledDots:
    graph = AdderGraph(inputs=((0, 1), (0, 1), (-2, -2)), outputs=(Term(4, 0, 1), Term(0, 1, -1)),
                       sums=(Sum(Term(0, 0, 1), Term(1, 1, -1)), Sum(Term(2, 0, 1), Term(3, 0, 1))))
    return UnrolledDots(graph, code_shape=1, elements=2, o_shape=signed(4), depth=depth)


def sparse_dots(table: Sequence[int], *, lanes: int) -> SparseDots:
    return SparseDots(table, [[(0, 3)], [], [(1, -2), (2, 1)]], inputs=3, lanes=lanes,
                      acc_shape=signed(4), storage=Storage.LOGIC)


@pytest.mark.parametrize("dut", [
    Regroup(2, i_lanes=1, o_lanes=2, length=3),
    Regroup(2, i_lanes=2, o_lanes=1, length=3),
    Regroup(2, i_lanes=2, o_lanes=3, length=5),
    Replay(2, length=2, repeats=2, depth=4),
    Replay(2, length=3, repeats=2, depth=4, storage=Storage.REGISTERED),
    dots(ShiftAddProducts(TABLE, lanes=2, inputs=1)),
    dots(TableProducts(TABLE, lanes=2, inputs=2, storage=Storage.LOGIC)),
    dots(TableProducts(TABLE, lanes=1, inputs=2, storage=Storage.REGISTERED)),
    DotProducts(MaskedProducts(TABLE, lanes=1, inputs=1), [[0, 1, 1], [1, 0, 1]],
                acc_shape=signed(4), o_lanes=1, storage=Storage.LOGIC, total=True),
    DotProducts(MaskedProducts([[0, 1], [0, 0], [0, 9]], lanes=1, inputs=1), [[0, 1, 2], [2, 0, 1]],
                acc_shape=signed(4), o_lanes=1, storage=Storage.LOGIC),
    Affine(signed(3), signed(5), base=-1, steps=[3], lanes=1),
    unrolled_dots(depth=1),
    unrolled_dots(depth=2),
    packed_dots(Storage.LOGIC),
    packed_dots(Storage.BLOCK),
    sparse_dots(range(2), lanes=1),
    sparse_dots([0, 3, -1], lanes=2),
    Offset(signed(3), signed(4), offsets=[1, 2, 3], lanes=1, negate=False, storage=Storage.LOGIC),
    ShiftClip(signed(4), shift=1, codes=3, lanes=1),
    ShiftClipRows(signed(3), signed(4), offsets=[1, 2], shifts=[0, 1], negate=[0, 1], codes=3,
                  lanes=1, storage=Storage.LOGIC),
    Comparators(signed(3), [[0, 2], [1, 1]], falling=[False, True], lanes=1,
                storage=Storage.LOGIC),
    Search(signed(3), [[0, 2], [1, 1]], falling=[False, True], lanes=1, storage=Storage.LOGIC),
    Search(signed(3), [[0, 2], [1, 1]], falling=[False, True], lanes=1,
           storage=Storage.REGISTERED),
    Argmax(signed(3), lanes=1, length=3),
    Argmax(signed(3), lanes=2, length=3),
    Chain({"add": Offset(signed(3), signed(4), offsets=[1], lanes=1, negate=False,
                         storage=Storage.LOGIC),
           "clip": ShiftClip(signed(4), shift=1, codes=3, lanes=1)}),
], ids=lambda dut: type(dut).__name__)
def test_holds_while_stalled(dut: Any, tmp_path: Path) -> None:
    assert prove_streams(dut, tmp_path)


def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Overwrites(Argmax):
        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.sync += self.o.payload[0].eq(~self.o.payload[0])  # the last assignment wins
            return m

    assert not prove_streams(Overwrites(signed(3), lanes=1, length=3), tmp_path)


def test_the_proof_of_sparse_sums_can_fail(tmp_path: Path) -> None:
    class Passing(SparseDots):
        """Shows sums in between."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            with m.If(self.i.valid):
                m.d.sync += self.o.payload[0].eq(~self.o.payload[0])
            return m

    dut = sparse_dots(range(2), lanes=1)
    assert not prove_streams(Passing(dut.table, dut.rows, inputs=3, lanes=1, acc_shape=signed(4),
                                     storage=Storage.LOGIC), tmp_path)
