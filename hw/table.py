"""Read-only tables, and where they are kept."""
from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Shape, ShapeLike, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import following

__all__ = ["Cycle", "Storage", "check_rows", "leave", "look_up", "merge_flags", "parity_flag"]


class Storage(enum.Enum):
    """What a table is made of."""

    LOGIC = "logic"
    """Look-up tables of the fabric."""
    BLOCK = "block"
    """Block RAM, filled by the bitstream."""
    REGISTERED = "registered"
    """Block RAM, and registers behind it: its words come a cycle later, and the clock may be
    faster."""

    @property
    def plain(self) -> Storage:
        """The same without registers."""
        return Storage.BLOCK if self is Storage.REGISTERED else self

    @property
    def latency(self) -> int:
        """Cycles from an address to its word."""
        return 1 + (self is Storage.REGISTERED)


def check_rows(shape: ShapeLike, rows: Iterable[int]) -> tuple[int, ...]:
    """``rows`` as plain integers; `ValueError` for one that ``shape`` cannot hold."""
    shape = Shape.cast(shape)
    rows = tuple(int(row) for row in rows)
    for row in rows:
        if Const(row, shape).value != row:
            raise ValueError(f"Table row must be within {shape!r}, not {row!r}")
    return rows


def parity_flag(parity: bool) -> Signal | None:
    """What a component with ``parity`` raises when a word of one of its tables has a wrong bit."""
    return Signal(name="parity_error") if parity else None


def merge_flags(m: Module, flag: Signal | None, flags: Sequence[Signal | None]) -> None:
    """Raise ``flag``, if there is one, when one of ``flags`` is."""
    if flag is not None:
        m.d.comb += flag.eq(Cat(each for each in flags if each is not None).any())


def look_up(m: Module, name: str, shape: ShapeLike, rows: Sequence[Any], address: Value,
            enable: Value, storage: Storage, flag: Signal | None = None) -> Value:
    """Row of a table at ``address``, ``storage.latency`` cycles after ``enable``; held while it is
    low.

    With a ``flag`` each word has a bit more, which makes the number of its ones even. The flag is
    raised, a cycle after ``enable`` and until the next word, by a word that is odd: so by every
    one of which a single bit has changed.
    """
    shape = Shape.cast(shape)
    if flag is not None:
        rows = [_even(int(row) & (1 << shape.width) - 1, shape.width) for row in rows]
        fetched = Signal(name=f"{name}_fetched")
        with m.If(enable):
            m.d.sync += fetched.eq(1)
    attributes = {"logic_block": 1} if storage is Storage.LOGIC else {"rom_style": "block"}
    # Yosys makes no memory of a single row.
    rows = [*rows, *rows] if len(rows) == 1 else rows
    table = memory.Memory(shape=shape if flag is None else shape.width + 1, depth=len(rows),
                          init=rows, attrs=attributes)
    m.submodules[name] = table
    read = table.read_port()
    m.d.comb += [read.addr.eq(address), read.en.eq(enable)]
    found = read.data
    if flag is not None:
        m.d.comb += flag.eq(fetched & found.xor())
        found = found[:shape.width]
        found = found.as_signed() if shape.signed else found
    if storage is not Storage.REGISTERED:
        return found
    word = Signal(shape, name=f"{name}_word")
    with m.If(enable):
        m.d.sync += word.eq(found)
    return word


def _even(word: int, width: int) -> int:
    """A word of an even number of ones: ``word``, and above its ``width`` bits one more."""
    return word | (word.bit_count() & 1) << width


def leave(m: Module, sink: stream.Interface, word: Value, read: Value, advance: Value,
          storage: Storage) -> None:
    """Give ``sink`` each ``word`` that comes the cycle after ``read``; it steps on ``advance``."""
    valid: Value = read
    if storage is Storage.REGISTERED:
        arriving, held = Signal(name="arriving"), Signal(len(word), name="word_held")
        with m.If(advance):
            m.d.sync += [arriving.eq(read), held.eq(word)]
        valid, word = arriving, held
    m.d.comb += Value.cast(sink.payload).eq(word)
    with m.If(advance):
        m.d.sync += sink.valid.eq(valid)


class Cycle(wiring.Component):
    """Rows of a table, in order and again from the first.

    The next row is fetched while the present one is used, so that a row is always there once the
    first one has come.

    Latency: ``storage.latency`` cycles, and 1 more, from reset to the first row. Throughput: 1 row
    a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one row.
    rows : iterable of int
        Contents; at least one row, each within ``shape``.
    storage : Storage
        What holds them. A table of one row takes no hardware.
    flag : Signal, optional
        Is raised by words with a wrong bit (see `look_up`); they have a bit more then.

    Members
    -------
    row : Out(shape)
        The present row.
    valid : Out(1)
        Whether it is there yet.
    next : In(1)
        Step to the next row; only while ``valid``.
    """

    def __init__(self, shape: ShapeLike, rows: Iterable[int], *, storage: Storage,
                 flag: Signal | None = None) -> None:
        self.shape = Shape.cast(shape)
        self.rows = check_rows(self.shape, rows)
        if not self.rows:
            raise ValueError("Table must have at least one row")
        self.storage = storage
        self.flag = flag
        super().__init__({"row": Out(self.shape), "valid": Out(1), "next": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        if len(self.rows) == 1:
            m.d.comb += [self.row.eq(self.rows[0]), self.valid.eq(1)]
            return m

        address = Signal(range(len(self.rows)))
        enable = self.next | ~self.valid
        m.d.comb += self.row.eq(
            look_up(m, "table", self.shape, self.rows, address, enable, self.storage,
                    self.flag))
        valid: Value = Const(1)
        for n in range(self.storage.latency - 1):
            fetched = Signal(name=f"fetched_{n}")
            m.d.sync += fetched.eq(valid)
            valid = fetched
        m.d.sync += self.valid.eq(valid)
        with m.If(enable):
            m.d.sync += address.eq(following(address, len(self.rows)))

        return m
