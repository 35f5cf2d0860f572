"""Adder graphs: a constant matrix times a vector as few and narrow additions.

What outputs have in common is added once. The search takes, again and again, the pair of terms
whose sharing saves most bits; then each output adds up what it has left, in the order that wastes
the fewest bits of many that are tried. Several searches, which differ in what they do with nearly
equal pairs, compete.

No number has a sign before the last subtraction of an output: a difference is raised by a power of
two, which its adder gives away. What outputs thus have too much, and their offsets, ride in the
carries and in unused bits of their own additions, where they fit.
"""
from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nomul.compiler.values import Ints
from nomul.hw.affine import signed_digits
from nomul.hw.unrolled import AdderGraph, Bounds, Sum, Term, bits_of

__all__ = ["adder_graph"]

#: Orders of additions that are tried for each output, and how far they stray, in bits.
_ORDERS, _STRAY = 40, 1.5
#: A difference counts this much of a place less: what is subtracted may need inverters.
_INVERTED = 0.5
#: How much less than in proportion the bits of an addition count.
_WIDTH = 0.7
#: How far the worth of a pair strays.
_NOISE = 0.1


def adder_graph(matrix: Ints, inputs: Sequence[Bounds], offsets: Sequence[int] | None = None, *,
                tries: int = 8) -> AdderGraph:
    """The smallest graph found for ``matrix`` times a vector, plus ``offsets``.

    Parameters
    ----------
    matrix : array of int, shape [outputs, inputs]
        What is multiplied by.
    inputs : sequence of (lowest, highest)
        What each element of the vector can be; not negative.
    offsets : sequence of int, optional
        What is added to each output. The graph has further inputs for constants that it needs.
    tries : int
        Searches; as many give the same graph each time.
    """
    if any(low < 0 for low, _ in inputs):
        raise ValueError("Inputs of an adder graph must not be negative")
    added = [0] * len(matrix) if offsets is None else [int(offset) for offset in offsets]
    found = [_Search(matrix, inputs, seed=seed) for seed in range(tries)]
    for search in found:
        search.share()
    best = min(found, key=lambda search: search.finished(added, orders=1).cost)
    return best.finished(added, orders=_ORDERS)


Key = tuple[int, int, int, int]
"""A pair of terms: sources, the shift of the second beyond the first, the product of signs."""


