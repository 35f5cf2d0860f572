"""Read-only tables, and where they are kept."""
from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

from amaranth.hdl import Const, Module, Shape, ShapeLike, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Cycle", "Storage", "check_rows", "look_up"]


class Storage(enum.Enum):
    """What a table is made of."""

    LOGIC = "logic"
    """Look-up tables of the fabric."""
    BLOCK = "block"
    """Block RAM, filled by the bitstream."""


def check_rows(shape: ShapeLike, rows: Iterable[int]) -> tuple[int, ...]:
    """``rows`` as plain integers; `ValueError` for one that ``shape`` cannot hold."""
    shape = Shape.cast(shape)
    rows = tuple(int(row) for row in rows)
    for row in rows:
        if Const(row, shape).value != row:
            raise ValueError(f"Table row must be within {shape!r}, not {row!r}")
    return rows


def look_up(m: Module, name: str, shape: ShapeLike, rows: Sequence[Any], address: Value,
            enable: Value, storage: Storage) -> Value:
    """Row of a table at ``address``, one cycle after ``enable``; held while it is low."""
    attributes = {"rom_style": "block"} if storage is Storage.BLOCK else {"logic_block": 1}
    # Yosys makes no memory of a single row.
    rows = [*rows, *rows] if len(rows) == 1 else rows
    table = memory.Memory(shape=shape, depth=len(rows), init=rows, attrs=attributes)
    m.submodules[name] = table
    read = table.read_port()
    m.d.comb += [read.addr.eq(address), read.en.eq(enable)]
    return read.data


class Cycle(wiring.Component):
    """Rows of a table, in order and again from the first.

    The next row is fetched while the present one is used, so that a row is always
    there from the second cycle after reset.

    Latency: 2 cycles from reset to the first row. Throughput: 1 row a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one row.
    rows : iterable of int
        Contents; at least one row, each within ``shape``.
    storage : Storage
        What holds them. A table of one row takes no hardware.

    Members
    -------
    row : Out(shape)
        The present row.
    valid : Out(1)
        Whether it is there yet.
    next : In(1)
        Step to the next row; only while ``valid``.
    """

    def __init__(self, shape: ShapeLike, rows: Iterable[int], *, storage: Storage) -> None:
        self.shape = Shape.cast(shape)
        self.rows = check_rows(self.shape, rows)
        if not self.rows:
            raise ValueError("Table must have at least one row")
        self.storage = storage
        super().__init__({"row": Out(self.shape), "valid": Out(1), "next": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        if len(self.rows) == 1:
            m.d.comb += [self.row.eq(self.rows[0]), self.valid.eq(1)]
            return m

        address = Signal(range(len(self.rows)))
        enable = self.next | ~self.valid
        m.d.comb += self.row.eq(
            look_up(m, "table", self.shape, self.rows, address, enable, self.storage))
        m.d.sync += self.valid.eq(1)
        with m.If(enable):
            m.d.sync += address.eq(address + 1)
            with m.If(address == len(self.rows) - 1):
                m.d.sync += address.eq(0)

        return m
