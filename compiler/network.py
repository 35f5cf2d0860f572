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

from nomul.compiler.errors import ModelError
from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    PixelEmbedding,
    SumPool,
    Weighted,
)
from nomul.compiler.values import Codes, Integers, Ints, Levels, Staircase, Value, Wire

__all__ = [
    "Add",
    "Argmax",
    "Codes",
    "Conv2d",
    "Dense",
    "Flatten",
    "Input",
    "Integers",
    "Ints",
    "Layer",
    "Levels",
    "MaxPool",
    "Network",
    "PixelEmbedding",
    "Staircase",
    "SumPool",
    "Value",
    "Weighted",
    "Wire",
]

#: Fields that came later: a network without them has the digest that it had before.
_LATER = ("widths", "corrections")


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
                    item = getattr(value, field.name)
                    if item is not None or field.name not in _LATER:
                        state.update(f"{field.name}=".encode())
                        feed(item)
            elif isinstance(value, tuple):
                state.update(f"tuple{len(value)}\n".encode())
                for part in value:
                    feed(part)
            else:
                state.update(f"{value!r}\n".encode())

        feed(self)
        return state.hexdigest()
