"""AXI4-Stream ports around a chain of layers."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.loaded import LoadedWords
from nomul.hw.stream import beats, count_to

__all__ = ["WEIGHT_PORTS", "AxisTop", "axis_width"]

#: Ports of a network whose weights are loaded.
WEIGHT_PORTS = {
    "s_axis_weights_tdata": In(8), "s_axis_weights_tvalid": In(1), "s_axis_weights_tready": Out(1),
    "s_axis_weights_tlast": In(1), "weights_loaded": Out(1), "weights_failed": Out(1)}


def axis_width(shape: Any, lanes: int) -> int:
    """Width of ``tdata`` that carries ``lanes`` elements, each in a whole number of bytes."""
    return lanes * 8 * max(1, -(-int(Shape.cast(shape).width) // 8))


class AxisTop(wiring.Component):
    """A network with AXI4-Stream ports: images in, results out.

    Each element travels in its own whole bytes of ``tdata``, the first one lowest; codes are
    zero-extended, integers sign-extended. ``s_axis_tready`` depends combinationally on
    ``m_axis_tready`` only where the first and last layer say so.

    Parameters
    ----------
    body : component
        Takes a stream ``i`` and gives a stream ``o`` of vectors.
    i_length, o_length : int
        Elements of a vector of each: an image is one vector.
    o_vectors : int
        Vectors of a result.
    flags : sequence of Signal
        Signals of the body that are raised by a wrong bit in a table.
    weights : LoadedWords, optional
        What in the body is to be loaded before it works. No image is taken until then.

    Members
    -------
    s_axis_tdata, s_axis_tvalid, s_axis_tready, s_axis_tlast
        Images. ``tlast`` marks the last beat of an image; it is checked, not needed.
    m_axis_tdata, m_axis_tvalid, m_axis_tready, m_axis_tlast
        Results. ``tlast`` marks the last beat of a result.
    frame_error : Out(1)
        Set, until reset, by an ``s_axis_tlast`` that is missing or at another beat than
        the last of an image.
    parity_error : Out(1)
        Only if there are ``flags``: set, until reset, by each of them.
    s_axis_weights_tdata, s_axis_weights_tvalid, s_axis_weights_tready, s_axis_weights_tlast
        Only with ``weights``: what is loaded, 8 bits wide. ``tlast`` marks the last byte, and is
        needed. A load may come again: between two images the next one waits for its end.
    weights_loaded, weights_failed : Out(1)
        Only with ``weights``: whether they are there; whether the last load was wrong, in length or
        in checksum.
    """

    def __init__(self, body: Any, *, i_length: int, o_length: int, o_vectors: int = 1,
                 flags: Sequence[Signal] = (), weights: LoadedWords | None = None) -> None:
        self.body = body
        self.i_length = i_length
        self.o_length = o_length
        self.o_vectors = o_vectors
        self.flags = tuple(flags)
        self.weights = weights
        self.i_layout: data.ArrayLayout = body.i.payload.shape()
        self.o_layout: data.ArrayLayout = body.o.payload.shape()
        super().__init__({
            "s_axis_tdata": In(axis_width(self.i_layout.elem_shape, self.i_layout.length)),
            "s_axis_tvalid": In(1),
            "s_axis_tready": Out(1),
            "s_axis_tlast": In(1),
            "m_axis_tdata": Out(axis_width(self.o_layout.elem_shape, self.o_layout.length)),
            "m_axis_tvalid": Out(1),
            "m_axis_tready": In(1),
            "m_axis_tlast": Out(1),
            "frame_error": Out(1),
            **({"parity_error": Out(1)} if self.flags else {}),
            **(WEIGHT_PORTS if weights is not None else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.body = body = self.body

        i_field = len(self.s_axis_tdata) // self.i_layout.length
        for lane in range(self.i_layout.length):
            m.d.comb += body.i.payload[lane].eq(self.s_axis_tdata.word_select(lane, i_field))
        o_field = len(self.m_axis_tdata) // self.o_layout.length
        for lane in range(self.o_layout.length):
            field = Signal(Shape(o_field, Shape.cast(self.o_layout.elem_shape).signed),
                           name=f"o_field_{lane}")
            m.d.comb += [field.eq(body.o.payload[lane]),
                         self.m_axis_tdata.word_select(lane, o_field).eq(field)]

        put = self.s_axis_tvalid & self.s_axis_tready
        get = self.m_axis_tvalid & self.m_axis_tready
        _, i_last = count_to(m, "i_beat", beats(self.i_length, self.i_layout.length), put)
        result = self.o_vectors * beats(self.o_length, self.o_layout.length)
        _, o_last = count_to(m, "o_beat", result, get)
        valid, ready = self.s_axis_tvalid, body.i.ready
        if (weights := self.weights) is not None:
            valid, ready = valid & weights.loaded, ready & weights.loaded
            m.d.comb += [
                weights.i.p.byte.eq(self.s_axis_weights_tdata),
                weights.i.p.last.eq(self.s_axis_weights_tlast),
                weights.i.valid.eq(self.s_axis_weights_tvalid),
                self.s_axis_weights_tready.eq(weights.i.ready),
                self.weights_loaded.eq(weights.loaded),
                self.weights_failed.eq(weights.failed),
            ]
        m.d.comb += [
            body.i.valid.eq(valid),
            self.s_axis_tready.eq(ready),
            self.m_axis_tvalid.eq(body.o.valid),
            body.o.ready.eq(self.m_axis_tready),
            self.m_axis_tlast.eq(o_last),
        ]
        with m.If(put & (self.s_axis_tlast != i_last)):
            m.d.sync += self.frame_error.eq(1)
        if self.flags:
            with m.If(Cat(self.flags).any()):
                m.d.sync += self.parity_error.eq(1)

        return m
