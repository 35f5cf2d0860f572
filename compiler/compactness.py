"""How many table entries a network takes: the measure of compactness of table-based neural units.

Covell et al., "Table-Based Neural Units" (arXiv 1906.04798), count the entries of a layer's
product table, and of the network's tables.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.compiler.layers import Layer, PixelEmbedding, Weighted
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Ints, Staircase

__all__ = ["ActivationTable", "Compactness", "TableRow", "activation_table", "compactness"]

_LONGEST = 4096


@dataclass(frozen=True, kw_only=True)
class ActivationTable:
    """A staircase as a table: ``codes[clamp((acc + offset) >> shift, 0, len(codes) - 1)]``.

    Parameters
    ----------
    shift : int
        s, bits that the sums are finer than the table.
    offset : int
        Added first.
    codes : tuple of int
        What the table holds.
    """

    shift: int
    offset: int
    codes: tuple[int, ...]

    def __call__(self, accumulators: Ints) -> Ints:
        """Codes of ``accumulators``, of the same shape."""
        index = (accumulators + self.offset >> self.shift).clip(0, len(self.codes) - 1)
        codes: Ints = np.array(self.codes)[index]
        return codes


def activation_table(staircase: Staircase) -> ActivationTable | None:
    """The shortest table that is ``staircase``; None if channels differ, if it falls, or if the
    table would have more than 4,096 entries.

    Its step is the largest power of two that divides the distances of all thresholds.
    """
    if staircase.per_channel or staircase.directions[0] != 1:
        return None
    thresholds = staircase.thresholds[0]
    distance = int(np.gcd.reduce(thresholds - thresholds[0])) or 1
    step = distance & -distance
    if (int(thresholds[-1]) - int(thresholds[0])) // step >= _LONGEST - 1:
        return None
    starts = np.arange(int(thresholds[0]), int(thresholds[-1]) + 1, step)
    codes = np.searchsorted(thresholds, starts, side="right")
    return ActivationTable(shift=step.bit_length() - 1, offset=step - int(thresholds[0]),
                           codes=(0, *codes.tolist()))


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """What one layer takes.

    Parameters
    ----------
    name : str
        Of the layer.
    codes : int
        N_a, values that an input may take.
    entries : int
        N_w, values that a weight may take; 0 if it has none.
    products : int
        Entries of the product table, ``codes * entries``.
    product_bits : int
        Bits of each of them, with a sign.
    activations : int
        Entries of the activation table, or of the table of pixels; 0 if there is none.
    thresholds : int
        Thresholds of activations that are no table.
    """

    name: str
    codes: int
    entries: int
    products: int
    product_bits: int
    activations: int
    thresholds: int


@dataclass(frozen=True, kw_only=True)
class Compactness:
    """What a network takes.

    Parameters
    ----------
    rows : tuple of TableRow
        Of each layer that has a table.
    """

    rows: tuple[TableRow, ...]

    @property
    def largest(self) -> int:
        """Entries of the largest product table."""
        return max((row.products for row in self.rows), default=0)

    @property
    def products(self) -> int:
        """Entries of all product tables."""
        return sum(row.products for row in self.rows)

    @property
    def activations(self) -> int:
        """Entries of all activation tables."""
        return sum(row.activations for row in self.rows)

    @property
    def thresholds(self) -> int:
        """Thresholds of all activations that are no table."""
        return sum(row.thresholds for row in self.rows)


def compactness(network: Network) -> Compactness:
    """Table entries of each layer of ``network``.

    Products are counted as a table whether the layer brings its own or not: levels and
    dictionary of any network make one.
    """
    return Compactness(rows=tuple(
        row for layer in network.layers if (row := _row(network, layer)) is not None))


def _row(network: Network, layer: Layer) -> TableRow | None:
    staircase: Staircase | None = getattr(layer, "staircase", None)
    if not (staircase or isinstance(layer, Weighted | PixelEmbedding)):
        return None
    source = network.reads(layer)[0]
    assert isinstance(source, Codes)
    entries, bits, activations, thresholds = 0, 0, 0, 0
    if isinstance(layer, Weighted):
        products = layer.products(source.levels)
        entries = len(products)
        low, high = int(products.min()), int(products.max())
        bits = 1 + max(high, -1 - low).bit_length()
    if isinstance(layer, PixelEmbedding):
        activations = layer.table.size
    if staircase:
        table = activation_table(staircase)
        if table:
            activations = len(table.codes)
        else:
            thresholds = staircase.thresholds.size
    return TableRow(name=layer.name, codes=len(source.levels), entries=entries,
                    products=entries * len(source.levels), product_bits=bits,
                    activations=activations, thresholds=thresholds)
