"""Circuits for ASICs: clean, bit-exact from random states, and what they are said to take."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nomul.asic import Verilog, prove, verilog_of, write_asic
from nomul.boards.asic import area, gates, unreset
from nomul.boards.tools import RunFailure
from nomul.compiler.asic import Macro, Memories
from nomul.compiler.emit import Emitted, emit
from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.network import Network
from nomul.compiler.plan import Plan
from nomul.compiler.planner import make_plan
from nomul.compiler.storage import load
from nomul.images import Images, load_images
from nomul.sim.lint import lint
from nomul.sim.random_images import random_image_network
from nomul.sim.random_networks import random_network, random_plan

ZOO = Path(__file__).parents[1] / "examples" / "zoo"

#: Areas are made up.
LIBERTY = """\
library (made_up) {
  cell (INV) { area : 1; pin (A) { direction : input; }
    pin (Y) { direction : output; function : "!A"; } }
  cell (BUF) { area : 1.25; pin (A) { direction : input; }
    pin (Y) { direction : output; function : "A"; } }
  cell (NAND2) { area : 1.5; pin (A) { direction : input; } pin (B) { direction : input; }
    pin (Y) { direction : output; function : "!(A&B)"; } }
  cell (NOR2) { area : 1.75; pin (A) { direction : input; } pin (B) { direction : input; }
    pin (Y) { direction : output; function : "!(A|B)"; } }
  cell (DFF) { area : 6; ff (IQ, IQN) { clocked_on : "C"; next_state : "D"; }
    pin (C) { direction : input; clock : true; } pin (D) { direction : input; }
    pin (Q) { direction : output; function : "IQ"; } }
}
"""
AREAS = {"INV": 1.0, "BUF": 1.25, "NAND2": 1.5, "NOR2": 1.75, "DFF": 6.0}

#: Variables of LibreLane 3.0.17 that a configuration may have: its reference of the Classic flow.
DOCUMENTED = {"meta", "DESIGN_NAME", "VERILOG_FILES", "CLOCK_PORT", "CLOCK_PERIOD",
              "PNR_SDC_FILE", "SIGNOFF_SDC_FILE", "EXTRA_VERILOG_MODELS"}


def digits() -> tuple[Network, Plan, Emitted, Images]:
    network = load(ZOO / "digits_pow2_3bit.nomul")
    plan = make_plan(network)
    return network, plan, emit(network, plan), load_images("digits", network).first(30)


def written(verilog: Verilog, folder: Path) -> list[Path]:
    files = []
    for name, text in {**verilog.modules,
                       **{macro.name: macro.verilog() for macro in verilog.macros}}.items():
        (folder / f"{name}.v").write_text(text)
        files.append(folder / f"{name}.v")
    return files


@pytest.mark.synth
@pytest.mark.parametrize("seed", [0, 2, 3, 5, 6, 7])
def test_random_networks_are_clean_and_reset(seed: int, tmp_path: Path) -> None:
    """Every component comes up; only words of memories are not reset."""
    network = (random_network if seed % 2 else random_image_network)(seed)
    verilog = verilog_of(network, random_plan(network, seed), Memories.ARRAYS)
    assert lint(written(verilog, tmp_path), network.name) == []
    assert unreset(verilog.modules) == []
    text = "".join(verilog.modules.values())
    assert " initial " not in text and not re.search(r"^  reg .* = ", text, re.MULTILINE)
    for macro in verilog.macros:
        assert re.fullmatch(rf"{network.name}_(ram|rom)_\d+", macro.name)
        assert macro.path.startswith(f"{network.name}.body.")


@pytest.mark.synth
def test_what_is_not_clean_is_found(tmp_path: Path) -> None:
    network, plan, _, _ = digits()
    verilog = verilog_of(network, plan, Memories.ARRAYS)
    files = written(verilog, tmp_path)
    module = "digits_body_argmax"
    loose = re.sub(r"rst \? 4'h0 : (\w+);", r"\1;", verilog.modules[module], count=1)
    assert loose != verilog.modules[module]
    found, = unreset({**verilog.modules, module: loose})
    assert found in (f"{module}.beat", f"{module}.o__payload")
    (tmp_path / f"{module}.v").write_text(verilog.modules[module].replace(
        "reg [3:0] beat;", "reg [3:0] beat;\n  wire [2:0] lost;\n  assign lost = beat;"))
    assert any("WIDTHTRUNC" in line for line in lint(files, "digits"))


@pytest.mark.cocotb
@pytest.mark.synth
@pytest.mark.parametrize("memories", Memories)
@pytest.mark.parametrize("network", [random_image_network(2), random_network(5)],
                         ids=lambda network: network.name)
def test_random_networks_are_exact_from_random_states(network: Network, memories: Memories,
                                                      ) -> None:
    plan = random_plan(network, 4)
    images = load_images("random", network).first(12)
    verilog = verilog_of(network, plan, memories)
    result = prove(network, emit(network, plan), verilog, images.codes, seed=9, jobs=2)
    assert (result.images, result.mismatches) == (12, 0)


@pytest.mark.cocotb
@pytest.mark.synth
def test_what_is_wrong_is_found() -> None:
    """A bit of a read-only memory, and a counter that is not reset."""
    network, plan, circuit, images = digits()
    verilog = verilog_of(network, plan, Memories.ARRAYS)
    assert prove(network, circuit, verilog, images.codes, jobs=1).mismatches == 0

    def flipped(macro: Macro) -> Macro:
        if macro.path != "digits.body.dense2.offset.constants.table":
            return macro
        assert macro.rows is not None
        return replace(macro, rows=(macro.rows[0] ^ 1 << 9, *macro.rows[1:]))

    wrong = replace(verilog, macros=tuple(map(flipped, verilog.macros)))
    assert prove(network, circuit, wrong, images.codes, jobs=1).mismatches > 0

    module = "digits_body_dense1_dots_weights"
    loose = re.sub(r"rst \? 11'h000 : (\w+);", r"\1;", verilog.modules[module])
    assert loose != verilog.modules[module]
    wrong = replace(verilog, modules={**verilog.modules, module: loose})
    assert prove(network, circuit, wrong, images.codes, jobs=1).mismatches > 0


@pytest.mark.cocotb
@pytest.mark.synth
@pytest.mark.parametrize("memories", Memories)
def test_the_folder_of_the_digits_network(memories: Memories, tmp_path: Path) -> None:
    network, plan, circuit, images = digits()
    (tmp_path / "cells.lib").write_text(LIBERTY)
    folder = tmp_path / "asic"
    done = write_asic(folder, network, plan, circuit, images.codes, memories=memories, jobs=1,
                      liberty=tmp_path / "cells.lib", clock_mhz=40)
    report = json.loads((folder / "asic.json").read_text())
    assert report["network"] == network.digest
    assert report["proof"]["mismatches"] == 0 and report["proof"]["images"] == 30
    bits = {kind: sum(m["width"] * m["depth"] for m in report["macros"]
                      if m["read_only"] is kind) for kind in (True, False)}
    assert bits == {True: 3 * (2048 + 320) + 32 * 13 + 10 * 12, False: 4 * (128 + 64)}

    arrays = memories is Memories.ARRAYS
    assert done.gates.macro_bits == (0 if arrays else sum(bits.values()))
    assert (done.gates.flip_flops > bits[False]) == arrays
    assert done.gates.transistors > 16 * done.gates.flip_flops
    assert sum(done.gates.by_type.values()) == done.gates.gates + done.gates.flip_flops
    assert done.area is not None
    cells = {name: count for name, count in done.area.by_type.items() if name in AREAS}
    assert cells["DFF"] == done.gates.flip_flops
    assert done.area.area == pytest.approx(sum(AREAS[name] * n for name, n in cells.items()))

    config = json.loads((folder / "config.json").read_text())
    assert set(config) <= DOCUMENTED and config["DESIGN_NAME"] == "digits"
    assert config["CLOCK_PERIOD"] == 25.0
    for name in ("VERILOG_FILES", "EXTRA_VERILOG_MODELS"):
        for pattern in config.get(name, ()):
            assert list(folder.glob(pattern.removeprefix("dir::"))), pattern
    for name in ("PNR_SDC_FILE", "SIGNOFF_SDC_FILE"):
        assert (folder / config[name].removeprefix("dir::")).is_file()
    top = (folder / "rtl" / "digits.v").read_text()
    lines = (folder / "constraints.sdc").read_text().splitlines()
    assert lines[0] == "create_clock -name clk -period 25.000 [get_ports clk]"
    ports = set(re.search(r"^module digits\((.*?)\);", top, re.MULTILINE)[1].split(", "))  # type: ignore[index]
    delayed = {re.search(r"get_ports \{(\w+)", line)[1] for line in lines[1:]}  # type: ignore[index]
    assert delayed | {"clk"} == ports
    assert len(list((folder / "rtl").glob("digits_r[ao]m_*.v"))) == (6 if arrays else 0)
    if not arrays:
        assert len(list((folder / "macros").glob("*.v"))) == 6
        rows = [int(line, 16) for line in (folder / "models" / "digits_rom_1.hex"
                                           ).read_text().split()]
        assert rows == list(done.verilog.macros[1].rows or ()) and len(rows) == 2048


@pytest.mark.synth
def test_gates_of_a_circuit_that_is_known(tmp_path: Path) -> None:
    """Four flip-flops with reset are four flip-flops and four gates; transistors add up."""
    file = tmp_path / "known.v"
    file.write_text("module known(input clk, input rst, input [3:0] a, output reg [3:0] y);\n"
                    "  always @(posedge clk) y <= rst ? 4'h0 : a;\nendmodule\n")
    (tmp_path / "cells.lib").write_text(LIBERTY)
    found = gates([file], "known", tmp_path)
    assert found.flip_flops == 4
    assert found.by_type == {"DFF_P": 4, "NOR": 4, "NOT": 4}
    assert found.transistors == 4 * 16 + 4 * 4 + 4 * 2
    measured = area([file], "known", tmp_path / "cells.lib", tmp_path)
    assert measured.area == pytest.approx(4 * 6 + sum(
        AREAS[name] * n for name, n in measured.by_type.items() if name != "DFF"))
    (tmp_path / "empty.lib").write_text("library (empty) { }\n")
    with pytest.raises(RunFailure):
        area([file], "known", tmp_path / "empty.lib", tmp_path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    network, plan, circuit, images = digits()
    with pytest.raises(DataError, match=r"Liberty file '.*none.lib' must exist"):
        write_asic(tmp_path / "a", network, plan, circuit, images.codes,
                   liberty=tmp_path / "none.lib")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="hold an earlier circuit for an ASIC"):
        write_asic(tmp_path / "b", network, plan, circuit, images.codes)
    assert (tmp_path / "b" / "thesis.tex").read_text() == "years"


@pytest.mark.synth
def test_a_useless_library_is_named(tmp_path: Path) -> None:
    network, plan, circuit, images = digits()
    (tmp_path / "empty.lib").write_text("library (empty) { }\n")
    with pytest.raises(ToolError, match="see that it has flip-flops, buffers and"):
        write_asic(tmp_path / "a", network, plan, circuit, images.codes,
                   liberty=tmp_path / "empty.lib")
    assert not (tmp_path / "a").exists()
