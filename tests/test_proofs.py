# amaranth: UnusedElaboratable=no
"""Everything on the list of proofs is proved, and every broken twin refuted."""
from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from amaranth.hdl import Assert, Module, Signal, unsigned
from amaranth.lib import wiring

import nomul.hw
from nomul.boards import shell
from nomul.boards.equivalence import Equivalence
from nomul.boards.shell import Skid
from nomul.boards.targets import Family
from nomul.compiler.errors import ToolError
from nomul.hw.argmax import Argmax
from nomul.hw.branch import Queue
from nomul.hw.frames import Framer, Unframer
from nomul.hw.link import Feeder, Link, Replier, RequestReader, ResultBytes
from nomul.hw.product import Products
from nomul.hw.serial_top import LinkedNetwork, SerialTop, SpiTop
from nomul.hw.staircase import Offset
from nomul.hw.uart import UartReceiver, UartTransmitter
from nomul.proofs import OBLIGATIONS, SHELL, page
from nomul.sim.formal import (
    Computes,
    Proof,
    Verdict,
    check_abc,
    first_cycle,
    induct,
    prove,
    stream_ports,
)
from nomul.sim.obligations import Obligation
from nomul.sim.proofs import EXAMPLES, OTHERS, PINNED

pytestmark = pytest.mark.formal

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("obligation", [
    pytest.param(obligation, id=obligation.name, marks=[
        *[pytest.mark.full] * obligation.slow,
        *[pytest.mark.synth] * isinstance(obligation, Equivalence)])
    for obligation in OBLIGATIONS])
def test_it_is_proved_and_its_broken_twin_refuted(obligation: Obligation, tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "twin").mkdir()
    assert obligation.prove(tmp_path / "claim").verdict is Verdict.PROVED
    assert obligation.refute(tmp_path / "twin").verdict is Verdict.REFUTED


#: What makes up a serial line has events and verdicts, no function of vectors: stream rules are
#: proved in tests/hw/test_frames.py and test_link.py, and it is played through noise in tests/sim.
SERIAL = {Feeder, Framer, Link, LinkedNetwork, Replier, RequestReader, ResultBytes, SerialTop,
          SpiTop, UartReceiver, UartTransmitter, Unframer}


def test_every_component_is_on_the_list() -> None:
    """Those with streams among the examples, of which three claims are proved each."""
    modules = [importlib.import_module(f"nomul.hw.{info.name}")
               for info in pkgutil.iter_modules(nomul.hw.__path__)] + [shell]
    found = {cls for module in modules for name, cls in inspect.getmembers(module, inspect.isclass)
             if issubclass(cls, wiring.Component) and cls.__module__ == module.__name__
             and not name.startswith("_")}
    streaming = {example.component for example in (*EXAMPLES, *SHELL)}
    others = {obligation.component for obligation in (*OTHERS, *PINNED)}
    assert found == streaming | others | SERIAL | {Products}  # a base without a circuit
    assert all(stream_ports(example.make()) for example in (*EXAMPLES, *SHELL))
    assert all(port.is_input for obligation in OTHERS
               for port in stream_ports(obligation.make().dut))
    for component in streaming:
        claims = {o.claim for o in OBLIGATIONS if o.component is component}
        assert len(claims) >= 3 and any("stalled" in claim for claim in claims), component


def test_netlists_of_every_component_are_on_the_list() -> None:
    """For one chip of each family; every run proves some of each."""
    netlists = [o for o in OBLIGATIONS if isinstance(o, Equivalence)]
    for family in (Family.ICE40, Family.ECP5):
        assert ({o.component for o in netlists if o.chip.family is family}
                == {o.component for o in OBLIGATIONS})
        assert any(not o.slow for o in netlists if o.chip.family is family)


def test_the_page_is_that_of_the_list() -> None:
    """All but what was measured: frames and seconds."""
    def texts(text: str) -> list[str]:
        return [re.sub(r"\| \d+ \| [\d.]+ \|(.*): \d+ \|$", r"|\1|", line)
                for line in text.splitlines()]

    proof = Proof(verdict=Verdict.PROVED, frames=0, seconds=0)
    made = page((obligation, proof, proof) for obligation in OBLIGATIONS)
    assert texts((ROOT / "docs" / "proofs.md").read_text()) == texts(made), (
        "run: python -m nomul.proofs docs")


@pytest.mark.full
@pytest.mark.parametrize("obligation", [
    pytest.param(o, id=o.name) for o in OBLIGATIONS
    if o.component in (Argmax, Offset, Skid) and "stalled" in o.claim])
def test_another_prover_agrees(obligation: Obligation, tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "twin").mkdir()
    assert induct(obligation.make(), tmp_path / "claim", depth=12) is Verdict.PROVED
    assert induct(obligation.broken(), tmp_path / "twin", depth=12) is Verdict.REFUTED


class Counts(wiring.Component):  # type: ignore[misc]
    """A claim that is broken after ``length`` cycles."""

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__({})

    @property
    def inputs(self) -> list[Signal]:
        return []

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first_cycle(m)
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        m.d.comb += Assert(count != self.length)
        return m


@pytest.mark.parametrize("bound, verdict", [
    (None, Verdict.REFUTED), (5, Verdict.PROVED), (30, Verdict.REFUTED)])
def test_a_bound_is_one(bound: int | None, verdict: Verdict, tmp_path: Path) -> None:
    assert prove(Counts(9), tmp_path, bound=bound).verdict is verdict


def test_a_prover_that_gives_up_proves_nothing(tmp_path: Path) -> None:
    wide = Computes(Queue(unsigned(8), 30), takes={"i": 1}, gives={"o": 1}, capacity=31,
                    function=lambda beats: {"o": beats["i"]})
    assert prove(wide, tmp_path, limit=1).verdict is Verdict.UNKNOWN


def test_ports_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Beats must be said"):
        Computes(Queue(unsigned(1), 1), takes={"i": 1}, gives={}, capacity=1,
                 function=lambda beats: {})


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomul.sim.formal.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pyosys.*nomul\[formal\]"):
        check_abc()
