"""Products by a multiplier, where a chip has some to spare: the only circuit that holds any."""
from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Signal

from nomul.hw.product import Products, slopes_of
from nomul.hw.shapes import signed_range
from nomul.hw.table import Storage, look_up, merge_flags, parity_flag

__all__ = ["DecodeMultiplyProducts"]


class DecodeMultiplyProducts(Products):
    """Products by a multiplier for each lane and input: an index is looked up, then multiplied.

    For slopes times the code, of any dictionary. Yosys makes a multiplication of a multiplier block
    where the chip has them and both numbers are wide enough, and else of logic. Registers lie in
    front of the multiplier, which is combinational.

    Parameters
    ----------
    storage : Storage
        What holds the dictionary, for each lane and input.
    parity : bool
        Whether its words have a parity bit, which raises ``parity_error``, a signal that any module
        may read.
    """

    def __init__(self, table: Sequence[Sequence[int]], *, lanes: int, inputs: int,
                 storage: Storage, parity: bool = False) -> None:
        slopes = slopes_of(table)
        if slopes is None:
            raise ValueError("Multiplied products must be slopes times the code; use a table")
        super().__init__(table, lanes=lanes, inputs=inputs)
        self.slopes = slopes
        self.slope_shape = signed_range(min(slopes), max(slopes))
        self.storage = storage
        self.parity_error = parity_flag(parity)
        self.latency = storage.latency

    def elaborate(self, platform: object) -> Module:
        m = Module()

        flags = [parity_flag(self.parity_error is not None)
                 for _ in range(self.lanes * self.inputs)]
        merge_flags(m, self.parity_error, flags)
        for n in range(self.inputs):
            code = self.codes[n]
            for stage in range(self.latency):
                later = Signal(self.code_shape, name=f"code_{n}_{stage}")
                with m.If(self.enable):
                    m.d.sync += later.eq(code)
                code = later
            for lane in range(self.lanes):
                slope = look_up(m, f"slope_{lane}_{n}", self.slope_shape, self.slopes,
                                self.indices[lane][n], self.enable, self.storage,
                                flags[lane * self.inputs + n])
                m.d.comb += self.products[lane][n].eq(slope * code)

        return m
