"""What a staircase costs on gates: each circuit for one output lane, over rows and codes."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from amaranth.hdl import signed
from amaranth.lib import wiring

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.chain import Chain
from nomul.hw.code_table import CodeTable
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.hw.table import Storage
from nomul.hw.thresholds import Comparators, Search
from nomul.tables import Row

__all__ = ["HEADER", "circuits", "measure"]

_WIDTH = 18
# Places of a table to a code: levels of an adaptive activation are at least so many steps apart.
_PLACES = 4
HEADER: Row = ("circuit", "rows of constants", "codes", "constants in", "chip", "LUT4", "carry",
               "FF", "block RAM")


def circuits(rows: int, codes: int, storage: Storage, *, seed: int = 0,
             ) -> Iterator[tuple[str, Callable[[], wiring.Component]]]:
    """What makes each circuit for sums of 18 bits, one a cycle, with random constants for ``rows``
    outputs."""
    rng = np.random.default_rng(seed)
    low, high = -(1 << _WIDTH - 1), (1 << _WIDTH - 1) - 1
    thresholds = np.sort(rng.integers(low, high, (rows, codes - 1)), axis=1).tolist()
    offsets = rng.integers(low // 8, high // 8, rows).tolist()
    shape = signed(_WIDTH)
    yield "shift-clip, common shift", lambda: Chain({
        "offset": Offset(shape, shape, offsets=offsets, lanes=1, negate=False, storage=storage),
        "clip": ShiftClip(shape, shift=10, codes=codes, lanes=1)})
    if rows > 1:
        yield "shift-clip, own shifts", partial(
            ShiftClipRows, shape, shape, offsets=offsets, shifts=rng.integers(8, 12, rows).tolist(),
            negate=rng.integers(0, 2, rows).tolist(), codes=codes, lanes=1, storage=storage)
    own = rng.spawn(1)[0].integers(0, _PLACES * codes, (rows, codes - 1))
    tables = [np.searchsorted(np.sort(row), np.arange(_PLACES * codes), side="right").tolist()
              for row in own]
    for name, kept in (("table, common", tables[:1]), ("table, own", tables))[:min(rows, 2)]:
        yield name, partial(_looked_up, kept, offsets, codes=codes, storage=storage)
    falling = rng.integers(0, 2, rows).astype(bool).tolist()
    for name, circuit in (("comparators", Comparators), ("search", Search)):
        if codes <= 16 or circuit is Search:
            yield name, partial(circuit, shape, thresholds, falling=falling, lanes=1,
                                storage=storage)


def _looked_up(tables: Sequence[Sequence[int]], offsets: Sequence[int], *, codes: int,
               storage: Storage) -> Chain:
    shape, own = signed(_WIDTH), len(tables) > 1
    return Chain({
        "offset": Offset(shape, shape, offsets=offsets, lanes=1, negate=False, storage=storage),
        "table": CodeTable(shape, tables, which=range(len(tables)) if own else [0],
                           shift=_WIDTH - len(tables[0]).bit_length(), codes=codes, lanes=1,
                           tables_in=storage if own else Storage.LOGIC, storage=storage)})


def measure(chip: str) -> list[Row]:
    """Rows of a table with `HEADER`, mapped to ``chip``."""
    found: list[Row] = []
    for rows, codes, storage in ((1, 4, Storage.LOGIC), (1, 16, Storage.LOGIC),
                                 (1, 256, Storage.BLOCK), (64, 4, Storage.BLOCK),
                                 (64, 16, Storage.BLOCK)):
        for name, make in circuits(rows, codes, storage):
            with tempfile.TemporaryDirectory() as folder:
                counts = make_netlist(make(), target(chip), Path(folder)).counts
            found.append((name, rows, codes, storage.value, chip, counts.lut4, counts.carry,
                          counts.ff, counts.bram))
            print(f"{chip}: {name}, {rows} rows, {codes} codes", flush=True)
    return found
