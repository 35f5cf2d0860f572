"""Line buffers: what the kernel of a convolution or a pool sees, position after position.

A kernel visits its positions row by row. `window_needs`, `minimum_depth` and `even_depth` say
in plain numbers when the words of a position are there and how many of them must be held.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

from amaranth.hdl import Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import count_to
from nomul.hw.table import Storage, leave

__all__ = ["Windows", "even_depth", "minimum_depth", "window_needs"]

Kernel = tuple[int, int]
Padding = tuple[int, int, int, int]

#: Words of the deepest buffer that may be distributed RAM, where a chip has that.
LARGEST_DISTRIBUTED = 64


def _reach(height: int, width: int, kernel: Kernel, stride: int, padding: Padding,
           ) -> tuple[list[list[int]], list[list[int]]]:
    """For each position of the kernel, by row and column: pixels of the image up to the last
    one it needs, and pixels before the first one that it or a later position needs."""
    top, left, bottom, right = padding
    lines = _spans("row", height, kernel[0], stride, top, bottom)
    columns = _spans("column", width, kernel[1], stride, left, right)
    needs = [[line[-1] * width + column[-1] + 1 for column in columns] for line in lines]
    # Where the next row of positions starts at the same pixels, they stay until then.
    stays = [*(a[0] == b[0] for a, b in pairwise(lines)), False]
    keeps = [[line[0] * width + (0 if stay else column[0]) for column in columns]
             for line, stay in zip(lines, stays, strict=True)]
    return needs, keeps


def _spans(what: str, size: int, kernel: int, stride: int, before: int, after: int,
           ) -> list[range]:
    """Rows or columns of the image that each position of the kernel touches."""
    if size < 1 or kernel < 1 or stride < 1:
        raise ValueError(f"Image, kernel and stride must have at least 1 {what}, "
                         f"not {size!r}, {kernel!r} and {stride!r}")
    if not (0 <= before < kernel and 0 <= after < kernel):
        raise ValueError(f"Padding must be 0 to {kernel - 1} {what}s, fewer than the kernel has, "
                         f"not {before!r} and {after!r}")
    if size + before + after < kernel:
        raise ValueError(f"Kernel of {kernel} {what}s must fit in the padded image of "
                         f"{size + before + after}")
    return [range(max(start, 0), min(start + kernel, size))
            for start in range(-before, size + after - kernel + 1, stride)]


def _choose(m: Module, name: str, at: Value, rows: Sequence[int]) -> Value:
    """``rows[at]``, where most rows are the same: only the others take logic."""
    if len(set(rows)) < 2:
        return Const(rows[0] if rows else 0)
    usual = max(sorted(set(rows)), key=rows.count)
    chosen = Signal(range(min(rows), max(rows) + 1), name=name)
    m.d.comb += chosen.eq(usual)
    with m.Switch(at):
        for value in sorted(set(rows) - {usual}):
            with m.Case(*(n for n, row in enumerate(rows) if row == value)):
                m.d.comb += chosen.eq(value)
    return chosen


def window_needs(height: int, width: int, words: int, kernel: Kernel, stride: int,
                 padding: Padding) -> list[int]:
    """For each position of the kernel, words of its image that `Windows` must have taken before
    the first word of the position leaves."""
    needs, _ = _reach(height, width, kernel, stride, padding)
    return [words * need for need in accumulate(chain.from_iterable(needs), max)]


def minimum_depth(height: int, width: int, words: int, kernel: Kernel, stride: int,
                  padding: Padding) -> int:
    """Words that `Windows` must hold: at most those from the first to the last pixel of a
    position, ``((kernel[0] - 1) * width + kernel[1]) * words``."""
    needs, keeps = _reach(height, width, kernel, stride, padding)
    spans = [need - keep for row in zip(needs, keeps, strict=True)
             for need, keep in zip(*row, strict=True)]
    return max(2, words * max(spans))


def even_depth(height: int, width: int, words: int, kernel: Kernel, stride: int,
               padding: Padding, repeats: int) -> int:
    """Words with which `Windows` is as fast as with any number of them, also from one image to
    the next, if words come and go in every cycle."""
    needs, keeps = (list(chain.from_iterable(rows))
                    for rows in _reach(height, width, kernel, stride, padding))
    cycles = repeats * kernel[0] * kernel[1]  # at a position, for each word of a pixel
    pixels = height * width
    slower = cycles * len(needs) >= pixels  # slower than the words come
    needs += [pixels + need for need in needs]
    keeps += [pixels + keep for keep in keeps]
    depth = behind = 0
    if slower:
        # A full buffer takes words again when the kernel moves on, one in every cycle: those
        # that a later position needs must then come in time.
        for keep, need in zip(keeps[:-1], needs[1:], strict=True):
            behind = max(behind - cycles, -keep)
            depth = max(depth, need + behind)
    else:
        # Words come in every cycle: the buffer must not be full before the kernel moves on.
        for keep, need in zip(keeps, needs, strict=True):
            behind = max(behind, need) + cycles
            depth = max(depth, behind - keep)
    return max(words * depth, minimum_depth(height, width, words, kernel, stride, padding))


class Windows(wiring.Component):
    """The pixels that a kernel sees, position after position, from a buffer in one block RAM.

    The words of a position leave when all pixels that it needs have come in, and the place of
    a word is free when neither this position nor a later one needs it. Images follow
    each other without a gap; those of which the kernel leaves out pixels, too.

    All paths from ``i`` to ``o`` are registered; ``i.ready`` is registered too. Words of
    padding take a cycle each, but no place.

    Latency: 1 cycle and ``storage.latency``, from the last beat that a position needs to its first
    word.
    Throughput: 1 word a cycle; with `even_depth`, no gap that a deeper buffer would not have.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    height, width : int
        Pixels of an image; at least 1.
    words : int
        Words of a pixel; at least 1.
    kernel : tuple of int
        Height and width.
    stride : int
        Step of the kernel, down and across.
    padding : tuple of int
        Rows or columns around the image at the top, left, bottom and right; fewer than
        those of the kernel.
    pad : sequence of int
        The words of a pixel outside of the image, as raw bits.
    groups : int
        Divides the words of a pixel into groups of neighbours, which leave one after the other.
    repeats : int
        Times that each group leaves at a position; at least 1.
    depth : int
        Words that the buffer holds; at least `minimum_depth`. A power of two saves logic.
    storage : Storage
        Block RAM or, for a faster clock, a registered one.

    Members
    -------
    i : In(stream.Signature(shape))
        Images, row by row, pixel by pixel, word by word.
    o : Out(stream.Signature(shape))
        At each position, for each group, ``repeats`` times: what the kernel sees of it, row
        by row, pixel by pixel, word by word.
    """

    i: stream.Interface
    o: stream.Interface
    def __init__(self, shape: ShapeLike, *, height: int, width: int, words: int, kernel: Kernel,
                 stride: int, padding: Padding, pad: Sequence[int], groups: int, repeats: int,
                 depth: int, storage: Storage = Storage.BLOCK) -> None:
        if words < 1:
            raise ValueError(f"Pixel must have at least 1 word, not {words!r}")
        if groups < 1 or words % groups:
            raise ValueError(f"Groups must divide the {words} words of a pixel, not {groups!r}")
        if repeats < 1:
            raise ValueError(f"Number of repeats must be at least 1, not {repeats!r}")
        self.shape = shape
        self.height = height
        self.width = width
        self.words = words
        self.kernel = (kernel[0], kernel[1])
        self.stride = stride
        self.padding = (padding[0], padding[1], padding[2], padding[3])
        self.pad = tuple(int(word) for word in pad)
        self.groups = groups
        self.repeats = repeats
        self.depth = depth
        self.storage = storage
        self.latency = 1 + storage.latency
        least = minimum_depth(height, width, words, self.kernel, stride, self.padding)
        if depth < least:
            raise ValueError(f"Buffer depth must be at least {least}, not {depth!r}")
        if len(self.pad) != words:
            raise ValueError(f"Padding must have {words} words, not {len(self.pad)}")
        for word in self.pad:
            if not 0 <= word < 1 << Shape.cast(shape).width:
                raise ValueError(f"Word of padding must be within {Shape.cast(shape).width} bits, "
                                 f"not {word!r}")
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # No place is read while it is written: a synthesizer that reads this in Verilog need
        # not say what such a read gives, which takes two registers for each bit of a word.
        attributes: dict[str, Any] = {"no_rw_check": 1}
        if self.depth > LARGEST_DISTRIBUTED:
            attributes["ram_style"] = "block"
        m.submodules.memory = rows = memory.Memory(
            shape=Shape.cast(self.shape).width, depth=self.depth, init=[], attrs=attributes)
        write, read = rows.write_port(), rows.read_port()

        # Where a kernel of one row visits every row, each is an image of its own; so are pixels.
        height, width = self.height, self.width
        if self.kernel[0] == self.stride == 1:
            height, width = 1, 1 if self.kernel[1] == 1 else width
        words, stride, (top, left, _, _) = self.words, self.stride, self.padding
        pixels = height * width
        needs, keeps = _reach(height, width, self.kernel, stride, self.padding)

        put, get, advance = Signal(), Signal(), Signal()

        # Nested loops, the innermost one first, and how far each one steps. Pixels outside of
        # the image have addresses too; what is read there does not matter.
        together = words // self.groups
        counts: dict[str, Value] = {}
        steps: list[tuple[Value, int]] = []
        ends: Value = Const(1)  # from registers alone: `get` comes late
        enable, moves, last_column, back = get, get, get, 0
        for name, length, distance in (
                ("word", together, 1),
                ("kernel_column", self.kernel[1], words),
                ("kernel_row", self.kernel[0], width * words),
                ("repeat", self.repeats, 0),
                ("group", self.groups, together),
                ("column", len(needs[0]), stride * words),
                ("row", len(needs), stride * width * words)):
            counts[name], last = count_to(m, name, length, enable)
            steps.append((last, (distance - back) % self.depth))
            if name == "column":
                moves, last_column = enable, last
            ends = ends & last
            enable, back = get & ends, back + (length - 1) * distance
        step: Value | int = (pixels * words - back) % self.depth
        for last, inner in reversed(steps):
            step = Mux(last, step, inner)

        def after(address: Value, step: Value | int) -> Value:
            total = address + step
            if self.depth & (self.depth - 1) == 0:
                return total
            return Mux(total >= self.depth, total - self.depth, total)

        address = Signal(range(self.depth), init=-(top * width + left) * words % self.depth)
        with m.If(put):
            m.d.sync += write.addr.eq(after(write.addr, 1))
        with m.If(get):
            m.d.sync += address.eq(after(address, step))

        # Words that have come in beyond those that the position needs, and free places, less one.
        # A kernel that leaves out pixels moves on to some that are yet to come.
        now = list(chain.from_iterable(needs))
        then = [*now[1:], pixels + now[0]]
        kept = [*list(chain.from_iterable(keeps))[1:], pixels]
        farthest = max(b - a for a, b in zip([0, *now], [now[0], *then], strict=True))
        skipped = max(0, *(keep - need for keep, need in zip(kept, now, strict=True)))
        ahead = Signal(range(-words * farthest, self.depth), init=-words * now[0])
        room = Signal(range(-1, self.depth + words * skipped), init=self.depth - 1)

        def change(name: str, reach: list[list[int]]) -> Value:
            """What the next position has more of, in words."""
            starts = [row[0] for row in reach[1:]] + [pixels + reach[0][0]]
            across = [[words * (b - a) for a, b in pairwise(row)] for row in reach]
            down = [words * (start - row[-1]) for row, start in zip(reach, starts, strict=True)]
            # All rows step alike, but for those that do not step at all.
            still = _choose(m, f"{name}_still", counts["row"],
                            [row != across[-1] for row in across])
            return Mux(last_column, _choose(m, f"{name}_down", counts["row"], down),
                       Mux(still, 0, _choose(m, f"{name}_across", counts["column"], across[-1])))

        more, fewer = change("needs", needs), change("keeps", keeps)
        if self.storage is Storage.REGISTERED:
            # Both sums are ready when it is known whether the kernel moves.
            m.d.sync += [ahead.eq(Mux(moves, ahead - more + put, ahead + put)),
                         room.eq(Mux(moves, room + fewer - put, room - put))]
        else:
            m.d.sync += [ahead.eq(ahead + put - Mux(moves, more, 0)),
                         room.eq(room - put + Mux(moves, fewer, 0))]

        def outside(name: str, size: int, before: int, positions: int, kernel: int) -> Value:
            masks = [sum((not 0 <= n * stride - before + k < size) << k for k in range(kernel))
                     for n in range(positions)]
            mask = _choose(m, f"{name}_mask", counts[name], masks)
            return mask.bit_select(counts[f"kernel_{name}"], 1)

        padded = Signal()
        word = Signal(range(together))
        group = Signal(range(self.groups))
        with m.If(get):
            m.d.sync += [
                padded.eq(outside("row", height, top, len(needs), self.kernel[0])
                          | outside("column", width, left, len(needs[0]), self.kernel[1])),
                word.eq(counts["word"]),
                group.eq(counts["group"]),
            ]
        pads = [_choose(m, f"pad_{n}", word, self.pad[n * together:(n + 1) * together])
                for n in range(self.groups)]
        pad = Signal(Shape.cast(self.shape).width)
        with m.Switch(group):
            for n in range(self.groups):
                with m.Case(n):
                    m.d.comb += pad.eq(pads[n])

        m.d.comb += [
            self.i.ready.eq(room >= 0),
            put.eq(self.i.valid & self.i.ready),
            write.en.eq(put),
            write.data.eq(self.i.payload),
            advance.eq(~self.o.valid | self.o.ready),
            get.eq(advance & (ahead >= 0)),
            read.en.eq(get),
            read.addr.eq(address),
        ]
        leave(m, self.o, Mux(padded, pad, read.data), get, advance, self.storage)

        return m