class _Search:
    """One search, whose outputs are what is left to add up: the sign of each (source, shift)."""

    def __init__(self, matrix: Ints, inputs: Sequence[Bounds], *, seed: int) -> None:
        self.elements = len(inputs)
        # A constant for each output, of which few will be needed, stands behind the inputs.
        self.bounds = [*((int(low), int(high)) for low, high in inputs), *[(0, 0)] * len(matrix)]
        #: What each source is above the sum of inputs that it stands for.
        self.raised = [0] * len(self.bounds)
        self.sums: list[Sum] = []
        self.random = random.Random(seed)
        self.outputs: list[dict[tuple[int, int], int]] = [
            {(source, shift): sign for source, weight in enumerate(row)
             for sign, shift in signed_digits(weight)} for row in matrix.tolist()]
        self.places: dict[Key, set[tuple[int, int]]] = defaultdict(set)
        self.queue: list[tuple[float, float, int, Key]] = []

    def share(self) -> None:
        """Add whatever several outputs have in common."""
        for output, terms in enumerate(self.outputs):
            seen: list[tuple[int, int]] = []
            for term in terms:
                for other in seen:
                    self._note(output, term, other)
                seen.append(term)
        for key in list(self.places):
            self._push(key)
        while self.queue:
            *_, count, key = heapq.heappop(self.queue)
            if len(self.places[key]) == count:
                self._share(key)
            else:
                self._push(key)

    def _key(self, output: int, one: tuple[int, int], other: tuple[int, int],
             ) -> tuple[Key, tuple[int, int]]:
        terms = self.outputs[output]
        first, second = ((one, other) if (one[1], one[0]) <= (other[1], other[0]) else
                         (other, one))
        return ((first[0], second[0], second[1] - first[1], terms[first] * terms[second]),
                (output, first[1]))

    def _note(self, output: int, one: tuple[int, int], other: tuple[int, int]) -> Key:
        key, place = self._key(output, one, other)
        self.places[key].add(place)
        return key

    def _push(self, key: Key) -> None:
        """Most saved bits first: those where terms overlap, for each place but one."""
        count, (left, right, shift, sign) = len(self.places[key]), key
        if count > 1:
            first, second = (bits_of(self.bounds[source]) for source in (left, right))
            overlap = max(0, min(first - shift, second))
            saved = (count - 1 - _INVERTED * (sign < 0)) * (overlap + 1) ** _WIDTH
            saved *= 1 + _NOISE * self.random.random()
            heapq.heappush(self.queue, (-saved, self.random.random(), count, key))

    def _append(self, item: Sum) -> int:
        self.bounds.append(item.bounds(self.bounds))
        self.raised.append(item.constant + sum(
            term.sign * self.raised[term.source] << term.shift
            for term in (item.left, item.right)))
        self.sums.append(item)
        return len(self.bounds) - 1

    def _share(self, key: Key) -> None:
        """Add one pair wherever it occurs."""
        left, right, shift, sign = key
        places = sorted(self.places.pop(key))
        # A difference is taken the way round that more outputs add than subtract.
        added = sum(self.outputs[output].get((left, base), 0) for output, base in places)
        turn = -1 if sign < 0 and not shift and added < 0 else 1
        if turn < 0:
            left, right = right, left
        source = self._append(self._pair(left, right, shift, sign))
        fresh: set[Key] = set()
        for output, base in places:
            terms = self.outputs[output]
            first, second = (left, base), (right, base + shift)
            if first == second or first not in terms or second not in terms:
                continue  # another place has taken one of them
            sign_of_first = terms[first]
            for gone in (first, second):
                for other in terms:
                    if other != gone:
                        old, place = self._key(output, gone, other)
                        if old in self.places:
                            self.places[old].discard(place)
                del terms[gone]
            terms[source, base] = sign_of_first
            fresh.update(self._note(output, (source, base), other) for other in terms
                         if other != (source, base))
        for new in sorted(fresh):
            self._push(new)

    def _pair(self, left: int, right: int, shift: int, sign: int) -> Sum:
        """A sum, or a difference raised so far that it is never negative."""
        first, second = bits_of(self.bounds[left]), bits_of(self.bounds[right])
        raised = 0
        if sign < 0:
            raised = (1 << second) - (first <= shift) << shift
        return Sum(Term(left, 0, 1), Term(right, shift, sign), raised)

    def finished(self, offsets: Sequence[int], *, orders: int) -> AdderGraph:
        """The graph in which each output has added up what it has left, and its offset, in the
        best of ``orders``. The search stays as it is."""
        shared = len(self.sums)
        ends = [self._add_up(output, offset, orders) for output, offset in enumerate(offsets)]
        graph = self._graph(ends)
        del self.sums[shared:]
        for of_sources in (self.bounds, self.raised):
            del of_sources[self.elements + len(ends) + shared:]
        self.bounds[self.elements:self.elements + len(ends)] = [(0, 0)] * len(ends)
        return graph

    def _graph(self, ends: list[Term | None]) -> AdderGraph:
        """The sums so far, without the constants that are not needed."""
        first = self.elements + len(ends)
        needed = [n for n in range(first) if n < self.elements or self.bounds[n] != (0, 0)]
        places = {source: place for place, source in
                  enumerate([*needed, *range(first, len(self.bounds))])}

        def moved(term: Term) -> Term:
            return replace(term, source=places[term.source])

        return AdderGraph(
            inputs=tuple(self.bounds[n] for n in needed),
            sums=tuple(replace(item, left=moved(item.left), right=moved(item.right))
                       for item in self.sums),
            outputs=tuple(None if end is None else moved(end) for end in ends))

    def _add_up(self, output: int, offset: int, orders: int) -> Term | None:
        """The sum of an output's terms and its offset: what is added less what is subtracted.

        So one number is subtracted for each output, which takes the fewest inverters where an
        adder has none.
        """
        terms = self.outputs[output]
        target = offset - sum(sign * self.raised[source] << shift
                              for (source, shift), sign in terms.items())
        sides = [[_Part(*self.bounds[source], shift, source) for (source, shift), of in
                  sorted(terms.items()) if of == sign] for sign in (1, -1)]
        constant = 0
        for attempt in range(3):
            if attempt == 2:
                constant = target
            own = _Part(abs(constant), abs(constant), 0, self.elements + output)
            parts = [side + [own] * (constant != 0 and (constant < 0) == n)
                     for n, side in enumerate(sides)]
            done = min((self._ordered(parts, target - constant, stray=_STRAY * (order > 0))
                        for order in range(orders)), key=lambda each: each.cost)
            if not done.rest:
                break
            constant += done.rest
        if constant:
            self.bounds[self.elements + output] = abs(constant), abs(constant)
        return self._built(done)

    def _ordered(self, sides: list[list[_Part]], target: int, *, stray: float) -> _Order:
        """The terms of an output in one order, and ``target`` spread over them."""
        added, subtracted = (self._merged(side, stray) for side in sides)
        if not added or not subtracted:
            root, sign = (added, 1) if added else (subtracted, -1)
            rest = sign * root.spread(sign * target) if root and sign * target > 0 else target
            return _Order(added, subtracted, 0, rest)
        order = _Order(added, subtracted, 0, 0)
        unit = order.unit
        over = target % unit
        if self.random.random() < 0.5 if stray else over < unit - over:
            order.rest = added.spread(over)
            over -= order.rest
        else:
            order.rest = -subtracted.spread(-over % unit)
            over = -(-over % unit + order.rest)
        order.constant = target - order.rest - over
        return order

    def _merged(self, terms: list[_Part], stray: float) -> _Part | None:
        """The sum of terms, those first that make the narrowest sums in the fewest bits."""
        left: list[_Part | None] = []
        queue: list[tuple[float, int, int]] = []

        def put(part: _Part) -> None:
            for n, other in enumerate(left):
                if other:
                    cost = _worth(part, other) + stray * self.random.random()
                    heapq.heappush(queue, (cost, n, len(left)))
            left.append(part)

        for term in terms:
            put(term)
        while queue:
            _, n, k = heapq.heappop(queue)
            one, other = left[n], left[k]
            if one and other:
                left[n] = left[k] = None
                put(_sum_of(one, other))
        return left[-1] if left else None

    def _built(self, order: _Order) -> Term | None:
        """The sums of an output, appended."""
        terms = [Term(self._source(part), part.shift, sign) for part, sign in
                 ((order.added, 1), (order.subtracted, -1)) if part]
        if len(terms) < 2:
            return terms[0] if terms else None
        left, right = sorted(terms, key=lambda term: (term.shift, -term.sign))
        return Term(self._append(Sum(replace(left, shift=0),
                                     replace(right, shift=right.shift - left.shift),
                                     order.constant >> left.shift)), left.shift, 1)

    def _source(self, part: _Part) -> int:
        if not part.pair:
            return part.source
        left, right = part.pair
        return self._append(Sum(Term(self._source(left), 0, 1),
                                Term(self._source(right), right.shift - left.shift, 1),
                                part.constant))


