"""What a multiply-accumulate costs on gates: ``python -m nomul.lanes docs`` writes ``circuits.md``.

Each product circuit over dictionaries and codes. Beside each stands the obvious lane, one product
and one accumulator of 20 bits, mapped by the same tools in the same run; and, where there is one,
the figure that the project set out to halve.
"""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul import staircases
from nomul.boards.targets import Family, target
from nomul.boards.yosys import Counts, make_netlist
from nomul.compiler.files import replace_file
from nomul.compiler.flow import output_lanes
from nomul.compiler.raised import raised_table
from nomul.compiler.values import Ints
from nomul.hw.buckets import BucketDots, drain_steps
from nomul.hw.circuits import ProductCircuit
from nomul.hw.dots import DotProducts
from nomul.hw.multiply import DecodeMultiplyProducts
from nomul.hw.product import (
    MaskedProducts,
    Products,
    ShiftAddProducts,
    TableProducts,
    masks_of,
    shift_add_slopes,
)
from nomul.hw.shapes import signed_range
from nomul.hw.table import Storage
from nomul.tables import Row, table, versions

__all__ = ["Case", "Measured", "NaiveLane", "cases", "main", "markdown", "measure"]

# Of the engine that is measured: enough inputs and outputs that control is a small part.
_LANES, _FAN_IN, _OUTPUTS = 4, 128, 16
_INPUTS = 8
_ACCUMULATOR = 20
# Products of more are not looked up by the obvious lane.
_MOST_ROWS = 1024

#: What a naive lane was said to take when the project began, on an ECP5: one product and an
#: accumulator of 20 bits. The figure of two values is that of 1-bit weights.
_FLOORS = {("16 powers of two", 8): 113, ("4 powers of two", 8): 77, ("binary", 8): 48,
           ("any 4 values", 2): 40}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A dictionary and the width of a code.

    Parameters
    ----------
    dictionary : str
        What it is called.
    entries : tuple of int
        Its values.
    code_bits : int
        Bits of a code.
    """

    dictionary: str
    entries: tuple[int, ...]
    code_bits: int

    @property
    def table(self) -> list[list[int]]:
        """Products [entries, codes]."""
        return np.outer(self.entries, np.arange(1 << self.code_bits)).tolist()

    @property
    def floor(self) -> int | None:
        """Cells of a naive lane, as they were given; None if they were not."""
        return _FLOORS.get((self.dictionary, self.code_bits))

    @property
    def circuits(self) -> list[ProductCircuit]:
        """Circuits that are exact for it; buckets and multipliers where there is no other."""
        found = []
        if shift_add_slopes(self.table) is not None:
            found.append(ProductCircuit.SHIFT_ADD)
        masks = masks_of(self.table)
        if masks is not None and len(masks.steps) <= 3:
            found.append(ProductCircuit.MASKED)
        if len(self.entries) << self.code_bits <= 64:
            found.append(ProductCircuit.TABLE)
        return found or [ProductCircuit.BUCKETS, ProductCircuit.MULTIPLY]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Cells of a multiply-accumulate: look-up tables, and of an ECP5 2 for each CCU2C and 4 for
    each distributed RAM.

    Parameters
    ----------
    case : Case
    chip : str
    circuit : ProductCircuit
    naive : int
        The obvious lane.
    single, tree : float
        All cells of an engine whose lanes take one input at once; 8, whose products a tree adds
        up. Buckets have no tree: None.
    more : float
        What a lane of the latter kind, or else of the former, adds to an engine: without what all
        lanes share.
    bram, dsp : int
        Block RAMs and multiplier blocks of the engine of one input at once.
    """

    case: Case
    chip: str
    circuit: ProductCircuit
    naive: int
    single: float
    tree: float | None
    more: float
    bram: int
    dsp: int


def cases() -> Iterator[Case]:
    """Dictionaries of the papers, with codes of 2, 4 and 8 bits."""
    ladder = tuple(sign << shift for shift in range(7) for sign in (1, -1))
    for code_bits in (2, 4, 8):
        for name, entries in (
                ("16 powers of two", (0, *ladder, 128)),
                ("4 powers of two", (0, 1, -1, 2)),
                ("ternary", (-1, 0, 1)),
                ("binary", (-1, 1)),
                ("any 2 values", (-37, 53)),
                ("4 evenly spaced", (-3, -1, 1, 3)),
                ("any 4 values", (-37, -5, 12, 53)),
                ("any 16 values", (-119, -90, -53, -31, -17, -7, -3, 0,
                                   1, 5, 11, 23, 47, 66, 101, 127))):
            case = Case(dictionary=name, entries=entries, code_bits=code_bits)
            yield case


