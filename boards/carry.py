"""Tables of an ECP5 that move into the carry cells behind them.

Half a carry cell (``CCU2C``) is a table of four inputs and a carry. An addition needs two of them,
so two more signals fit in: a mask, a multiplexer or an inversion in front of an adder needs no
tables of its own.
"""
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

__all__ = ["CarryBit", "Net", "Table", "absorb", "merge"]

Net = int | str
"""A bit of Yosys's JSON: a number, or the constant ``"0"``, ``"1"`` or ``"x"``."""

Pins = tuple[Net, ...]
Table = tuple[Pins, int]
"""What drives pins A to D, and the table: bit ``a + 2 b + 4 c + 8 d`` is the output."""

CarryBit = Table
"""The same of half a carry cell, whose table is what it adds to the carry that comes in. Where that
is 0, the carry that goes out is bit ``a + 2 b`` of the table: a carry cell has no other."""

_TABLE, _CARRY, _REGISTER = "LUT4", "CCU2C", "TRELLIS_FF"
_PINS = "ABCD"


def merge(bit: CarryBit, net: Net, table: Table) -> CarryBit | None:
    """Half a carry cell that computes ``table`` itself, which drove its input ``net``; None if it
    cannot."""
    (pins, adds), (sources, _) = bit, table
    nets = _signals([*(pin for pin in pins if pin != net), *sources])
    if len(nets) > len(_PINS):
        return None

    def both(values: Mapping[Net, int]) -> tuple[int, int]:
        """What is added, and the carry that goes out where that is 0."""
        a, b, c, d = _read(pins, {**values, net: _output(table, values)})
        return adds >> (a + 2 * b + 4 * c + 8 * d) & 1, adds >> (a + 2 * b) & 1

    states = [dict(zip(nets, values, strict=True))
              for values in product((0, 1), repeat=len(nets))]
    wanted = [(values, both(values)) for values in states]
    # A pin that is always 1, where one is left, keeps what is added apart from the carry.
    constants = [*["0"] * (len(_PINS) - 1 - len(nets)), "1"] if len(nets) < len(_PINS) else []
    for order in permutations(nets):
        placed = (*order, *constants)
        found = _fill(placed, wanted)
        if found is not None:
            return placed, found
    return None


def _fill(pins: Pins, wanted: Sequence[tuple[Mapping[Net, int], tuple[int, int]]]) -> int | None:
    """The table on ``pins`` that does what is ``wanted``; None if there is none."""
    bits: dict[int, int] = {}
    for values, (adds, carry) in wanted:
        a, b, c, d = _read(pins, values)
        if bits.setdefault(a + 2 * b + 4 * c + 8 * d, adds) != adds:
            return None
        if not adds and bits.setdefault(a + 2 * b, carry) != carry:
            return None
    return sum(value << place for place, value in bits.items())


def absorb(module: dict[str, Any]) -> int:
    """Move tables of a ``module`` of Yosys's JSON, in place, into the carry cells that alone read
    them; the number of tables that are gone.

    A register between the two moves in front of the table, if it starts with what the table makes
    of zeros: whatever the table reads gets a register then, which others can use too.
    """
    netlist = _Netlist(module)
    while any([netlist.absorb(name) for name in netlist.tables]):
        pass
    return netlist.finish()


