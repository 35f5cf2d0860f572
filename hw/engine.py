# amaranth: UnusedElaboratable=no
# (Its memory may be made only for its ports to be read.)
"""One engine that does the work of layer after layer, from a table that describes them."""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.loaded import LoadedWords
from nomul.hw.product import ShiftAddProducts, add_product
from nomul.hw.shapes import signed_range
from nomul.hw.stream import count_to, following, vector
from nomul.hw.table import Storage, look_up
from nomul.hw.tasks import (
    Constant,
    Facts,
    Task,
    Walk,
    check_places,
    place_bits,
    task_cycles,
    walk,
)
from nomul.hw.thresholds import search_tables

__all__ = ["Engine", "SharedProducts"]


class SharedProducts(wiring.Component):
    """Products looked up: each lane has a copy of one table for all layers.

    Latency: ``latency`` cycles of ``enable``. Throughput: 1 set of products a cycle.

    Parameters
    ----------
    table : sequence of rows of int, shape [rows, entries]
        A row for each code of each layer, an entry for each weight that it may meet.
    lanes : int
        At least 1.
    storage : Storage
        What holds each copy.

    Members
    -------
    enable, indices, codes, products
        As of `nomul.hw.product.Products` with one input; its codes are rows.
    """

    complement: int | None = None  # see `nomul.hw.product.Products`

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, storage: Storage) -> None:
        self.table = tuple(tuple(int(p) for p in row) for row in table)
        if not self.table or not self.table[0] or len({len(row) for row in self.table}) != 1:
            raise ValueError("Product table must have at least one row and one column, "
                             "and rows of equal length")
        if lanes < 1:
            raise ValueError(f"Lanes must be at least 1, not {lanes!r}")
        self.lanes, self.inputs = lanes, 1
        self.storage = storage
        self.latency = storage.latency
        self.index_shape = unsigned(max(1, (len(self.table[0]) - 1).bit_length()))
        self.encoding = tuple(range(len(self.table[0])))
        self.code_shape = unsigned(max(1, (len(self.table) - 1).bit_length()))
        values = [p for row in self.table for p in row]
        self.product_shape = signed_range(min(values), max(values))

        def array(shape: Shape, length: int) -> data.ArrayLayout:
            return data.ArrayLayout(data.ArrayLayout(shape, 1), length)

        super().__init__({
            "enable": In(1), "indices": In(array(self.index_shape, lanes)),
            "codes": In(data.ArrayLayout(self.code_shape, 1)),
            "products": Out(array(self.product_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        entries = 1 << self.index_shape.width
        rows = [p for row in self.table for p in (*row, *[0] * (entries - len(row)))]
        for lane in range(self.lanes):
            address = Signal(range(len(rows)), name=f"address_{lane}")
            m.d.comb += [
                address.eq(Cat(self.indices[lane][0], self.codes[0])),
                self.products[lane][0].eq(look_up(m, f"table_{lane}", self.product_shape, rows,
                                                  address, self.enable, self.storage)),
            ]

        return m


class Engine(wiring.Component):
    """A sequence of tasks for each image, one after the other, by lanes that all tasks share.

    In each cycle one code is read, and multiplied with a weight of each lane. Sums leave the
    lanes' accumulators one after the other, while the next ones are made; a constant is added to
    each, and it becomes a code by a shift or by binary search among thresholds. Codes are written
    to the memory that the next task reads. The next image comes in when no task needs the last
    one any more.

    The sums are exact if ``acc_shape`` and ``sum_shape`` hold them. All paths from ``i`` to ``o``
    are registered; so are ``i.ready`` and ``o.valid``.

    Latency: ``latency`` cycles, those of its tasks less 2, from the last code of an image to the
    last result.
    Throughput: an image in `nomul.hw.tasks.total_cycles`.

    Parameters
    ----------
    tasks : sequence of Task
        In order; at least one.
    words : sequence of rows of int, shape [words, lanes]
        Weights in the order in which tasks read them: entries of the products.
    products : ShiftAddProducts or SharedProducts
        With one input; says how many lanes there are.
    constants : sequence of Constant
    thresholds : sequence of rows of int, shape [rows, codes - 1], optional
        Each row in increasing order, within ``sum_shape`` or one above it (never passed). If
        omitted, codes are made by shifts.
    code_shape : shape-like
        Holds every code.
    image_shape : shape-like
        Of the codes of an image.
    image_length : int
        Codes of an image.
    depths : sequence of int
        Codes that each memory between tasks holds; that of number n begins at address
        ``n << place_bits``, and behind the last one, the image.
    one_port : bool
        Whether these memories read or write, one at a time: then no task may read the one that it
        writes. A memory of that kind starts with any contents.
    acc_shape, sum_shape : shape-like
        Signed: hold every sum, and every sum with its constant.
    o_shape : shape-like
        Of results.
    raw : bool
        Whether results are sums with their constants, not codes.
    storage : Storage
        Of weights, constants and codes: block RAM, registered or not.
    loaded : bool
        Whether the weights are in a memory that a stream fills: ``weights``, whose ports any module
        may drive and read. Then no image is worked on until they are there.

    Members
    -------
    i : In(vector(image_shape, 1))
        Images.
    o : Out(vector(o_shape, 1))
        Results.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, tasks: Sequence[Task], *, words: Sequence[Sequence[int]],
                 products: ShiftAddProducts | SharedProducts, constants: Sequence[Constant],
                 thresholds: Sequence[Sequence[int]] | None, code_shape: ShapeLike,
                 image_shape: ShapeLike, image_length: int, depths: Sequence[int],
                 one_port: bool, acc_shape: ShapeLike,
                 sum_shape: ShapeLike, o_shape: ShapeLike, raw: bool, storage: Storage,
                 loaded: bool = False) -> None:
        self.tasks = tuple(tasks)
        self.words = tuple(tuple(int(entry) for entry in word) for word in words)
        self.products = products
        self.constants = tuple(constants)
        self.thresholds = None if thresholds is None else tuple(
            tuple(int(t) for t in row) for row in thresholds)
        self.code_shape, self.image_shape = Shape.cast(code_shape), Shape.cast(image_shape)
        self.image_length = image_length
        self.depths = tuple(depths)
        self.one_port = one_port
        self.acc_shape, self.sum_shape = Shape.cast(acc_shape), Shape.cast(sum_shape)
        self.o_shape = Shape.cast(o_shape)
        self.raw = raw
        self.storage = storage
        if not self.tasks or not self.words or not self.constants or image_length < 1:
            raise ValueError("There must be at least one task, one word of weights, one constant "
                             "and one code of an image")
        if {len(word) for word in self.words} != {products.lanes}:
            raise ValueError(f"Words of weights must be of {products.lanes} lanes")
        if any(task.target is None for task in self.tasks[:-1]) or (
                self.tasks[-1].target is not None):
            raise ValueError("Results of the last task must leave, and of no other one")
        if sum(task.frees_image for task in self.tasks) != 1:
            raise ValueError("One task must be the last that reads the image")
        if storage is Storage.LOGIC:
            raise ValueError("Memories must be block or registered, not logic")
        if self.thresholds is not None and len({len(row) for row in self.thresholds}) != 1:
            raise ValueError("There must be at least one row of thresholds, all of one length")
        check_places(self.tasks, self.depths, image_length)
        self.place_bits = place_bits(self.depths, image_length)
        self.address_bits = self.place_bits + max(1, len(self.depths).bit_length())
        self.loaded = loaded
        self.weights = LoadedWords(self._packed(), width=self._word_bits,
                                   storage=storage) if loaded else None
        super().__init__({"i": In(vector(self.image_shape, 1)),
                          "o": Out(vector(self.o_shape, 1))})

    @property
    def latency(self) -> int:
        return sum(task_cycles(
            self.tasks, lanes=self.products.lanes, read=self.storage.latency,
            multiply=self.products.latency, search_bits=self._code_bits)) - 2

    @property
    def _code_bits(self) -> int:
        """Steps of the binary search."""
        return 0 if self.thresholds is None else len(self.thresholds[0]).bit_length()

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.products = products = self.products
        facts = Facts(self.tasks, lanes=products.lanes, address_bits=self.address_bits)
        number = Signal(range(len(self.tasks)))
        facts.look_up(m, number)

        start, get, freed, idle = Signal(), Signal(), Signal(), Signal()
        advance, flow = Signal(), Signal()  # of what makes sums, and of what makes codes
        way = walk(m, facts, start, get, len(self.words))
        result = Signal(self.code_shape)
        store = Signal()
        there, code = self._memories(m, facts, way, start, get, freed, advance, store, result)

        row = Signal(products.code_shape)
        m.d.comb += [
            row.eq(code + facts["table"]),
            products.enable.eq(advance),
            products.codes[0].eq(row),
            Value.cast(products.indices).eq(self._weights(m, way, advance)),
        ]
        staged = _delayed(m, "marks", Cat(get, way.last, way.short, way.ends),
                          self.storage.latency + products.latency, advance)
        leaving = Signal()
        held, left, position_ends = self._sums(m, facts, staged[-1], advance, leaving)
        m.d.comb += leaving.eq(flow & (left != 0))

        constant = Signal(range(max(2, len(self.constants))))
        with m.If(leaving & ~facts["shared"]):
            m.d.sync += constant.eq(Mux((left == 1) & position_ends, facts["constants"],
                                        constant + 1))
        with m.If(start):
            m.d.sync += constant.eq(facts["constants"])
        busy, total, coded = self._codes(m, facts, leaving, held, constant, flow)
        m.d.comb += [
            result.eq(coded),
            store.eq(busy[-1] & ~facts["leaves"]),
            self.o.valid.eq(busy[-1] & facts["leaves"]),
            self.o.payload[0].eq(total if self.raw else coded),
            flow.eq(~self.o.valid | self.o.ready),
            idle.eq(~Cat(*(marks[0] for marks in staged), left != 0, *busy).any()),
        ]

        with m.FSM(name="phase"):
            with m.State("FETCH"):
                m.next = "START"
            with m.State("START"):
                may_start: Value = there | ~facts["reads_image"]
                if self.weights is not None:
                    # Loads come between images.
                    m.d.comb += self.weights.free.eq(number == 0)
                    may_start &= (number != 0) | (self.weights.loaded & ~self.weights.i.valid)
                m.d.comb += start.eq(may_start)
                with m.If(start):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += get.eq(advance)
                with m.If(get & way.finished):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(idle):
                    m.d.comb += freed.eq(facts["frees_image"])
                    m.d.sync += number.eq(following(number, len(self.tasks)))
                    m.next = "FETCH"

        return m

    @property
    def _word_bits(self) -> int:
        return self.products.lanes * int(self.products.index_shape.width)

    def _weights(self, m: Module, way: Walk, advance: Value) -> Value:
        """The weights of all lanes."""
        if self.weights is None:
            return look_up(m, "weights", self._word_bits, self._packed(), way.weights, advance,
                           self.storage)
        m.submodules.weights = words = self.weights
        m.d.comb += [words.address.eq(way.weights), words.enable.eq(advance)]
        return words.word

    def _packed(self) -> list[int]:
        """Words of weights, as the products want them."""
        width, encoding = self.products.index_shape.width, self.products.encoding
        return [sum(encoding[entry] << lane * width for lane, entry in enumerate(word))
                for word in self.words]

    def _memories(self, m: Module, facts: Facts, way: Walk, start: Value, get: Value, freed: Value,
                  advance: Value, store: Value, result: Value) -> tuple[Value, Value]:
        """The image and what lies between tasks: whether the image is there, and the code that is
        read.

        A memory is read only where a task reads it, so never at the place that is written.
        """
        banks = way.address[self.place_bits:]
        inside = Signal()
        m.d.comb += inside.eq(get & ~way.outside)
        there = Signal(name="image_there")
        put = self.i.valid & self.i.ready
        place, last = count_to(m, "image_place", self.image_length, put)
        m.d.comb += self.i.ready.eq(~there)
        with m.If(put & last):
            m.d.sync += there.eq(1)
        with m.If(freed):
            m.d.sync += there.eq(0)
        code = self._memory(m, "image", self.image_shape, self.image_length, way.address,
                            inside & (banks == len(self.depths)), advance, put, place,
                            self.i.payload[0])
        if self.depths:
            target = Signal(self.address_bits)
            with m.If(store):
                m.d.sync += target.eq(target + 1)
            with m.If(start):
                m.d.sync += target.eq(facts["target"])
            read = _delayed(m, "bank", banks, self.storage.latency, advance)[-1]
            for bank, depth in enumerate(self.depths):
                mine = target[self.place_bits:] == bank if len(self.depths) > 1 else Const(1)
                stored = self._memory(m, f"codes_{bank}", self.code_shape, depth, way.address,
                                      inside & (banks == bank), advance, store & mine, target,
                                      result, one_port=self.one_port)
                code = Mux(read == bank, stored, code)
        *_, (outside,) = _delayed(m, "outside", way.outside, self.storage.latency, advance)
        return there, Mux(outside, facts["code"], code)

    def _memory(self, m: Module, name: str, shape: Shape, depth: int, address: Value, get: Value,
                advance: Value, put: Value, place: Value, code: Value, *, one_port: bool = False,
                ) -> Value:
        """A memory of codes, which ``get`` reads at ``address``; ``put`` writes another place."""
        m.submodules[name] = rows = memory.Memory(shape=shape, depth=depth, init=[], attrs={
            "no_rw_check": 1, "ram_style": "huge" if one_port else "block"})
        write, read = rows.write_port(), rows.read_port()
        m.d.comb += [write.en.eq(put), write.addr.eq(place), write.data.eq(code),
                     read.en.eq(get), read.addr.eq(address)]
        if one_port:
            at = Signal(range(depth), name=f"{name}_at")
            m.d.comb += [at.eq(Mux(put, place, address)), write.addr.eq(at), read.addr.eq(at),
                         read.en.eq(get & ~put)]
        word: Value = read.data
        for n in range(self.storage.latency - 1):
            later = Signal(shape, name=f"{name}_word_{n}")
            with m.If(advance):
                m.d.sync += later.eq(word)
            word = later
        return word

    def _sums(self, m: Module, facts: Facts, marks: Value, advance: Value, leaving: Value,
              ) -> tuple[Value, Value, Value]:
        """Accumulators, and a shift register that takes their sums: the one that leaves next, how
        many are left, and whether they are the last of a position."""
        lanes, width = self.products.lanes, self.acc_shape.width
        held = Signal(lanes * width)
        left = Signal(range(lanes + 1))
        position_ends = Signal()
        valid, last, short, ends = marks
        load = advance & valid & last
        m.d.comb += advance.eq(~(valid & last) | (left == 0) | (leaving & (left == 1)))
        with m.If(leaving):
            m.d.sync += [held.eq(held >> width), left.eq(left - 1)]
        for lane in range(lanes):
            acc = Signal(signed(width), name=f"acc_{lane}")
            total = Signal(signed(width), name=f"total_{lane}")
            term = self.products.products[lane][0]
            m.d.comb += total.eq(add_product(acc, term, self.products.complement))
            if lane == 0:
                # Of weights above 0: such a term lacks nothing.
                with m.If(facts["largest"]):
                    m.d.comb += total.eq(Mux(term > acc, term, acc))
            with m.If(advance & valid):
                m.d.sync += acc.eq(Mux(last, 0, total))
            with m.If(load):
                m.d.sync += held[lane * width:(lane + 1) * width].eq(total)
        with m.If(load):
            m.d.sync += [left.eq(Mux(short, facts["rest"], lanes)), position_ends.eq(ends)]
        return held[:width].as_signed(), left, position_ends

    def _codes(self, m: Module, facts: Facts, leaving: Value, element: Value, constant: Value,
               flow: Value) -> tuple[list[Value], Value, Value]:
        """What becomes of sums: whether each stage holds one, and in the last stage the sum with
        its constant, and its code."""
        width, least = self.sum_shape.width, min(c.which for c in self.constants)
        more = (max(c.which for c in self.constants) - least).bit_length()
        row = look_up(m, "constants", unsigned(width + 1 + more), [
            (c.offset + c.negate) % (1 << width) | c.negate << width | c.which - least << width + 1
            for c in self.constants], constant, flow, self.storage)
        offset, negate, which = row[:width].as_signed(), row[width], row[width + 1:]

        # -x is ~x + 1, and the constant has that 1 already.
        stages = _delayed(m, "leaving", Cat(leaving, element), self.storage.latency, flow)
        present = stages[-1][1:].as_signed()
        busy: list[Value] = [stage[0] for stage in stages]
        flipped = (present.as_unsigned() ^ negate.replicate(len(present))).as_signed()
        total = Signal(signed(width))
        by = Signal(more)
        with m.If(flow):
            m.d.sync += [total.eq(flipped + offset), by.eq(which)]
        busy += [valid for valid, in _delayed(m, "summed", busy[-1], 1, flow)]

        if self.thresholds is None:
            steps = Signal(signed(max(1, width - least)))
            code = Signal(self.code_shape)
            clipped = Mux(steps >= facts["highest"], facts["highest"], steps)
            with m.If(flow):
                m.d.sync += [steps.eq(total >> least >> by), code.eq(Mux(steps < 0, 0, clipped))]
            cycles, result = 2, code
        else:
            cycles, result = self._search(m, total, by, flow)
        busy += [valid for valid, in _delayed(m, "coded", busy[-1], cycles, flow)]
        if self.raw:
            *_, total = _delayed(m, "total_kept", total, cycles, flow)
        return busy, total.as_signed(), result

    def _search(self, m: Module, element: Value, row: Value, flow: Value) -> tuple[int, Value]:
        """Binary search among the thresholds of a row: cycles that it takes, and the code."""
        assert self.thresholds is not None
        bits, shape = self._code_bits, signed(self.sum_shape.width + 1)
        never = 1 << self.sum_shape.width - 1
        code: Value = Const(0, 0)
        for bit, table in enumerate(search_tables(self.thresholds, never)):
            address = Signal(range(max(2, len(table))), name=f"threshold_{bit}")
            m.d.comb += address.eq(Cat(code, row))
            threshold = look_up(m, f"thresholds_{bit}", shape, table, address, flow, self.storage)
            *_, element = _delayed(m, f"element_{bit}", element, self.storage.latency, flow)
            *_, row = _delayed(m, f"row_{bit}", row, self.storage.latency, flow)
            *_, code = _delayed(m, f"prefix_{bit}", code, self.storage.latency, flow)
            passed = element.as_signed() >= threshold
            *_, code = _delayed(m, f"code_{bit}", Cat(passed, code), 1, flow)
            *_, element = _delayed(m, f"compared_{bit}", element, 1, flow)
            *_, row = _delayed(m, f"row_after_{bit}", row, 1, flow)
        return (1 + self.storage.latency) * bits, code


def _delayed(m: Module, name: str, value: Value, cycles: int, enable: Value) -> list[Value]:
    """``value`` after each of so many ``cycles`` of ``enable``, as plain bits."""
    stages: list[Value] = []
    for n in range(cycles):
        stage = Signal(len(value), name=f"{name}_{n}")
        with m.If(enable):
            m.d.sync += stage.eq(value)
        stages.append(stage)
        value = stage
    return stages
