# amaranth: UnusedElaboratable=no
"""Tables move into carry cells: what these compute stays the same, register or not."""
from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.boards import carry, yosys
from nomul.boards.carry import CarryBit, Table, absorb, merge
from nomul.boards.equivalence import equivalences
from nomul.boards.targets import Family, target
from nomul.boards.yosys import make_netlist
from nomul.sim.formal import Verdict
from nomul.sim.obligations import Example

#: What Yosys makes half a carry cell of: A plus B, or A less B where C is 1.
ADDER = 0b1001_0110_1010_1010


def table_of(function: Any, *pins: int) -> Table:
    """The table of a function of some nets, which lie on pins D, C and so on."""
    places = ["0"] * (4 - len(pins)) + list(pins)
    init = sum(function(*values[4 - len(pins):]) << (a + 2 * b + 4 * c + 8 * d)
               for values in itertools.product((0, 1), repeat=4)
               for a, b, c, d in [values])
    return tuple(places), init


def carried(bit: CarryBit, values: dict[Any, int], carry_in: int) -> tuple[int, int]:
    """Sum and carry of half a CCU2C, as Yosys's model of the cell has them."""
    pins, init = bit
    a, b, c, d = (values.get(pin, int(pin == "1")) for pin in pins)
    adds, generates = init >> (a + 2 * b + 4 * c + 8 * d) & 1, init >> (a + 2 * b) & 1
    return adds ^ carry_in, (adds & carry_in) | (~adds & generates & 1)


def looked_up(table: Table, values: dict[Any, int]) -> int:
    pins, init = table
    a, b, c, d = (values.get(pin, int(pin == "1")) for pin in pins)
    return init >> (a + 2 * b + 4 * c + 8 * d) & 1


def same(before: CarryBit, net: int, table: Table, after: CarryBit) -> bool:
    nets = {pin for pin in (*before[0], *table[0]) if isinstance(pin, int)} - {net}
    for values in itertools.product((0, 1), repeat=len(nets) + 1):
        given = dict(zip(sorted(nets), values[1:], strict=True))
        all_nets = {**given, net: looked_up(table, given)}
        if carried(before, all_nets, values[0]) != carried(after, given, values[0]):
            return False
    return True


@pytest.mark.parametrize("function", [
    lambda mask, code: mask & code, lambda sign, code: sign ^ code,
    lambda choice, near, far: far if choice else near,
    lambda low, high, code: code & high & ~low & 1,
    lambda mask, sign, code: (code ^ sign) & mask], ids=["mask", "sign", "choice", "one of three",
                                                         "mask and sign"])
@pytest.mark.parametrize("less", ["0", "1"])
@pytest.mark.parametrize("side", [0, 1])
def test_what_stands_in_front_of_an_addition_moves_in(function: Any, less: str, side: int) -> None:
    table = table_of(function, *range(10, 10 + function.__code__.co_argcount))
    adder: CarryBit = ((1, 2, less, "1"), ADDER)
    moved = merge(adder, 1 + side, table)
    # A fourth signal leaves no pin that keeps the carry apart; see `merge`.
    if moved is None:
        assert less == "1" and function.__code__.co_argcount == 3
    else:
        assert same(adder, 1 + side, table, moved)
        assert 1 + side not in moved[0]


@pytest.mark.parametrize("seed", range(300))
def test_random_tables_move_in_only_if_all_stays_the_same(seed: int) -> None:
    rng = random.Random(seed)
    pins = tuple(rng.choice([1, 2, 3, 4, 5, "0", "1"]) for _ in range(4))
    sources = tuple(rng.choice([3, 4, 5, 6, "0", "1"]) for _ in range(4))
    bit = pins, rng.choice([ADDER, rng.getrandbits(16)])
    table = sources, rng.getrandbits(16)
    moved = merge(bit, 1, table)
    assert moved is None or same(bit, 1, table, moved)
    # The broken twin: with another table it is another addition.
    if moved is not None and 1 in pins:
        inverted = sources, table[1] ^ 0xFFFF
        wrong = merge(bit, 1, inverted)
        assert wrong is None or wrong[1] != moved[1] or wrong[0] != moved[0] or same(
            bit, 1, inverted, moved)


