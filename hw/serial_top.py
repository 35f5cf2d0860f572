"""A network with a serial line instead of its AXI4-Streams."""
from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.axis import AxisTop
from nomul.hw.link import Link, ResultBytes
from nomul.hw.stream import beats, count_to
from nomul.hw.uart import UartReceiver, UartTransmitter

__all__ = ["SerialTop"]

# The LED is dark and lit for half of so many cycles each: about a second.
_HEARTBEAT = 25


class SerialTop(wiring.Component):
    """A network behind a serial line, with an LED that shows that it lives.

    Parameters
    ----------
    network : AxisTop
        The network.
    digest : bytes
        First bytes of its digest, as `Link` takes them.
    divisor : int
        Cycles of a bit on the line.
    depth : int
        Bytes that wait before the network; at least 1.

    Members
    -------
    rx, tx : In(1), Out(1)
        The line; high when idle.
    led : Out(1)
        Changes slowly by itself, and with each result.
    """

    rx: Signal
    tx: Signal
    led: Signal

    def __init__(self, network: AxisTop, *, digest: bytes, divisor: int, depth: int) -> None:
        self.network = network
        self.digest = digest
        self.divisor = divisor
        self.depth = depth
        lanes = network.i_layout.length
        self.beat_bytes = len(network.s_axis_tdata) // 8
        self.image_bytes = network.i_length * (self.beat_bytes // lanes)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "led": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        network, lanes = self.network, self.network.o_layout.length
        results = ResultBytes(
            element_bytes=len(network.m_axis_tdata) // 8 // lanes, lanes=lanes,
            signed_elements=Shape.cast(network.o_layout.elem_shape).signed,
            length=network.o_length, vectors=network.o_vectors)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.network = network
        m.submodules.link = link = Link(
            digest=self.digest, image_bytes=self.image_bytes, beat_bytes=self.beat_bytes,
            results=results, depth=self.depth)

        wiring.connect(m, receiver.o, link.i)
        wiring.connect(m, link.o, transmitter.i)
        taken = network.s_axis_tvalid & network.s_axis_tready
        _, last = count_to(m, "beat", beats(self.image_bytes, self.beat_bytes), taken)
        heartbeat = Signal(_HEARTBEAT)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.led.eq(heartbeat[-1] ^ link.answered[0]),
            network.s_axis_tdata.eq(link.images.payload),
            network.s_axis_tvalid.eq(link.images.valid),
            network.s_axis_tlast.eq(last),
            link.images.ready.eq(network.s_axis_tready),
            link.beats.payload.eq(network.m_axis_tdata),
            link.beats.valid.eq(network.m_axis_tvalid),
            network.m_axis_tready.eq(link.beats.ready),
        ]

        return m
