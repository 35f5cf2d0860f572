"""The best clusters of sorted numbers, exactly.

Clusters with the least squared error are segments of the sorted numbers. Dynamic programming
over prefixes finds, for one more cluster at a time, where the last segment of each prefix
begins. That place moves only upwards with the end of the prefix, so bisection finds all of
them in O(N log N) (Gronlund et al., arXiv 1701.07204).
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_dictionary", "best_trimmed_dictionary", "lloyd_sorted", "trimmed_size"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ITERATIONS = 10_000


def best_dictionary(numbers: Floats, entries: int) -> Floats:
    """The dictionary with the least squared error there is.

    Takes O(entries * N log N) time and O(entries * N) memory.

    Parameters
    ----------
    numbers : array of float64, shape [N]
        What is clustered, in increasing order; N is at least 1.
    entries : int
        K, at least 1.

    Returns
    -------
    array of float64, shape [K]
        Values, increasing; the last one repeats if fewer clusters are enough.
    """
    sums = _sums(numbers)
    ends = np.arange(len(sums))
    gains = np.square(sums) / np.maximum(ends, 1)  # of one cluster
    begins = []
    for _ in range(1, entries):
        gains, begin = _extend(gains, sums)
        begins.append(begin)
    segments, end = [], len(numbers)
    for begin in [*reversed(begins), np.zeros_like(ends)]:
        segments.append((int(begin[end]), end))
        end = segments[-1][0]
    return _means(numbers, segments[::-1], entries)


def best_trimmed_dictionary(numbers: Floats, entries: int, trimmed: int) -> Floats:
    """The dictionary with the least squared error, if so many numbers need not be near it.

    No number inside the span of a cluster is worth leaving out, as one of the cluster's ends is
    at least as far away; so this too is a choice of segments. Takes O(`trimmed_size` * log N)
    time and O(`trimmed_size`) memory.

    Parameters
    ----------
    numbers : array of float64, shape [N]
        What is clustered, in increasing order; N is at least 1.
    entries : int
        K, at least 1.
    trimmed : int
        How many numbers are left out; 0 to N.

    Returns
    -------
    array of float64, shape [K]
        As of `best_dictionary`.
    """
    sums, squares = _sums(numbers), np.square(numbers - numbers.mean())
    # gains[t]: of each prefix, of which at most t numbers are left out.
    gains = [np.where(np.arange(len(sums)) <= out, np.r_[0.0, squares.cumsum()], -np.inf)
             for out in range(trimmed + 1)]
    choices: list[list[tuple[Ints, NDArray[np.bool_]]]] = []
    for _ in range(entries):
        extended: list[Floats] = []
        choice = []
        for out in range(trimmed + 1):
            gain, begin = _extend(gains[out], sums)
            left = np.zeros(len(sums), np.bool_)
            if out:
                without = np.r_[-np.inf, extended[-1][:-1] + squares]
                left = without > gain
                gain = np.where(left, without, gain)
            extended.append(gain)
            choice.append((begin, left))
        gains = extended
        choices.append(choice)
    segments, end, out = [], len(numbers), trimmed
    for choice in reversed(choices):
        while choice[out][1][end]:
            end, out = end - 1, out - 1
        segments.append((int(choice[out][0][end]), end))
        end = segments[-1][0]
    return _means(numbers, segments[::-1], entries)


def trimmed_size(numbers: int, entries: int, trimmed: int) -> int:
    """Cells of the table that `best_trimmed_dictionary` fills."""
    return (numbers + 1) * entries * (trimmed + 1)


def lloyd_sorted(numbers: Floats, dictionary: Floats) -> Floats:
    """Plain k-means until nothing changes: a local optimum, no worse than its start.

    Stops after 10,000 iterations at the latest.

    Parameters
    ----------
    numbers : array of float64, shape [N]
        What is clustered, in increasing order; N is at least 1.
    dictionary : array of float64, shape [K]
        Where it starts. A value that no number is nearest to stays.

    Returns
    -------
    array of float64, shape [K]
        Values, increasing.
    """
    mean = numbers.mean()
    sums = _sums(numbers)
    values: Floats = np.sort(dictionary) - mean
    before: Ints | None = None
    for _ in range(_ITERATIONS):
        cuts = np.searchsorted(numbers - mean, (values[:-1] + values[1:]) / 2, side="right")
        if before is not None and np.array_equal(cuts, before):
            break
        before, cuts = cuts, np.r_[0, cuts, len(numbers)]
        sizes = np.diff(cuts)
        values = np.sort(np.where(sizes, np.diff(sums[cuts]) / np.maximum(sizes, 1), values))
    result: Floats = values + mean
    return result


def _sums(numbers: Floats) -> Floats:
    """Sums of all prefixes [N + 1], the empty one first; around the mean, to be accurate."""
    sums: Floats = np.r_[0.0, (numbers - numbers.mean()).cumsum()]
    return sums


def _means(numbers: Floats, segments: list[tuple[int, int]], entries: int) -> Floats:
    means = [float(numbers[low:high].mean()) for low, high in segments if low < high]
    return np.array((means or [0.0]) + means[-1:] * (entries - max(1, len(means))))


def _extend(gains: Floats, sums: Floats) -> tuple[Floats, Ints]:
    """Add a cluster behind each prefix.

    Parameters
    ----------
    gains : array of float64, shape [N + 1]
        By how much the clusters so far lower the sum of squares of each prefix.
    sums : array of float64, shape [N + 1]
        Sums of all prefixes.

    Returns
    -------
    tuple of array, each of shape [N + 1]
        The same with one more cluster, and where that one begins, of equals the lowest place.
    """
    count = len(sums)
    best, begins = np.zeros(count), np.zeros(count + 1, np.int64)
    begins[count] = count - 1  # stands for all ends behind the last one
    best[0] = gains[0]
    stride = 1 << (count - 1).bit_length()
    while stride >= 1:
        ends = np.arange(stride, count, 2 * stride)
        if len(ends):
            low = begins[ends - stride]
            high = np.minimum(begins[np.minimum(ends + stride, count)], ends - 1)
            best[ends], begins[ends] = _best_begins(gains, sums, ends, low, high)
        stride //= 2
    return best, begins[:count]


def _best_begins(gains: Floats, sums: Floats, ends: Ints, low: Ints, high: Ints,
                 ) -> tuple[Floats, Ints]:
    """For each end the best begin from ``low`` to ``high``, and the gain with it."""
    sizes = high - low + 1
    starts = sizes.cumsum() - sizes
    begin = np.arange(sizes.sum()) - np.repeat(starts - low, sizes)
    end = np.repeat(ends, sizes)
    gain = gains[begin] + np.square(sums[end] - sums[begin]) / (end - begin)
    best = np.maximum.reduceat(gain, starts)
    hits = np.flatnonzero(gain == np.repeat(best, sizes))
    first = np.searchsorted(hits, starts)
    return best, begin[hits[first]]
