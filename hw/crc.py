"""CRC-32, a bit at a time, as zlib and Ethernet have it."""
from __future__ import annotations

from amaranth.hdl import Const, Mux, Value

__all__ = ["CRC_BYTES", "CRC_RESIDUE", "CRC_START", "crc_state", "crc_step"]

CRC_BYTES = 4
#: Of the register, before the first bit.
CRC_START = 0xFFFFFFFF
#: What any bytes and their checksum leave in the register.
CRC_RESIDUE = 0xDEBB20E3

_POLYNOMIAL = 0xEDB88320  # its lowest bit first


def crc_step(crc: Value, bit: Value) -> Value:
    """The register after one more bit; of a byte the lowest one comes first."""
    return (crc >> 1) ^ Mux(crc[0] ^ bit, Const(_POLYNOMIAL, 32), 0)


def crc_state(checksum: int) -> int:
    """What is in the register behind bytes of this ``checksum``."""
    return checksum ^ 0xFFFFFFFF
