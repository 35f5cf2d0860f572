# amaranth: UnusedElaboratable=no
"""PackedCycle in simulation, the bits it stores, and the cells Yosys makes of it."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.packed import PackedCycle
from nomul.hw.table import Cycle, Storage

Rows = list[list[int]]


def rows_of(rng: np.random.Generator, widths: Any, *, lanes: int, inputs: int, chunks: int,
            words: int = 1, present: int = 0) -> Rows:
    """Rows of ``lanes`` outputs with ``inputs`` weights each; every so many chunks only some
    inputs are ``present``, and outputs past the last one are absent."""
    rows = []
    for first in range(0, len(widths), lanes):
        for chunk in range(chunks):
            count = present if present and (chunk + 1) % words == 0 else inputs
            row = [[1 << width | int(rng.integers(1 << width)) if n < count else 0
                    for n in range(inputs)] for width in widths[first:first + lanes]]
            row += [[0] * inputs] * (lanes - len(row))
            rows.append([field for output in row for field in output])
    return rows


def packed(rows: Rows, run: int, storage: Storage = Storage.LOGIC, encoding: Any = None,
           ) -> PackedCycle:
    encoding = encoding or range(1 << max(max(row) for row in rows).bit_length())
    return PackedCycle(rows, run=run, encoding=encoding, storage=storage,
                       width=(len(encoding) - 1).bit_length())


def seen(dut: Any, count: int, skip: int = 1) -> tuple[list[int], int]:
    """Rows that leave, one every ``skip`` cycles; and the cycles to the first one."""
    rows: list[int] = []
    waited = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal waited
        for step in range(1, 100_000):
            valid = ctx.get(dut.valid)
            waited += not valid and not rows
            take = valid and step % skip == 0
            ctx.set(dut.next, take)
            if take:
                rows.append(ctx.get(dut.row))
            if len(rows) == count:
                return
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(rows) == count
    return rows, waited


def plain(rows: Rows, width: int, encoding: Any) -> list[int]:
    return [sum(encoding[field] << n * width for n, field in enumerate(row)) for row in rows]


def bits_in(rows: Rows) -> int:
    return sum(field.bit_length() - 1 for row in rows for field in row if field)


CASES: list[tuple[list[int], dict[str, int]]] = [
    ([3], {"lanes": 1, "inputs": 1, "chunks": 1}),
    ([0, 0, 0], {"lanes": 2, "inputs": 2, "chunks": 3}),
    ([1, 4, 2, 3, 0], {"lanes": 1, "inputs": 3, "chunks": 4}),
    ([1, 4, 2, 3, 0], {"lanes": 2, "inputs": 1, "chunks": 5}),
    ([2, 2, 2, 2], {"lanes": 2, "inputs": 3, "chunks": 4}),
    ([4, 1, 3, 3, 2, 4, 4], {"lanes": 4, "inputs": 2, "chunks": 3}),
    ([4, 1, 0, 3, 2, 4, 4], {"lanes": 3, "inputs": 4, "chunks": 3, "words": 3, "present": 1}),
    ([1, 2, 3, 4, 1], {"lanes": 2, "inputs": 3, "chunks": 6, "words": 2, "present": 2}),
    ([1, 2, 3, 4, 5, 6, 7, 8], {"lanes": 2, "inputs": 3, "chunks": 2}),
    ([0, 7, 0, 1], {"lanes": 1, "inputs": 5, "chunks": 2, "words": 1, "present": 4}),
]


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("order", ["counted", "shuffled", "shared"])
@pytest.mark.parametrize("widths, fold", CASES)
def test_rows_are_those_of_a_plain_table(widths: list[int], fold: dict[str, int],
                                         storage: Storage, order: str) -> None:
    rng = np.random.default_rng(len(widths))
    rows = rows_of(rng, widths, **fold)
    encoding = list(range(2 << max(widths)))
    if order != "counted":
        encoding = rng.permutation(encoding).tolist()
    if order == "shared":
        encoding = [word // 3 for word in encoding]
    dut = packed(rows, fold["chunks"], storage, encoding)
    expected = plain(rows, dut.width, encoding)
    count = 3 * len(rows) + 1
    for skip in (1, 3):
        assert seen(dut, count, skip)[0] == (4 * expected)[:count]


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_padded(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random widths and folds: the rows are right, and the memory holds their bits and no more."""
    rng = np.random.default_rng([8, seed])
    monkeypatch.setattr("nomul.hw.packed.BLOCK_BITS", int(rng.choice([1, 64])))
    lanes, inputs, words = (int(n) for n in rng.integers(1, 5, 3))
    widths = rng.integers(0, 5, int(rng.integers(1, 13))).tolist()
    rows = rows_of(rng, widths, lanes=lanes, inputs=inputs, words=words,
                   chunks=words * int(rng.integers(1, 4)), present=int(rng.integers(0, inputs + 1)))
    dut = packed(rows, len(rows) // -(-len(widths) // lanes), rng.choice(list(Storage)))
    if dut.stacked:
        (width, _), = dut.columns
        assert dut.stored_bits == -(-bits_in(rows) // width) * width
    else:
        assert dut.stored_bits == bits_in(rows)
    count = 2 * len(rows) + 1
    assert seen(dut, count)[0] == (3 * plain(rows, dut.width, dut.encoding))[:count]


@pytest.mark.parametrize("storage", Storage)
def test_a_row_comes_every_cycle_from_the_third(storage: Storage) -> None:
    """A row is there in the third cycle after reset, two cycles later than the reset itself."""
    rows = rows_of(np.random.default_rng(0), [1, 4, 2, 3], lanes=1, inputs=4, chunks=3)
    dut = packed(rows, 3, storage)
    assert dut.stacked == (storage is not Storage.LOGIC)
    _, waited = seen(dut, 60)
    assert waited == 2


@pytest.mark.parametrize("storage", Storage)
def test_the_test_can_fail(storage: Storage) -> None:
    """A circuit that takes a run's rows for another's gives other rows."""
    class Slips(PackedCycle):
        def elaborate(self, platform: object) -> Module:
            self.kinds = self.kinds[::-1]
            return super().elaborate(platform)

    rows = rows_of(np.random.default_rng(0), [1, 4, 2, 3], lanes=1, inputs=4, chunks=3)
    right = packed(rows, 3, storage)
    wrong = Slips(rows, run=3, encoding=right.encoding, width=right.width, storage=storage)
    expected = plain(rows, right.width, right.encoding)
    assert seen(right, 12)[0] == expected
    assert seen(wrong, 12)[0] != expected


WIDE = {"lanes": 8, "inputs": 4, "chunks": 18}
MIXED = np.random.default_rng(5).integers(1, 5, 64)


@pytest.mark.synth
@pytest.mark.parametrize("widths, fold, most_lut4, blocks", [
    (np.full(64, 4), WIDE, 40, 8),
    (np.sort(MIXED), WIDE, 550, 6),
    (MIXED, WIDE, 400, 6),
    (MIXED, {"lanes": 1, "inputs": 4, "chunks": 18}, 180, 3)],
    ids=["alike", "sorted", "mixed", "narrow"])
def test_it_is_cheap(tmp_path: Path, widths: Any, fold: Any, most_lut4: int, blocks: int) -> None:
    rows = rows_of(np.random.default_rng(0), widths.tolist(), **fold)
    netlist = make_netlist(packed(rows, fold["chunks"], Storage.BLOCK), target("ice40-hx8k"),
                           tmp_path)
    assert netlist.counts.lut4 <= most_lut4 and netlist.counts.bram <= blocks
    assert netlist.multipliers == 0


@pytest.mark.synth
def test_a_plain_table_takes_more_block_ram(tmp_path: Path) -> None:
    """As the packed one that is narrow takes 3."""
    table = Cycle(16, [n * 40503 & 0xffff for n in range(64 * 18)], storage=Storage.BLOCK)
    assert make_netlist(table, target("ice40-hx8k"), tmp_path).counts.bram == 5


@pytest.mark.parametrize("make, message", [
    (lambda: packed([[0, 0]], 1, encoding=range(2)),
     "Rows must have as many fields each, and not all of them absent"),
    (lambda: packed([[1, 1], [1]], 1),
     "Rows must have as many fields each, and not all of them absent"),
    (lambda: packed([[1], [1]], 0), "Run must divide the 2 rows, not be 0"),
    (lambda: packed([[1], [1], [1]], 2), "Run must divide the 3 rows, not be 2"),
    (lambda: packed([[4]], 1, encoding=range(4)), "Field must be 0 to 3, not 4"),
    (lambda: PackedCycle([[1]], run=1, encoding=[0, 4], width=2, storage=Storage.LOGIC),
     "Encoding must fit in 2 bits, not be 4"),
    (lambda: packed([[2], [4], [2]], 3), "Rows of a run must have fields of the same widths, but "
     "for some that are absent at regular intervals"),
    (lambda: packed([[2], [0], [2]], 3), "Rows of a run must have fields of the same widths, but "
     "for some that are absent at regular intervals"),
])
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
