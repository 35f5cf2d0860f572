"""A network with a serial line or SPI instead of its AXI4-Streams."""
from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.axis import AxisTop
from nomul.hw.link import Link, ResultBytes
from nomul.hw.spi import SpiPeripheral
from nomul.hw.stream import beats, count_to
from nomul.hw.uart import UartReceiver, UartTransmitter, received_byte

__all__ = ["LinkedNetwork", "SerialTop", "SpiTop"]

# The LED is dark and lit for half of so many cycles each: about a second.
_HEARTBEAT = 25


class LinkedNetwork(wiring.Component):
    """A network behind frames of bytes, with an LED that shows that it lives.

    Parameters
    ----------
    network : AxisTop
        The network.
    digest : bytes
        First bytes of its digest, as `Link` takes them.
    depth : int
        Bytes that wait before the network; at least 1.

    Members
    -------
    i : In(stream.Signature(received_byte()))
        Bytes off the line.
    o : Out(stream.Signature(unsigned(8)))
        Bytes onto the line.
    led : Out(1)
        Changes slowly by itself, and with each result.
    """

    i: stream.Interface
    o: stream.Interface
    led: Signal

    def __init__(self, network: AxisTop, *, digest: bytes, depth: int) -> None:
        self.network = network
        self.digest = digest
        self.depth = depth
        lanes = network.i_layout.length
        self.beat_bytes = len(network.s_axis_tdata) // 8
        self.image_bytes = network.i_length * (self.beat_bytes // lanes)
        super().__init__({"i": In(stream.Signature(received_byte())),
                          "o": Out(stream.Signature(unsigned(8))), "led": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        network, lanes = self.network, self.network.o_layout.length
        results = ResultBytes(
            element_bytes=len(network.m_axis_tdata) // 8 // lanes, lanes=lanes,
            signed_elements=Shape.cast(network.o_layout.elem_shape).signed,
            length=network.o_length, vectors=network.o_vectors)
        m.submodules.network = network
        m.submodules.link = link = Link(
            digest=self.digest, image_bytes=self.image_bytes, beat_bytes=self.beat_bytes,
            results=results, depth=self.depth)

        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        taken = network.s_axis_tvalid & network.s_axis_tready
        _, last = count_to(m, "beat", beats(self.image_bytes, self.beat_bytes), taken)
        heartbeat = Signal(_HEARTBEAT)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        m.d.comb += [
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


class SerialTop(wiring.Component):
    """A network behind a serial line.

    Parameters
    ----------
    linked : LinkedNetwork
        The network.
    divisor : int
        Cycles of a bit on the line.

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

    def __init__(self, linked: LinkedNetwork, *, divisor: int) -> None:
        self.linked = linked
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "led": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.linked = linked = self.linked

        wiring.connect(m, receiver.o, linked.i)
        wiring.connect(m, linked.o, transmitter.i)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.led.eq(linked.led),
        ]

        return m


class SpiTop(wiring.Component):
    """A network behind SPI, as `SpiPeripheral` speaks it.

    Parameters
    ----------
    linked : LinkedNetwork
        The network.

    Members
    -------
    sck, cs_n, copi : In(1)
        Pins that the controller drives.
    cipo, cipo_oe : Out(1)
        The pin that it reads, and whether it is driven.
    led : Out(1)
        Changes slowly by itself, and with each result.
    """

    sck: Signal
    cs_n: Signal
    copi: Signal
    cipo: Signal
    cipo_oe: Signal
    led: Signal

    def __init__(self, linked: LinkedNetwork) -> None:
        self.linked = linked
        super().__init__({"sck": In(1), "cs_n": In(1, init=1), "copi": In(1), "cipo": Out(1),
                          "cipo_oe": Out(1), "led": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.peripheral = peripheral = SpiPeripheral()
        m.submodules.linked = linked = self.linked

        wiring.connect(m, peripheral.o, linked.i)
        wiring.connect(m, linked.o, peripheral.i)
        m.d.comb += [
            peripheral.sck.eq(self.sck),
            peripheral.cs_n.eq(self.cs_n),
            peripheral.copi.eq(self.copi),
            self.cipo.eq(peripheral.cipo),
            self.cipo_oe.eq(peripheral.cipo_oe),
            self.led.eq(linked.led),
        ]

        return m
