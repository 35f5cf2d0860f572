# amaranth: UnusedElaboratable=no
"""Netlists of small components are proved equal to the components, for ever."""
from pathlib import Path

import pytest

from nomul.boards.equivalence import Equivalence, equivalences
from nomul.hw.affine import Affine
from nomul.hw.branch import Fork, Queue
from nomul.hw.lanewise import LanewiseMax
from nomul.hw.staircase import Offset, ShiftClip, ShiftClipRows
from nomul.sim.formal import Verdict
from nomul.sim.proofs import EXAMPLES

pytestmark = [pytest.mark.formal, pytest.mark.synth]

PROVED = [example for example in EXAMPLES
          if example.component in (Affine, Fork, LanewiseMax, Offset, Queue, ShiftClip,
                                   ShiftClipRows)
          or example.sizes.startswith(("3 elements of 3 bits, 1 lanes", "shift-add"))]


@pytest.mark.parametrize("equivalence", [
    pytest.param(each, id=each.name) for each in equivalences(PROVED)])
def test_the_netlist_gives_what_the_circuit_gives(equivalence: Equivalence, tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "twin").mkdir()
    assert equivalence.prove(tmp_path / "claim").verdict is Verdict.PROVED
    assert equivalence.refute(tmp_path / "twin").verdict is Verdict.REFUTED
