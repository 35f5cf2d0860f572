"""The best scale of a codebook whose entries are given, exactly.

An assignment takes ``sum(w c) ** 2 / sum(c ** 2)`` off the sum of squares, with the scale
``sum(w c) / sum(c ** 2)``. As the scale falls from infinity to 0, each weight changes its
nearest entry at a few known places; a sort of all places and running sums see every assignment
that some scale gives. That takes O(K N log(K N)) time.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_scale"]

Floats = NDArray[np.float64]


def best_scale(weights: Floats, entries: Floats) -> tuple[float, float]:
    """What ``entries`` take off the sum of squares of ``weights`` at the best scale above 0.

    Parameters
    ----------
    weights : array of float64, shape [N]
        What is compressed.
    entries : array of float64, shape [K]
        Entries without the scale, increasing.

    Returns
    -------
    tuple of float
        That gain, and the scale. One below 0 is as good for an assignment that was seen.
    """
    middles = (entries[:-1] + entries[1:]) / 2
    # At an infinite scale each weight takes the entry nearest to 0, on its own side.
    taken = entries[np.where(weights > 0, np.sum(middles <= 0), np.sum(middles < 0))]
    places, products, squares = [np.array([np.inf])], [weights @ taken], [taken @ taken]
    for low, middle, high in zip(entries, middles, entries[1:], strict=False):
        crossing = weights[weights * middle > 0]
        side = np.sign(middle)
        places.append(crossing / middle if len(crossing) else crossing)
        products.append(side * (high - low) * crossing)
        squares.append(np.full(len(crossing), side * (high ** 2 - low ** 2)))
    order = np.argsort(-np.concatenate(places))
    product = np.hstack(products)[order].cumsum()
    square = np.hstack(squares)[order].cumsum()
    gains = np.square(product) / np.where(square > 0, square, np.inf)
    best = int(gains.argmax())
    return float(gains[best]), float(product[best] / square[best]) if square[best] else 0.0