def test_what_has_no_room_stays() -> None:
    # Five signals, and one that is 1 where the carry is not what the cell can give.
    assert merge(((1, 2, "0", "1"), ADDER), 2, table_of(
        lambda a, b, c, d: a ^ b ^ c ^ d, 10, 11, 12, 13)) is None
    assert merge(((1, 2, "0", "1"), ADDER), 2, table_of(
        lambda a, b, c: 1 - (a ^ b ^ c), 10, 11, 12)) is None


class Masked(wiring.Component):  # type: ignore[misc]
    """A sum of two numbers of each beat, of which one is masked and one chosen, behind registers
    or not."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, registers: bool, start: int = 0) -> None:
        self.registers, self.start = registers, start
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"near": 6, "far": 6, "choice": 1, "code": 6, "mask": 1}))),
            "o": Out(stream.Signature(7))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat, full = self.i.payload, Signal()
        ready = ~full | self.o.ready
        terms = [Mux(beat.choice, beat.far, beat.near), Mux(beat.mask, beat.code, 0)]
        m.d.comb += [self.i.ready.eq(ready), self.o.valid.eq(full)]
        with m.If(ready):
            m.d.sync += full.eq(self.i.valid)
        if self.registers:
            held = [Signal(6, init=self.start, name=f"held_{n}") for n in range(2)]
            with m.If(ready):
                m.d.sync += [to.eq(term) for to, term in zip(held, terms, strict=True)]
            m.d.comb += self.o.payload.eq(held[0] + held[1])
        else:
            with m.If(ready):
                m.d.sync += self.o.payload.eq(terms[0] + terms[1])
        return m


def proved(dut: Any, folder: Path) -> Verdict:
    example = Example(sizes="", make=dut, takes={"i": 1}, gives={"o": 1},
                      function=lambda beats: {"o": beats["i"]}, capacity=1, computes="")
    equivalence, = (each for each in equivalences([example], [])
                    if each.chip.family is Family.ECP5)
    verdict: Verdict = equivalence.prove(folder).verdict
    return verdict


@pytest.mark.formal
@pytest.mark.synth
@pytest.mark.parametrize("registers, start, tables", [
    (False, 0, 7), (True, 0, 7), (True, 63, 13)],
    ids=["no register", "registers", "registers that start with ones"])
def test_a_netlist_with_fewer_tables_is_the_circuit(registers: bool, start: int, tables: int,
                                                    tmp_path: Path) -> None:
    """Proved by Yosys. Of the choice and the mask one is left, and one table for the stream."""
    def dut() -> Masked:
        return Masked(registers=registers, start=start)

    counts = make_netlist(dut(), target("ecp5-25k"), tmp_path).counts
    assert (counts.lut4, counts.carry) == (tables, 4)
    assert proved(dut, tmp_path) is Verdict.PROVED


@pytest.mark.formal
@pytest.mark.synth
@pytest.mark.parametrize("registers", [False, True])
def test_a_table_that_moved_wrongly_is_found(registers: bool, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(bit: CarryBit, net: Any, table: Table) -> CarryBit | None:
        return merge(bit, net, (table[0], table[1] ^ 0x8000 if table[1] & 1 else table[1] ^ 0xFFFE))

    monkeypatch.setattr(carry, "merge", wrong)
    assert proved(lambda: Masked(registers=registers), tmp_path) is Verdict.REFUTED


@pytest.mark.synth
def test_names_and_readers_of_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yosys, "absorb", lambda module: 0)
    make_netlist(Masked(registers=True), target("ecp5-25k"), tmp_path)
    module = json.loads((tmp_path / "netlist.json").read_text())["modules"]["top"]
    before = sum(cell["type"] == "LUT4" for cell in module["cells"].values())
    gone = absorb(module)
    assert gone > 0
    assert sum(cell["type"] == "LUT4" for cell in module["cells"].values()) == before - gone
    assert absorb(module) == 0
    drivers = {net for cell in module["cells"].values() for pin, nets in cell["connections"].items()
               if cell["port_directions"][pin] == "output" for net in nets}
    drivers |= {net for port in module["ports"].values() if port["direction"] == "input"
                for net in port["bits"]}
    read = {net for cell in module["cells"].values() for pin, nets in cell["connections"].items()
            if cell["port_directions"][pin] == "input" for net in nets if isinstance(net, int)}
    named = {net for named in module["netnames"].values() for net in named["bits"]
             if isinstance(net, int)}
    assert read <= drivers and named <= drivers
