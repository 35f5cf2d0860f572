"""Resets of an ECP5 that go through a buffer of its clock networks.

A reset that most flip-flops share reaches every tile. Through general routing that takes more arcs
than anything else in a large circuit, and nextpnr, which puts nothing but clocks on the networks
for clocks by itself, may not find a way for the last ones. A buffer (``DCCA``) in front of the
flip-flops makes it take one of these networks.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["buffer_resets"]

_REGISTER, _PIN = "TRELLIS_FF", "LSR"


def buffer_resets(module: dict[str, Any], least: int) -> int:
    """Put a buffer in front of every reset of at least so many flip-flops in a ``module`` of
    Yosys's JSON, in place; the number of buffers."""
    cells = module["cells"]
    registers = [cell["connections"] for cell in cells.values() if cell["type"] == _REGISTER]
    resets = Counter(net for pins in registers for net in pins.get(_PIN, ())
                     if isinstance(net, int))
    last = max((net for cell in cells.values() for nets in cell["connections"].values()
                for net in nets if isinstance(net, int)), default=0)
    buffered = {net: last + n for n, net in enumerate(
        (net for net, count in resets.items() if count >= least), 1)}
    for pins in registers:
        if _PIN in pins:
            pins[_PIN] = [buffered.get(net, net) for net in pins[_PIN]]
    for number, (net, driven) in enumerate(buffered.items()):
        name = f"$reset${number}"
        cells[name] = {
            "hide_name": 1, "type": "DCCA", "parameters": {}, "attributes": {},
            "port_directions": {"CLKI": "input", "CE": "input", "CLKO": "output"},
            "connections": {"CLKI": [net], "CE": ["1"], "CLKO": [driven]}}
        module["netnames"][name] = {"hide_name": 1, "bits": [driven], "attributes": {}}
    return len(buffered)