class NaiveLane(wiring.Component):  # type: ignore[misc]
    """One product and an accumulator: what first comes to mind.

    A power of two shifts the code, or its negative; other products are looked up in logic, or, if
    they are more than 1,024, are sums of the code, shifted to each bit of the weight.

    Members
    -------
    weight, code : In
        Index into the dictionary, and input.
    total : Out(signed(20))
        Sum of the products since reset.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        super().__init__({"weight": In(range(len(case.entries))), "code": In(case.code_bits),
                          "total": Out(signed(_ACCUMULATOR))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        entries, codes = self.case.entries, 1 << self.case.code_bits
        product = Signal(signed(_ACCUMULATOR))
        if shift_add_slopes(self.case.table) is not None:
            decoded = Array(Const(max(0, abs(entry).bit_length() - 1) | (entry < 0) << 3
                                  | (entry == 0) << 4, 5) for entry in entries)[self.weight]
            value = Mux(decoded[4], 0, Mux(decoded[3], -self.code, self.code))
            m.d.comb += product.eq(value << decoded[:3])
        elif len(entries) * codes > _MOST_ROWS:
            value = Array(Const(entry, signed(8)) for entry in entries)[self.weight]
            terms = [Mux(bit, self.code << place, 0) for place, bit in enumerate(value)]
            m.d.comb += product.eq(sum(terms[1:-1], start=terms[0]) - terms[-1])
        else:
            with m.Switch(Cat(self.code, self.weight)):
                for number, entry in enumerate(entries):
                    for code in range(codes):
                        with m.Case(number * codes + code):
                            m.d.comb += product.eq(entry * code)
        m.d.sync += self.total.eq(self.total + product)

        return m


def measure(case: Case, chip: str, *, seed: int = 0) -> list[Measured]:
    """The cells of ``case`` on ``chip``, for each circuit that is exact.

    The engine has 4 lanes, and its weights in block RAM; all of it is counted, and nothing behind
    it: neither the factors of masked sums, nor the constant of each output, which takes up what
    raised tables add. What a lane adds is the difference to an engine of 8.
    """
    naive = _cells(_counts(NaiveLane(case), chip), chip)
    measured = []
    for circuit in case.circuits:
        inputs = 1 if circuit is ProductCircuit.BUCKETS else _INPUTS
        counts = [_counts(_engine(case, circuit, lanes, at_once, seed), chip)
                  for lanes, at_once in ((_LANES, 1), (_LANES, inputs), (2 * _LANES, inputs))]
        single, tree, double = (_cells(each, chip) for each in counts)
        measured.append(Measured(
            case=case, chip=chip, circuit=circuit, naive=naive, single=single / _LANES,
            tree=tree / _LANES / inputs if inputs > 1 else None,
            more=(double - tree) / _LANES / inputs, bram=counts[0].bram, dsp=counts[0].dsp))
    return measured


def _engine(case: Case, circuit: ProductCircuit, lanes: int, inputs: int, seed: int,
            ) -> DotProducts | BucketDots:
    if circuit is ProductCircuit.BUCKETS:
        return _buckets(case, lanes, seed)
    rows = _rows(case, seed)
    products: Products
    if circuit is ProductCircuit.SHIFT_ADD:
        products = ShiftAddProducts(case.table, lanes=lanes, inputs=inputs)
    elif circuit is ProductCircuit.MASKED:
        products = MaskedProducts(case.table, lanes=lanes, inputs=inputs)
    elif circuit is ProductCircuit.MULTIPLY:
        products = DecodeMultiplyProducts(case.table, lanes=lanes, inputs=inputs,
                                          storage=Storage.LOGIC)
    else:
        raised = raised_table(np.array(case.table), search=True)
        products = TableProducts(raised.products.tolist(), lanes=lanes, inputs=inputs,
                                 storage=Storage.LOGIC)
        rows = raised.words[rows]
    total, highest, shape = False, (1 << case.code_bits) - 1, None
    if isinstance(products, MaskedProducts):
        total = products.masks.base != 0
        most = highest * max(int(np.array(each)[rows].sum(axis=1).max())
                             for each in products.masks.counts)
        low, high, shape = 0, max(most, _FAN_IN * highest if total else 0), range(most + 1)
    elif isinstance(products, TableProducts):
        low, high = 0, int(raised.products.max(axis=1)[rows].sum(axis=1).max())
        shape = range(high + 1)
    else:
        low, high = _range(case, rows)
    return DotProducts(products, rows.tolist(), o_lanes=1, storage=Storage.BLOCK, total=total,
                       acc_shape=signed_range(low, high), lane_shape=shape)


def _buckets(case: Case, lanes: int, seed: int) -> BucketDots:
    rows = _rows(case, seed)
    drains = max(1, _FAN_IN // len(drain_steps(case.entries)))
    return BucketDots(case.table, rows.tolist(), lanes=lanes, storage=Storage.BLOCK,
                      o_lanes=output_lanes(lanes, drains),
                      acc_shape=signed_range(*_range(case, rows)))


def _rows(case: Case, seed: int) -> Ints:
    """Random weights."""
    return np.random.default_rng(seed).integers(0, len(case.entries), (_OUTPUTS, _FAN_IN))


def _range(case: Case, rows: Ints) -> tuple[int, int]:
    """Lowest and highest dot product with ``rows`` of weights."""
    weights, highest = np.array(case.entries)[rows], (1 << case.code_bits) - 1
    return (int(np.minimum(weights, 0).sum(axis=1).min()) * highest,
            int(np.maximum(weights, 0).sum(axis=1).max()) * highest)


def _counts(component: wiring.Component, chip: str) -> Counts:
    with tempfile.TemporaryDirectory() as folder:
        return make_netlist(component, target(chip), Path(folder)).counts


def _cells(counts: Counts, chip: str) -> int:
    ecp5 = target(chip).family is Family.ECP5
    return counts.lut4 + (2 * counts.carry + 4 * counts.lutram if ecp5 else 0)


def markdown(measured: Sequence[Measured], thresholds: Sequence[Row]) -> str:
    """The page, from what was measured of lanes and of staircases."""
    lines = [(m.case.dictionary, m.case.code_bits, m.chip, m.circuit.value, m.case.floor or "",
              m.naive, f"{m.single:.1f}", "" if m.tree is None else f"{m.tree:.1f}",
              f"{m.more:.1f}", "" if m.tree is None else _percent(m.tree, m.case.floor),
              _percent(m.more, m.case.floor), _percent(m.more, m.naive), m.bram, m.dsp)
             for m in measured]
    return "\n\n".join((
        "# Circuits",
        "Made by `make bench`; do not edit. " + versions("pyosys", "amaranth"),
        "## Products",
        f"Cells of one multiply-accumulate: look-up tables, and of an ECP5 2 for each CCU2C and 4 "
        f"for each distributed RAM. An engine of {_LANES} lanes computes {_OUTPUTS} dot products "
        f"of {_FAN_IN}, with random weights in block RAM, one input or {_INPUTS} inputs at once; "
        "accumulators are as wide as these weights need; all of it is counted and shared out, "
        "control and registers for its sums too. What becomes of sums behind it is not: the "
        "factors of masked sums, and the constant of each output, which takes up what raised "
        f"tables add beside its bias. *A lane more* is what lanes of {_INPUTS} inputs "
        f"add to it (of buckets, which take no more, lanes of one), an engine of {2 * _LANES} less "
        f"one of {_LANES}: it leaves out what lanes share, and is what the lanes beside it compare "
        "with. Block RAMs, with those of its weights, and multiplier blocks are of the engine with "
        "one input at once.",
        "The *obvious* lane has one product, by a shifter or a table in logic (of more than "
        f"{_MOST_ROWS:,} products by adding up shifted codes), and one accumulator of "
        f"{_ACCUMULATOR} bits, nothing else. The *given* lane is the same thing as it was "
        "measured on an ECP5 when the project began; ours is smaller. The aim was half of the "
        "given one.",
        table(("dictionary", "code bits", "chip", "circuit", "given", "obvious",
               "1 input at once", f"{_INPUTS} inputs at once", "a lane more",
               f"{_INPUTS} at once, of given", "lane more, of given", "lane more, of obvious",
               "block RAM", "multipliers"),
              lines),
        "## Staircases",
        "One lane for sums of 18 bits, with random constants: a row for all outputs, or one for "
        "each of 64.",
        table(staircases.HEADER, thresholds))) + "\n"


def _percent(cells: float, lane: int | None) -> str:
    return f"{100 * cells / lane:.0f} %" if lane else ""


def main(docs: Path) -> None:
    """Write ``circuits.md`` in ``docs``."""
    chips = ("ecp5-25k", "ice40-hx8k")
    measured = []
    for chip in chips:
        for case in cases():
            measured += measure(case, chip)
            print(f"{chip}: {case.dictionary}, {case.code_bits} bits", flush=True)
    thresholds = [row for chip in chips for row in staircases.measure(chip)]
    replace_file(docs / "circuits.md", markdown(measured, thresholds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
