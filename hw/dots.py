"""Folded dot products: many outputs from few lanes."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.packed import PackedCycle
from nomul.hw.product import Products, add_with_one
from nomul.hw.spread import SpreadCycle
from nomul.hw.stream import beats, count_to, vector
from nomul.hw.table import Cycle, Storage, merge_flags, parity_flag

__all__ = ["DotProducts", "weight_fields", "weight_table"]


@dataclass(frozen=True)
class _Term:
    """A term of a sum, and whether it still lacks a 1; None if it never does."""

    value: Value
    lacks: Value | None


def _term(value: Value, complement: int | None = None) -> _Term:
    return _Term(value, None if complement is None else value[-1])


def weight_fields(rows: Sequence[Sequence[int]], *, lanes: int, inputs: int) -> list[list[int]]:
    """For each group of ``lanes`` rows and chunk of ``inputs``, the weights of all lanes; 0 where
    there is none."""
    outputs, fan_in = len(rows), len(rows[0])
    places = [(lane, n) for lane in range(lanes) for n in range(inputs)]
    return [[rows[o][i] if o < outputs and i < fan_in else 0
             for o, i in ((group * lanes + lane, chunk * inputs + n) for lane, n in places)]
            for group in range(beats(outputs, lanes)) for chunk in range(beats(fan_in, inputs))]


def weight_table(fields: list[list[int]], *, run: int, width: int, encoding: Sequence[int],
                 packed: Sequence[int] | None, spread: int, storage: Storage, flag: Signal | None,
                 ) -> Cycle | PackedCycle | SpreadCycle:
    """The table of `weight_fields`, ``width`` bits each: indices into ``encoding``, words of which
    may be ``spread``, or, where rows have widths of their own, numbers that are ``packed``, ``run``
    beats to a group."""
    if spread:
        return SpreadCycle(len(fields[0]) * width, _words(fields, width, encoding), spread=spread,
                           storage=storage, flag=flag)
    if packed is None:
        return Cycle(len(fields[0]) * width, _words(fields, width, encoding), storage=storage,
                     flag=flag)
    return PackedCycle(fields, run=run, width=width, storage=storage,
                       encoding=[encoding[index] for index in packed], flag=flag)


def _words(fields: list[list[int]], width: int, encoding: Sequence[int]) -> list[int]:
    return [sum(encoding[field] << n * width for n, field in enumerate(row)) for row in fields]


class DotProducts(wiring.Component):
    """Dot products of a vector with many rows of weights, ``products.lanes`` rows at once.

    The vector of ``inputs`` codes comes in ``chunks`` beats of ``products.inputs`` codes,
    and all of it again for each of ``groups`` groups of rows. Weights come from a
    table that is read in order. The products of a beat are added in a tree, a register
    behind every adder, and then to the lane's accumulator.

    Places of the last beat that hold no input add what weight 0 makes of code 0: nothing, unless
    products are looked up. The sums are exact if ``acc_shape`` and ``lane_shape`` hold every dot
    product: sums in between wrap around, and wrap back. All paths from ``i`` to ``o`` are
    registered; ``i.ready`` depends combinationally on ``o.ready`` only where a group's sums take
    all of a pass to leave.

    Latency: ``latency`` cycles, from the last beat of a pass to its first sums.
    Throughput: 1 beat a cycle, hence ``chunks * groups`` cycles a vector.

    Parameters
    ----------
    products : Products
        The product circuit; it says how many lanes and inputs there are at once.
    rows : sequence of rows of int, shape [outputs, inputs]
        Weights: indices into the dictionary.
    acc_shape : shape-like
        Signed shape that holds every dot product, and the sum of the codes if that leaves too.
    lane_shape : shape-like, optional
        Shape that holds every dot product, and is that of the accumulators; ``acc_shape`` if
        omitted.
    o_lanes : int
        Sums that leave at once; divides the lanes, and large enough that a group's sums
        leave within ``chunks`` cycles.
    storage : Storage
        What holds the weights.
    spread : int
        If not 0, words of weights after every so many others are spread over these
        (`SpreadCycle`). Not together with ``packed``.
    packed : sequence of int, optional
        Where each row has a width of its own: the rows then hold numbers, of which the bits below
        the leading 1 are stored (`PackedCycle`), and this their indices into the dictionary. All
        numbers of a row have as many bits; 0 stands for no weight at all.
    total : bool
        Whether the sum of the inputs' codes leaves with the dot products, as an element more.
    parity : bool
        Whether words of its tables have a parity bit, which raises ``parity_error``, a signal that
        any module may read.

    Members
    -------
    i : In(vector(code_shape, products.inputs))
        Vectors, each ``groups`` times; lanes past the last input are ignored.
    o : Out(vector(acc_shape, o_lanes * products.sums + total))
        Their dot products; those of a lane together, if it makes several sums.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, products: Products, rows: Sequence[Sequence[int]], *, acc_shape: ShapeLike,
                 lane_shape: ShapeLike | None = None, o_lanes: int, storage: Storage,
                 spread: int = 0, packed: Sequence[int] | None = None, total: bool = False,
                 parity: bool = False) -> None:
        self.products = products
        self.rows = tuple(tuple(int(index) for index in row) for row in rows)
        self.acc_shape = Shape.cast(acc_shape)
        self.lane_shape = self.acc_shape if lane_shape is None else Shape.cast(lane_shape)
        self.o_lanes = o_lanes
        self.storage = storage
        self.spread = spread
        self.total = total
        self.parity_error = parity_flag(parity)
        self.packed = None if packed is None else tuple(int(index) for index in packed)
        if len({len(row) for row in self.rows}) != 1 or not self.rows[0]:
            raise ValueError("Rows of weights must be of one length, at least 1")
        self.outputs, self.inputs = len(self.rows), len(self.rows[0])
        self.groups = beats(self.outputs, products.lanes)
        self.chunks = beats(self.inputs, products.inputs)
        self.latency = 1 + products.latency + (products.inputs - 1).bit_length()
        if spread and packed is not None:
            raise ValueError("Words of weights cannot be both spread and packed")
        if not self.acc_shape.signed:
            raise ValueError(f"Accumulator shape must be signed, not {self.acc_shape!r}")
        if products.lanes % o_lanes or products.lanes > o_lanes * self.chunks:
            raise ValueError(f"Output lanes must divide the {products.lanes} lanes and be at least "
                             f"{beats(products.lanes, self.chunks)}, not {o_lanes!r}")
        super().__init__({"i": In(vector(products.code_shape, products.inputs)),
                          "o": Out(vector(self.acc_shape, o_lanes * products.sums + total))})

    def words(self) -> list[int]:
        """Contents of the weight table: for each group and chunk, the indices of all lanes."""
        return _words(self._fields(), self.products.index_shape.width, self.products.encoding)

    def weights(self, flag: Signal | None = None) -> Cycle | PackedCycle | SpreadCycle:
        """The weight table."""
        return weight_table(self._fields(), run=self.chunks, width=self.products.index_shape.width,
                            encoding=self.products.encoding, packed=self.packed,
                            spread=self.spread, storage=self.storage, flag=flag)

    def _fields(self) -> list[list[int]]:
        return weight_fields(self.rows, lanes=self.products.lanes, inputs=self.products.inputs)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.products = products = self.products
        flag = parity_flag(self.parity_error is not None)
        m.submodules.weights = weights = self.weights(flag)
        merge_flags(m, self.parity_error, [flag, products.parity_error])

        width = self.lane_shape.width
        places = self.o_lanes * products.sums
        parts = products.lanes // self.o_lanes
        advance, take = Signal(), Signal()
        _, last_chunk = count_to(m, "chunk", self.chunks, take)

        # Lanes of the last chunk that hold no input count as code 0, of weight 0.
        present = (self.inputs - 1) % products.inputs + 1
        for n in range(products.inputs):
            absent = last_chunk if n >= present else Const(0)
            m.d.comb += products.codes[n].eq(Mux(absent, 0, self.i.payload[n]))
        m.d.comb += [
            Value.cast(products.indices).eq(weights.row),
            products.enable.eq(advance),
            self.i.ready.eq(weights.valid & advance),
            take.eq(self.i.valid & self.i.ready),
            weights.next.eq(take),
        ]

        # Valid, and whether the sum is complete, of the products and of each tree level.
        valid, last = take, last_chunk
        sums, leaving_width = products.lanes * products.sums, places * width
        terms = [[_term(products.products[place][n], products.complement)
                  for n in range(products.inputs)] for place in range(sums)]
        if self.total:
            terms.append([_term(code) for code in self._codes(m, advance)])
        for level in range(self.latency - 1):
            valid_next, last_next = Signal(name=f"valid_{level}"), Signal(name=f"last_{level}")
            with m.If(advance):
                m.d.sync += [valid_next.eq(valid), last_next.eq(last)]
            valid, last = valid_next, last_next
            if level >= products.latency:
                terms = [self._add_pairs(m, f"sum_{level}_{lane}", advance, lane_terms)
                         for lane, lane_terms in enumerate(terms)]

        # Sums leave through a shift register, which takes a group when it has run empty. Its last
        # place changes with a group alone: what comes behind the last sum does not matter.
        held = Signal(sums * width)
        held_total = Signal(self.acc_shape.width if self.total else 0)
        left = Signal(range(parts + 1))
        load, leaving = Signal(), Signal()
        gone = left == 0
        if self.chunks <= parts:
            gone |= leaving & (left == 1)  # the next ones come in the cycle in which these go
        m.d.comb += [
            load.eq(advance & valid & last),
            leaving.eq(self.o.valid & self.o.ready),
            *(self.o.payload[n].eq(held[n * width:(n + 1) * width].as_signed()
                                   if self.lane_shape.signed else held[n * width:(n + 1) * width])
              for n in range(places)),
            self.o.valid.eq(left != 0),
            advance.eq(~(valid & last) | gone),
        ]
        if self.total:
            m.d.comb += self.o.payload[places].eq(held_total.as_signed())
        with m.If(leaving):
            m.d.sync += left.eq(left - 1)

        totals = []
        for lane, (term,) in enumerate(terms):
            shape = self.lane_shape if lane < sums else self.acc_shape
            acc = Signal(shape, name=f"acc_{lane}")
            total = Signal(shape, name=f"total_{lane}")
            m.d.comb += total.eq(self._add(acc, term, term.lacks))
            with m.If(advance & valid):
                m.d.sync += acc.eq(total)
            with m.If(load):
                m.d.sync += acc.eq(0)
            totals.append(total)
        complete, top = Cat(totals[:sums]), (parts - 1) * leaving_width
        with m.If(load | leaving):
            m.d.sync += held[:top].eq(Mux(load, complete[:top], held[leaving_width:]))
        with m.If(load):
            m.d.sync += [held[top:].eq(complete[top:]), held_total.eq(Cat(totals[sums:]))]

        # The last group may have fewer rows than there are lanes.
        _, last_group = count_to(m, "group", self.groups, load)
        rest = beats((self.outputs - 1) % products.lanes + 1, self.o_lanes)
        with m.If(load):
            m.d.sync += left.eq(Mux(last_group, rest, parts) if rest != parts else parts)

        return m

    def _codes(self, m: Module, enable: Value) -> list[Value]:
        """The inputs' codes, beside their products."""
        codes: list[Value] = [self.products.codes[n] for n in range(self.products.inputs)]
        for stage in range(self.products.latency):
            for n, before in enumerate(codes):
                codes[n] = code = Signal(self.products.code_shape, name=f"code_{stage}_{n}")
                with m.If(enable):
                    m.d.sync += code.eq(before)
        return codes

    def _add(self, total: Value, term: _Term, one: Value | None) -> Value:
        """``total + term``, and the 1 of either of them."""
        if one is None:
            return total + term.value
        assert self.products.complement is not None
        return add_with_one(total, term.value, one, self.products.complement)

    def _add_pairs(self, m: Module, name: str, enable: Value, terms: list[_Term]) -> list[_Term]:
        """Each adder takes the 1 of its first term, and leaves that of its second to the next."""
        sums = []
        for n in range(0, len(terms), 2):
            first, *rest = terms[n:n + 2]
            total = self._add(first.value, rest[0], first.lacks) if rest else first.value
            shape = min(Value.cast(total).shape(), self.acc_shape, key=lambda s: s.width)
            register = Signal(shape, name=f"{name}_{n // 2}")
            with m.If(enable):
                m.d.sync += register.eq(total)
            lacks = (rest or [first])[0].lacks
            if lacks is not None:
                later = Signal(name=f"{name}_{n // 2}_lacks")
                with m.If(enable):
                    m.d.sync += later.eq(lacks)
                lacks = later
            sums.append(_Term(register, lacks))
        return sums