@dataclass(slots=True)
class _Part:
    """A term of an output, or a sum of two parts: ``2**shift`` times a number in bounds."""

    low: int
    high: int
    shift: int
    source: int = -1
    pair: tuple[_Part, _Part] | None = None
    constant: int = 0

    @property
    def bits(self) -> int:
        return self.high.bit_length()

    @property
    def overlap(self) -> int:
        """Bits that a sum's parts have in common."""
        assert self.pair
        left, right = self.pair
        return max(0, min(left.bits - (right.shift - left.shift), right.bits))

    @property
    def cost(self) -> int:
        """Tables and carries of all additions in it."""
        if not self.pair:
            return 0
        left, right = self.pair
        own = 2 * (self.bits - (right.shift - left.shift)) - 1 if self.overlap else 0
        return own + left.cost + right.cost

    def spread(self, amount: int) -> int:
        """Raise sums in it by ``amount`` in all, as far as none gets wider; what is left.

        A sum takes what is carried in, and whatever lies above its narrower part.
        """
        spots: list[tuple[int, int, tuple[_Part, ...]]] = []

        def visit(part: _Part, above: tuple[_Part, ...]) -> None:
            if not part.pair:
                return
            chain = (*above, part)
            if part.overlap:
                carried = part.pair[1].shift
                spots.append((carried, 1, chain))
                spots.append((carried + part.overlap, 1 << 62, chain))
            for each in part.pair:
                visit(each, chain)

        visit(self, ())
        for place, most, chain in sorted(spots, key=lambda spot: (-spot[0], len(spot[2]))):
            many = min(most, amount >> place, *(((1 << part.bits) - 1 - part.high << part.shift)
                                                >> place for part in chain))
            if many <= 0:
                continue
            amount -= many << place
            for part in chain:
                part.low += many << place >> part.shift
                part.high += many << place >> part.shift
            chain[-1].constant += many << place >> chain[-1].shift
        return amount


