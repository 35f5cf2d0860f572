"""What an engine looks up and adds up for one layer, in plain integers."""
from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from nomul.compiler.circuits import sum_terms
from nomul.compiler.layers import Add, Dense, Layer, MaxPool, PixelEmbedding
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Ints, Staircase

__all__ = ["Work", "coded", "work_of"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The integers of one layer: ``sum + offset`` is what it adds up, in steps of ``unit``.

    Parameters
    ----------
    products : array of int, shape [entries, codes]
    assignment : array of int, shape [outputs, terms]
    low, high : array of int, shape [outputs]
        Lowest and highest sum.
    offsets : array of int, shape [outputs]
        Zero where there is a staircase.
    staircase : Staircase or None
        Of the sums, without offset and unit; None leaves them as they are.
    """

    products: Ints
    assignment: Ints
    low: Ints
    high: Ints
    offsets: Ints
    staircase: Staircase | None


def work_of(network: Network, layer: Layer) -> Work:
    """What ``layer`` looks up and adds up."""
    wire = coded(network, layer)
    if isinstance(layer, MaxPool):
        channels, codes = wire.shape[-1], len(wire.levels)
        zeros = np.zeros(channels, dtype=np.int64)
        return Work(products=np.arange(codes)[None], low=zeros, high=zeros + codes - 1,
                     assignment=np.zeros((channels, prod(layer.window.kernel)), dtype=np.int64),
                     offsets=zeros, staircase=_identity(wire))
    if isinstance(layer, PixelEmbedding):
        tables, _, depth = layer.table.shape
        channels = wire.shape[-1]
        products = layer.table.transpose(0, 2, 1).reshape(tables * depth, -1)
        entries = np.broadcast_to(np.arange(tables * depth).reshape(tables, depth),
                                  (channels, depth)).reshape(-1, 1)
        reached = products[entries[:, 0]]
        output = network.wires[layer.name]
        assert isinstance(output, Codes)
        return Work(products=products, assignment=entries, low=reached.min(axis=1),
                     high=reached.max(axis=1), staircase=_identity(output),
                     offsets=np.zeros(len(entries), dtype=np.int64))
    terms = sum_terms(network, layer)
    products, assignment = terms.products, terms.assignment
    staircase: Staircase | None = getattr(layer, "staircase", None)
    if isinstance(layer, Add):
        tables = [(w.levels.values - w.levels.values[0]) << shift for w, shift in
                  zip(network.reads(layer), layer.shifts, strict=True) if isinstance(w, Codes)]
        codes = max(map(len, tables))
        # Codes that the narrower branch does not have go on evenly.
        products = np.stack([np.concatenate([table, table[-1] + (table[-1] - table[-2])
                                             * np.arange(1, codes - len(table) + 1)])
                             for table in tables])
        assignment = np.broadcast_to([0, 1], (wire.shape[-1], 2))
        first = sum(int(w.levels.values[0]) << shift for w, shift in
                    zip(network.reads(layer), layer.shifts, strict=True) if isinstance(w, Codes))
        terms = replace(terms, offsets=terms.offsets + first, low=terms.low - first,
                        high=terms.high - first)
    elif isinstance(layer, Dense) and layer.corrections is not None:
        weights, index = np.unique(layer.weights, return_inverse=True)
        products = np.outer(weights, wire.levels.values - wire.levels.values[0])
        assignment = index.reshape(layer.weights.shape)
    if staircase is None:
        return Work(products=products, assignment=assignment, low=terms.low, high=terms.high,
                     offsets=terms.offsets, staircase=None)
    unit = max(1, int(np.gcd.reduce(products, axis=None)))
    return Work(products=products // unit, assignment=assignment, low=terms.low // unit,
                 high=terms.high // unit, offsets=np.zeros_like(terms.offsets),
                 staircase=_moved(staircase, terms.offsets, unit))


def coded(network: Network, layer: Layer) -> Codes:
    wire = network.reads(layer)[0]
    assert isinstance(wire, Codes)
    return wire


def _identity(wire: Codes) -> Staircase:
    """Codes as they are."""
    return Staircase(thresholds=np.arange(1, len(wire.levels))[None], levels=wire.levels)


def _moved(staircase: Staircase, offsets: Ints, unit: int) -> Staircase:
    """``staircase`` for sums in steps of ``unit`` that lack their ``offsets``."""
    rows = len(offsets) if np.ptp(offsets) or len(staircase.thresholds) > 1 else 1
    directions = np.broadcast_to(staircase.directions, rows)
    moved = staircase.thresholds - offsets[:rows, None]
    return Staircase(
        thresholds=np.where(directions[:, None] > 0, -(-moved // unit), moved // unit),
        levels=staircase.levels, directions=directions,
        constants=np.broadcast_to(staircase.constants, rows))
