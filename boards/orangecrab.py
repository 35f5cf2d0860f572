"""OrangeCrab r0.2 with the 25F: its USB is the FPGA's own, so the serial line is on the headers.

The pins are those that the Feather form calls RX (0) and TX (1): join the adapter's TX to RX. It
has pins for SPI too, though none for the chip-select: that is pin 10.
"""
from __future__ import annotations

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform
from amaranth_boards.resources import SPIResource, UARTResource

from nomul.boards.board import Board

__all__ = ["ORANGECRAB"]

ORANGECRAB = Board(
    name="orangecrab",
    title="OrangeCrab r0.2 25F",
    platform=OrangeCrabR0_2_25FPlatform,
    led=("rgb_led", "g"),
    # By its bootloader: hold the button while USB is plugged in.
    loader="dfu-util --device 1209:5af0 --alt 0 --download {file}",
    baud=115_200,
    line="header pins RX (0) and TX (1), to a USB serial adapter of 3.3 V",
    spi="header pins SCK, MOSI (COPI), MISO (CIPO), and 10 for CS",
    resources=(
        UARTResource(0, rx="0", tx="1", conn=("io", 0),
                     attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        SPIResource(0, cs_n="10", clk="sck", copi="copi", cipo="cipo", conn=("io", 0),
                    attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP"), role="peripheral")),
)
