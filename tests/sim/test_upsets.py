"""What can be flipped: every flip-flop and memory that Yosys finds, each of one kind."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomul.boards.tools import Tool, run
from nomul.compiler.emit import emit
from nomul.compiler.network import Network, Weighted
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.sim import upsets
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_engine_plan, random_network, random_plan
from nomul.sim.upsets import Kind, Place, places

ZOO = Path(__file__).parents[2] / "examples" / "zoo"


def places_of(network: Network, seed: int, *, engine: bool = False) -> tuple[list[Place], str]:
    plan = (random_engine_plan if engine else random_plan)(network, seed)
    text = emit(network, plan).verilog
    return places(network, plan, text), text


def test_the_digits_network() -> None:
    """Sizes that follow from the network by hand: 64-32-10, 3 bits a weight, 4 bits a code."""
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network)
    found = places(network, plan, emit(network, plan).verilog)
    bits = {kind: sum(place.bits for place in found if place.kind is kind) for kind in Kind}
    weights = [layer for layer in network.layers if isinstance(layer, Weighted)]
    assert bits[Kind.ASSIGNMENT] == 3 * sum(layer.assignment.size for layer in weights) == 7104
    assert bits[Kind.CONSTANT] == 32 * 13 + 10 * 12  # an offset as wide as a sum for each output
    assert bits[Kind.BUFFER] == 4 * (2 * 64 + 2 * 32)  # two vectors of codes
    assert bits[Kind.ACCUMULATOR] == 13 + 12 + 12  # one of each layer, and the best score
    assert bits[Kind.TABLE] == 0
    named = {(".".join(place.path[2:]), place.kind) for place in found}
    assert {("dense1.dots.weights.table", Kind.ASSIGNMENT),
            ("dense2.offset.constants.table", Kind.CONSTANT),
            ("dense1.replay.memory", Kind.BUFFER), ("dense1.dots.acc_0", Kind.ACCUMULATOR),
            ("dense1.dots.held", Kind.DATA), ("dense1.dots.chunk", Kind.CONTROL),
            ("argmax.leader", Kind.ACCUMULATOR)} <= named


@pytest.mark.parametrize("engine", [False, True], ids=["pipeline", "engine"])
@pytest.mark.parametrize("seed", range(12))
def test_every_register_of_random_networks_has_a_kind(seed: int, engine: bool) -> None:
    """All components come up among these networks; the set is checked below."""
    make = random_network if seed % 2 else random_image_network
    found, _ = places_of(make(seed), seed, engine=engine)
    assert all(place.bits > 0 for place in found)
    assert len({place.path for place in found}) == len(found)


@pytest.mark.synth
@pytest.mark.parametrize("engine", [False, True], ids=["pipeline", "engine"])
@pytest.mark.parametrize("seed", [2, 3, 5, 8])
def test_yosys_finds_as_many_bits(seed: int, engine: bool, tmp_path: Path) -> None:
    """None is missed: flip-flops and memories, by a reader of Verilog that is not ours."""
    make = random_network if seed % 2 else random_image_network
    found, text = places_of(make(seed), seed, engine=engine)
    (tmp_path / "network.v").write_text(text)
    (tmp_path / "count.ys").write_text(
        "read_verilog network.v\nhierarchy -auto-top\nproc -norom\nflatten\nmemory_collect\n"
        "write_json netlist.json\n")
    run(Tool.YOSYS, ("count.ys",), tmp_path, "count.log")
    module, = json.loads((tmp_path / "netlist.json").read_text())["modules"].values()
    # Yosys gives a writing port registers of its own, which nothing reads.
    ports = {bit for name, net in module["netnames"].items() if "$memwr$" in name
             for bit in net["bits"]}
    registers = memories = 0
    for cell in module["cells"].values():
        if cell["type"] in ("$dff", "$dffe", "$sdff", "$adff"):
            registers += len(set(cell["connections"]["Q"]) - ports)
        elif cell["type"] == "$mem_v2":
            memories += int(cell["parameters"]["WIDTH"], 2) * int(cell["parameters"]["SIZE"], 2)
    assert registers == sum(place.bits for place in found if not place.memory)
    assert memories == sum(place.bits for place in found if place.memory)


def test_a_register_without_a_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upsets._ACCUMULATORS, "DotProducts", ("sum_",))
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network)
    with pytest.raises(LookupError, match=r"'acc_0' of DotProducts \(digits.body.dense1.dots\)"):
        places(network, plan, emit(network, plan).verilog)
