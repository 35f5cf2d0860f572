# amaranth: UnusedElaboratable=no
"""What there is to prove of a component: claims, their broken twins, and examples of behaviour."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring

from nomul.hw.engine import SharedProducts
from nomul.hw.loaded import LoadedWords
from nomul.hw.packed import PackedCycle
from nomul.hw.product import MaskedProducts, Products
from nomul.hw.spread import SpreadCycle
from nomul.hw.table import Cycle
from nomul.sim.formal import (
    Beats,
    Computes,
    Independence,
    Proof,
    StreamRules,
    first_cycle,
    prove,
    stream_ports,
)

__all__ = ["Example", "GivesRows", "LoadsRight", "Multiplies", "Obligation", "Restless",
           "each_element", "elements", "in_beats", "looked_up", "total"]

Factory = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Obligation:
    """Something to prove.

    Parameters
    ----------
    component : type
        What it is about.
    claim, twin : str
        What is proved, and what is wrong in the broken twin.
    sizes : str
        Of the component that is looked at.
    make, broken : callable
        Make the claim, and that about the broken twin (see `nomul.sim.formal.prove`).
    bound : int, optional
        Cycles, if the proof is not for ever.
    slow : bool
        Whether it takes more than some seconds.
    """

    component: type
    claim: str
    twin: str
    sizes: str
    make: Factory
    broken: Factory
    bound: int | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        """Component, sizes and claim, for lists of tests."""
        return f"{self.component.__name__}({self.sizes}): {self.claim}"

    def prove(self, folder: Path) -> Proof:
        """Prove the claim; ``folder`` is empty."""
        return prove(self.make(), folder, bound=self.bound)

    def refute(self, folder: Path) -> Proof:
        """Refute that of the broken twin."""
        return prove(self.broken(), folder)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A small component, and what it does.

    Parameters
    ----------
    sizes : str
        What tells it from others.
    make : callable
        Makes it.
    takes, gives : mapping of str to int
        Beats of a vector, by port.
    function : callable
        What leaves from what comes; see `nomul.sim.formal.Computes`.
    capacity : int
        Most vectors inside.
    computes : str
        What the function is.
    broken : callable, optional
        Makes a component that does something else; one that loses every other beat if omitted.
    twin : str
        What is wrong with it.
    assume, bound, slow
        See `Computes` and `Obligation`.
    ready_bound : int, optional
        Cycles for which independence of ``ready`` is proved, if not for ever.
    """

    sizes: str
    make: Factory
    takes: Mapping[str, int]
    gives: Mapping[str, int]
    function: Callable[[Beats], Beats]
    capacity: int
    computes: str
    broken: Factory | None = None
    twin: str = "loses every other beat"
    assume: Callable[[str, Any], Any] | None = None
    bound: int | None = None
    ready_bound: int | None = None
    slow: bool = False

    @property
    def component(self) -> type:
        """What is looked at."""
        kind = type(self.make())
        return kind.__mro__[1] if kind.__name__.startswith("_") else kind

    def claim(self, dut: Any) -> Computes:
        """That ``dut`` computes the function."""
        return Computes(dut, takes=self.takes, gives=self.gives, function=self.function,
                        capacity=self.capacity, assume=self.assume)

    def obligations(self) -> Iterator[Obligation]:
        """What is to be proved of the component."""
        about = partial(Obligation, component=self.component, sizes=self.sizes)
        yield about(claim="a stalled payload stays valid and unchanged",
                    twin="payload changes in every cycle",
                    make=lambda: StreamRules(self.make()),
                    broken=lambda: StreamRules(Restless(self.make())))
        yield about(claim="payload and valid do not depend on ready",
                    twin="valid waits for ready",
                    make=lambda: Independence([self.make(), self.make()]),
                    broken=lambda: Independence([_Waiting(self.make()), _Waiting(self.make())]),
                    bound=self.ready_bound, slow=self.ready_bound is not None)
        broken = self.broken or (lambda: _Losing(self.make()))
        yield about(claim=f"{self.computes}; at most {self.capacity} vectors inside",
                    twin=self.twin, make=lambda: self.claim(self.make()),
                    broken=lambda: self.claim(broken()), bound=self.bound, slow=self.slow)


class _Around(wiring.Component):  # type: ignore[misc]
    """A component with another one's ports, around it."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        super().__init__(dut.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = self.dut
        wiring.connect(m, wiring.flipped(self), self.dut)
        return m


class Restless(_Around):
    """What leaves changes in every cycle."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        change = Signal()
        m.d.sync += change.eq(~change)
        outer, inner = (next(port for port in stream_ports(unit) if not port.is_input)
                        for unit in (self, self.dut))
        lowest = Value.cast(outer.payload)[0]
        m.d.comb += lowest.eq(Value.cast(inner.payload)[0] ^ change)
        return m


class _Waiting(_Around):
    """What leaves is valid when its reader is ready."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        outer, inner = (next(port for port in stream_ports(unit) if not port.is_input)
                        for unit in (self, self.dut))
        m.d.comb += outer.valid.eq(inner.valid & outer.ready)
        return m


class _Losing(_Around):
    """Every other beat that comes is lost."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        lose = Signal()
        outer, inner = (next(port for port in stream_ports(unit) if port.is_input)
                        for unit in (self, self.dut))
        m.d.comb += [inner.valid.eq(outer.valid & ~lose), outer.ready.eq(inner.ready | lose)]
        with m.If(outer.valid & outer.ready):
            m.d.sync += lose.eq(~lose)
        return m


