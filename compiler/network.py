"""What is computed: immutable integer networks, checked when they are made.

Every layer is: look up, add, look up (docs/design.md, "One equation")::

    acc[o] = bias[o] + sum_i  products[ assignment[o, i] ][ x[i] ]
    y[o]   = staircase_o(acc[o])

A **code** is the unsigned index that travels on a wire; its `Levels` say what it
means. Nothing here knows of hardware, files or torch.
"""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nomul.compiler.errors import ModelError

__all__ = [
    "Argmax",
    "Codes",
    "Dense",
    "Flatten",
    "Input",
    "Integers",
    "Layer",
    "Levels",
    "Network",
    "Staircase",
    "Wire",
]

Ints = NDArray[np.int64]

# Largest magnitude of any integer in a network: sums of a few fit int64 and float64 exactly.
LIMIT = 1 << 52


def integers(what: str, values: ArrayLike, dimensions: int) -> Ints:
    """Read-only int64 copy of ``values``; `ModelError` naming ``what`` if they are no integers."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ModelError(f"{what} must be finite, but hold NaN or infinity; "
                             "train or export the network again")
        if (array != np.floor(array)).any():
            raise ModelError(f"{what} must be integers; export the network with exact scales")
    elif array.dtype.kind not in "iub":
        raise ModelError(f"{what} must be integers, not {array.dtype}")
    if array.ndim != dimensions:
        raise ModelError(f"{what} must have {dimensions} dimensions, not {array.ndim}")
    if array.size and (array.max() > LIMIT or array.min() < -LIMIT):
        raise ModelError(f"{what} must lie within +-2**52; reduce the precision of the values")
    array = array.astype(np.int64)  # always a copy
    array.flags.writeable = False
    return array


class Value:
    """Equality and hash by content, also of arrays, for frozen dataclasses without slots."""

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        def key(value: Any) -> Any:
            return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        return (type(self), *(key(getattr(self, field.name)) for field in fields(self)))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels(Value):
    """What codes mean: code ``c`` stands for ``values[c] * 2**exponent``.

    Parameters
    ----------
    values : array of int, shape [codes]
        Strictly increasing.
    exponent : int
        Power of two that scales all of them.
    """

    values: Ints
    exponent: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", integers("levels", self.values, 1))
        if len(self.values) < 2 or (np.diff(self.values) <= 0).any():
            raise ModelError("levels must be two or more and strictly increasing")

    @classmethod
    def uniform(cls, codes: int, *, start: int = 0, step: int = 1, exponent: int = 0) -> Levels:
        """``codes`` levels ``start, start + step, …``."""
        return cls(values=start + step * np.arange(codes), exponent=exponent)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bits(self) -> int:
        """Width of a code on a wire."""
        return max(1, (len(self) - 1).bit_length())

    @property
    def zero(self) -> int | None:
        """Code whose level is 0: what padding inserts. None if there is none."""
        where = np.flatnonzero(self.values == 0)
        return int(where[0]) if len(where) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Staircase(Value):
    """Monotone step functions from integers to codes: a code counts the thresholds passed.

    A threshold ``t`` is passed by ``acc >= t`` where the direction is +1, and by
    ``acc <= t`` where it is -1. Direction 0 makes a constant. The most extreme
    integers serve as thresholds that are always or never passed.

    Parameters
    ----------
    thresholds : array of int, shape [rows, codes - 1]
        Each row in increasing order; equal neighbours skip a code. One row for a
        whole layer, or one for each output channel.
    levels : Levels
        What the codes mean.
    directions : array of int, shape [rows]
        +1, -1 or 0; all +1 if omitted.
    constants : array of int, shape [rows]
        Code of the rows whose direction is 0; zero elsewhere, and if omitted.
    """

    thresholds: Ints
    levels: Levels
    directions: Ints = None  # type: ignore[assignment]
    constants: Ints = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        thresholds = integers("thresholds", self.thresholds, 2)
        rows = len(thresholds)
        directions = np.ones(rows) if self.directions is None else self.directions
        constants = np.zeros(rows) if self.constants is None else self.constants
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "directions", integers("directions", directions, 1))
        object.__setattr__(self, "constants", integers("constants", constants, 1))
        if rows < 1:
            raise ModelError("staircase must have at least one row of thresholds")
        if thresholds.shape[1] != len(self.levels) - 1:
            raise ModelError(f"staircase must have one threshold fewer than its "
                             f"{len(self.levels)} levels, not {thresholds.shape[1]}")
        if (np.diff(thresholds, axis=1) < 0).any():
            raise ModelError("thresholds must be in increasing order within each row")
        if len(self.directions) != rows or not np.isin(self.directions, (-1, 0, 1)).all():
            raise ModelError("directions must be +1, -1 or 0, one for each row of thresholds")
        if (len(self.constants) != rows or (self.constants < 0).any()
                or (self.constants >= len(self.levels)).any()
                or self.constants[self.directions != 0].any()):
            raise ModelError("constants must be codes where the direction is 0, and 0 elsewhere")

    @property
    def per_channel(self) -> bool:
        """Whether each channel has a row of its own (a single row counts as shared)."""
        return len(self.thresholds) > 1


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A wire that carries codes."""

    shape: tuple[int, ...]
    levels: Levels


