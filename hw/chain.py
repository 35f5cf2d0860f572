"""Stream components one behind the other."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import pipe

__all__ = ["Chain"]


class Chain(wiring.Component):
    """Components with a stream ``i`` and a stream ``o``, each feeding the next.

    Parameters
    ----------
    parts : mapping of str to component
        In order; the names become those of the submodules. At least one.

    In the Verilog, the stream behind a part is also visible as the wires ``<name>__payload``,
    ``<name>__valid`` and ``<name>__ready`` beside it, which benches and waveforms use.

    Members
    -------
    i : In(signature of the first part's ``i``)
    o : Out(signature of the last part's ``o``)
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)
        if not self.parts:
            raise ValueError("Chain must have at least one part")
        first, *_, last = (*self.parts.values(), *self.parts.values())
        super().__init__({"i": In(stream.Signature(first.i.payload.shape())),
                          "o": Out(stream.Signature(last.o.payload.shape()))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        source = wiring.flipped(self.i)
        for name, part in self.parts.items():
            m.submodules[name] = part
            pipe(m, source, part.i)
            source = part.o
            tap = Signal(len(Value.cast(source.payload)), name=f"{name}__payload")
            m.d.comb += [
                tap.eq(source.payload),
                Signal(name=f"{name}__valid").eq(source.valid),
                Signal(name=f"{name}__ready").eq(source.ready),
            ]
        pipe(m, source, wiring.flipped(self.o))

        return m