def looked_up(values: Sequence[int], at: Any) -> Value:
    """``values[at]``; the last one beyond their end."""
    *others, last = values
    result = Value.cast(last)
    for n, value in reversed(list(enumerate(others))):
        result = Mux(Value.cast(at) == n, value, result)
    return result


def total(terms: Sequence[Any]) -> Value:
    """The exact sum of ``terms``."""
    return sum(terms[1:], start=terms[0])


def elements(beats: Sequence[Any], length: int) -> list[Any]:
    """The elements of a vector."""
    return [beat[n] for beat in beats for n in range(beat.shape().length)][:length]


def in_beats(values: Sequence[Any], lanes: int) -> list[list[Any]]:
    """Elements as beats; lanes of the last one that hold none may be anything."""
    padded = [*values, *[None] * (-len(values) % lanes)]
    return [padded[n:n + lanes] for n in range(0, len(padded), lanes)]


def each_element(function: Callable[[int, Any], Any], length: int, lanes: int,
                 ) -> Callable[[Beats], Beats]:
    """A function of the number of an element and the element, for all elements."""
    return lambda beats: {"o": in_beats(
        [function(n, x) for n, x in enumerate(elements(beats["i"], length))], lanes)}


class Multiplies(Elaboratable):  # type: ignore[misc]
    """Products are those of the table, for every entry and every code.

    Of `MaskedProducts`, which leave the factors to others: the base times the code, and each step
    times what comes for it, add up to them.
    """

    def __init__(self, dut: Products | SharedProducts, table: Sequence[Sequence[int]]) -> None:
        self.dut = dut
        self.table = table
        self.entries = [[Signal(range(max(2, len(table))), name=f"entry_{lane}_{n}")
                         for n in range(dut.inputs)] for lane in range(dut.lanes)]

    @property
    def inputs(self) -> list[Value]:
        return [self.dut.enable, Value.cast(self.dut.codes),
                *(entry for row in self.entries for entry in row)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        first_cycle(m)

        def later(value: Value, name: str) -> Value:
            """What ``value`` was as many steps ago as a product takes."""
            for stage in range(dut.latency):
                before = Signal(len(value), name=f"{name}_{stage}")
                with m.If(dut.enable):
                    m.d.sync += before.eq(value)
                value = before
            return value

        known = later(Const(1), "known")
        for n in range(dut.inputs):
            m.d.comb += Assume(dut.codes[n] < len(self.table[0]))
            code = later(dut.codes[n], f"code_{n}")
            for lane in range(dut.lanes):
                entry = self.entries[lane][n]
                m.d.comb += [Assume(entry < len(self.table)),
                             dut.indices[lane][n].eq(looked_up(dut.encoding, entry))]
                at = later(entry, f"entry_{lane}_{n}")
                due = looked_up([looked_up(row, code) for row in self.table], at)
                if isinstance(dut, MaskedProducts):
                    got = dut.masks.base * code + total(
                        [step * dut.products[lane * dut.sums + number][n]
                         for number, step in enumerate(dut.masks.steps)])
                else:
                    got = dut.products[lane][n]
                    if dut.complement is not None:
                        got = got + (got[-1] << dut.complement)
                m.d.comb += Assert(~known | (got == due))
        return m


class GivesRows(Elaboratable):  # type: ignore[misc]
    """Rows are there in order, and again from the first, once the first one has come."""

    def __init__(self, dut: Cycle | PackedCycle | SpreadCycle, rows: Sequence[int]) -> None:
        self.dut = dut
        self.rows = rows
        self.wanted = Signal()

    @property
    def inputs(self) -> list[Value]:
        return [self.wanted]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        first = first_cycle(m)
        number = Signal(range(max(2, len(self.rows))))
        m.d.comb += dut.next.eq(self.wanted & dut.valid)
        with m.If(dut.next):
            m.d.sync += number.eq(Mux(number == len(self.rows) - 1, 0, number + 1))
        was_valid = Signal()
        m.d.sync += was_valid.eq(dut.valid)
        m.d.comb += [
            Assert(first | ~dut.valid | (Value.cast(dut.row) == looked_up(self.rows, number))),
            Assert(first | ~was_valid | dut.valid),
        ]
        return m


class LoadsRight(Elaboratable):  # type: ignore[misc]
    """Once words are loaded, those that are read are the right ones, whatever was sent."""

    def __init__(self, dut: LoadedWords, words: Sequence[int]) -> None:
        self.dut = dut
        self.words = words

    @property
    def inputs(self) -> list[Value]:
        dut = self.dut
        return [Value.cast(dut.i.payload), dut.i.valid, dut.free, dut.address, dut.enable]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        first = first_cycle(m)
        # Whether there were words to read, and where.
        reads: list[Value] = [Cat(dut.loaded, dut.address)]
        for n in range(dut.latency):
            stage = Signal(len(reads[0]), name=f"read_{n}")
            with m.If(dut.enable):
                m.d.sync += stage.eq(reads[-1])
            reads.append(stage)
        known, address = reads[-1][0], reads[-1][1:]
        m.d.comb += [
            Assert(first | ~known | (address >= len(self.words))
                   | (dut.word == looked_up(self.words, address))),
            Assert(first | ~dut.loaded | ~dut.failed),
        ]
        return m
