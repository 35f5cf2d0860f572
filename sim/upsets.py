"""What a particle may flip in a circuit: its registers and memories, and what each is for."""
from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from amaranth.hdl import Fragment

from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan

__all__ = ["Kind", "Place", "places"]


class Kind(enum.Enum):
    """What a bit is for."""

    ASSIGNMENT = "assignments"
    """Weights in their read-only memories, those of sparse corrections included."""
    TABLE = "tables"
    """Product tables and embeddings: what weights and pixels stand for."""
    CONSTANT = "constants"
    """Thresholds, offsets, shifts and tables of codes in read-only memories."""
    BUFFER = "buffers"
    """Memories that are written: replay buffers, windows, queues."""
    ACCUMULATOR = "accumulators"
    """Registers of sums that are not complete yet, and of running maxima."""
    DATA = "data"
    """Registers of codes, sums, weights and thresholds under way."""
    CONTROL = "control"
    """Counters, addresses, registers that say what is valid."""

    @property
    def lasts(self) -> bool:
        """Whether nothing ever writes such a bit again."""
        return self in (Kind.ASSIGNMENT, Kind.TABLE, Kind.CONSTANT)


# Registers by the component that they are in, without numbers: `acc_` stands for acc_0, acc_1, ….
# `_` alone is the register in which a memory gives its word.
_COMMON = {"o__valid": Kind.CONTROL, "o__payload": Kind.DATA, "_": Kind.DATA}
_DATA = {
    "AddStreams": (), "AddSums": (), "Comparators": (), "Offset": (), "ShiftClip": (),
    "Affine": (), "AxisTop": (), "Fork": (), "LanewiseMax": (), "LanewiseSums": (),
    "UnrolledDots": (), "ZeroAbsent": (),
    "Argmax": ("best_of_beat", "at"),
    "BucketDots": ("code_", "last_", "term_"),
    "CodeTable": ("address_", "index_", "number_", "table_word"),
    "Cycle": ("row", "table_word"),
    "DecodeMultiplyProducts": ("code_", "slope_word"),
    "DotProducts": ("held", "held_total", "code_"),
    "Embedding": ("table_word",),
    "Engine": ("$signature__data", "by", "code", "code_", "codes_word_", "compared_",
               "constants_word", "element_", "held", "image_word_", "indices", "leaving_",
               "prefix_", "row_", "row_after_", "steps", "threshold_", "thresholds_word", "total",
               "total_kept_", "weights_word"),
    "LoadedWords": ("$signature__data", "byte", "word", "word_"),
    "MaskedProducts": ("products",),
    "PackedCycle": ("row", "rest"),
    "Queue": ("beat_",),
    "Regroup": ("stored",),
    "Replay": ("word_held",),
    "Search": ("element_", "address_", "threshold_", "thresholds_word", "fetched_", "compared_",
               "prefix_", "code_"),
    "ShiftAddProducts": ("products",),
    "ShiftClipRows": ("total_", "steps_", "by_"),
    "SparseDots": ("shift_", "term", "lane", "empty", "negative_", "integer"),
    "SharedProducts": ("products", "table_word"),
    "SpreadCycle": ("row", "gathered"),
    "TableProducts": ("products", "table_word"),
    "Windows": ("word_held",),
}
_ACCUMULATORS = {
    "Affine": ("sum_",),
    "Argmax": ("leader",),
    "BucketDots": ("acc_",),
    "DotProducts": ("acc_", "sum_", "sum_lacks"),
    "Engine": ("acc_",),
    "LanewiseMax": ("leader_",),
    "LanewiseSums": ("acc_",),
    "SparseDots": ("acc",),
    "UnrolledDots": ("value_",),
}
_CONTROL = {
    "Affine": ("valid_",),
    "Argmax": ("beat", "beat_valid", "beat_first", "beat_ends"),
    "AxisTop": ("i_beat", "o_beat", "frame_error", "parity_error"),
    "CodeTable": ("beat", "valid_", "table_fetched"),
    "BucketDots": ("added_", "again_", "at_", "bank", "chunk", "doubled_", "draining", "enable_",
                   "ended_", "filled_", "group", "leaves_", "minus_", "other_", "round",
                   "starting", "which_", "write__addr", "write__en"),
    "Cycle": ("valid", "address", "read__addr", "fetched_", "table_fetched"),
    "DecodeMultiplyProducts": ("slope_fetched",),
    "DotProducts": ("chunk", "group", "left", "valid_", "last_"),
    "Embedding": ("channel", "fetched_", "table_fetched"),
    "Engine": ("$signature__addr", "address", "bank_", "coded_", "constant", "image_place",
               "image_there", "left", "marks_", "number", "outside_", "phase_state",
               "position_ends", "read__addr", "summed_", "target", "turns_left_", "weights", "x",
               "x_first", "y", "y_first"),
    "Fork": ("served",),
    "LanewiseMax": ("tap",),
    "LanewiseSums": ("tap", "valid", "ends"),
    "LoadedWords": ("crc", "failed", "full", "last", "left", "loaded", "over", "part", "place"),
    "PackedCycle": ("valid", "primed", "row$", "period", "run", "push", "fill", "address",
                    "read__addr", "shift", "layout", "used_", "table_fetched"),
    "Queue": ("free", "unread", "filled", "$signature__addr", "read__addr"),
    "Regroup": ("beat", "part", "i_beat", "o_beat", "fill"),
    "Replay": ("arriving", "offset", "number", "at", "base", "fill", "vector", "i__ready"),
    "Search": ("row", "valid_in", "row_in", "row_a", "row_b", "valid_a", "valid_b",
               "thresholds_fetched"),
    "ShiftClipRows": ("summed", "shifted"),
    "SparseDots": ("chunk", "output", "whole", "write_half", "read_half", "valid_", "last_",
                   "$signature__addr", "read__addr"),
    "SpreadCycle": ("valid", "fetched", "address", "place", "place_read", "read__addr",
                    "table_fetched"),
    "TableProducts": ("table_fetched",),
    "UnrolledDots": ("valid_",),
    "Windows": ("arriving", "word", "kernel_column", "kernel_row", "column", "row", "repeat",
                "group", "$signature__addr", "address", "ahead", "room", "padded"),
    "ZeroAbsent": ("beat",),
}
# Read-only memories, by their component or, of a `Cycle`, by what it is in its parent.
_TABLES = {"PackedCycle": Kind.ASSIGNMENT, "SpreadCycle": Kind.ASSIGNMENT,
           "TableProducts": Kind.TABLE, "Embedding": Kind.TABLE, "SharedProducts": Kind.TABLE,
           "CodeTable": Kind.CONSTANT, "Search": Kind.CONSTANT,
           "DecodeMultiplyProducts": Kind.TABLE}