def _worth(one: _Part, other: _Part) -> float:
    """What an addition costs, less for what can be done with a narrow sum."""
    if one.shift > other.shift:
        one, other = other, one
    step = other.shift - one.shift
    cost = 2 * (one.high + (other.high << step)).bit_length() - step
    return cost if step < one.high.bit_length() else cost / 2


def _sum_of(one: _Part, other: _Part) -> _Part:
    left, right = (one, other) if one.shift <= other.shift else (other, one)
    step = right.shift - left.shift
    return _Part(left.low + (right.low << step), left.high + (right.high << step), left.shift,
                 pair=(left, right))


@dataclass(slots=True)
class _Order:
    """What is added and subtracted for an output; a constant of the subtraction; what is left to
    add."""

    added: _Part | None
    subtracted: _Part | None
    constant: int
    rest: int

    @property
    def _passed(self) -> int:
        assert self.added and self.subtracted
        return max(self.subtracted.shift - self.added.shift, 0)

    @property
    def unit(self) -> int:
        """The constant is a multiple of this: it lies above the narrower part."""
        added, subtracted = self.added, self.subtracted
        assert added and subtracted
        # Where the negative part is the lower one, no bits pass.
        base = max(added.shift, subtracted.shift) if self._passed else subtracted.shift
        widths = max(0, added.bits + added.shift - base), subtracted.bits
        return 1 << base + min(widths)

    @property
    def cost(self) -> int:
        """Tables and carries, and what another addition may take if there is a rest."""
        added, subtracted = self.added, self.subtracted
        cost = 2 * self.rest.bit_length() + 8 * bool(self.rest)
        cost += (added.cost if added else 0) + (subtracted.cost if subtracted else 0)
        if not subtracted:
            return cost
        cost += subtracted.bits
        if not added:
            return cost
        low = (added.low << added.shift) - (subtracted.high << subtracted.shift) + self.constant
        high = (added.high << added.shift) - (subtracted.low << subtracted.shift) + self.constant
        base = min(added.shift, subtracted.shift)
        return cost + 2 * (bits_of((low >> base, high >> base)) - self._passed) - 1