class _Netlist:
    """A module, and who reads each of its nets."""

    def __init__(self, module: dict[str, Any]) -> None:
        self._module, self._cells = module, module["cells"]
        self._readers: dict[Net, list[tuple[str, str]]] = defaultdict(list)
        self._registers: dict[tuple[Net, str], str] = {}  # by what they hold, and how
        self._gone: set[Net] = set()
        for port in module["ports"].values():
            for net in port["bits"]:
                self._readers[net].append(("", ""))
        for name, cell in self._cells.items():
            self._note(name, cell)
        self._tables = [name for name, cell in self._cells.items() if cell["type"] == _TABLE]
        self._count = len(self._tables)
        self._last = max((net for cell in self._cells.values()
                          for nets in cell["connections"].values() for net in nets
                          if isinstance(net, int)), default=0)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are left, those with few readers first."""
        self._tables = [name for name in self._tables if name in self._cells]
        return sorted(self._tables, key=lambda name: len(self._readers[self._driven(name)]))

    def finish(self) -> int:
        """Take names off nets that are gone; the number of tables that are."""
        for named in self._module["netnames"].values():
            named["bits"] = ["x" if net in self._gone else net for net in named["bits"]]
        return self._count - len(self.tables)

    def absorb(self, name: str) -> bool:
        """Whether the table called ``name`` could move."""
        net, table = self._driven(name), self._table(name, "INIT")
        register = self._register(net)
        fresh: dict[Net, Net] = {}
        if register:
            if table[1] & 1 != (self._cells[register]["parameters"]["REGSET"] == "SET"):
                return False
            net = self._driven(register)
            held: dict[Net, Net] = {}
            for source in _signals(table[0]):
                holder = self._registers.get((source, _controls(self._cells[register])))
                if holder is None:
                    self._last += 1
                    fresh[source] = self._last
                held[source] = self._driven(holder) if holder else self._last
            table = tuple(held.get(source, source) for source in table[0]), table[1]
        merged = self._merged(net, table)
        if merged is None:
            return False
        for source, net in fresh.items():
            self._hold(source, net, register)
        for (reader, half), (pins, init) in merged.items():
            for letter, source in zip(_PINS, pins, strict=True):
                self._connect(reader, letter + half, source)
            self._cells[reader]["parameters"][f"INIT{half}"] = f"{init:016b}"
        for cell in filter(None, (register, name)):
            self._remove(cell)
        return True

    def _register(self, net: Net) -> str:
        """The register that alone reads ``net``, if one does."""
        if len(self._readers[net]) == 1:
            (name, pin), = self._readers[net]
            if pin == "DI" and self._cells[name]["type"] == _REGISTER:
                return name
        return ""

    def _merged(self, net: Net, table: Table) -> dict[tuple[str, str], CarryBit] | None:
        """All halves of carry cells that read ``net``, with ``table`` in them; None if anything
        else reads it, or one has no room."""
        places = {(name, pin[-1:]) for name, pin in self._readers[net]}
        merged = {}
        for name, half in places:
            if (not name or self._cells[name]["type"] != _CARRY or half not in ("0", "1")
                    or self._cells[name]["parameters"][f"INJECT1_{half}"] != "NO"):
                return None
            found = merge(self._table(name, f"INIT{half}", half), net, table)
            if found is None:
                return None
            merged[name, half] = found
        return merged or None

    def _hold(self, source: Net, held: Net, like: str) -> None:
        """Add a register that starts at 0, drives ``held``, and is clocked as ``like``."""
        pattern = self._cells[like]
        name = f"{like}$early${held}"
        self._cells[name] = {
            **pattern, "parameters": {**pattern["parameters"], "REGSET": "RESET"},
            "connections": {**pattern["connections"], "DI": [source], "Q": [held]}}
        self._module["netnames"][f"{name}$Q"] = {"hide_name": 1, "bits": [held], "attributes": {}}
        self._note(name, self._cells[name])

    def _note(self, name: str, cell: Mapping[str, Any]) -> None:
        for place, net in _inputs(name, cell):
            self._readers[net].append(place)
        if cell["type"] == _REGISTER and cell["parameters"]["REGSET"] == "RESET":
            self._registers.setdefault((cell["connections"]["DI"][0], _controls(cell)), name)

    def _remove(self, name: str) -> None:
        self._gone.add(self._driven(name))
        cell = self._cells.pop(name)
        for place, net in _inputs(name, cell):
            self._readers[net].remove(place)
        if cell["type"] == _REGISTER:
            key = cell["connections"]["DI"][0], _controls(cell)
            if self._registers.get(key) == name:
                del self._registers[key]

    def _connect(self, name: str, pin: str, net: Net) -> None:
        before, = self._cells[name]["connections"][pin]
        self._readers[before].remove((name, pin))
        self._readers[net].append((name, pin))
        self._cells[name]["connections"][pin] = [net]

    def _driven(self, name: str) -> Net:
        cell = self._cells[name]
        net: Net
        net, = cell["connections"]["Q" if cell["type"] == _REGISTER else "Z"]
        return net

    def _table(self, name: str, parameter: str, half: str = "") -> Table:
        cell = self._cells[name]
        return (tuple(cell["connections"][letter + half][0] for letter in _PINS),
                int(cell["parameters"][parameter], 2))


def _inputs(name: str, cell: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Net]]:
    for pin, nets in cell["connections"].items():
        if cell["port_directions"][pin] != "output":
            for net in nets:
                yield (name, pin), net


def _controls(cell: Mapping[str, Any]) -> str:
    """What clocks, enables and resets a register."""
    parameters = {name: value for name, value in cell["parameters"].items() if name != "REGSET"}
    pins = {pin: nets for pin, nets in cell["connections"].items() if pin not in ("DI", "Q")}
    return json.dumps((parameters, pins), sort_keys=True)


def _signals(nets: Sequence[Net]) -> list[Net]:
    return list(dict.fromkeys(net for net in nets if isinstance(net, int)))


def _read(pins: Sequence[Net], values: Mapping[Net, int]) -> list[int]:
    return [values[pin] if isinstance(pin, int) else int(pin == "1") for pin in pins]


def _output(table: Table, values: Mapping[Net, int]) -> int:
    pins, init = table
    a, b, c, d = _read(pins, values)
    return init >> (a + 2 * b + 4 * c + 8 * d) & 1