@dataclass(frozen=True, kw_only=True)
class Integers:
    """A wire that carries signed integers between ``low`` and ``high``: scores, or a class."""

    shape: tuple[int, ...]
    low: int
    high: int


Wire = Codes | Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Value):
    """A layer: its name, and the names of the layers whose outputs it reads."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ModelError(f"layer {self.name!r}: name must be letters, digits and "
                             "underscores, because it names a module of the Verilog")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        """The wire that the layer drives, given those it reads; `ModelError` if it cannot."""
        raise TypeError(f"{type(self).__name__} does not say what it drives")

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"layer {self.name!r}: {message}")

    def _codes(self, wires: tuple[Wire, ...]) -> Codes:
        """The single wire read, which must carry codes."""
        if len(wires) != 1:
            raise self._fail(f"must read one layer, not {len(wires)}")
        wire, = wires
        if not isinstance(wire, Codes):
            raise self._fail(f"must read codes, but layer {self.inputs[0]!r} gives raw integers; "
                             "give that layer a staircase")
        return wire


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Layer):
    """Where images enter, as codes.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    levels : Levels
        What the codes mean.
    """

    inputs: tuple[str, ...] = ()
    shape: tuple[int, int, int]
    levels: Levels

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise self._fail(f"shape must be height, width and channels, each at least 1, "
                             f"not {self.shape!r}")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        if wires:
            raise self._fail("must read no layer: it is the input")
        return Codes(shape=self.shape, levels=self.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten(Layer):
    """Height, width and channels read as one vector, in that order."""

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._codes(wires)
        return Codes(shape=(int(np.prod(wire.shape)),), levels=wire.levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Layer):
    """Fully connected layer whose weights are entries of a dictionary.

    Parameters
    ----------
    dictionary : array of int, shape [entries]
        What an assignment stands for, times ``2**exponent``.
    assignment : array of int, shape [outputs, inputs]
        Indices into the dictionary.
    bias : array of int, shape [outputs]
        Added to the accumulators, on their grid.
    staircase : Staircase, optional
        Makes codes of the accumulators; without it they leave as raw integers.
    exponent : int
        Power of two that scales the dictionary.
    table : array of int, shape [entries, codes], optional
        Product of each entry with each input code, for layers whose products are
        not exactly entry times level (TBNU); the dictionary is then only informative.
    """

    dictionary: Ints
    assignment: Ints
    bias: Ints
    staircase: Staircase | None = None
    exponent: int = 0
    table: Ints | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = f"layer {self.name!r}:"
        for field, dimensions in (("dictionary", 1), ("assignment", 2), ("bias", 1)):
            value = integers(f"{name} {field}", getattr(self, field), dimensions)
            object.__setattr__(self, field, value)
        if self.table is not None:
            object.__setattr__(self, "table", integers(f"{name} table", self.table, 2))
        entries, outputs = len(self.dictionary), len(self.assignment)
        if not entries or not self.assignment.size:
            raise self._fail("must have at least one dictionary entry, input and output")
        wrong = self.assignment[(self.assignment < 0) | (self.assignment >= entries)]
        if wrong.size:
            raise self._fail(f"assignment must be within the dictionary of {entries} entries, "
                             f"not {int(wrong[0])}; export the network again")
        if len(self.bias) != outputs:
            raise self._fail(f"bias must have one value for each of {outputs} outputs, "
                             f"not {len(self.bias)}")
        if self.staircase and len(self.staircase.thresholds) not in (1, outputs):
            raise self._fail(f"staircase must have 1 row or {outputs}, "
                             f"not {len(self.staircase.thresholds)}")

    @property
    def outputs(self) -> int:
        return len(self.assignment)

    @property
    def fan_in(self) -> int:
        """Inputs of one output."""
        return int(self.assignment.shape[1])

    @property
    def weights(self) -> Ints:
        """Weights, looked up; shape [outputs, inputs]."""
        return self.dictionary[self.assignment]

    @property
    def assignment_bits(self) -> int:
        """Bits that store one weight; 0 if the dictionary has a single entry."""
        return (len(self.dictionary) - 1).bit_length()

    def products(self, levels: Levels) -> Ints:
        """The product table P[entry, code]: all that the hardware needs to know of weights."""
        if self.table is not None:
            return self.table
        return np.outer(self.dictionary, levels.values)

    def accumulators(self, levels: Levels) -> tuple[Ints, Ints]:
        """Lowest and highest accumulator that any input reaches, for each output; exact."""
        products = self.products(levels)
        low, high = products.min(axis=1), products.max(axis=1)
        return (self.bias + low[self.assignment].sum(axis=1),
                self.bias + high[self.assignment].sum(axis=1))

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        wire = self._codes(wires)
        if wire.shape != (self.fan_in,):
            raise self._fail(f"must read a vector of {self.fan_in}, but layer "
                             f"{self.inputs[0]!r} gives shape {wire.shape}")
        if self.table is not None and self.table.shape != (len(self.dictionary), len(wire.levels)):
            raise self._fail(f"table must be {len(self.dictionary)} entries by "
                             f"{len(wire.levels)} codes, not {self.table.shape}")
        # In Python's integers, so that no intermediate can wrap before it is refused.
        peak = int(np.abs(self.products(wire.levels).astype(object)).max())
        if peak * self.fan_in + int(np.abs(self.bias).max()) > LIMIT:
            raise self._fail("accumulators must lie within +-2**52; use fewer bits a value")
        if self.staircase:
            return Codes(shape=(self.outputs,), levels=self.staircase.levels)
        low, high = self.accumulators(wire.levels)
        return Integers(shape=(self.outputs,), low=int(low.min()), high=int(high.max()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Argmax(Layer):
    """Index of the largest value of a vector; the first one of equals."""

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        if len(wires) != 1 or len(wires[0].shape) != 1:
            raise self._fail("must read one vector")
        return Integers(shape=(1,), low=0, high=wires[0].shape[0] - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Value):
    """A network: layers, each of which reads earlier ones; the last one is the output.

    Parameters
    ----------
    name : str
        Names the top module.
    layers : tuple of Layer
        The first one is the `Input`, and the only one.
    """

    name: str
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ModelError(f"network {self.name!r}: name must be letters, digits and "
                             "underscores, because it names a module of the Verilog")
        inputs = [layer for layer in self.layers if isinstance(layer, Input)]
        if len(inputs) != 1 or inputs[0] is not self.layers[0]:
            raise ModelError(f"network {self.name!r}: its first layer must be the input, "
                             "and no other")
        if len(self.layers) < 2:
            raise ModelError(f"network {self.name!r}: must have a layer behind the input")
        _ = self.wires
        read = {name for layer in self.layers for name in layer.inputs}
        for layer in self.layers[:-1]:
            if layer.name not in read:
                raise ModelError(f"layer {layer.name!r}: is read by no layer; remove it")

    @cached_property
    def wires(self) -> Mapping[str, Wire]:
        """What each layer drives, by the layer's name."""
        wires: dict[str, Wire] = {}
        for layer in self.layers:
            if layer.name in wires:
                raise ModelError(f"layer {layer.name!r}: name must be used once")
            for name in layer.inputs:
                if name not in wires:
                    raise ModelError(f"layer {layer.name!r}: reads {name!r}, which must be "
                                     "an earlier layer")
            wires[layer.name] = layer.output(tuple(wires[name] for name in layer.inputs))
        return MappingProxyType(wires)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def reads(self, layer: Layer) -> tuple[Wire, ...]:
        """The wires that ``layer`` reads."""
        return tuple(self.wires[name] for name in layer.inputs)

    @property
    def input(self) -> Codes:
        """The wire that images enter on."""
        wire = self.wires[self.layers[0].name]
        assert isinstance(wire, Codes)
        return wire

    @property
    def output(self) -> Wire:
        """The wire that results leave on."""
        return self.wires[self.layers[-1].name]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the network computes, in hexadecimal; equal networks share it."""
        state = hashlib.sha256(b"nomul.network 1\n")

        def feed(value: Any) -> None:
            if isinstance(value, np.ndarray):
                state.update(f"array{value.shape}\n".encode())
                state.update(np.ascontiguousarray(value, dtype="<i8").tobytes())
            elif isinstance(value, Value):
                state.update(f"{type(value).__name__}\n".encode())
                for field in fields(value):  # type: ignore[arg-type]
                    state.update(f"{field.name}=".encode())
                    feed(getattr(value, field.name))
            elif isinstance(value, tuple):
                state.update(f"tuple{len(value)}\n".encode())
                for item in value:
                    feed(item)
            else:
                state.update(f"{value!r}\n".encode())

        feed(self)
        return state.hexdigest()
