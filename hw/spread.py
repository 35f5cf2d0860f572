"""Tables whose words are longer than their rows: what is to spare holds more rows."""
from __future__ import annotations

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import following
from nomul.hw.table import Storage, check_rows, look_up

__all__ = ["SpreadCycle", "spread_size"]


def spread_size(width: int, rows: int, spread: int) -> tuple[int, int]:
    """Width and number of the words that hold so many ``rows`` of so many bits, if one after every
    ``spread`` rows is spread over their words; 0 spreads none."""
    if not spread:
        return width, rows
    return width + -(-width // spread), rows - rows // (spread + 1)


class SpreadCycle(wiring.Component):
    """Rows of a table, in order and again from the first, some of them in parts.

    `nomul.hw.table.Cycle` for block RAM whose words are wider than a row, or whose depth is less
    than there are rows: after every ``spread`` rows comes one that has no word of its own. Its
    bits lie beside those rows, a part in each word, and are gathered while they are used. With
    ``spread`` 8, rows of 64 bits take words of 72, and 2,304 of them take 2,048 words: eight block
    RAMs of an ECP5, whose bytes have 9 bits, to the last bit, where plain rows take ten.

    Latency: ``storage.latency`` cycles, and 1 more, from reset to the first row. Throughput: 1 row
    a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of one row.
    rows : iterable of int
        Contents; at least 3 and more than ``spread``, each within ``shape``.
    spread : int
        Rows between two that are spread; at least 1.
    storage : Storage
        What holds them. The choice between a word and what was gathered stands in front of the
        registers, if there are any.
    flag : Signal, optional
        Is raised by words with a wrong bit (see `nomul.hw.table.look_up`); they have a bit more
        then.

    Members
    -------
    row : Out(shape)
        The present row.
    valid : Out(1)
        Whether it is there yet.
    next : In(1)
        Step to the next row; only while ``valid``.
    """

    def __init__(self, shape: ShapeLike, rows: Iterable[int], *, spread: int, storage: Storage,
                 flag: Signal | None = None) -> None:
        self.shape = Shape.cast(shape)
        self.rows = check_rows(self.shape, rows)
        self.spread = spread
        self.storage = storage
        self.flag = flag
        if len(self.rows) < 3:
            raise ValueError(f"Rows that are spread must be at least 3, not {len(self.rows)}")
        if not 1 <= spread < len(self.rows):
            raise ValueError(f"Rows between two that are spread must be 1 to "
                             f"{len(self.rows) - 1}, not {spread!r}")
        #: Bits of a word, and words.
        self.size = spread_size(self.shape.width, len(self.rows), spread)
        super().__init__({"row": Out(self.shape), "valid": Out(1), "next": In(1)})

    def words(self) -> list[int]:
        """Contents of the memory: above each row a part of the one that follows the group."""
        width, part = self.shape.width, self.size[0] - self.shape.width
        rows = [row & (1 << width) - 1 for row in self.rows]
        words = []
        for start in range(0, len(rows), self.spread + 1):
            group = rows[start:start + self.spread + 1]
            whole = group[self.spread] if len(group) > self.spread else 0
            words += [row | (whole >> place * part & (1 << part) - 1) << width
                      for place, row in enumerate(group[:self.spread])]
        return words

    def elaborate(self, platform: object) -> Module:
        m = Module()

        (word_width, depth), width = self.size, self.shape.width
        enable = self.next | ~self.valid
        address = Signal(range(depth))
        place = Signal(range(self.spread + 1))
        place_read = Signal(range(self.spread + 1))
        spread, spread_read = place == self.spread, place_read == self.spread

        # The rows after the last one that is spread, if any, end where the words do.
        ends: Value = spread
        if len(self.rows) % (self.spread + 1):
            ends = spread | (address == depth - 1)
        with m.If(enable):
            m.d.sync += [place.eq(Mux(ends, 0, place + 1)), place_read.eq(place)]
            with m.If(~spread):
                m.d.sync += address.eq(following(address, depth))
        word = look_up(m, "table", word_width, self.words(), address, enable & ~spread,
                       self.storage.plain, self.flag)

        gathered = Signal((word_width - width) * self.spread)
        with m.If(enable & ~spread_read):
            m.d.sync += gathered.eq(Cat(gathered, word[width:])[word_width - width:])
        row: Value = Mux(spread_read, gathered[:width], word[:width])
        row = row.as_signed() if self.shape.signed else row
        if self.storage is Storage.REGISTERED:
            fetched = Signal()
            with m.If(enable):
                m.d.sync += self.row.eq(row)
            m.d.sync += [fetched.eq(1), self.valid.eq(fetched)]
        else:
            m.d.comb += self.row.eq(row)
            m.d.sync += self.valid.eq(1)

        return m
