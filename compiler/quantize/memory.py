"""What weights cost to store, by the papers' formulas. Needs no torch."""
from __future__ import annotations

__all__ = ["memory_bits"]


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
