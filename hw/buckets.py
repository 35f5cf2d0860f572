"""Folded dot products by buckets: inputs are added up by their weight, then the sums weighted."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.affine import signed_digits
from nomul.hw.dots import weight_fields, weight_table
from nomul.hw.packed import PackedCycle
from nomul.hw.product import add_with_one, slopes_of
from nomul.hw.spread import SpreadCycle
from nomul.hw.stream import beats, count_to, vector
from nomul.hw.table import Cycle, Storage, merge_flags, parity_flag

__all__ = ["BucketDots", "Step", "bucket_slopes", "drain_steps"]

# Cycles from a step to what it adds up, and one more: no sum is complete before the last one left.
_SHORTEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a cycle does to a sum of weighted buckets: double it, or add or subtract a bucket.

    Parameters
    ----------
    bucket : int or None
        Number of the bucket; None doubles.
    negative : bool
        Whether it is subtracted.
    clears : bool
        Whether the bucket is not needed again, and starts anew at 0.
    """

    bucket: int | None = None
    negative: bool = False
    clears: bool = False


def bucket_slopes(slopes: Sequence[int]) -> tuple[int, ...]:
    """The slope of each bucket: entries of the same slope share one."""
    return tuple(sorted({int(slope) for slope in slopes}))


def drain_steps(slopes: Sequence[int]) -> list[Step]:
    """How the buckets of a dictionary with these ``slopes`` become its dot product, over the
    largest power of two in all slopes: a cycle each.

    Every slope is split into the fewest signed powers of two, and the largest power comes first:
    a bucket is added for each, and the sum doubled from one power to the next. It is doubled while
    it is 0 too, at the beginning: then the last input may still be on its way to its bucket.
    """
    digits = [(exponent, number, sign < 0) for number, slope in enumerate(bucket_slopes(slopes))
              for sign, exponent in signed_digits(slope)]
    if not digits:
        raise ValueError("There must be a slope that is not 0; without one all sums are 0")
    highest, lowest = max(digits)[0], min(digits)[0]
    left = Counter(number for _, number, _ in digits)
    steps = []
    for power in range(highest, lowest - 1, -1):
        steps.append(Step())
        for exponent, number, negative in digits:
            if exponent == power:
                left[number] -= 1
                steps.append(Step(bucket=number, negative=negative, clears=not left[number]))
    return [Step()] * (_SHORTEST - len(steps)) + steps


