"""Adder graphs: a constant matrix times a vector as few and narrow additions.

What outputs have in common is added once. The search takes, again and again, the pair of terms
that most outputs have; then each output adds up what it has left, the narrowest terms first.
Several searches, which differ in what they do with equals, compete.
"""
from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nomul.compiler.values import Ints
from nomul.hw.affine import signed_digits
from nomul.hw.unrolled import AdderGraph, Bounds, Sum, Term, addition_bits, bits_of

__all__ = ["adder_graph"]


def adder_graph(matrix: Ints, inputs: Sequence[Bounds], *, tries: int = 4) -> AdderGraph:
    """The smallest graph found for ``matrix`` times a vector.

    Parameters
    ----------
    matrix : array of int, shape [outputs, inputs]
        What is multiplied by.
    inputs : sequence of (lowest, highest)
        What each element of the vector can be.
    tries : int
        Searches; as many give the same graph each time.
    """
    found = [_Search(matrix, inputs, seed=seed).run() for seed in range(tries)]
    return min(found, key=lambda graph: (graph.bits, len(graph.sums)))


Key = tuple[int, int, int, int]
"""A pair of terms: sources, the shift of the second beyond the first, the product of signs."""


class _Search:
    """One search, whose outputs are what is left to add up: the sign of each (source, shift)."""

    def __init__(self, matrix: Ints, inputs: Sequence[Bounds], *, seed: int) -> None:
        self.inputs = tuple((int(low), int(high)) for low, high in inputs)
        self.bounds, self.levels = list(self.inputs), [0] * len(self.inputs)
        self.sums: list[Sum] = []
        self.random = np.random.default_rng(seed)
        self.outputs: list[dict[tuple[int, int], int]] = [
            {(source, shift): sign for source, weight in enumerate(row)
             for sign, shift in signed_digits(weight)} for row in matrix.tolist()]
        self.places: dict[Key, set[tuple[int, int]]] = defaultdict(set)
        self.queue: list[tuple[tuple[int, bool, int, float], Key]] = []

    def run(self) -> AdderGraph:
        for output, terms in enumerate(self.outputs):
            seen: list[tuple[int, int]] = []
            for term in terms:
                for other in seen:
                    self._note(output, term, other)
                seen.append(term)
        for key in list(self.places):
            self._push(key)
        while self.queue:
            score, key = heapq.heappop(self.queue)
            if len(self.places[key]) == 1 - score[0]:
                self._share(key)
            else:
                self._push(key)
        ends = [self._add_up(terms) for terms in self.outputs]
        return AdderGraph(inputs=self.inputs, sums=tuple(self.sums), outputs=tuple(ends))

    def _key(self, output: int, one: tuple[int, int], other: tuple[int, int],
             ) -> tuple[Key, tuple[int, int]]:
        terms = self.outputs[output]
        first, second = sorted((one, other), key=lambda term: (term[1], term[0]))
        return ((first[0], second[0], second[1] - first[1], terms[first] * terms[second]),
                (output, first[1]))

    def _note(self, output: int, one: tuple[int, int], other: tuple[int, int]) -> Key:
        key, place = self._key(output, one, other)
        self.places[key].add(place)
        return key

    def _push(self, key: Key) -> None:
        """Most places first, of equals sums before differences, and low levels first."""
        count, (left, right, _shift, sign) = len(self.places[key]), key
        if count > 1:
            level = max(self.levels[left], self.levels[right])
            score = (1 - count, sign < 0, level, self.random.random())
            heapq.heappush(self.queue, (score, key))

    def _append(self, item: Sum) -> int:
        self.bounds.append(item.bounds(self.bounds))
        self.levels.append(1 + max(self.levels[item.left.source],
                                   self.levels[item.right.source]))
        self.sums.append(item)
        return len(self.bounds) - 1

    def _share(self, key: Key) -> None:
        """Add one pair wherever it occurs."""
        left, right, shift, sign = key
        places = sorted(self.places.pop(key))
        # A difference is taken the way round that more outputs add than subtract.
        added = sum(self.outputs[output].get((left, base), 0) for output, base in places)
        turn = -1 if sign < 0 and not shift and added < 0 else 1
        source = self._append(Sum(Term(left, 0, turn), Term(right, shift, sign * turn)))
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
            terms[source, base] = sign_of_first * turn
            fresh.update(self._note(output, (source, base), other) for other in terms
                         if other != (source, base))
        for new in sorted(fresh):
            self._push(new)

    def _add_up(self, terms: dict[tuple[int, int], int]) -> Term | None:
        """The sum of all ``terms``: what is added less what is subtracted.

        So one number is subtracted for each output, which takes the fewest inverters where an
        adder has none.
        """
        sides = [self._merged([Term(source, shift, 1) for (source, shift), of in
                               sorted(terms.items()) if of == sign]) for sign in (1, -1)]
        added, subtracted = sides
        if added and subtracted:
            item, base = _pair(added, replace(subtracted, sign=-1))
            return Term(self._append(item), base, 1)
        return added or (replace(subtracted, sign=-1) if subtracted else None)

    def _merged(self, left: list[Term]) -> Term | None:
        """The sum of terms that are all added, those first whose addition takes the fewest bits."""
        while len(left) > 1:
            pairs = []
            for n, one in enumerate(left):
                for k in range(n):
                    item, base = _pair(one, left[k])
                    result = item.bounds(self.bounds)
                    pairs.append((addition_bits(item, self.bounds[item.left.source], result),
                                  bits_of(result), k, n, item, base))
            *_, k, n, item, base = min(pairs, key=lambda pair: pair[:4])
            del left[n], left[k]
            left.append(Term(self._append(item), base, 1))
        return left[0] if left else None


def _pair(one: Term, other: Term) -> tuple[Sum, int]:
    """The sum of two terms, and the shift that is left to it."""
    first, second = sorted((one, other), key=lambda term: (term.shift, -term.sign))
    return (Sum(Term(first.source, 0, first.sign),
                Term(second.source, second.shift - first.shift, second.sign)), first.shift)
