"""What weights cost to store, by the papers' formulas. Needs no torch."""
from __future__ import annotations

__all__ = ["compression_ratio", "memory_bits"]

_FLOAT_BITS = 32


def memory_bits(weights: int, entries: int, value_bits: int) -> int:
    """Bits that hold one layer's weights: ``N ceil(log2 K) + K B``.

    Parameters
    ----------
    weights : int
        N, weights of the layer; at least 1.
    entries : int
        K, entries of its dictionary; at least 1.
    value_bits : int
        B, bits of one dictionary value; at least 1.

    Returns
    -------
    int
        Bits.

    Raises
    ------
    ValueError
        If an argument is below 1.

    Notes
    -----
    Cardinaux et al., "Iteratively trained look-up table for network quantization"
    (arXiv 1811.05355): assignments and dictionary; biases are left out.
    """
    if min(weights, entries, value_bits) < 1:
        raise ValueError("weights, entries and value_bits must each be at least 1, not "
                         f"{weights!r}, {entries!r} and {value_bits!r}")
    return weights * (entries - 1).bit_length() + entries * value_bits


def compression_ratio(*, weights: int, biases: int, entries: int, codebooks: int,
                      corrections: int = 0) -> float:
    """How many times fewer bits than floats of 32 bits: rho(K) of arXiv 1707.04319.

    Biases stay floats, and so do the entries of codebooks. A correction takes a float and the
    index of its weight; the formula for that is ours.

    Parameters
    ----------
    weights : int
        Compressed weights of the net.
    biases : int
        Biases, or whatever else is not compressed.
    entries : int
        K, entries of each codebook.
    codebooks : int
        How many there are: as many as layers, or 1 that all layers share.
    corrections : int
        Weights with a sparse correction.
    """
    index = (weights - 1).bit_length() if corrections else 0
    compressed = (weights * (entries - 1).bit_length()
                  + (biases + entries * codebooks) * _FLOAT_BITS
                  + corrections * (_FLOAT_BITS + index))
    return (weights + biases) * _FLOAT_BITS / compressed
