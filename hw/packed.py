"""Tables of numbers of different widths, stored without a gap.

A **field** is a number whose leading 1 is not stored: of ``1 << width | value`` the memory holds
the ``width`` bits of the value, and nothing of 1. A field of 0 is absent.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import gcd

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import count_to, following
from nomul.hw.table import Cycle, Storage, look_up, merge_flags, parity_flag

__all__ = ["PackedCycle"]

Layout = tuple[int, ...]
"""Significant bits of each field of a row: one more than are stored, or 0 if it is absent."""

Bit = tuple[int, int]
"""A field, and one of its bits."""

Ahead = Callable[[str, Sequence[int]], Value]
"""Makes a register of what the next row needs, by its layout."""

#: Widest row that is worth a stack, which costs logic, but uses block RAM whole.
WIDEST_STACK = 32

#: Columns of fewer bits are logic: on small chips, cheaper than a block RAM of their own.
BLOCK_BITS = 1024


class PackedCycle(wiring.Component):
    """Rows of fields of different widths, in order and again from the first, stored without a gap.

    `nomul.hw.table.Cycle` for weights whose width differs from output to output. Two circuits:

    - **Columns**, where rows are wide or the bits are kept in logic: memories side by side, each of
      which steps only at the rows that are large enough to use it.
    - **A stack**, for rows of at most 32 bits in block RAM: one memory, whose next word is put on
      top of a stack if that holds too few bits for a row. What the row leaves there, a later one
      uses. As the order of the rows is known when the memory is filled, the bits lie in it
      where these moves want them; the stack shifts by the size of a row and in no other way.

    Where a bit of a field lies among those of its row is chosen so that it comes from as few
    places as can be.

    Latency: 3 cycles from reset to the first row. Throughput: 1 row a cycle.

    Parameters
    ----------
    rows : sequence of rows of int, shape [rows, fields]
        Contents; not all fields absent.
    run : int
        Rows in a run, whose fields are of the same widths; divides the rows. Every so many rows of
        a run (the same in all runs) may lack some of the fields.
    encoding : sequence of int
        What leaves for each value of a field.
    width : int
        Bits of a field as it leaves.
    storage : Storage
        What holds the bits; columns of fewer than 1024 bits are logic anyway.
    flag : Signal, optional
        Is raised by words of the memories with a wrong bit; they have a bit more then.

    Members
    -------
    row : Out(fields * width)
        The present row, the first field lowest; absent fields leave as 0 does.
    valid : Out(1)
        Whether it is there yet.
    next : In(1)
        Step to the next row; only while ``valid``.
    """

    def __init__(self, rows: Sequence[Sequence[int]], *, run: int, encoding: Sequence[int],
                 width: int, storage: Storage, flag: Signal | None = None) -> None:
        self.rows = tuple(tuple(int(field) for field in row) for row in rows)
        self.run = run
        self.encoding = tuple(int(word) for word in encoding)
        self.width = width
        self.storage = storage.plain  # rows are registered anyway
        self.flag = flag
        if not any(map(any, self.rows)) or len({len(row) for row in self.rows}) > 1:
            raise ValueError("Rows must have as many fields each, and not all of them absent")
        if run < 1 or len(self.rows) % run:
            raise ValueError(f"Run must divide the {len(self.rows)} rows, not be {run!r}")
        for field in (field for row in self.rows for field in row):
            if not 0 <= field < len(self.encoding):
                raise ValueError(f"Field must be 0 to {len(self.encoding) - 1}, not {field!r}")
        for word in self.encoding:
            if not 0 <= word < 1 << width:
                raise ValueError(f"Encoding must fit in {width!r} bits, not be {word!r}")
        self.fields = len(self.rows[0])

        # Layouts: of the rows of each run, and of those in it that lack fields.
        of_rows = [tuple(field.bit_length() for field in row) for row in self.rows]
        firsts = of_rows[::run]
        self.period = 1 + next((n % run for n, layout in enumerate(of_rows)
                                if layout != firsts[n // run]), 0)
        lasts = of_rows[self.period - 1::run]
        if run % self.period or any(
                layout != (firsts if (n + 1) % self.period else lasts)[n // run]
                for n, layout in enumerate(of_rows)):
            raise ValueError("Rows of a run must have fields of the same widths, but for some that "
                             "are absent at regular intervals")
        self.layouts = sorted(set(of_rows))
        self.sizes = [sum(bits - 1 for bits in layout if bits) for layout in self.layouts]
        numbers = [self.layouts.index(layout) for layout in of_rows]
        #: Of each run: the layout of its rows and, if there are such, of those that lack fields.
        self.kinds = [numbers[n + offset] for n in range(0, len(numbers), run)
                      for offset in sorted({0, self.period - 1})]

        self.stacked = self.storage is Storage.BLOCK and 0 < max(self.sizes) <= WIDEST_STACK
        #: Width of each memory, and the layouts whose rows use it.
        self.columns = _columns(self.sizes)
        reach = [[place for place, column in enumerate(
                      n for n, (wide, _) in enumerate(self.columns) for _ in range(wide))
                  if layout in self.columns[column][1]] for layout in range(len(self.layouts))]
        if self.stacked:
            self.columns = [(1 << (max(self.sizes) - 1).bit_length(), [*range(len(self.layouts))])]
            reach = [[*range(size)] for size in self.sizes]
        #: For each layout, where among the bits that a row finds those of its fields are.
        self.places = _places(self.layouts, reach)
        self.words, self.depth = self._stack_words(numbers) if self.stacked else (
            self._column_words(numbers), 0)
        super().__init__({"row": Out(self.fields * width), "valid": Out(1), "next": In(1)})

    @property
    def stored_bits(self) -> int:
        """Bits of the memories, but for parity: those of all fields; in a stack rounded up to a
        word."""
        return sum(width * len(words)
                   for (width, _), words in zip(self.columns, self.words, strict=True))

    def _column_words(self, layouts: Sequence[int]) -> list[list[int]]:
        """Words of each memory."""
        words: list[list[int]] = [[] for _ in self.columns]
        for row, layout in zip(self.rows, layouts, strict=True):
            bits = sum((row[field] >> n & 1) << place
                       for (field, n), place in self.places[layout].items())
            for column, (width, users) in zip(words, self.columns, strict=True):
                if layout in users:
                    column.append(bits & (1 << width) - 1)
                bits >>= width
        return words

    def _stack_words(self, layouts: Sequence[int]) -> tuple[list[list[int]], int]:
        """Words of the memory, and how many bits the stack holds at most between two rows."""
        (width, _), = self.columns
        words: list[int] = []
        stack: list[tuple[int, int]] = []  # word and bit, from the top
        depth = 0
        for row, layout in zip(self.rows, layouts, strict=True):
            if len(stack) < self.sizes[layout]:
                stack = [(len(words), bit) for bit in range(width)] + stack
                words.append(0)
            for (field, n), place in self.places[layout].items():
                word, bit = stack[place]
                words[word] |= (row[field] >> n & 1) << bit
            stack = stack[self.sizes[layout]:]
            depth = max(depth, len(stack))
        return [words], depth  # what is left on the stack at the end is never used

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # What a row needs is known one row ahead; then its bits are at hand, then it is registered.
        step, primed = Signal(name="step"), Signal(name="primed")
        m.d.comb += step.eq(self.next | ~self.valid)
        with m.If(step):
            m.d.sync += [self.valid.eq(primed), primed.eq(1)]
        _, lacks = count_to(m, "row", self.period, step)
        _, last_period = count_to(m, "period", self.run // self.period, step & lacks)
        run, last_run = count_to(m, "run", len(self.rows) // self.run, step & lacks & last_period)
        at = Cat(lacks, run) if self.period > 1 else run

        def ahead(name: str, of_layouts: Sequence[int]) -> Value:
            """What a row needs, by its layout."""
            chosen = _choose(m, f"{name}_ahead", at, [of_layouts[kind] for kind in self.kinds])
            needed = Signal.like(chosen, name=name)
            with m.If(step):
                m.d.sync += needed.eq(chosen)
            return needed

        found = self._stack(m, step, ahead, at, lacks & last_period & last_run) if (
            self.stacked) else self._cycles(m, step, ahead)
        layout = ahead("layout", range(len(self.layouts)))
        bits = Cat(found, Const(0b10, 2))  # what a bit can be: one of those found, 0 or 1
        with m.If(step):
            m.d.sync += self.row.eq(Cat(self._field(m, field, layout, bits)
                                        for field in range(self.fields)))

        return m

    def _cycles(self, m: Module, step: Value, ahead: Ahead) -> Value:
        """The memories side by side."""
        found = []
        flags = [parity_flag(self.flag is not None) for _ in self.columns]
        merge_flags(m, self.flag, flags)
        for n, ((width, users), words) in enumerate(zip(self.columns, self.words, strict=True)):
            small = width * len(words) < BLOCK_BITS
            m.submodules[f"column_{n}"] = column = Cycle(
                width, words, storage=Storage.LOGIC if small else self.storage,
                flag=flags[n])
            used = ahead(f"used_{n}", [layout in users for layout in range(len(self.layouts))])
            m.d.comb += column.next.eq(step & used)
            found.append(column.row)
        return Cat(found)

    def _stack(self, m: Module, step: Value, ahead: Ahead, at: Value, ends: Value) -> Value:
        """What a row finds on the stack, from the top; ``ends`` with the last row."""
        (width, _), words = self.columns[0], self.words[0]
        least = min(self.sizes)

        # Bits on the stack, counted in units of which all sizes are multiples.
        unit = gcd(width, *self.sizes)
        size = _choose(m, "size", at, [self.sizes[kind] // unit for kind in self.kinds])
        fill = Signal(range(self.depth // unit + 1))
        short = fill < size
        push = Signal(init=1)  # fetches the first word
        with m.If(step):
            m.d.sync += [push.eq(short),
                         fill.eq(Mux(ends, 0, fill - size + Mux(short, width // unit, 0)))]

        address = Signal(range(len(words)))
        with m.If(step & push):
            m.d.sync += address.eq(following(address, len(words)))
        word = look_up(m, "table", width, words, address, step & push, self.storage,
                       self.flag)

        # Without a push, no row reaches deeper than what is left over.
        rest = Signal(self.depth)
        found = Cat(Mux(push, word[:self.depth], rest), word[self.depth:], rest)
        unit = gcd(*(size - least for size in self.sizes)) or 1
        shift = ahead("shift", [(size - least) // unit for size in self.sizes])
        left = found[least:]
        for n in range(len(shift)):
            left = Mux(shift[n], left[unit << n:], left)
        with m.If(step):
            m.d.sync += rest.eq(left)
        return found

    def _field(self, m: Module, field: int, layout: Value, bits: Value) -> Value:
        """What leaves as ``field``."""
        zero = len(bits) - 2
        value = []
        for n in range((len(self.encoding) - 1).bit_length()):
            places = [found.get((field, n), zero + (sizes[field] == n + 1))
                      for sizes, found in zip(self.layouts, self.places, strict=True)]
            value.append(_choose(m, f"field_{field}_{n}", layout, places, bits))
        word = Cat(value)
        if self.encoding != tuple(range(len(self.encoding))):
            word = _choose(m, f"word_{field}", word, self.encoding)
        return Cat(word, Const(0, self.width - len(word)))


def _choose(m: Module, name: str, at: Value, rows: Sequence[int], of: Value | None = None,
            ) -> Value:
    """``rows[at]``, or that bit ``of`` a value."""
    kinds = sorted(set(rows), key=list(rows).count)
    chosen = Signal(range(max(rows) + 1) if of is None else 1, name=name)

    def to(row: int) -> Value:
        return chosen.eq(row if of is None else of[row])

    m.d.comb += to(kinds.pop())
    with m.Switch(at):
        for row in kinds:
            with m.Case(*(n for n, other in enumerate(rows) if other == row)):
                m.d.comb += to(row)
    return chosen


def _columns(sizes: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Columns, of which every row of one of the ``sizes`` uses some whole ones: the width of each,
    and the sizes that use it. One for each step from a size to the next; or as few as the bits of
    a number."""
    least = min(sizes)
    unit = gcd(*(size - least for size in sizes)) or 1
    excess = [(size - least) // unit for size in sizes]
    steps = [(b - a, [n for n, size in enumerate(sizes) if size >= b])
             for a, b in pairwise(sorted({0, *sizes}))]
    digits = [(unit << bit, [n for n, units in enumerate(excess) if units >> bit & 1])
              for bit in range(max(excess).bit_length())]
    digits = [(least, [*range(len(sizes))])] * (least > 0) + [d for d in digits if d[1]]
    return min(steps, digits, key=len)


def _places(layouts: Sequence[Layout], reach: Sequence[Sequence[int]]) -> list[dict[Bit, int]]:
    """For each layout, a place within its ``reach`` for every bit, such that few bits come from
    several places."""
    wired: dict[Bit, list[int]] = {}
    result: dict[Layout, dict[Bit, int]] = {}
    # The largest first, its low bits at the top: there others mostly find theirs, too.
    for layout, places in sorted(zip(layouts, reach, strict=True), key=lambda pair: -len(pair[1])):
        wanted = [(field, n) for n in range(max(layout)) for field, bits in enumerate(layout)
                  if n + 1 < bits]
        taken: dict[int, Bit] = {}
        others = [bit for bit in wanted if not _settle(bit, set(places), wired, taken)]
        free = [place for place in places if place not in taken]
        for bit, place in zip(others, free, strict=True):
            taken[place] = bit
            wired.setdefault(bit, []).append(place)
        result[layout] = {bit: place for place, bit in taken.items()}
    return [result[layout] for layout in layouts]


def _settle(bit: Bit, free: set[int], wired: dict[Bit, list[int]], taken: dict[int, Bit]) -> bool:
    """Give ``bit`` one of the places that it is wired to, moving others among theirs; each of the
    ``free`` ones is tried once."""
    for place in wired.get(bit, ()):
        if place in free:
            free.discard(place)
            if place not in taken or _settle(taken[place], free, wired, taken):
                taken[place] = bit
                return True
    return False
