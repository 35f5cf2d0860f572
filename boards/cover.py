"""How many tables of four inputs logic takes, before any of it is mapped.

The cells that Yosys has before it maps logic are cut into bits: each is a choice or a gate of two
or three others. These are put into tables from the inputs on: one that a single other bit reads
goes into that one's table, if no more than four inputs then meet there, and so does one that
several read, if it has room in the tables of all. On ECP5, tables in front of an addition move
into its carry cells (`nomul.boards.carry`). Yosys's own mapping also changes the gates, so that
this is an estimate, and the weights of `nomul.boards.estimate` are fitted to what it leaves.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

from nomul.boards.carry import Net

__all__ = ["LARGEST_ROM", "Module", "number", "tables"]

Module = Mapping[str, Any]
"""A module of Yosys's JSON."""

Cell = Mapping[str, Any]

_INPUTS = 4

#: Words of a memory that is a table for each bit.
LARGEST_ROM = 1 << _INPUTS

_GATES = {"$and": "gate", "$or": "gate", "$xor": "inversion", "$xnor": "inversion"}
_SHIFTS = ("$shl", "$sshl", "$shr", "$sshr", "$shift", "$shiftx")
# What all bits are compared with, if they are.
_REDUCTIONS = {"$reduce_and": "1", "$reduce_or": "0", "$reduce_bool": "0", "$logic_not": "0",
               "$reduce_xor": "", "$reduce_xnor": ""}
_COMPARISONS = ("$eq", "$ne", "$eqx", "$nex")
_LOGIC = {*_GATES, *_REDUCTIONS, *_COMPARISONS, *_SHIFTS, "$not", "$pos", "$mux", "$pmux", "$bmux",
          "$demux", "$logic_and", "$logic_or", "$lut"}
_OUTPUTS = ("Y", "Q", "X", "CO", "RD_DATA")
_FLIP_FLOPS = ("$dff", "$sdff", "$adff")
# Half a carry cell has as many inputs as a table, and one of them is the other operand.
_OPERANDS = {"$alu": "AB", "$macc": "ABC", "$macc_v2": "ABC"}


def number(value: int | str) -> int:
    """A parameter of Yosys's JSON as a number."""
    return int(value, 2) if isinstance(value, str) else value


def tables(module: Module, *, carry: bool) -> Counter[str]:
    """Tables of a ``module`` of Yosys's JSON, by what they do: ``choice``, ``gate``, ``inversion``
    (exclusive or) or ``rom`` (of at most `LARGEST_ROM` words).

    Parameters
    ----------
    module : mapping
        Before its logic is mapped.
    carry : bool
        Whether tables move into carry cells.
    """
    logic = _Logic()
    for cell in _in_order(module["cells"]):
        logic.add(cell)
    ends = _Ends(logic, module)
    cover = _Cover(logic, ends.read)
    gone = ends.absorbed(cover) if carry else ()
    return Counter(logic.kinds[node] for node in set(cover.inputs).difference(gone))


def _in_order(cells: Mapping[str, Cell]) -> Iterable[Cell]:
    """The cells of logic, each behind those that it reads."""
    found = {name: cell for name, cell in cells.items() if _is_logic(cell)}
    driver = {net: name for name, cell in found.items()
              for port in _OUTPUTS for net in cell["connections"].get(port, ())}
    sorter = TopologicalSorter({
        name: dict.fromkeys(driver[net] for port, nets in cell["connections"].items()
                            if port not in _OUTPUTS for net in nets if net in driver)
        for name, cell in found.items()})
    return (found[name] for name in sorter.static_order())


def _is_logic(cell: Cell) -> bool:
    return cell["type"] in _LOGIC or _small_rom(cell)


def _small_rom(cell: Cell) -> bool:
    """Whether it is a memory that is looked up in a table for each bit."""
    parameters = cell["parameters"]
    return (cell["type"] == "$mem_v2" and not number(parameters["WR_PORTS"])
            and "1" not in parameters["RD_CLK_ENABLE"]
            and number(parameters["SIZE"]) <= LARGEST_ROM)


