"""The I/O shell: a network of any width behind byte-wide, registered pins."""
from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.axis import WEIGHT_PORTS, AxisTop

__all__ = ["ByteCollector", "ByteSplitter", "PinShell", "Skid", "beat_layout"]


def beat_layout(length: int) -> data.StructLayout:
    """One beat: ``length`` bytes, the first in the lowest bits, and whether a frame ends here."""
    return data.StructLayout({"bytes": data.ArrayLayout(unsigned(8), length), "last": 1})


class Skid(wiring.Component):
    """Two-entry queue whose outputs are all registers, in both directions.

    ``o.payload``, ``o.valid`` and ``i.ready`` come straight from registers: no input reaches an
    output combinationally.

    Latency: 1 cycle. Throughput: 1 payload a cycle.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, shape: data.StructLayout | Shape) -> None:
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        ready = Signal()
        spare = Signal(self.shape)
        spare_full = Signal()

        # While the spare entry holds a payload nothing is accepted, so it alone may move on.
        m.d.comb += self.i.ready.eq(ready)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.payload.eq(spare),
                self.o.valid.eq(spare_full | (self.i.valid & ready)),
                spare_full.eq(0),
                ready.eq(1),
            ]
            with m.If(~spare_full):
                m.d.sync += self.o.payload.eq(self.i.payload)
        with m.Elif(self.i.valid & ready):
            m.d.sync += [spare_full.eq(1), ready.eq(0)]
        # Taken whether or not it is kept: no enable to decode where `ready` tells enough.
        with m.If(ready):
            m.d.sync += spare.eq(self.i.payload)

        return m


class ByteCollector(wiring.Component):
    """Bytes to beats of ``length`` bytes, the first byte in the lowest bits.

    A byte with ``last`` ends the beat early: the bytes that it lacks keep their earlier values,
    and the byte after it begins a new beat. ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 1 cycle, from the beat's last byte. Throughput: 1 byte a cycle.

    Parameters
    ----------
    length : int
        Bytes in a beat; at least 2.

    Members
    -------
    i : In(stream.Signature(beat_layout(1)))
    o : Out(stream.Signature(beat_layout(length)))
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, length: int) -> None:
        if length < 2:
            raise ValueError(f"Bytes in a beat must be at least 2, not {length!r}")
        self.length = length
        super().__init__({
            "i": In(stream.Signature(beat_layout(1))),
            "o": Out(stream.Signature(beat_layout(length))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        position = Signal(range(self.length))
        ends = Signal()

        m.d.comb += [
            ends.eq(self.i.p.last | (position == self.length - 1)),
            self.i.ready.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid & ends)
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [
                self.o.p.bytes[position].eq(self.i.p.bytes[0]),
                self.o.p.last.eq(self.i.p.last),
                position.eq(position + 1),
            ]
            with m.If(ends):
                m.d.sync += position.eq(0)

        return m


class ByteSplitter(wiring.Component):
    """Beats of ``length`` bytes to bytes, the lowest bits first; ``last`` goes with the last byte.

    ``i.ready`` depends combinationally on ``o.ready``.

    Latency: 1 cycle, to the beat's first byte. Throughput: 1 byte a cycle.

    Parameters
    ----------
    length : int
        Bytes in a beat; at least 2.

    Members
    -------
    i : In(stream.Signature(beat_layout(length)))
    o : Out(stream.Signature(beat_layout(1)))
    """

    i: stream.Interface
    o: stream.Interface
    latency = 1

    def __init__(self, length: int) -> None:
        if length < 2:
            raise ValueError(f"Bytes in a beat must be at least 2, not {length!r}")
        self.length = length
        super().__init__({
            "i": In(stream.Signature(beat_layout(length))),
            "o": Out(stream.Signature(beat_layout(1))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        beat = Signal(beat_layout(self.length))
        left = Signal(range(self.length))
        at_end = Signal()

        m.d.comb += [
            at_end.eq(left == 0),
            self.o.p.bytes[0].eq(beat.bytes[0]),
            self.o.p.last.eq(beat.last & at_end),
            self.i.ready.eq(~self.o.valid | (self.o.ready & at_end)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                beat.eq(self.i.payload),
                left.eq(self.length - 1),
                self.o.valid.eq(self.i.valid),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += [
                beat.bytes.as_value().eq(beat.bytes.as_value() >> 8),
                left.eq(left - 1),
            ]

        return m


class PinShell(wiring.Component):
    """A network's AXI4-Streams as byte-wide pins, so that it fits any package.

    Every output pin is a register, and every input pin ends in registers behind a little logic
    of the shell's own: no path of the network leaves the chip, so that the fastest clock from
    register to register covers all of them. With one byte in and out the shell takes fewer than
    60 logic cells of an iCE40.
    A beat's bytes travel lowest first, ``tlast`` with the last of them. ``s_axis_tlast`` on an
    earlier byte ends the beat there; the bytes that it lacks are those of the beat before.

    Latency: `latency` cycles more than the network's own, from the last byte of a beat in to the
    first byte of a beat out. Throughput: 1 byte a cycle each way.

    Parameters
    ----------
    top : wiring.Component
        Network with the members ``s_axis_tdata``, ``s_axis_tvalid``, ``s_axis_tready``,
        ``s_axis_tlast``, the same with ``m_axis_``, and ``frame_error``; data in whole bytes. It
        may have ``parity_error`` too, and the ports through which weights are loaded.

    Members
    -------
    s_axis_tdata : In(8)
    s_axis_tvalid : In(1)
    s_axis_tready : Out(1)
    s_axis_tlast : In(1)
    m_axis_tdata : Out(8)
    m_axis_tvalid : Out(1)
    m_axis_tready : In(1)
    m_axis_tlast : Out(1)
    frame_error : Out(1)
        The network's, a cycle later; and ``parity_error``, if it has one.
    s_axis_weights_tdata, s_axis_weights_tvalid, s_axis_weights_tready, s_axis_weights_tlast
        Only if the network has them: its own, a cycle later. So are ``weights_loaded`` and
        ``weights_failed``.
    """

    s_axis_tdata: Signal
    s_axis_tvalid: Signal
    s_axis_tready: Signal
    s_axis_tlast: Signal
    m_axis_tdata: Signal
    m_axis_tvalid: Signal
    m_axis_tready: Signal
    m_axis_tlast: Signal
    frame_error: Signal

    def __init__(self, top: wiring.Component) -> None:
        ports = {name: (In if member.flow == In else Out)(8 if name.endswith("_tdata") else 1)
                 for name, member in top.signature.members.items()}
        expected = {
            "s_axis_tdata": In(8), "s_axis_tvalid": In(1), "s_axis_tready": Out(1),
            "s_axis_tlast": In(1), "m_axis_tdata": Out(8), "m_axis_tvalid": Out(1),
            "m_axis_tready": In(1), "m_axis_tlast": Out(1), "frame_error": Out(1),
            **({"parity_error": Out(1)} if "parity_error" in ports else {}),
            **(WEIGHT_PORTS if "weights_loaded" in ports else {}),
        }
        if ports != expected:
            raise TypeError(f"Top component must have the members {', '.join(expected)} "
                            f"and no others, not {', '.join(ports)}")
        lengths = {}
        for name in ("s_axis_tdata", "m_axis_tdata"):
            width = len(getattr(top, name))
            if width < 8 or width % 8:
                raise ValueError(f"Width of {name} must be a multiple of 8, not {width}")
            lengths[name] = width // 8
        self.top = top
        #: Where the network's layers are, for counts of cells.
        self.layers = "top.network.body" if isinstance(top, AxisTop) else "top.network"
        self.input_bytes = lengths["s_axis_tdata"]
        self.output_bytes = lengths["m_axis_tdata"]
        self.latency = (2 * Skid.latency + (self.input_bytes > 1) * ByteCollector.latency
                        + (self.output_bytes > 1) * ByteSplitter.latency)
        super().__init__(expected)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.network = top = self.top
        m.submodules.input = received = Skid(beat_layout(1))
        m.submodules.output = sent = Skid(beat_layout(1))
        beats_in, beats_out = received.o, sent.i
        if self.input_bytes > 1:
            m.submodules.collector = collector = ByteCollector(self.input_bytes)
            wiring.connect(m, received.o, collector.i)
            beats_in = collector.o
        if self.output_bytes > 1:
            m.submodules.splitter = splitter = ByteSplitter(self.output_bytes)
            wiring.connect(m, splitter.o, sent.i)
            beats_out = splitter.i

        m.d.comb += [
            received.i.p.bytes[0].eq(self.s_axis_tdata),
            received.i.p.last.eq(self.s_axis_tlast),
            received.i.valid.eq(self.s_axis_tvalid),
            self.s_axis_tready.eq(received.i.ready),

            top.s_axis_tdata.eq(beats_in.p.bytes),
            top.s_axis_tlast.eq(beats_in.p.last),
            top.s_axis_tvalid.eq(beats_in.valid),
            beats_in.ready.eq(top.s_axis_tready),

            beats_out.p.bytes.eq(top.m_axis_tdata),
            beats_out.p.last.eq(top.m_axis_tlast),
            beats_out.valid.eq(top.m_axis_tvalid),
            top.m_axis_tready.eq(beats_out.ready),

            self.m_axis_tdata.eq(sent.o.p.bytes[0]),
            self.m_axis_tlast.eq(sent.o.p.last),
            self.m_axis_tvalid.eq(sent.o.valid),
            sent.o.ready.eq(self.m_axis_tready),
        ]
        m.d.sync += self.frame_error.eq(top.frame_error)
        if "parity_error" in self.signature.members:
            m.d.sync += self.parity_error.eq(top.parity_error)
        if "weights_loaded" in self.signature.members:
            m.submodules.weights = weights = Skid(beat_layout(1))
            m.d.comb += [
                weights.i.p.bytes[0].eq(self.s_axis_weights_tdata),
                weights.i.p.last.eq(self.s_axis_weights_tlast),
                weights.i.valid.eq(self.s_axis_weights_tvalid),
                self.s_axis_weights_tready.eq(weights.i.ready),

                top.s_axis_weights_tdata.eq(weights.o.p.bytes),
                top.s_axis_weights_tlast.eq(weights.o.p.last),
                top.s_axis_weights_tvalid.eq(weights.o.valid),
                weights.o.ready.eq(top.s_axis_weights_tready),
            ]
            m.d.sync += [self.weights_loaded.eq(top.weights_loaded),
                         self.weights_failed.eq(top.weights_failed)]

        return m
