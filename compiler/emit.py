"""Networks and plans to Verilog."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Shape

from nomul.compiler.errors import DataError
from nomul.compiler.lower import lower
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan
from nomul.hw.axis import axis_width

__all__ = ["Emitted", "Port", "emit", "verilog_digest", "with_digest"]

_HEADER = "// nomul network "


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """How the elements of a stream lie in a beat.

    Parameters
    ----------
    layer : str
        The layer that drives the stream.
    lanes : int
        Elements in a beat, the first one lowest.
    bits : int
        Bits that each takes.
    signed : bool
        Whether they are two's complement.
    """

    layer: str
    lanes: int
    bits: int
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """Verilog of a network, and what one must know to use it.

    Parameters
    ----------
    verilog : str
        Its first line holds the network's digest, which `verilog_digest` reads.
    s_axis, m_axis : Port
        Fields of ``tdata``.
    parity : bool
        Whether there is a port ``parity_error``.
    weights : bytes
        What must be sent to the port ``s_axis_weights`` after reset; empty if there is none, for
        the weights are in the Verilog.
    taps : tuple of Port
        Streams behind the layers: wires ``<layer>__payload``, ``__valid`` and ``__ready`` in
        the submodule ``body``.
    """

    verilog: str
    s_axis: Port
    m_axis: Port
    taps: tuple[Port, ...]
    parity: bool = False
    weights: bytes = b""


def emit(network: Network, plan: Plan) -> Emitted:
    """Verilog of ``network`` built as ``plan`` says: equal input gives equal text (for one
    version of Amaranth's Yosys)."""
    top = lower(network, plan)
    parts = top.body.parts
    return Emitted(
        verilog=with_digest(network, verilog.convert(
            top, name=network.name, emit_src=False, strip_internal_attrs=True)),
        s_axis=_port(network.layers[0].name, top.i_layout, axis=True),
        m_axis=_port(network.layers[-1].name, top.o_layout, axis=True),
        taps=tuple(_port(name, part.o.payload.shape()) for name, part in parts.items()
                   if name in network.wires),
        parity=bool(top.flags), weights=top.weights.image if top.weights else b"")


def _port(layer: str, layout: Any, *, axis: bool = False) -> Port:
    element = Shape.cast(layout.elem_shape)
    return Port(layer=layer, lanes=layout.length, signed=element.signed,
                bits=axis_width(element, 1) if axis else element.width)


def with_digest(network: Network, text: str) -> str:
    """Verilog ``text`` of ``network`` below a line that `verilog_digest` reads."""
    return f"{_HEADER}{network.digest}\n{text}"


def verilog_digest(text: str) -> str:
    """Digest of the network that a Verilog text was made from; `DataError` if it holds none."""
    match = re.match(re.escape(_HEADER) + "([0-9a-f]{64})\n", text)
    if not match:
        raise DataError("Verilog must be written by nomul, but its first line holds no digest; "
                        "build it again with 'nomul build'")
    return match[1]
