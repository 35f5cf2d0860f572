# amaranth: UnusedElaboratable=no
"""What is proved of each component of ``nomul.hw``: one list, for tests and for docs/proofs.md.

Components are small, since a prover sees all that they can ever do. Each obligation has a broken
twin, a component or a claim with one thing wrong, which has to be refuted.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from amaranth.hdl import Cat, Const, Mux, Value, signed, unsigned

from nomul.hw.affine import Affine
from nomul.hw.argmax import Argmax
from nomul.hw.axis import AxisTop
from nomul.hw.branch import AddStreams, AddSums, Fork, Queue
from nomul.hw.buckets import BucketDots
from nomul.hw.chain import Chain
from nomul.hw.code_table import CodeTable
from nomul.hw.dots import DotProducts
from nomul.hw.embedding import Embedding
from nomul.hw.engine import Engine, SharedProducts
from nomul.hw.fill import ZeroAbsent
from nomul.hw.graph import Graph
from nomul.hw.lanewise import LanewiseMax, LanewiseSums
from nomul.hw.loaded import LoadedWords
from nomul.hw.multiply import DecodeMultiplyProducts
from nomul.hw.packed import PackedCycle
from nomul.hw.product import (
    MaskedProducts,
    Products,
    ShiftAddProducts,
    TableProducts,
)
from nomul.hw.replay import Replay
from nomul.hw.sparse import SparseDots
from nomul.hw.spi import SpiPeripheral
from nomul.hw.spread import SpreadCycle
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.hw.stream import Regroup, vector
from nomul.hw.table import Cycle, Storage
from nomul.hw.tasks import Constant, Task
from nomul.hw.thresholds import Comparators, Search
from nomul.hw.unrolled import AdderGraph, Sum, Term, UnrolledDots
from nomul.hw.window import Windows
from nomul.sim.formal import Beats
from nomul.sim.obligations import (
    Example,
    GivesRows,
    LoadsRight,
    Multiplies,
    Obligation,
    Restless,
    each_element,
    elements,
    in_beats,
    looked_up,
    total,
)
from nomul.sim.spi_claim import Exchanges, PinnedRules

__all__ = ["EXAMPLES", "HARDWARE", "OTHERS", "PINNED"]

def _same(beats: Beats) -> Beats:
    """What comes at ``i`` leaves at ``o``."""
    return {"o": [Value.cast(beat) for beat in beats["i"]]}


def _clip(value: Any, codes: int) -> Value:
    """``value`` as a code."""
    return Mux(value < 0, 0, Mux(value > codes - 1, codes - 1, value))


def _steps(value: Any, thresholds: Sequence[int], falling: bool) -> Value:
    """Number of thresholds passed."""
    return total([value <= t if falling else value >= t for t in thresholds])


def _index_of_largest(values: Sequence[Any]) -> Value:
    """The first of the largest."""
    index: Value = Const(len(values) - 1)
    for n in range(len(values) - 2, -1, -1):
        largest = Cat(values[n] >= other for other in values[n + 1:]).all()
        index = Mux(largest, n, index)
    return index


TABLE = ((0, 1), (0, -2))
ROWS = ((0, 1), (1, 1))
OTHER_ROWS = ((0, 1), (1, 0))
# How often each entry lets a code pass, for `MaskedProducts`: the slopes are 3 n - 2.
_COUNTS = (1, 0)


def _dot_products(table: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], *, lanes: int,
                 inputs: int) -> Callable[[Beats], Beats]:
    """Dot products; each group of rows has a pass of its own over the vector."""
    chunks = -(-len(rows[0]) // inputs)

    def function(beats: Beats) -> Beats:
        sums = []
        for o, row in enumerate(rows):
            codes = elements(beats["i"][o // lanes * chunks:][:chunks], len(row))
            sums.append(total([looked_up(table[weight], code)
                               for weight, code in zip(row, codes, strict=True)]))
        return {"o": in_beats(sums, 1)}
    return function


def _dots(products: Products, rows: Sequence[Sequence[int]]) -> DotProducts:
    return DotProducts(products, rows, acc_shape=signed(4), o_lanes=1, storage=Storage.LOGIC)


def _masked_dots(rows: Sequence[Sequence[int]] = ROWS) -> DotProducts:
    return DotProducts(MaskedProducts(TABLE, lanes=1, inputs=1), rows, acc_shape=signed(3),
                       o_lanes=1, storage=Storage.LOGIC, total=True)


def _raised_dots(product: int = 2) -> DotProducts:
    """Sums of products that are not 0 at code 0, also in the place that holds no input."""
    products = TableProducts(((1, product), (3, 0)), lanes=1, inputs=2, storage=Storage.LOGIC)
    return DotProducts(products, [[0, 1, 1], [1, 1, 0]], acc_shape=signed(5), lane_shape=range(16),
                       o_lanes=1, storage=Storage.LOGIC)


def _packed_dots(storage: Storage) -> DotProducts:
    products = ShiftAddProducts([[0, 1], [0, -1], [0, -2]], lanes=2, inputs=1)
    return DotProducts(products, [[2, 3, 3], [1, 1, 1], [3, 2, 3]], acc_shape=signed(4), o_lanes=1,
                       storage=storage, packed=[0, 0, 1, 2])


def _dots_example(sizes: str, products: Callable[[], Products], *, lanes: int, inputs: int,
                  ) -> Example:
    passes = -(-len(ROWS) // lanes) * -(-len(ROWS[0]) // inputs)
    return Example(
        sizes=sizes, make=lambda: _dots(products(), ROWS), takes={"i": passes},
        gives={"o": len(ROWS)}, function=_dot_products(TABLE, ROWS, lanes=lanes, inputs=inputs),
        capacity=3, computes="exact dot products", broken=lambda: _dots(products(), OTHER_ROWS),
        twin="one weight is another one")


_SLOPES = ((0, -1), (0, 2))


def _buckets(lanes: int, rows: Sequence[Sequence[int]] = ROWS) -> BucketDots:
    return BucketDots(_SLOPES, rows, lanes=lanes, acc_shape=signed(4), o_lanes=1,
                      storage=Storage.LOGIC)


def _buckets_example(lanes: int, *, bound: int | None, ready_bound: int) -> Example:
    return Example(
        sizes=f"buckets, 2 x 2, {lanes} x 1 at once",
        make=partial(_buckets, lanes), takes={"i": 4 // lanes}, gives={"o": 2},
        function=_dot_products(_SLOPES, ROWS, lanes=lanes, inputs=1), capacity=3,
        computes="exact dot products", broken=partial(_buckets, lanes, OTHER_ROWS),
        twin="one weight is another one", bound=bound, ready_bound=ready_bound, slow=True)


class _MemoryQueue(Queue):
    """A queue in a memory, however small it is."""

    registers = 0


def _unrolled(*, depth: int, sign: int = -1) -> UnrolledDots:
    graph = AdderGraph(
        inputs=((0, 1), (0, 1)), outputs=(Term(3, 0, 1), Term(0, 1, -1), Term(4, 0, 1)),
        sums=(Sum(Term(0, 0, 1), Term(1, 0, -1), 1), Sum(Term(2, 0, 1), Term(1, 1, sign), -4),
              Sum(Term(0, 0, 1), Term(0, 0, 1), 1)))
    return UnrolledDots(graph, code_shape=1, elements=2, o_shape=signed(4), depth=depth)


def _sparse(table: Sequence[int], *, lanes: int, last: int = 1) -> SparseDots:
    return SparseDots(table, [[(0, 3)], [], [(1, -2), (2, last)]], inputs=3, lanes=lanes,
                      acc_shape=signed(5), storage=Storage.LOGIC)


def _sparse_sums(table: Sequence[int], beats: Beats) -> Beats:
    x = [looked_up(table, code) for code in elements(beats["i"], 3)]
    return {"o": [[3 * x[0]], [Const(0)], [x[2] - 2 * x[1]]]}


def _lanewise(rows: Sequence[Sequence[int]]) -> LanewiseSums:
    return LanewiseSums([ShiftAddProducts(TABLE, lanes=1, inputs=1) for _ in range(2)], rows,
                        acc_shape=signed(4), storage=Storage.LOGIC)


def _lanewise_sums(rows: Sequence[Sequence[int]], lanes: int) -> Callable[[Beats], Beats]:
    """Sums of weighted taps, channel by channel; a word of channels has a beat for each tap."""
    taps = len(rows[0])

    def function(beats: Beats) -> Beats:
        sums = [total([looked_up(TABLE[weight], beats["i"][c // lanes * taps + tap][c % lanes])
                       for tap, weight in enumerate(row)]) for c, row in enumerate(rows)]
        return {"o": in_beats(sums, lanes)}
    return function


def _window(pad: int = 0) -> Windows:
    return Windows(unsigned(1), height=1, width=3, words=1, kernel=(1, 2), stride=1,
                   padding=(0, 1, 0, 0), pad=[pad], groups=1, repeats=1, depth=2)


def _windows(beats: Beats) -> Beats:
    row = [Const(0, 1), *beats["i"]]
    return {"o": [pixel for left in range(3) for pixel in row[left:left + 2]]}


def _beat(width: int) -> Any:
    """Shape of a beat of one code."""
    return vector(width, 1).members["payload"].shape


def _branches(last: int = 2) -> Graph:
    """x and its double, added up."""
    return Graph({"fork": Fork(_beat(1), 2),
                  "queue": Queue(_beat(1), 1),
                  "add": AddStreams([[0, 1], [0, last]], lanes=1)},
                 [("i", "fork"), ("fork.o_0", "add.i_0"), ("fork.o_1", "queue"),
                  ("queue", "add.i_1"), ("add", "o")])


def _axis(length: int = 2) -> AxisTop:
    return AxisTop(Queue(_beat(2), 1), i_length=2, o_length=length)


def _in_bytes(beats: Beats) -> Beats:
    """Codes of 2 bits, each zero-extended to a byte, and ``tlast`` with the second one."""
    return {"m_axis": [Cat(Value.cast(beat)[:2], Const(0, 6), Const(n == 1, 1))
                       for n, beat in enumerate(beats["s_axis"])]}


_SHIFTS: dict[str, Sequence[int]] = {"offsets": [1, -2], "shifts": [0, 1], "negate": [0, 1]}


def _shift_clip_rows(offset: int = -2) -> ShiftClipRows:
    return ShiftClipRows(signed(3), signed(5), offsets=[1, offset], shifts=_SHIFTS["shifts"],
                         negate=_SHIFTS["negate"], codes=3, lanes=1, storage=Storage.LOGIC)


THRESHOLDS = ((0, 2), (1, 1))
FALLING = (False, True)


def _staircase(kind: type[Comparators | Search], thresholds: Sequence[Sequence[int]] = THRESHOLDS,
               storage: Storage = Storage.LOGIC) -> Comparators | Search:
    return kind(signed(3), thresholds, falling=FALLING, lanes=1, storage=storage)


def _staircase_example(kind: type[Comparators | Search], storage: Storage, *, slow: bool = False,
                       bound: int | None = None) -> Example:
    return Example(
        sizes=f"3 bits, 2 rows of 2 thresholds, {storage.value}",
        make=lambda: _staircase(kind, storage=storage), takes={"i": 2}, gives={"o": 2},
        function=each_element(lambda n, x: _steps(x, THRESHOLDS[n], FALLING[n]), 2, 1), capacity=5,
        computes="codes of rising and falling thresholds", twin="one threshold is one more",
        broken=lambda: _staircase(kind, ((0, 3), (1, 1)), storage), slow=slow, bound=bound)


CODES = ((0, 2), (1, 0))


def _code_table(which: Sequence[int], storage: Storage, last: int = 0) -> CodeTable:
    return CodeTable(signed(4), [CODES[0], (CODES[1][0], last)][:max(which) + 1], which=which,
                     shift=1, codes=3, lanes=1, tables_in=storage, storage=Storage.LOGIC)


def _code_table_example(which: Sequence[int], storage: Storage) -> Example:
    return Example(
        sizes=f"4 bits, tables {', '.join(map(str, which))} of 2 codes, {storage.value}",
        make=partial(_code_table, which, storage), takes={"i": len(which)},
        gives={"o": len(which)}, capacity=4, computes="shifted, clipped, looked up, row by row",
        function=each_element(lambda n, x: looked_up(CODES[which[n]], _clip(x >> 1, 2)),
                              len(which), 1),
        broken=partial(_code_table, which, storage, 1), twin="one code is another one")


def _regroup(i_lanes: int, o_lanes: int, length: int, *, o_length: int | None = None,
             slow: bool = False) -> Example:
    whole = max(length, o_length or length)
    out = o_length or length

    def function(beats: Beats) -> Beats:
        each_in = -(-length // i_lanes)
        values = [value for n in range(0, len(beats["i"]), each_in)
                  for value in elements(beats["i"][n:n + each_in], length)]
        return {"o": [beat for n in range(0, whole, out)
                      for beat in in_beats(values[n:n + out], o_lanes)]}
    return Example(
        sizes=f"{i_lanes} to {o_lanes} lanes, vectors of {length} to {out}",
        make=lambda: Regroup(1, i_lanes=i_lanes, o_lanes=o_lanes, length=length, o_length=o_length),
        takes={"i": whole // length * -(-length // i_lanes)},
        gives={"o": whole // out * -(-out // o_lanes)}, function=function, capacity=4,
        computes="the same elements in the same order", slow=slow)


def _replay(length: int, repeats: int, depth: int, storage: Storage, *, slow: bool = False,
            ) -> Example:
    return Example(
        sizes=f"{length} beats {repeats} times, depth {depth}, {storage.value}",
        make=lambda: Replay(unsigned(1), length=length, repeats=repeats, depth=depth,
                            storage=storage),
        takes={"i": length}, gives={"o": length * repeats},
        function=lambda beats: {"o": [*beats["i"]] * repeats}, capacity=5,
        computes="each vector so many times", slow=slow)


def _engine(storage: Storage, product: int = 4) -> Engine:
    """Two dot products of two codes, by one lane: 3 a - b + 1 and a + 4 b - 2."""
    task = Task(loops=((2, 1), (1, 0), (1, 0), (2, 0), (1, 0), (1, 0), (1, 0)), origin=0,
                outputs=2, weights=0, again=False, table=0, constants=0, shared=False, highest=0,
                target=None, reads_image=True, frees_image=True)
    return Engine(
        [task], words=[[0], [1], [2], [3]], products=SharedProducts(
            [[0] * 4, [3, -1, 1, product]], lanes=1, storage=Storage.LOGIC),
        constants=[Constant(offset=1, negate=False, which=0),
                   Constant(offset=-2, negate=False, which=0)],
        thresholds=None, code_shape=1, image_shape=1, image_length=2, depths=[], one_port=False,
        acc_shape=signed(4), sum_shape=signed(4), o_shape=signed(4), raw=True, storage=storage)


def _queue(depth: int, *, in_memory: bool = False, slow: bool = False) -> Example:
    kind = _MemoryQueue if in_memory else Queue
    return Example(
        sizes=f"depth {depth}, in {'memory' if in_memory else 'registers'}",
        make=lambda: kind(unsigned(1), depth), takes={"i": 1}, gives={"o": 1}, function=_same,
        capacity=depth + 1, computes="first in, first out", slow=slow)


#: What each streaming component does.
EXAMPLES = (
    Example(sizes="3 elements of 3 bits, factors 3 and -1",
            make=lambda: Affine(signed(3), signed(6), base=-1, steps=[3], lanes=1),
            takes={"i": 1}, gives={"o": 1}, capacity=4,
            function=lambda beats: {"o": [[3 * beats["i"][0][0] - beats["i"][0][1]]]},
            computes="exact sums of multiples", twin="one factor is another one",
            broken=lambda: Affine(signed(3), signed(6), base=-1, steps=[5], lanes=1)),
    *(Example(sizes=f"3 elements of 3 bits, {lanes} lanes",
              make=partial(Argmax, signed(3), lanes=lanes, length=3),
              takes={"i": -(-3 // lanes)}, gives={"o": 1}, capacity=4,
              function=lambda beats: {"o": [[_index_of_largest(elements(beats["i"], 3))]]},
              computes="index of the first of the largest") for lanes in (1, 2)),
    Example(sizes="2 codes of 2 bits around a queue", make=_axis, takes={"s_axis": 2},
            gives={"m_axis": 2}, function=_in_bytes, capacity=2,
            computes="the codes in bytes, and tlast", broken=lambda: _axis(1),
            twin="counts another number of results"),
    Example(sizes="codes of 1 and 2 bits",
            make=lambda: AddStreams([[0, 2], [3, -1, 1]], lanes=1), takes={"i_0": 1, "i_1": 1},
            gives={"o": 1}, capacity=2, computes="exact sums of what codes stand for",
            function=lambda beats: {"o": [[looked_up([0, 2], beats["i_0"][0][0])
                                           + looked_up([3, -1, 1], beats["i_1"][0][0])]]},
            assume=lambda port, beat: (beat[0] < 3) if port == "i_1" else Const(1),
            broken=lambda: AddStreams([[0, 2], [3, -1, 2]], lanes=1),
            twin="one code stands for another integer"),
    Example(sizes="2 and 3 bits",
            make=lambda: AddSums([signed(2), signed(3)], signed(4), lanes=1),
            takes={"i_0": 1, "i_1": 1}, gives={"o": 1}, capacity=2, computes="exact sums",
            function=lambda beats: {"o": [[beats["i_0"][0][0] + beats["i_1"][0][0]]]},
            broken=lambda: AddSums([signed(2), signed(3)], signed(3), lanes=1),
            twin="a sum of one bit less"),
    *(Example(sizes=f"one task, 2 x 2, one lane, {storage.value}", make=partial(_engine, storage),
              takes={"i": 2}, gives={"o": 2}, capacity=3, computes="exact dot products",
              function=lambda beats: {"o": [
                  [3 * beats["i"][0][0] - beats["i"][1][0] + 1],
                  [beats["i"][0][0] + 4 * beats["i"][1][0] - 2]]},
              broken=partial(_engine, storage, 3), twin="one product is another one",
              slow=storage is Storage.REGISTERED)
      for storage in (Storage.BLOCK, Storage.REGISTERED)),
    Example(sizes="2 readers", make=lambda: Fork(unsigned(1), 2), takes={"i": 1},
            gives={"o_0": 1, "o_1": 1}, capacity=1, computes="each reader gets each beat once",
            function=lambda beats: {"o_0": beats["i"], "o_1": beats["i"]}),
    _queue(1), _queue(3), _queue(3, in_memory=True), _queue(4, in_memory=True, slow=True),
    Example(sizes="an offset and a shift",
            make=lambda: Chain({"add": Offset(signed(3), signed(4), offsets=[1], lanes=1,
                                              negate=False, storage=Storage.LOGIC),
                                "clip": ShiftClip(signed(4), shift=1, codes=3, lanes=1)}),
            takes={"i": 1}, gives={"o": 1}, capacity=3, computes="one after the other",
            function=each_element(lambda n, x: _clip((x + 1) >> 1, 3), 1, 1)),
    _dots_example("shift-add, 2 x 2, 1 x 1 at once",
                  lambda: ShiftAddProducts(TABLE, lanes=1, inputs=1), lanes=1, inputs=1),
    _dots_example("tables in logic, 2 x 2, 2 x 1 at once",
                  lambda: TableProducts(TABLE, lanes=2, inputs=1, storage=Storage.LOGIC),
                  lanes=2, inputs=1),
    _dots_example("tables in registered block RAM, 2 x 2, 1 x 2 at once",
                  lambda: TableProducts(TABLE, lanes=1, inputs=2, storage=Storage.REGISTERED),
                  lanes=1, inputs=2),
    Example(sizes="raised tables, 2 x 3, 1 x 2 at once", make=_raised_dots, takes={"i": 4},
            gives={"o": 2}, capacity=3, computes="exact sums without a sign",
            function=lambda beats: {"o": [
                [looked_up((1, 2), beats["i"][0][0]) + looked_up((3, 0), beats["i"][0][1])
                 + looked_up((3, 0), beats["i"][1][0]) + 1],
                [looked_up((3, 0), beats["i"][2][0]) + looked_up((3, 0), beats["i"][2][1])
                 + looked_up((1, 2), beats["i"][3][0]) + 1]]},
            broken=partial(_raised_dots, 3), twin="one product is another one"),
    Example(sizes="masked sums and the sum of codes, 2 x 2, 1 x 1 at once", make=_masked_dots,
            takes={"i": 4}, gives={"o": 2}, capacity=3, computes="exact sums of masked codes",
            function=lambda beats: {"o": [
                [total([x[0] * _COUNTS[k] for k, x in zip(row, part, strict=True)]),
                 total([x[0] for x in part])]
                for row, part in zip(ROWS, (beats["i"][:2], beats["i"][2:]), strict=True)]},
            broken=lambda: _masked_dots(OTHER_ROWS), twin="one weight is another one"),
    *(Example(sizes=f"widths of 0 to 2 bits, 3 x 3, 2 x 1 at once, {storage.value}",
              make=partial(_packed_dots, storage), takes={"i": 6}, gives={"o": 3},
              function=_dot_products([[0, 0], [0, 1], [0, -1], [0, -2]],
                                    [[2, 3, 3], [1, 1, 1], [3, 2, 3]], lanes=2, inputs=1),
              capacity=3, computes="exact dot products", bound=20, slow=True)
      for storage in (Storage.LOGIC, Storage.BLOCK)),
    _buckets_example(1, bound=None, ready_bound=24), _buckets_example(2, bound=30, ready_bound=24),
    Example(sizes="2 pixels, 2 codes of 1 bit",
            make=lambda: Embedding([[[0, 1], [1, 1]]], code_shape=1, channels=1,
                                   storage=Storage.LOGIC),
            takes={"i": 1}, gives={"o": 1}, capacity=2, computes="the row of each pixel",
            function=lambda beats: {"o": [[looked_up([0, 1], beats["i"][0][0]), Const(1)]]},
            broken=lambda: Embedding([[[0, 1], [1, 0]]], code_shape=1, channels=1,
                                     storage=Storage.LOGIC),
            twin="one code is another one"),
    Example(sizes="3 codes of 2 bits, 2 lanes",
            make=lambda: ZeroAbsent(2, lanes=2, length=3), takes={"i": 2}, gives={"o": 2},
            function=lambda beats: {"o": [elements(beats["i"][:1], 2),
                                          [beats["i"][1][0], Const(0)]]},
            capacity=1, computes="the same vectors, absent elements zero",
            broken=lambda: ZeroAbsent(2, lanes=2, length=4), twin="takes them to be present"),
    Example(sizes="a fork, a queue and an addition", make=_branches, takes={"i": 1},
            gives={"o": 1}, capacity=4, computes="branches meet again at the same beat",
            function=lambda beats: {"o": [[beats["i"][0][0] * 3]]},
            broken=lambda: _branches(3), twin="another branch"),
    Example(sizes="3 channels, 2 taps, 2 lanes",
            make=lambda: _lanewise([[0, 1], [1, 1], [1, 0]]), takes={"i": 4}, gives={"o": 2},
            function=_lanewise_sums([[0, 1], [1, 1], [1, 0]], 2), capacity=3,
            computes="exact sums of windows",
            broken=lambda: _lanewise([[0, 1], [1, 1], [0, 0]]), twin="one weight is another one"),
    Example(sizes="2 lanes of 2 bits, 2 taps",
            make=lambda: LanewiseMax(2, lanes=2, taps=2), takes={"i": 2}, gives={"o": 1},
            function=lambda beats: {"o": [[
                Mux(beats["i"][0][n] > beats["i"][1][n], beats["i"][0][n], beats["i"][1][n])
                for n in range(2)]]},
            capacity=2, computes="largest codes of windows"),
    _replay(2, 2, 4, Storage.BLOCK), _replay(2, 2, 2, Storage.REGISTERED),
    _replay(3, 2, 3, Storage.BLOCK, slow=True),
    *(Example(sizes=f"3 sums of 3 inputs, {lanes} lanes",
              make=partial(_sparse, table, lanes=lanes),
              takes={"i": -(-3 // lanes)}, gives={"o": 3}, capacity=5,
              function=partial(_sparse_sums, table), computes="exact dot products",
              broken=partial(_sparse, table, lanes=lanes, last=2),
              twin="one weight is another one", bound=22, ready_bound=22, slow=True)
      for table, lanes in (((0, 1), 1), ((0, -1), 2))),
    Example(sizes="3 bits, 2 offsets", make=lambda: Offset(
                signed(3), signed(4), offsets=[1, -2], lanes=1, negate=False,
                storage=Storage.LOGIC),
            takes={"i": 2}, gives={"o": 2}, capacity=2, computes="exact sums",
            function=each_element(lambda n, x: x + (1, -2)[n], 2, 1),
            broken=lambda: Offset(signed(3), signed(4), offsets=[1, -1], lanes=1, negate=False,
                                  storage=Storage.LOGIC), twin="one offset is another one"),
    Example(sizes="4 bits, 3 codes", make=lambda: ShiftClip(signed(4), shift=1, codes=3, lanes=1),
            takes={"i": 1}, gives={"o": 1}, capacity=2, computes="shifted, then clipped",
            function=each_element(lambda n, x: _clip(x >> 1, 3), 1, 1),
            broken=lambda: ShiftClip(signed(4), shift=2, codes=3, lanes=1),
            twin="shifts by one more"),
    Example(sizes="3 bits, 2 rows, 3 codes", make=_shift_clip_rows, takes={"i": 2},
            gives={"o": 2}, capacity=4, computes="offset, negated, shifted, clipped, row by row",
            function=each_element(lambda n, x: _clip(((-x if _SHIFTS["negate"][n] else x)
                                             + _SHIFTS["offsets"][n]) >> _SHIFTS["shifts"][n], 3),
                          2, 1),
            broken=lambda: _shift_clip_rows(0), twin="one offset is another one"),
    _staircase_example(Comparators, Storage.LOGIC),
    _staircase_example(Search, Storage.LOGIC, slow=True),
    _staircase_example(Search, Storage.REGISTERED, slow=True, bound=20),
    _code_table_example((0, 1), Storage.LOGIC), _code_table_example((1, 0, 1), Storage.REGISTERED),
    _regroup(2, 1, 3), _regroup(1, 2, 3), _regroup(2, 3, 5, slow=True),
    _regroup(2, 2, 2, o_length=4),
    *(Example(sizes=f"2 inputs, 3 outputs, {depth} additions a stage",
              make=partial(_unrolled, depth=depth), takes={"i": 1}, gives={"o": 1},
              capacity=4, computes="exact dot products",
              function=lambda beats: {"o": [[
                  beats["i"][0][0] - 3 * beats["i"][0][1] - 3, -2 * beats["i"][0][0],
                  2 * beats["i"][0][0] + 1]]},
              broken=partial(_unrolled, depth=depth, sign=1),
              twin="a sign is another one")
      for depth in (1, 2)),
    Example(sizes="a row of 3 pixels, kernel of 2, padded", make=_window, takes={"i": 3},
            gives={"o": 6}, function=_windows, capacity=3,
            computes="the pixels of each position in order", broken=lambda: _window(pad=1),
            twin="pads with another code"),
)


def _multiplies(sizes: str,
                kind: Callable[[Sequence[Sequence[int]]], Products | SharedProducts],
                table: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> Obligation:
    return Obligation(
        component=type(kind(table)), sizes=sizes, claim="products are those of the table",
        twin="one entry is another one", make=lambda: Multiplies(kind(table), table),
        broken=lambda: Multiplies(kind(other), table))


def _shared(storage: Storage, table: Sequence[Sequence[int]]) -> SharedProducts:
    """The same table with a row for each code."""
    return SharedProducts(list(zip(*table, strict=True)), lanes=2, storage=storage)


def _gives_rows(component: type, sizes: str,
                make: Callable[[int], Cycle | PackedCycle | SpreadCycle], rows: Sequence[int],
                ) -> Obligation:
    return Obligation(
        component=component, sizes=sizes, claim="rows come in order, one with every step",
        twin="one row is another one", make=lambda: GivesRows(make(0), rows),
        broken=lambda: GivesRows(make(1), rows))


def _cycle(storage: Storage) -> Callable[[int], Cycle]:
    return lambda change: Cycle(3, [5, 0, 3, 6, 1 + change], storage=storage)


def _spread(storage: Storage) -> Callable[[int], SpreadCycle]:
    # One row is spread, and one comes after it.
    return lambda change: SpreadCycle(2, [1, 0, 2 + change, 1], spread=2, storage=storage)


def _packed(storage: Storage) -> Callable[[int], PackedCycle]:
    # Rows of two fields, 1 and 2 bits wide in one run, none and 2 in the other one.
    return lambda change: PackedCycle([[2, 4], [3, 7], [1, 6], [1, 5 + change]], run=2,
                                      encoding=range(8), width=3, storage=storage)


def _loads(words: Sequence[int], other: Sequence[int], storage: Storage, *, width: int,
           ) -> Obligation:
    def make(given: Sequence[int]) -> LoadsRight:
        return LoadsRight(LoadedWords(given, width=width, storage=storage), words)
    return Obligation(
        component=LoadedWords, sizes=f"{len(words)} words of {width} bits, {storage.value}",
        claim="once loaded, words are those that were to be", twin="one word is another one",
        make=lambda: make(words), broken=lambda: make(other), slow=width > 8)


_POWERS = ((0, 1, 2, 3), (0, -4, -8, -12), (0, 0, 0, 0), (0, 2, 4, 6), (0, -1, -2, -3))
_ANY = ((0, 3, -5), (0, 0, 7), (0, -1, 1))
_EVEN = ((0, -3, -6), (0, -1, -2), (0, 1, 2), (0, 3, 6))
_FEW = ((0, 3, 6), (0, -7, -14), (0, 1, 2))
_LARGE = ((0, 5, 10), (0, -7, -14), (0, 3, 6))

#: What is proved of components that give no stream.
OTHERS = (
    _multiplies("powers of two, 5 x 4, 2 lanes, 2 inputs",
                lambda table: ShiftAddProducts(table, lanes=2, inputs=2), _POWERS,
                (*_POWERS[:3], (0, 4, 8, 12), _POWERS[4])),
    _multiplies("powers of two and a table by entry, 3 x 4",
                lambda table: ShiftAddProducts(table, lanes=1, inputs=1),
                (_POWERS[0], (0, 64, 128, 192), _POWERS[4]),
                (_POWERS[0], (0, 32, 64, 96), _POWERS[4])),
    *(_multiplies(f"any products, 3 x 3, {storage.value}",
                  partial(TableProducts, lanes=1, inputs=2, storage=storage),
                  _ANY, (*_ANY[:2], (0, -1, 2))) for storage in Storage),
    *(_multiplies(f"any products, 3 x 3, 2 lanes, {storage.value}",
                  partial(_shared, storage), _ANY, (*_ANY[:2], (0, -1, 2)))
      for storage in Storage),
    _multiplies("an arithmetic progression, 4 x 3, 2 lanes",
                lambda table: MaskedProducts(table, lanes=2, inputs=1), _EVEN,
                (*_EVEN[:3], (0, 5, 10))),
    _multiplies("buckets, 3 x 3", lambda table: MaskedProducts(table, lanes=1, inputs=2), _FEW,
                (*_FEW[:2], (0, 2, 4))),
    *(_multiplies(f"any multiples, 3 x 3, {storage.value}",
                  partial(DecodeMultiplyProducts, lanes=1, inputs=2, storage=storage),
                  _LARGE, (*_LARGE[:2], (0, 2, 4))) for storage in Storage),
    *(_gives_rows(Cycle, f"5 rows, {storage.value}", _cycle(storage), [5, 0, 3, 6, 1])
      for storage in Storage),
    *(_gives_rows(SpreadCycle, f"4 rows, 1 of them spread, {storage.value}", _spread(storage),
                  [1, 0, 2, 1]) for storage in Storage),
    *(_gives_rows(PackedCycle, f"4 rows of 2 fields, {storage.value}", _packed(storage),
                  [2 | 4 << 3, 3 | 7 << 3, 1 | 6 << 3, 1 | 5 << 3])
      for storage in (Storage.LOGIC, Storage.BLOCK)),
    _loads([5, 2], [5, 3], Storage.BLOCK, width=3),
    _loads([5, 2], [4, 2], Storage.REGISTERED, width=3),
    _loads([0x5a1, 0x203], [0x5a1, 0x213], Storage.BLOCK, width=11),
)

#: What is proved of components that have pins of another clock beside their streams.
PINNED = (
    Obligation(component=SpiPeripheral, sizes="any pins",
               claim="a stalled payload stays valid and unchanged",
               twin="payload changes in every cycle", make=lambda: PinnedRules(SpiPeripheral()),
               broken=lambda: PinnedRules(Restless(SpiPeripheral()))),
    Obligation(component=SpiPeripheral, sizes="SCK low for 4 cycles or more",
               claim="bytes pass both ways, whole and in order; of one cut off a damaged one",
               twin="SCK low for 3 cycles", make=lambda: Exchanges(SpiPeripheral(), low=4),
               broken=lambda: Exchanges(SpiPeripheral(), low=3), slow=True),
)

#: All that is proved of ``nomul.hw``.
HARDWARE = (*(obligation for example in EXAMPLES for obligation in example.obligations()), *OTHERS,
            *PINNED)