_ENGINE = {"weights": Kind.ASSIGNMENT, "constants": Kind.CONSTANT, "thresholds": Kind.CONSTANT,
           "tasks": Kind.CONSTANT}
_CYCLES = {"weights": Kind.ASSIGNMENT, "entries": Kind.ASSIGNMENT, "column": Kind.ASSIGNMENT,
           "constants": Kind.CONSTANT, "walk": Kind.TABLE}

_MODULE = re.compile(r"^module (\S+) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (\S+) +(\S+) +\($", re.MULTILINE)
_DECLARED = re.compile(r"^  reg (?:\[(\d+):0\] )?(\S+)(?: +\[(\d+):0\])?(?: += \S+)? *;",
                       re.MULTILINE)
_ASSIGNED = re.compile(r"^ +(\S+?)(?: *\[.*\])? *<= ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A register, or a memory.

    Parameters
    ----------
    module : str
        The Verilog module.
    path : tuple of str
        Instances that lead there from the top one, which comes first, and its name at the end.
    kind : Kind
    width, depth : int
        Bits of a word, and words; one word for a register.
    memory : bool
    """

    module: str
    path: tuple[str, ...]
    kind: Kind
    width: int
    depth: int
    memory: bool

    @property
    def bits(self) -> int:
        return self.width * self.depth


def places(network: Network, plan: Plan, verilog: str) -> list[Place]:
    """All registers and memories of ``verilog``, which ``network`` was emitted to by ``plan``.

    Raises
    ------
    LookupError
        For a register that `nomul.sim.upsets` has no kind for, as when a component gets a new one.
    """
    components = dict(_components(Fragment.get(lower(network, plan), None), (network.name,)))
    modules = {_plain(match[1]): match[0] for match in _MODULE.finditer(verilog)}
    return list(_places(network.name, (network.name,), modules, components))


def _components(fragment: Fragment, path: tuple[str, ...],
                ) -> Iterator[tuple[tuple[str, ...], str]]:
    """The class of each component, by its path."""
    if fragment.origins:
        yield path, type(fragment.origins[0]).__name__
    for inner, name, *_ in fragment.subfragments:
        yield from _components(inner, (*path, str(name)))


def _places(module: str, path: tuple[str, ...], modules: Mapping[str, str],
            components: Mapping[tuple[str, ...], str]) -> Iterator[Place]:
    text = modules[module]
    owner = tuple(re.sub(r"\$\d+$", "", name) for name in path)  # as before names were made unique
    component = components[owner]
    assigned = {_plain(name) for name in _ASSIGNED.findall(text)}
    for high, name, last in _DECLARED.findall(text):
        name = _plain(name)
        memory = bool(last)
        if memory:
            kind = Kind.BUFFER if name in assigned else _memory_kind(component, owner, name)
        elif name in assigned:
            kind = _register_kind(component, name, owner)
        else:
            continue  # a wire that Verilog calls reg
        yield Place(module=module, path=(*path, name), kind=kind, width=int(high or 0) + 1,
                    depth=int(last or 0) + 1, memory=memory)
    for inner, instance in _INSTANCE.findall(text):
        if _plain(inner) in modules:
            yield from _places(_plain(inner), (*path, _plain(instance)), modules, components)


def _plain(name: str) -> str:
    return name.removeprefix("\\")


def _memory_kind(component: str, path: tuple[str, ...], name: str) -> Kind:
    if component == "Engine":
        return _ENGINE[re.sub(r"(_\d+)?(\$\d+)?$", "", name)]
    if component == "Cycle":
        return _CYCLES[re.sub(r"_\d+$", "", path[-1])]
    return _TABLES[component]


def _register_kind(component: str, name: str, path: tuple[str, ...]) -> Kind:
    given = re.sub(r"\$\d+$", "", name)  # as before names were made unique
    stem = re.sub(r"_+", "_", re.sub(r"\d+", "", given)) if re.search(r"\d", given) else given
    # A signal that is called like a port: the port's name is the plain one.
    if given != name and f"{stem}$" in _CONTROL.get(component, ()):
        stem = f"{stem}$"
    for kind, names in ((Kind.DATA, _DATA), (Kind.ACCUMULATOR, _ACCUMULATORS),
                        (Kind.CONTROL, _CONTROL)):
        if stem in names.get(component, ()):
            return kind
    if stem in _COMMON:
        return _COMMON[stem]
    raise LookupError(f"Register {name!r} of {component} ({'.'.join(path)}) must have a kind in "
                      "nomul.sim.upsets")