class BucketDots(wiring.Component):
    """Dot products of a vector with many rows of weights, by a running sum for each weight.

    For products that are slopes times the code. A lane has no product: it adds each code to the
    bucket of its weight, one of as many as there are slopes, in a small memory (distributed RAM of
    16 words on ECP5, block RAM on iCE40: Yosys chooses). When a vector is complete, the lane goes
    on in a second bank of buckets, while those of the first are drained: a table that all lanes
    share names a bucket and a sign, or doubles the sum, in each cycle (`drain_steps`). ``o_lanes``
    lanes are drained at once, the others after them, and their sums leave.

    The sums are exact if ``acc_shape`` holds every dot product: sums in between wrap around, and
    wrap back. A bucket holds what its weights can reach. All paths from ``i`` to ``o`` are
    registered; ``i.ready`` depends on registers alone. After reset, buckets are cleared before the
    first input is taken.

    Latency: ``latency`` cycles, from the last beat of a pass to its first sums. Throughput: 1 beat
    a cycle, hence ``pass_cycles * groups`` cycles a vector: a pass takes ``inputs`` cycles, or
    ``drain_cycles`` if they are more.

    Parameters
    ----------
    table : sequence of rows of int, shape [entries, codes]
        Product of each dictionary entry with each code: a slope times the code.
    rows : sequence of rows of int, shape [outputs, inputs]
        Weights: indices into the dictionary.
    lanes : int
        Rows at once; at least 1.
    acc_shape : shape-like
        Signed shape that holds every dot product.
    o_lanes : int
        Sums that leave at once; divides the lanes.
    storage : Storage
        What holds the weights, and the table of the drain.
    spread : int
    packed : sequence of int, optional
        How words of weights lie in memory; see `nomul.hw.dots.DotProducts`.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read. Buckets have none.

    Members
    -------
    i : In(vector(code_shape, 1))
        Vectors, each ``groups`` times.
    o : Out(vector(acc_shape, o_lanes))
        Their dot products.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, table: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], *,
                 lanes: int, acc_shape: ShapeLike, o_lanes: int, storage: Storage,
                 spread: int = 0, packed: Sequence[int] | None = None, parity: bool = False,
                 ) -> None:
        slopes = slopes_of(table)
        if slopes is None:
            raise ValueError("Products of buckets must be slopes times the code; use a table")
        self.table = tuple(tuple(int(product) for product in row) for row in table)
        self.rows = tuple(tuple(int(index) for index in row) for row in rows)
        self.lanes, self.o_lanes = lanes, o_lanes
        self.acc_shape = Shape.cast(acc_shape)
        self.storage = storage
        self.spread = spread
        self.packed = None if packed is None else tuple(int(index) for index in packed)
        self.parity_error = parity_flag(parity)
        if len({len(row) for row in self.rows}) != 1 or not self.rows[0]:
            raise ValueError("Rows of weights must be of one length, at least 1")
        if spread and packed is not None:
            raise ValueError("Words of weights cannot be both spread and packed")
        if not self.acc_shape.signed:
            raise ValueError(f"Accumulator shape must be signed, not {self.acc_shape!r}")
        if lanes < 1 or o_lanes < 1 or lanes % o_lanes:
            raise ValueError(f"Lanes must be at least 1, and a multiple of those that leave at "
                             f"once, not {lanes!r} and {o_lanes!r}")
        self.slopes = bucket_slopes(slopes)
        self.steps = drain_steps(slopes)
        self.index_shape = unsigned(max(1, (len(self.slopes) - 1).bit_length()))
        self.code_shape = unsigned(max(1, (len(self.table[0]) - 1).bit_length()))
        #: The bucket of each entry.
        self.encoding = tuple(self.slopes.index(slope) for slope in slopes)
        self.bucket_shape = self._bucket_shape()
        self.outputs, self.inputs = len(self.rows), len(self.rows[0])
        self.groups = beats(self.outputs, lanes)
        self.drain_cycles = lanes // o_lanes * len(self.steps)
        self.pass_cycles = max(self.inputs, self.drain_cycles)
        self.latency = len(self.steps) + 3
        super().__init__({"i": In(vector(self.code_shape, 1)),
                          "o": Out(vector(self.acc_shape, o_lanes))})

    def _bucket_shape(self) -> Shape:
        """What any bucket but that of the slope 0 can reach, or as much of it as sums have."""
        entries = range(len(self.encoding)) if self.packed is None else self.packed
        most = 0
        for row in self.rows:
            counts = Counter(self.encoding[entries[index]] for index in row)
            most = max(most, *(n for bucket, n in counts.items() if self.slopes[bucket]), 0)
        reach = Shape.cast(range(most * (len(self.table[0]) - 1) + 1))
        return unsigned(min(max(1, reach.width), self.acc_shape.width))

    def weights(self, flag: Signal | None = None) -> Cycle | PackedCycle | SpreadCycle:
        """The weight table."""
        return weight_table(weight_fields(self.rows, lanes=self.lanes, inputs=1),
                            run=self.inputs, width=self.index_shape.width,
                            encoding=self.encoding, packed=self.packed, spread=self.spread,
                            storage=self.storage, flag=flag)

    def _walk(self, flag: Signal | None) -> Cycle:
        """Steps as words: the bucket, and whether it is added, subtracted, cleared, and last."""
        width = self.index_shape.width
        words = [(step.bucket or 0) | ((step.bucket is not None) | step.negative << 1
                                       | step.clears << 2 | (n == len(self.steps)) << 3) << width
                 for n, step in enumerate(self.steps, 1)]
        return Cycle(width + 4, words, storage=self.storage, flag=flag)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        flags = [parity_flag(self.parity_error is not None) for _ in range(2)]
        m.submodules.weights = weights = self.weights(flags[0])
        m.submodules.walk = walk = self._walk(flags[1])
        merge_flags(m, self.parity_error, flags)

        # The bank that inputs go to; the other one is drained. After reset, both are cleared.
        bank = Signal()
        draining = Signal(init=1)
        starting = Signal(init=1)
        take, complete, step, ends = Signal(), Signal(), Signal(), Signal()
        room = Signal()  # whether there is a place for the sums that are complete next
        width = self.index_shape.width
        bucket, (adds, negative, clears, final) = walk.row[:width], walk.row[width:]
        rounds = self.lanes // self.o_lanes
        number, last_round = count_to(m, "round", rounds, step & final & ~starting)
        _, last_chunk = count_to(m, "chunk", self.inputs, take)
        _, last_group = count_to(m, "group", self.groups, ends & ~starting)
        m.d.comb += [
            self.i.ready.eq(weights.valid & ~starting & (~last_chunk | ~draining | ends)),
            take.eq(self.i.valid & self.i.ready),
            complete.eq(take & last_chunk),
            weights.next.eq(take),
            step.eq(draining & walk.valid & (~final | room)),
            walk.next.eq(step),
            ends.eq(step & final & (last_round | starting)),
        ]
        with m.If(ends):
            m.d.sync += [draining.eq(0), starting.eq(0)]
        with m.If(complete):
            m.d.sync += [draining.eq(1), bank.eq(~bank)]

        drained = []
        for n in range(2):
            fills = Signal(name=f"fills_{n}")  # whether inputs go to this bank
            m.d.comb += fills.eq(~starting & (bank == n))
            drained.append([
                self._buckets(m, f"{n}_{lane}", fills=fills, bucket=bucket,
                              index=weights.row[lane * width:(lane + 1) * width], take=take,
                              clear=step & clears & (starting | (number == lane // self.o_lanes)))
                for lane in range(self.lanes)])

        # The last group may have fewer rows than there are lanes: nothing leaves of the others.
        present = beats((self.outputs - 1) % self.lanes + 1, self.o_lanes)
        wanted = Const(1) if present == rounds else ~last_group | (number < present)
        leaves = self._later(m, "leaves", step & final & ~starting & wanted, 2)
        ended = self._later(m, "ended", step & final, 2)
        added = self._later(m, "added", step & adds, 2)
        minus = self._later(m, "minus", negative, 2)
        doubled = self._later(m, "doubled", step & ~adds, 2)
        other, which = (self._later(m, name, value, 1)[0]
                        for name, value in (("other", ~bank), ("which", number)))

        low = min(exponent for slope in self.slopes for _, exponent in signed_digits(slope))
        m.d.comb += room.eq(~(leaves[0] | leaves[1] | self.o.valid))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(leaves[1]):
            m.d.sync += self.o.valid.eq(1)
        for lane in range(self.o_lanes):
            found = Mux(other, *(Array(bank_lanes[lane::self.o_lanes])[which]
                                 for bank_lanes in reversed(drained)))
            term = Signal(len(found), name=f"term_{lane}")
            acc = Signal(Shape(max(1, self.acc_shape.width - low), signed=True),
                         name=f"acc_{lane}")
            total = Signal.like(acc, name=f"total_{lane}")
            m.d.sync += term.eq(found ^ minus[0].replicate(len(found)))
            m.d.comb += total.eq(add_with_one(
                acc, Mux(doubled[1], acc, Cat(term, minus[1]).as_signed()), minus[1], 0))
            with m.If(added[1] | doubled[1]):
                m.d.sync += acc.eq(total)
            with m.If(ended[1]):
                m.d.sync += acc.eq(0)
            with m.If(leaves[1]):
                m.d.sync += self.o.payload[lane].eq(total << low)

        return m

    def _later(self, m: Module, name: str, value: Value, cycles: int) -> list[Signal]:
        """``value`` after a cycle, after two, …"""
        stages: list[Signal] = []
        for n in range(cycles):
            stage = Signal(len(Value.cast(value)), name=f"{name}_{n}")
            m.d.sync += stage.eq(stages[-1] if stages else value)
            stages.append(stage)
        return stages

    def _buckets(self, m: Module, name: str, *, fills: Value, bucket: Value, index: Value,
                 take: Value, clear: Value) -> Value:
        """The buckets of a lane in a bank: the code is added to that of ``index`` where the bank
        ``fills``, else that of ``bucket`` is read, and set to 0 if it is ``clear``.

        A bucket is written a cycle after it was read. The same one may be read again then, and gets
        what is written. Where the bank is drained, that is 0, in the place of what was read.
        """
        m.submodules[f"bank_{name}"] = buckets = memory.Memory(
            shape=self.bucket_shape, depth=1 << self.index_shape.width, init=[])
        read, write = buckets.read_port(), buckets.write_port()
        code = Signal(self.code_shape, name=f"code_{name}")
        filled, again = Signal(name=f"filled_{name}"), Signal(name=f"again_{name}")
        last = Signal(self.bucket_shape, name=f"last_{name}")
        enable = Signal(name=f"enable_{name}")
        at = Signal(self.index_shape, name=f"at_{name}")
        m.d.comb += [
            read.addr.eq(Mux(fills, index, bucket)),
            write.addr.eq(at),
            write.en.eq(enable),
            write.data.eq(Mux(again, last, read.data) + code),
        ]
        m.d.sync += [
            at.eq(read.addr),
            enable.eq(Mux(fills, take, clear)),
            again.eq(~fills | (enable & (at == read.addr))),
            code.eq(Mux(fills & take, self.i.payload[0], 0)),
            filled.eq(fills),
            last.eq(Mux(filled, write.data, 0)),
        ]
        return read.data
