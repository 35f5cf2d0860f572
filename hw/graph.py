"""Stream components that feed each other, with branches."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.stream import pipe

__all__ = ["Graph"]

Port = tuple[str, str]  # a part and its port; the part "" is the graph itself


class Graph(wiring.Component):
    """Components with stream ports, linked without cycles; `Chain` is the case without branches.

    A link is a pair of ends, from an output to an input. An end is ``part.port``, or just
    ``part`` for its port ``o`` (as an output) or ``i`` (as an input), or ``i`` or ``o`` for
    the graph's own. Every stream port of every part, and both of the graph, must be in
    exactly one link; a stream with several readers needs a `Fork`.

    Branches that part and meet again may deadlock: the `Queue` on one of them must have
    room for all that the other one takes in before its first beat comes out.

    Parameters
    ----------
    parts : mapping of str to component
        The names become those of the submodules. At least one.
    links : sequence of pairs of str
        In any order.

    In the Verilog, the stream behind a part with an output ``o`` is also visible as the wires
    ``<name>__payload``, ``<name>__valid`` and ``<name>__ready`` beside it, which benches and
    waveforms use.

    Members
    -------
    i : In(signature of the port that it is linked to)
    o : Out(signature of the port that it is linked to)
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, parts: Mapping[str, Any], links: Sequence[tuple[str, str]]) -> None:
        self.parts = dict(parts)
        self.links = tuple((str(source), str(sink)) for source, sink in links)
        if not self.parts:
            raise ValueError("Graph must have at least one part")
        for name in self.parts:
            if not name.isidentifier() or name in ("i", "o"):
                raise ValueError(f"Name of a part must be an identifier other than i and o, "
                                 f"not {name!r}")
        self._ports = tuple((self._port(source, "o", "output"), self._port(sink, "i", "input"))
                            for source, sink in self.links)
        self._check_links()
        self._check_order()
        shapes = [tuple(getattr(self.parts[part], port).payload.shape() if part else None
                        for part, port in ends) for ends in self._ports]
        for (source, sink), (given, taken) in zip(self.links, shapes, strict=True):
            if given is not None and taken is not None and given != taken:
                raise TypeError(f"Link from {source!r} to {sink!r}: stream of {given!r} cannot "
                                f"feed a stream of {taken!r}")
        i_shape, = (taken for given, taken in shapes if given is None)
        o_shape, = (given for given, taken in shapes if taken is None)
        super().__init__({"i": In(stream.Signature(i_shape)), "o": Out(stream.Signature(o_shape))})

    def _port(self, end: str, default: str, kind: str) -> Port:
        """The port that an end of a link names; ``default`` is that of a part's name alone."""
        if end in ("i", "o"):
            found = end != default  # the graph's own input is a source within it
            part, port = "", end
        else:
            part, _, port = end.partition(".")
            port = port or default
            found = port in _streams(self.parts[part])[kind] if part in self.parts else False
        if not found:
            raise ValueError(f"Link end {end!r} must name an {kind} stream; there is none")
        return part, port

    def _check_links(self) -> None:
        used = [port for ports in self._ports for port in ports]
        ports = [("", "i"), ("", "o"),
                 *((part, port) for part, component in self.parts.items()
                   for names in _streams(component).values() for port in names)]
        for part, port in ports:
            count = used.count((part, port))
            if count != 1:
                raise ValueError(f"Port {f'{part}.{port}' if part else port!r} must be linked "
                                 f"exactly once, not {count} times")
        if (("", "i"), ("", "o")) in self._ports:
            raise ValueError("Port 'i' must feed a part, not 'o'")

    def _check_order(self) -> None:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for (source, _), (sink, _) in self._ports:
            if source and sink:
                sorter.add(sink, source)
        try:
            sorter.prepare()
        except CycleError as error:
            raise ValueError(f"Links must not make a cycle: {' -> '.join(error.args[1])}") from None

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def connect_to(name: str) -> None:
            for source, sink in self._ports:
                if sink[0] == name:
                    pipe(m, self._stream(source), self._stream(sink))

        for name, part in self.parts.items():
            m.submodules[name] = part
            connect_to(name)
            if "o" in _streams(part)["output"]:
                tap = Signal(len(Value.cast(part.o.payload)), name=f"{name}__payload")
                m.d.comb += [
                    tap.eq(part.o.payload),
                    Signal(name=f"{name}__valid").eq(part.o.valid),
                    Signal(name=f"{name}__ready").eq(part.o.ready),
                ]
        connect_to("")

        return m

    def _stream(self, port: Port) -> Any:
        part, name = port
        return getattr(self.parts[part], name) if part else wiring.flipped(getattr(self, name))


def _streams(component: Any) -> dict[str, list[str]]:
    """Names of the stream ports of a component."""
    members = [(name, member) for name, member in component.signature.members.items()
               if member.is_signature and isinstance(member.signature, stream.Signature)]
    return {"output": [name for name, member in members if member.flow is Out],
            "input": [name for name, member in members if member.flow is In]}
