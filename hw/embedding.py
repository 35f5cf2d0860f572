"""Embedding of pixels: rows of a table in place of their values."""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Shape, ShapeLike, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import count_to, vector
from nomul.hw.table import Storage, check_rows, look_up, parity_flag

__all__ = ["Embedding"]


class Embedding(wiring.Component):
    """Each pixel of each channel becomes a row of a table of codes (arXiv 2407.16174).

    All channels share one table, or each has its own; all tables lie in one memory, with
    the channel as the upper part of its address. A pixel past the end of its table gives
    any codes. All paths from ``i`` to ``o`` are registered; ``i.ready`` depends
    combinationally on ``o.ready``.

    Latency: ``storage.latency`` cycles. Throughput: 1 pixel of one channel a cycle.

    Parameters
    ----------
    tables : sequence of tables of rows of int, shape [1 or channels, pixel codes, depth]
        Codes, each within ``code_shape``.
    code_shape : shape-like
        Shape of one code.
    channels : int
        Channels of an image; at least 1.
    storage : Storage
        What holds the tables.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(pixel_shape, 1))
        Pixels; the channels take turns.
    o : Out(vector(code_shape, depth))
        The row of each.
    """

    i: stream.Interface
    o: stream.Interface

    @property
    def latency(self) -> int:
        return self.storage.latency

    def __init__(self, tables: Sequence[Sequence[Sequence[int]]], *, code_shape: ShapeLike,
                 channels: int, storage: Storage, parity: bool = False) -> None:
        self.code_shape = Shape.cast(code_shape)
        self.tables = tuple(tuple(check_rows(self.code_shape, row) for row in table)
                            for table in tables)
        if channels < 1:
            raise ValueError(f"Number of channels must be at least 1, not {channels!r}")
        if len(self.tables) not in (1, channels):
            raise ValueError(f"There must be one table, or one for each of the {channels} "
                             f"channels, not {len(self.tables)}")
        if len({len(table) for table in self.tables}) != 1 or not self.tables[0]:
            raise ValueError("Tables must be of one length, at least one row")
        if len({len(row) for table in self.tables for row in table}) != 1 or not self.tables[0][0]:
            raise ValueError("Rows must be of one length, at least one code")
        self.channels = channels
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.depth = len(self.tables[0][0])
        self.pixel_shape = unsigned(max(1, (len(self.tables[0]) - 1).bit_length()))
        super().__init__({"i": In(vector(self.pixel_shape, 1)),
                          "o": Out(vector(self.code_shape, self.depth))})

    def words(self) -> list[int]:
        """Contents of the memory: each table but the last one fills a power of two of words."""
        width, size = self.code_shape.width, 1 << self.pixel_shape.width
        words: list[int] = []
        for number, table in enumerate(self.tables):
            words += [0] * (number * size - len(words))
            words += [sum(code % (1 << width) << n * width for n, code in enumerate(row))
                      for row in table]
        return words

    def elaborate(self, platform: object) -> Module:
        m = Module()

        words = self.words()
        channel, _ = count_to(m, "channel", len(self.tables), self.i.valid & self.i.ready)
        address = Signal(range(max(2, len(words))))
        row = look_up(m, "table", unsigned(self.depth * self.code_shape.width), words, address,
                      self.i.ready, self.storage, self.parity_error)

        m.d.comb += [
            address.eq(self.i.payload[0] | channel << self.pixel_shape.width),
            self.i.ready.eq(~self.o.valid | self.o.ready),
            self.o.payload.as_value().eq(row),
        ]
        valid = self.i.valid
        with m.If(self.i.ready):
            for n in range(self.storage.latency - 1):
                fetched = Signal(name=f"fetched_{n}")
                m.d.sync += fetched.eq(valid)
                valid = fetched
            m.d.sync += self.o.valid.eq(valid)

        return m
