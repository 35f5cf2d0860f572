# amaranth: UnusedElaboratable=no
"""What proofs of netlists rely on: the model of ECP5's block RAM finds collisions."""
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.equivalence import equivalences
from nomul.boards.targets import Family
from nomul.sim.formal import Verdict
from nomul.sim.obligations import Example

pytestmark = [pytest.mark.formal, pytest.mark.synth, pytest.mark.full]


class Writes(wiring.Component):  # type: ignore[misc]
    """Each beat is where to write in a block RAM, and where to read; nothing is ever valid."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, collides: bool) -> None:
        self.collides = collides
        super().__init__({"i": In(stream.Signature(unsigned(8))),
                          "o": Out(stream.Signature(unsigned(4)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = rows = memory.Memory(
            shape=4, depth=16, init=[], attrs={"ram_style": "block"})
        write, read = rows.write_port(), rows.read_port()
        m.d.comb += [
            self.i.ready.eq(1),
            Cat(write.addr, read.addr).eq(self.i.payload),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid & (self.collides | (write.addr != read.addr))),
            self.o.payload.eq(read.data),
        ]
        return m


@pytest.mark.parametrize("collides, verdict", [
    (False, Verdict.PROVED), (True, Verdict.REFUTED)])
def test_a_word_is_not_read_in_the_cycle_that_writes_it(
        collides: bool, verdict: Verdict, tmp_path: Path) -> None:
    example = Example(sizes="", make=lambda: Writes(collides=collides), takes={"i": 1},
                      gives={"o": 1}, function=lambda beats: {"o": beats["i"]}, capacity=1,
                      computes="")
    equivalence, = (each for each in equivalences([example], [])
                    if each.chip.family is Family.ECP5)
    assert equivalence.prove(tmp_path).verdict is verdict
