"""What an engine is told to do for each layer, and how it walks through the codes that it reads."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned

from nomul.hw.table import Storage, look_up

__all__ = ["Constant", "Facts", "Padding", "Task", "Walk", "check_places", "place_bits",
           "task_cycles", "total_cycles", "walk"]

# Loops of a task, the innermost one first: those of the kernel, and the others.
_TAPS, _LOOPS = 3, 7
_PASS, _GROUP, _COLUMN, _ROW = range(_TAPS, _LOOPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What lies around an image.

    Parameters
    ----------
    height, width : int
        Of the image.
    top, left : int
        How far the first position of the kernel begins before it.
    stride : int
        Step of the kernel.
    code : int
        What lies there.
    """

    height: int
    width: int
    top: int
    left: int
    stride: int
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the engine does for one layer: sums over what seven nested loops read.

    Codes lie in memories, one behind the other, and the image behind them (see `place_bits`).
    Results are written in the order in which they are made.

    Parameters
    ----------
    loops : tuple of seven (count, distance)
        Channels, columns and rows of the kernel; passes over the same inputs, for the lanes'
        next outputs; groups; columns and rows of positions. A step of a loop moves the address
        that is read by its distance.
    origin : int
        First address read. It may lie before the layer's input, where there is padding.
    outputs : int
        Sums of a group.
    weights : int
        Place of the first word of weights.
    again : bool
        Whether each pass has the same weights.
    table : int
        What is added to a code to give its row of the products.
    constants : int
        Place of the first constant.
    shared : bool
        Whether all outputs of a position share it.
    highest : int
        Highest code of the result.
    target : int, optional
        Address of the first result. If omitted, results leave: the last task's.
    largest : bool
        Whether the largest term is taken instead of the sum; for one output a group.
    reads_image, frees_image : bool
        Whether it reads the image, and is the last one that does.
    padding : Padding, optional
        Where positions of the kernel lie outside of what it reads.
    """

    loops: tuple[tuple[int, int], ...]
    origin: int
    outputs: int
    weights: int
    again: bool
    table: int
    constants: int
    shared: bool
    highest: int
    target: int | None
    largest: bool = False
    reads_image: bool = False
    frees_image: bool = False
    padding: Padding | None = None

    def __post_init__(self) -> None:
        if len(self.loops) != _LOOPS or any(count < 1 for count, _ in self.loops):
            raise ValueError(f"Task must have {_LOOPS} loops of at least one turn, "
                             f"not {self.loops!r}")

    def count(self, loop: int) -> int:
        """How often a loop turns."""
        return self.loops[loop][0]

    def step(self, loop: int) -> int:
        """How far the address moves when a loop turns, and those in it begin again."""
        return self.loops[loop][1] - sum((count - 1) * distance
                                         for count, distance in self.loops[:loop])

    @property
    def taps(self) -> int:
        """Terms of a sum, and cycles of a pass."""
        return prod(self.count(loop) for loop in range(_TAPS))

    @property
    def results(self) -> int:
        """Sums of the whole task."""
        return self.outputs * self.count(_GROUP) * self.count(_COLUMN) * self.count(_ROW)

    def reads(self) -> list[tuple[int, int]]:
        """Spans of addresses that are read, each from its first one to its last one; a loop of two
        turns may go to another span. None if all lies in the padding."""
        origin, loops = self.origin, list(self.loops)
        if spot := self.padding:
            # In the image's own coordinates, and of those only what is inside.
            for kernel, outer, before, size in ((1, _COLUMN, spot.left, spot.width),
                                                (2, _ROW, spot.top, spot.height)):
                distance = loops[kernel][1]
                inside = [at for at in {
                    position * spot.stride + tap - before
                    for position in range(self.count(outer)) for tap in range(self.count(kernel))}
                    if 0 <= at < size]
                if not inside:
                    return []
                origin += distance * (before + min(inside))
                loops[kernel] = max(inside) - min(inside) + 1, distance
                loops[outer] = 1, 0
        spans = []
        wide = [(count - 1) * distance for count, distance in loops if count > 2]
        for jumps in product(*((0, distance) for count, distance in loops
                               if count == 2 and distance)):
            first = origin + sum(jumps)
            spans.append((first + sum(min(0, way) for way in wide),
                          first + sum(max(0, way) for way in wide)))
        return spans

    def cycles(self, lanes: int) -> int:
        """Cycles from the first term to the last sum that leaves the accumulators, which wait for
        each other where there are few terms."""
        passes, groups = self.count(_PASS), self.count(_GROUP)
        sums = [lanes] * (passes - 1) + [self.outputs - lanes * (passes - 1)]
        repeats = groups * self.count(_COLUMN) * self.count(_ROW)
        return (self.taps + repeats * sum(max(self.taps, n) for n in sums)
                - max(self.taps, sums[-1]) + sums[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """What becomes of a sum: ``±sum + offset``, and then a code.

    Parameters
    ----------
    offset : int
    negate : bool
    which : int
        The shift, or the row of thresholds.
    """

    offset: int
    negate: bool
    which: int


def place_bits(depths: Sequence[int], image_length: int) -> int:
    """Bits of a place in the largest memory of an engine; the address bits above them are the
    memory's number."""
    return max(1, (max(*depths, image_length, 2) - 1).bit_length())


