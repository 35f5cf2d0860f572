"""Sums times constants, by shifts and additions."""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Shape, ShapeLike, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import vector

__all__ = ["Affine", "signed_digits"]


def signed_digits(value: int) -> list[tuple[int, int]]:
    """``value`` as the fewest signed powers of two: (sign, exponent), of which no two exponents
    are neighbours (the canonical signed-digit form)."""
    digits = []
    exponent = 0
    while value:
        if value & 1:
            sign = 2 - (value & 3)  # +1 if a 0 follows, -1 if a 1 does
            digits.append((sign, exponent))
            value -= sign
        value >>= 1
        exponent += 1
    return digits


class Affine(wiring.Component):
    """Elements of a beat, each times its step, are added up, and ``base`` times the last one.

    A register behind every adder. All paths from ``i`` to ``o`` are registered; ``i.ready``
    depends combinationally on ``o.ready``.

    Latency: ``latency`` cycles, the depth of the adders. Throughput: 1 beat a cycle.

    Parameters
    ----------
    i_shape, o_shape : shape-like
        Signed shapes of an element; ``o_shape`` must hold every result, of which parts may wrap
        around and wrap back.
    base : int
        Factor of the element that all results have in common; there is none if it is 0.
    steps : sequence of int
        Factors of each result's own elements; at least one.
    lanes : int
        Results to a beat; at least 1.

    Members
    -------
    i : In(vector(i_shape, lanes * len(steps) + (base != 0)))
        Elements, those of a result together, and behind them the one in common.
    o : Out(vector(o_shape, lanes))
        Results.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, i_shape: ShapeLike, o_shape: ShapeLike, *, base: int,
                 steps: Sequence[int], lanes: int) -> None:
        self.i_shape, self.o_shape = Shape.cast(i_shape), Shape.cast(o_shape)
        if not self.i_shape.signed or not self.o_shape.signed:
            raise ValueError(f"Shapes of integers must be signed, not {self.i_shape!r} and "
                             f"{self.o_shape!r}")
        if lanes < 1 or not steps:
            raise ValueError(f"There must be at least 1 lane and 1 step, not {lanes!r} and "
                             f"{len(steps)!r}")
        self.base, self.steps, self.lanes = base, tuple(steps), lanes
        terms = max(1, len(signed_digits(base)),
                    sum(len(signed_digits(step)) for step in self.steps))
        self.latency = 1 + (terms - 1).bit_length()
        super().__init__({"i": In(vector(self.i_shape, lanes * len(self.steps) + (base != 0))),
                          "o": Out(vector(self.o_shape, lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        valid: Value = self.i.valid
        count = len(self.steps)
        sums = [[term for n, step in enumerate(self.steps)
                 for term in self._terms(lane * count + n, step)] for lane in range(self.lanes)]
        sums.append(self._terms(self.lanes * count, self.base))
        for level in range(self.latency - 1):
            following = Signal(name=f"valid_{level}")
            with m.If(advance):
                m.d.sync += following.eq(valid)
            valid = following
            sums = [self._add_pairs(m, f"sum_{level}_{n}", advance, terms)
                    for n, terms in enumerate(sums)]

        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
            for lane in range(self.lanes):
                total = Signal(self.o_shape, name=f"total_{lane}")
                m.d.comb += total.eq(_sum([*sums[lane], *sums[-1]]))
                m.d.sync += self.o.payload[lane].eq(total)

        return m

    def _terms(self, place: int, factor: int) -> list[tuple[int, Value]]:
        """An element times a factor, as signs and what they are the signs of."""
        return [(sign, self.i.payload[place] << exponent)
                for sign, exponent in signed_digits(factor)]

    def _add_pairs(self, m: Module, name: str, enable: Value, terms: list[tuple[int, Value]],
                   ) -> list[tuple[int, Value]]:
        result = []
        for n in range(0, len(terms), 2):
            pair = terms[n:n + 2]
            register = Signal(signed(self.o_shape.width), name=f"{name}_{n}")
            sign = pair[0][0] if all(sign == pair[0][0] for sign, _ in pair) else 1
            with m.If(enable):
                m.d.sync += register.eq(_sum([(s * sign, value) for s, value in pair]))
            result.append((sign, register))
        return result


def _sum(terms: list[tuple[int, Value]]) -> Value:
    """Signed ``terms``, a positive one first where there is one: it saves a negation."""
    first, *rest = sorted(terms, key=lambda term: -term[0]) or [(1, Value.cast(0))]
    total: Value = first[1] if first[0] > 0 else -first[1]
    for sign, value in rest:
        total = total + value if sign > 0 else total - value
    return total
