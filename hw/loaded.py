"""Words that are not in the bitstream: a memory of one port, which a stream fills."""
from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.crc import CRC_START, crc_state, crc_step
from nomul.hw.table import Storage, check_rows

__all__ = ["LoadedWords", "load_byte"]


def load_byte() -> data.StructLayout:
    """A byte of words, and whether it is the last one of all."""
    return data.StructLayout({"byte": 8, "last": 1})


class LoadedWords(wiring.Component):
    """A table in a memory of one port that starts with any contents, such as SPRAM: a stream fills
    it, and no other words than those of the table are let through.

    A load is ``image``, byte by byte. It is over at the byte that is marked as the last one; it has
    failed if that is not the last one of all words, or if the CRC-32 is not that of ``image``.
    Whatever came of it, the next byte begins another load, once the memory is ``free``.

    ``i.ready`` is low for 8 cycles after each byte, for the checksum takes a bit a cycle, and
    depends combinationally on ``free`` alone.

    Latency: ``storage.latency`` cycles of ``enable``, from ``address`` to ``word``; 10 cycles, from
    the last byte to ``loaded``. Throughput: 1 word a cycle; 1 byte in 9 cycles.

    Parameters
    ----------
    words : sequence of int
        At least one, each of ``width`` bits. The circuit holds their number and their checksum.
    width : int
        Bits of a word; at least 1. In memory and in ``image`` a word takes whole bytes, the lowest
        first.
    storage : Storage
        Whether there is a register behind the memory.

    Attributes
    ----------
    image : bytes
        What is to be loaded.

    Members
    -------
    i : In(stream.Signature(load_byte()))
        Loads.
    free : In(1)
        Whether nothing needs the words, so that a load may begin.
    loaded : Out(1)
        Whether the words are there: from the end of a load that was right to the first byte of the
        next one.
    failed : Out(1)
        Whether the last load was wrong, until the next one begins.
    address : In(range(len(words)))
    enable : In(1)
        Read; only while ``loaded``. Else ``word`` is held.
    word : Out(width)
    """

    i: stream.Interface
    free: Signal
    loaded: Signal
    failed: Signal
    address: Signal
    enable: Signal
    word: Signal

    def __init__(self, words: Sequence[int], *, width: int, storage: Storage) -> None:
        if width < 1:
            raise ValueError(f"Words must have at least 1 bit, not {width!r}")
        self.words = check_rows(width, words)
        if not self.words:
            raise ValueError("There must be at least one word")
        if storage is Storage.LOGIC:
            raise ValueError("Words must be in block or registered, not logic")
        self.width = width
        self.storage = storage
        self.latency = storage.latency
        self.word_bytes = -(-width // 8)
        self.image = b"".join(word.to_bytes(self.word_bytes, "little") for word in self.words)
        super().__init__({
            "i": In(stream.Signature(load_byte())), "free": In(1), "loaded": Out(1),
            "failed": Out(1), "address": In(range(max(2, len(self.words)))), "enable": In(1),
            "word": Out(width)})

    def load(self, image: bytes | None = None) -> list[dict[str, int]]:
        """What ``i`` takes for a load: of ``image``, its own one if omitted."""
        content = self.image if image is None else image
        return [{"byte": byte, "last": int(n == len(content) - 1)}
                for n, byte in enumerate(content)]

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Yosys makes no memory of a single row.
        m.submodules.rows = rows = memory.Memory(
            shape=8 * self.word_bytes, depth=max(2, len(self.words)), init=[],
            attrs={"no_rw_check": 1, "ram_style": "huge"})
        write, read = rows.write_port(granularity=8), rows.read_port()

        crc = Signal(32, init=CRC_START)
        byte = Signal(8)
        last = Signal()  # of the byte
        left = Signal(range(9))  # bits of it that the checksum lacks
        place = Signal(range(max(2, len(self.words))))
        part = Signal(self.word_bytes, init=1)  # of the word, one bit for each
        full = Signal()  # all words have come
        over = Signal()  # and more
        put = Signal()
        at = Signal.like(place)

        m.d.comb += [
            self.i.ready.eq((left == 0) & ~last & (~self.loaded | self.free)),
            put.eq((left == 8) & ~full),
            at.eq(Mux(self.loaded, self.address, place)),
            write.addr.eq(at),
            write.data.eq(byte.replicate(self.word_bytes)),
            write.en.eq(Mux(put, part, 0)),
            read.addr.eq(at),
            read.en.eq(self.enable & ~put),
        ]
        with m.If(left != 0):
            m.d.sync += [crc.eq(crc_step(crc, byte[0])), byte.eq(byte >> 1), left.eq(left - 1)]
        with m.If(put):
            m.d.sync += part.eq(part.rotate_left(1))
            with m.If(part[-1]):
                m.d.sync += [place.eq(place + 1), full.eq(place == len(self.words) - 1)]
        with m.If((left == 8) & full):
            m.d.sync += over.eq(1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [byte.eq(self.i.p.byte), last.eq(self.i.p.last), left.eq(8),
                         self.loaded.eq(0), self.failed.eq(0)]
        with m.If((left == 0) & last):
            right = self._right(crc, full & ~over)
            m.d.sync += [self.loaded.eq(right), self.failed.eq(~right), last.eq(0),
                         crc.eq(CRC_START), place.eq(0), part.eq(1), full.eq(0), over.eq(0)]

        word: Value = read.data[:self.width]
        for n in range(self.storage.latency - 1):
            later = Signal(self.width, name=f"word_{n}")
            with m.If(self.enable):
                m.d.sync += later.eq(word)
            word = later
        m.d.comb += self.word.eq(word)

        return m

    def _right(self, crc: Value, whole: Value) -> Value:
        """Whether what came is the words."""
        right: Value = whole & (crc == crc_state(crc32(self.image)))
        return right