def check_places(tasks: Sequence[Task], depths: Sequence[int], image_length: int) -> None:
    """`ValueError` unless all that ``tasks`` read and write lies in the memories of ``depths``, or,
    where it is read, in the image."""
    bits, sizes = place_bits(depths, image_length), [*depths, image_length]
    for number, task in enumerate(tasks):
        spans = [("read", *span) for span in task.reads()]
        if task.target is not None:
            spans.append(("write", task.target, task.target + task.results - 1))
        for what, first, last in spans:
            bank = first >> bits
            held = sizes if what == "read" else sizes[:-1]
            if not 0 <= bank < len(held) or last >= (bank << bits) + held[bank]:
                raise ValueError(
                    f"Task {number} must {what} addresses of one memory, not {first} to {last}; "
                    "memories are " + (", ".join(
                        f"{n << bits} to {(n << bits) + depth - 1}" for n, depth in enumerate(held))
                        or "none"))


def task_cycles(tasks: Sequence[Task], *, lanes: int, read: int, multiply: int, search_bits: int,
                ) -> list[int]:
    """Cycles from the start of each task to that of the next one.

    Parameters
    ----------
    read : int
        Cycles from an address to its word.
    multiply : int
        Cycles of a product.
    search_bits : int
        Steps of a binary search; 0 for a shift.
    """
    code = (1 + read) * search_bits or 2
    return [task.cycles(lanes) + 2 * read + multiply + 4 + code for task in tasks]


def total_cycles(tasks: Sequence[Task], cycles: Sequence[int], image_length: int) -> int:
    """Cycles between inferences, if images and results never wait: the next image comes in when
    no task needs the last one any more."""
    freed = next(n for n, task in enumerate(tasks) if task.frees_image)
    return max(sum(cycles), sum(cycles[:freed + 1]) + image_length - 1)