class _Logic:
    """Bits and what they are made of: ``inputs`` and ``kinds`` of each node, by its number; a
    source has no inputs. Equal nodes are made once. A constant is ``"0"`` or ``"1"``; an inverter
    is nothing."""

    def __init__(self) -> None:
        self.inputs: list[frozenset[int]] = []
        self.kinds: list[str] = []
        self._nodes: dict[Any, int] = {}
        self._bits: dict[Net, Net] = {}

    def at(self, net: Net) -> Net:
        """The node, or constant, that drives ``net``."""
        if isinstance(net, str):
            return "1" if net == "1" else "0"
        return self._bits[net] if net in self._bits else self.source(net)

    def source(self, name: Any) -> int:
        """The node of what is no logic."""
        return self._node(("source", name), "source", frozenset())

    def gate(self, kind: str, terms: Sequence[Net], what: Any = None) -> Net:
        """A node of at most four ``terms``; ``what`` tells apart those with the same ones."""
        inputs = frozenset(term for term in terms if isinstance(term, int))
        if len(inputs) < 2:
            return next(iter(inputs), "0")
        return self._node((kind, what, inputs), kind, inputs)

    def tree(self, kind: str, terms: Iterable[Net], what: Any = None) -> Net:
        """Nodes of two terms each that bring all of them together."""
        left: list[Net] = list(dict.fromkeys(t for t in terms if isinstance(t, int)))
        while len(left) > 1:
            left = [self.gate(kind, left[n:n + 2], what) for n in range(0, len(left), 2)]
        return left[0] if left else "0"

    def equal(self, one: Sequence[Net], other: Sequence[Net]) -> Net:
        """Whether all bits are equal; those of a constant tell apart what is compared with it."""
        terms = {}
        for both in zip(one, other, strict=True):
            signs = "".join(bit for bit in both if isinstance(bit, str))
            terms[self.gate("inversion", both, "$xor")] = signs
        pairs = [item for item in terms.items() if isinstance(item[0], int)]
        return self.tree("gate", [
            self.gate("gate", nodes, signs) for n in range(0, len(pairs), 2)
            for nodes, signs in [tuple(zip(*pairs[n:n + 2], strict=True))]], "$and")

    def choice(self, select: Net, one: Net, other: Net) -> Net:
        return one if one == other else self.gate("choice", (select, one, other),
                                                  (select, one, other))

    def _node(self, key: Any, kind: str, inputs: frozenset[int]) -> int:
        if key not in self._nodes:
            self._nodes[key] = len(self.kinds)
            self.inputs.append(inputs)
            self.kinds.append(kind)
        return self._nodes[key]

    def add(self, cell: Cell) -> None:
        """Make the bits of a cell whose inputs are there."""
        pins = cell["connections"]
        output = pins["RD_DATA" if cell["type"] == "$mem_v2" else "Y"]
        for net, node in zip(output, self._made(cell, len(output)), strict=True):
            self._bits[net] = node

    def _made(self, cell: Cell, width: int) -> list[Net]:
        kind, pins, parameters = cell["type"], cell["connections"], cell["parameters"]

        def port(name: str, length: int | None = None) -> list[Net]:
            bits = [self.at(net) for net in pins[name]]
            signed = number(parameters.get(f"{name}_SIGNED", 0))
            more = (length or 0) - len(bits)
            return (bits + [bits[-1] if signed and bits else "0"] * more)[:length]

        def single(bit: Net) -> list[Net]:
            return [bit, *["0"] * (width - 1)]

        if kind in ("$not", "$pos"):
            return port("A", width)
        if kind in _GATES:
            dominant = {"$and": "0", "$or": "1"}.get(kind)
            return [dominant if dominant in both else self.gate(_GATES[kind], both, kind)
                    for both in zip(port("A", width), port("B", width), strict=True)]
        if kind == "$mux":
            return [self.choice(self.at(pins["S"][0]), one, other)
                    for one, other in zip(port("A"), port("B"), strict=True)]
        if kind == "$pmux":
            return self._one_of(port("A"), port("B"), port("S"))
        if kind in _COMPARISONS:
            most = max(len(pins["A"]), len(pins["B"]))
            return single(self.equal(port("A", most), port("B", most)))
        if kind in _REDUCTIONS:
            wanted = _REDUCTIONS[kind]
            return single(self.equal(port("A"), wanted * len(pins["A"])) if wanted
                          else self.tree("inversion", port("A"), "$xor"))
        if kind in ("$logic_and", "$logic_or"):
            return single(self.gate("gate", [self.tree("gate", port(name), "$or")
                                             for name in "AB"], kind))
        if kind == "$bmux":
            return self._indexed(port("A"), port("S"), width)
        if kind == "$demux":
            length, select = len(pins["A"]), port("S")
            return [self.tree("gate", [bit, *select], ("$demux", place))
                    for place in range(width // length) for bit in port("A")]
        if kind in _SHIFTS:
            return self._shifted(port("A", max(width, len(pins["A"]))), port("B"),
                                 down=kind not in ("$shl", "$sshl"))[:width]
        if kind == "$lut":
            return single(self.gate("gate", port("A"), parameters["LUT"]))
        size, initial = number(parameters["SIZE"]), parameters["INIT"][::-1]
        address = [self.at(net) for net in pins["RD_ADDR"][:(size - 1).bit_length()]]
        columns = [initial[bit:width * size:width] for bit in range(width)]
        return [self.gate("rom", address, column) if len(set(column)) > 1 else "0"
                for column in columns]

    def _one_of(self, default: list[Net], cases: list[Net], select: list[Net]) -> list[Net]:
        """For each bit the case that is selected, of which at most one is."""
        width = len(default)
        none = self.tree("gate", select, "none")
        result = []
        for bit, otherwise in enumerate(default):
            by_value: dict[Net, list[Net]] = defaultdict(list)
            for n, chosen in enumerate(select):
                by_value[cases[n * width + bit]].append(chosen)
            by_value[otherwise].append(none)
            terms = [either if value == "1" else self.gate("gate", (value, either), "$and")
                     for value, chosen in by_value.items() if value != "0"
                     for either in [self.tree("gate", chosen, "$or")]]
            result.append(self.tree("gate", terms, "$or"))
        return result

    def _indexed(self, words: list[Net], index: list[Net], width: int) -> list[Net]:
        for select in index:
            words = [self.choice(select, words[n + bit], words[n + width + bit])
                     for n in range(0, len(words), 2 * width) for bit in range(width)]
        return words

    def _shifted(self, bits: list[Net], distance: list[Net], *, down: bool) -> list[Net]:
        for stage, select in enumerate(distance):
            step = min(1 << stage, len(bits))
            empty: list[Net] = ["0"] * step
            other = bits[step:] + empty if down else empty + bits[:len(bits) - step]
            if isinstance(select, int):
                bits = [self.choice(select, one, two)
                        for one, two in zip(bits, other, strict=True)]
        return bits


class _Cover:
    """Tables over the bits that are ``read``: the ``inputs`` of each."""

    def __init__(self, logic: _Logic, read: Iterable[int]) -> None:
        self.inputs: dict[int, frozenset[int]] = {}
        kept = set(read)
        todo, needed = list(kept), set(kept)
        while todo:
            new = logic.inputs[todo.pop()] - needed
            needed |= new
            todo += new
        readers: dict[int, set[int]] = defaultdict(set)
        for node in sorted(needed):
            if logic.inputs[node]:
                for source in logic.inputs[node]:
                    readers[source].add(node)
        self._readers = readers
        for node in sorted(needed):  # inputs have lower numbers
            if logic.inputs[node]:
                self.inputs[node] = logic.inputs[node]
                own = (source for source in logic.inputs[node]
                       if source in self.inputs and source not in kept
                       and len(readers[source]) == 1)
                for source in sorted(own, key=lambda n: (len(self.inputs[n]), n)):
                    self._merge(source)
        for _ in range(2):
            for node in [node for node in self.inputs if node not in kept]:
                self._merge(node)

    def _merge(self, node: int) -> None:
        """Put ``node`` into the tables that read it, if all of them have room."""
        readers = [reader for reader in self._readers[node] if reader in self.inputs]
        wider = {reader: self.inputs[reader] - {node} | self.inputs[node] for reader in readers}
        if readers and all(len(inputs) <= _INPUTS for inputs in wider.values()):
            for source in self.inputs[node]:
                self._readers[source].discard(node)
                self._readers[source].update(readers)
            self.inputs.update(wider)
            del self.inputs[node]

    def reads_any(self, node: int) -> bool:
        """Whether a table reads ``node``."""
        return any(reader in self.inputs for reader in self._readers[node])


class _Ends:
    """Where logic ends: bits that something else reads, and which of that are operands."""

    def __init__(self, logic: _Logic, module: Module) -> None:
        self.read: set[int] = set()
        self._logic = logic
        # Of each node, the operands that read it, each with the other one beside it; the
        # flip-flops, by what they drive; and whether anything else does.
        self._operands: dict[int, list[tuple[Any, Net]]] = defaultdict(list)
        self._held: dict[int, list[int]] = defaultdict(list)
        self._elsewhere: set[int] = set()
        for name, cell in module["cells"].items():
            if _is_logic(cell):
                continue
            kind, pins = cell["type"], cell["connections"]
            ports = {port for port in pins if port not in _OUTPUTS}
            if kind in _OPERANDS:
                ports -= self._add_operands(name, cell)
            if kind.startswith(_FLIP_FLOPS):
                ports.discard("D")
                for net, held in zip(pins["D"], pins["Q"], strict=True):
                    if isinstance(node := logic.at(net), int):
                        self._held[node].append(logic.source(held))
            self._read(net for port in ports for net in pins[port])
        self._read(net for port in module["ports"].values() if port["direction"] == "output"
                   for net in port["bits"])
        self.read |= {*self._operands, *self._held, *self._elsewhere}

    def _read(self, nets: Iterable[Net]) -> None:
        self._elsewhere |= {node for net in nets if isinstance(node := self._logic.at(net), int)}

    def _add_operands(self, name: str, cell: Cell) -> set[str]:
        pins, parameters, ports = cell["connections"], cell["parameters"], _OPERANDS[cell["type"]]
        operands = {port: [self._logic.at(net) for net in pins.get(port, ())] for port in ports}
        if cell["type"] == "$alu":
            # Both as wide as the sum; the second one may be inverted.
            invert = self._logic.at(pins["BI"][0])
            for port, bits in operands.items():
                more = bits[-1] if number(parameters.get(f"{port}_SIGNED", 0)) else "0"
                bits += [more] * (len(pins["Y"]) - len(bits))
            if isinstance(invert, int):
                operands["B"] = [self._logic.gate("inversion", (bit, invert), "$xor")
                                 if isinstance(bit, int) else invert for bit in operands["B"]]
        for port, bits in operands.items():
            for n, node in enumerate(bits):
                if isinstance(node, int):
                    beside = (operands["A" if port == "B" else "B"][n] if cell["type"] == "$alu"
                              else self._logic.source((name, port, n)))
                    self._operands[node].append(((name, n if cell["type"] == "$alu" else (port, n)),
                                                 beside))
        return {*ports, "BI"}

    def absorbed(self, cover: _Cover) -> list[int]:
        """Tables that move into the carry cells behind them, at once or behind a register."""
        gone, full = [], set()
        for node in sorted(cover.inputs, key=lambda n: (len(self._operands[n]), n)):
            places, held = self._operands[node], self._held[node]
            if node in self._elsewhere or cover.reads_any(node) or bool(held) == bool(places):
                continue
            if held:
                register, *more = held
                if more or register in self._elsewhere or self._held[register] or (
                        cover.reads_any(register)):
                    continue
                places = self._operands[register]
            if places and not any(place in full for place, _ in places) and all(
                    len(cover.inputs[node] | ({beside} if isinstance(beside, int) else set()))
                    <= _INPUTS for _, beside in places):
                gone.append(node)
                full |= {place for place, _ in places}
        return gone