class Facts:
    """What the hardware is told of the present task.

    A fact that is the same for all tasks is a constant, and takes no place in the table.

    Parameters
    ----------
    tasks : sequence of Task
    lanes : int
        Of the engine.
    address_bits : int
        Of an address.
    """

    def __init__(self, tasks: Sequence[Task], *, lanes: int, address_bits: int) -> None:
        self.address_bits = address_bits
        spots = [task.padding or Padding(height=1, width=1, top=0, left=0, stride=1, code=0)
                 for task in tasks]
        columns: dict[str, Iterable[int]] = {
            "rest": (task.outputs - lanes * (task.count(_PASS) - 1) for task in tasks),
            "leaves": (task.target is None for task in tasks),
            "target": (task.target or 0 for task in tasks),
            "padded": (task.padding is not None for task in tasks),
            **{name: [getattr(task, name) for task in tasks]
               for name in ("origin", "weights", "again", "table", "constants", "shared",
                            "highest", "largest", "reads_image", "frees_image")},
            **{name: [getattr(spot, name) for spot in spots]
               for name in ("height", "width", "top", "left", "stride", "code")},
            **{f"step_{loop}": [task.step(loop) for task in tasks] for loop in range(_LOOPS)},
            # Counters go down to -1, whose sign says that this is the last turn.
            **{f"turns_{loop}": [task.count(loop) - 2 for task in tasks]
               for loop in range(_LOOPS)},
        }
        self.columns = {name: tuple(int(value) for value in column)
                        for name, column in columns.items()}
        self._present: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        """A fact of the present task."""
        return self._present[name]

    def shape(self, name: str) -> Shape:
        """What holds a fact of every task."""
        if name == "origin" or name.startswith("step"):
            return signed(self.address_bits)
        values = self.columns[name]
        return Shape.cast(range(min(values), max(2, max(values) + 1)))

    def look_up(self, m: Module, number: Value) -> None:
        """Make the task with this ``number`` the present one, a cycle later."""
        words, places, size = [0] * len(self.columns["origin"]), {}, 0
        for name, values in self.columns.items():
            width = self.shape(name).width
            if len(set(values)) > 1:
                places[name] = size, width
                for n, value in enumerate(values):
                    words[n] |= value % (1 << width) << size
                size += width
        word = look_up(m, "tasks", unsigned(size), words, number, Const(1),
                       Storage.LOGIC) if size else Const(0)
        for name, values in self.columns.items():
            if name in places:
                start, width = places[name]
                field = word[start:start + width]
                self._present[name] = field.as_signed() if self.shape(name).signed else field
            else:
                self._present[name] = Const(values[0], self.shape(name))


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Where a task reads, in the order in which it does.

    Parameters
    ----------
    address : Value
        Of the code.
    weights : Value
        Of the word of weights.
    outside : Value
        Whether the code lies in the padding.
    last : Value
        Whether it is the last of its sum.
    short : Value
        Whether it is of the last pass, which may have fewer outputs than there are lanes.
    ends : Value
        Whether it is of the last pass of the last group of a position.
    finished : Value
        Whether it is the last of all.
    """

    address: Value
    weights: Value
    outside: Value
    last: Value
    short: Value
    ends: Value
    finished: Value


def walk(m: Module, facts: Facts, start: Value, get: Value, words: int) -> Walk:
    """Loops, addresses and padding: the first place a cycle after ``start``, the next one with each
    ``get``. There are ``words`` of weights."""
    lasts: list[Value] = []
    turns: list[Value] = []  # when each loop makes a step
    turn = get
    for loop in range(_LOOPS):
        turns.append(turn)
        last: Value = Const(1)
        if max(facts.columns[f"turns_{loop}"]) >= 0:
            shape = facts.shape(f"turns_{loop}")
            left = Signal(signed(shape.width + (not shape.signed)), name=f"turns_left_{loop}")
            last = left[-1]
            with m.If(turn):
                m.d.sync += left.eq(Mux(last, facts[f"turns_{loop}"], left - 1))
            with m.If(start):
                m.d.sync += left.eq(facts[f"turns_{loop}"])
        lasts.append(last)
        turn = turn & last

    address = Signal(facts.address_bits)
    step: Value = facts[f"step_{_LOOPS - 1}"]
    for loop in reversed(range(_LOOPS - 1)):
        step = Mux(lasts[loop], step, facts[f"step_{loop}"])
    weights = Signal(range(max(2, words)))
    restart = turns[_COLUMN] | (facts["again"] & turns[_PASS])
    with m.If(get):
        m.d.sync += [address.eq(address + step),
                     weights.eq(Mux(restart, facts["weights"], weights + 1))]
    with m.If(start):
        m.d.sync += [address.eq(facts["origin"]), weights.eq(facts["weights"])]

    return Walk(address=address, weights=weights, last=Cat(lasts[:_TAPS]).all(),
                outside=_outside(m, facts, start, turns), short=lasts[_PASS],
                ends=lasts[_PASS] & lasts[_GROUP], finished=Cat(lasts).all())


def _outside(m: Module, facts: Facts, start: Value, turns: Sequence[Value]) -> Value:
    """Whether the place lies in the padding."""
    if not any(facts.columns["padded"]):
        return Const(0)
    lines = []
    for name, before, size, (inner, outer), (moves, begins) in (
            ("x", "left", "width", (1, 2), (_COLUMN, _ROW)),
            ("y", "top", "height", (2, _PASS), (_ROW, None))):
        # Of the position's first place, and of the present one.
        reach = max(facts.columns[size]) + max(facts.columns["stride"]) + max(
            turn + 2 for turn in facts.columns[f"turns_{inner}"])
        shape = Shape.cast(range(-max(facts.columns[before]) - 1, reach))
        first, at = Signal(shape, name=f"{name}_first"), Signal(shape, name=name)
        with m.If(turns[inner]):
            m.d.sync += at.eq(at + 1)
        with m.If(turns[outer]):
            m.d.sync += at.eq(first)
        with m.If(turns[moves]):
            m.d.sync += [at.eq(first + facts["stride"]), first.eq(first + facts["stride"])]
        beginning = start if begins is None else start | turns[begins]
        with m.If(beginning):
            m.d.sync += [at.eq(-facts[before]), first.eq(-facts[before])]
        lines += [at < 0, at >= facts[size]]
    return facts["padded"] & Cat(lines).any()
