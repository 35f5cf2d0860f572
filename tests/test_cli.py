"""The command line: what it writes, and one sentence with exit code 2 for what is wrong."""
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nomul.boards import doctor
from nomul.cli import cli
from nomul.compiler.network import Dense, Flatten, Input, Levels, Network
from nomul.compiler.storage import load, save
from nomul.explore import Explored
from nomul.sim.random_networks import random_network

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A network file; its data set is unknown, so that images are random."""
    path = tmp_path / "net.nomul"
    save(random_network(2), path)
    return path


@pytest.fixture
def built(run: Run, net: Path, tmp_path: Path) -> Path:
    assert run("build", net, "-o", tmp_path / "build")[0] == 0
    return tmp_path / "build"


def refused(result: tuple[int, str, str], *words: str) -> None:
    """The command ended with code 2 and one sentence that holds ``words``."""
    code, _, err = result
    assert code == 2
    assert err.startswith("nomul: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def test_every_command_shows_an_example(run: Run) -> None:
    for name in cli.commands:
        code, out, _ = run(name, "--help")
        assert code == 0 and "Example" in out and f"nomul {name}" in out


def test_info_and_eval(run: Run, net: Path, tmp_path: Path) -> None:
    code, out, _ = run("info", net)
    assert code == 0 and load(net).digest[:12] in out and "dense1" in out
    tables = [layer.products(load(net).reads(layer)[0].levels).size  # type: ignore[union-attr]
              for layer in load(net).layers if isinstance(layer, Dense)]
    assert (f"tables {sum(tables):,} products of an entry and a code, at most {max(tables):,} a "
            "layer") in " ".join(out.split())
    network = load(net)
    images = np.zeros((5, *network.input.shape), int)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.zeros(5, int))
    code, out, _ = run("eval", net, tmp_path / "mine.npz")
    assert code == 0 and "%" in out and "5" in out
    assert run("eval", net)[0] == 0


def test_a_build_holds_what_it_says(run: Run, built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    network = load(built / "network.nomul")
    assert manifest["network"] == network.digest
    assert network.digest in (built / manifest["verilog"]).read_text().partition("\n")[0]
    assert set(manifest["sha256"]) <= {path.name for path in built.iterdir()}


def test_builds_are_reproducible(run: Run, net: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("build", net, "-o", tmp_path / name)[0] == 0
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text())["sha256"]
                     for name in ("a", "b"))
    assert first == second


def test_fps_picks_lanes(run: Run, net: Path, tmp_path: Path) -> None:
    assert run("build", net, "--fps", 5e6, "--clock", 10, "--input-lanes", 2,
               "-o", tmp_path / "b")[0] == 0
    layers = json.loads((tmp_path / "b" / "manifest.json").read_text())["estimate"]["layers"]
    assert max(c for name, c in layers.items() if name.startswith("dense")) <= 2


def test_fastest_unrolls_and_lean_is_lean(run: Run, tmp_path: Path) -> None:
    net = Path(__file__).parents[1] / "examples" / "zoo" / "digits_binary.nomul"
    code, out, _ = run("build", net, "--fastest", "-o", tmp_path / "f")
    assert code == 0 and " table " in out
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["estimate"]["ideal_interval"] == 1
    plan = json.loads((tmp_path / "f" / "plan.json").read_text())
    assert {layer["product"] for layer in plan["layers"]} == {"unrolled"}
    assert {layer["weights_in"] for layer in plan["layers"]} == {"logic"}
    assert [layer["staircase"] for layer in plan["layers"]] == ["table", "none"]
    depths = []
    for name, more in (("roomy", ()), ("lean", ("--lean",))):
        assert run("build", net, *more, "-o", tmp_path / name)[0] == 0
        depths.append([layer["depth"] for layer in json.loads(
            (tmp_path / name / "plan.json").read_text())["layers"]])
    assert all(lean < roomy for roomy, lean in zip(*depths, strict=True))


def test_products_are_made_by_the_circuit_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    """Also by multipliers, which the report then counts."""
    net = Path(__file__).parents[1] / "examples" / "zoo" / "digits_free_4bit.nomul"
    folder = tmp_path / "b"
    assert run("build", net, "--product", "bucket-accumulate", "--product",
               "dense2=decode-multiply", "--vectors", 2, "-o", folder)[0] == 0
    plan = json.loads((folder / "plan.json").read_text())
    assert [layer["product"] for layer in plan["layers"]] == [
        "bucket-accumulate", "decode-multiply"]
    assert run("report", folder)[0] == 0
    layers = json.loads((folder / "report.json").read_text())["layers"]
    assert [row["multiplications"]["after"] for row in layers] == [0, layers[1]["weights"]]
    for options, words in (
            (("magic",), "product: must be CIRCUIT or LAYER=CIRCUIT"),
            (("bucket-accumulate", "--fold", "1x2"), "must compute 1 input at once")):
        refused(run("build", net, "--product", *options, "-o", tmp_path / "c"), words)
    for options, words in (
            (("table", "--engine", "2"), "--product are of plans with a unit"),
            (("table", "--plan", str(folder / "plan.json")), "parts of the plan"),
            (("table", "--max-cells", "900", "--target", "ice40-hx8k"),
             "goes without --parity and --product")):
        code, _, err = run("build", net, "--product", *options, "-o", tmp_path / "c")
        assert code == 2 and words in err


@pytest.mark.synth
def test_max_cells_picks_the_fastest_plan_that_fits(run: Run, tmp_path: Path) -> None:
    net = Path(__file__).parents[1] / "examples" / "zoo" / "digits_binary.nomul"
    code, out, _ = run("build", net, "--max-cells", 700, "--target", "ice40-hx8k", "--vectors", 2,
                       "-o", tmp_path / "b")
    assert code == 0 and "the next faster one found" in out
    estimate = json.loads((tmp_path / "b" / "manifest.json").read_text())["estimate"]
    assert estimate["targets"]["ice40-hx8k"]["logic_cells"] <= 700
    assert estimate["ideal_interval"] < 2048
    assert "dense2" in estimate["targets"]["ice40-hx8k"]["layers"]
    refused(run("build", net, "--max-cells", 100, "--target", "ice40-hx8k", "-o", tmp_path / "b"),
            "'digits' does not fit ice40-hx8k", "logic cells of 100", "too many")
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["estimate"] == estimate


def test_sizes_are_not_estimated_without_yosys(run: Run, net: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name: None if name == "pyosys" else found(name))
    code, _, err = run("build", net, "--target", "ice40-hx8k", "-o", tmp_path / "b")
    assert code == 0 and "sizes are not estimated: tool 'pyosys' must be installed" in err
    assert not json.loads((tmp_path / "b" / "manifest.json").read_text())["estimate"]["targets"]
    refused(run("build", net, "--target", "ice40-hx8k", "--max-cells", 999, "-o", tmp_path / "c"),
            "tool 'pyosys' must be installed")


@pytest.mark.synth
@pytest.mark.parametrize("options, storage", [
    (("--target", "ice40-hx8k"), "block"), (("--target", "ecp5-25k"), "registered"),
    (("--target", "ecp5-25k", "--no-registered"), "block"), (("--registered",), "registered")])
def test_memories_are_registered_where_it_pays(run: Run, tmp_path: Path, options: tuple[str, ...],
                                               storage: str) -> None:
    net = Path(__file__).parents[1] / "examples" / "zoo" / "digits_binary.nomul"
    assert run("build", net, *options, "--vectors", 1, "-o", tmp_path / "b")[0] == 0
    layers = json.loads((tmp_path / "b" / "plan.json").read_text())["layers"]
    assert {layer["buffer_in"] for layer in layers} == {storage}
    assert layers[0]["weights_in"] == storage


@pytest.mark.synth
def test_explore_draws_and_goes_on(run: Run, net: Path, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("explore", net, "--target", "ecp5-25k", "--points", 3, "--seeds", 0, "--jobs", 1,
                 "-o", tmp_path / "e")
    first = run(*arguments)
    assert first[0] == 0 and "on the front" in first[1]
    assert (tmp_path / "e" / "explore.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr("nomul.explore._measure", lambda key, *_: (key, Explored(
        name="plan-9", interval=9, estimated_cells=9, estimated_lut4=9, estimated_bram=0,
        clock_mhz=50.0, trouble="it needs 9 more")))
    _, out, err = run(*arguments[:-1], tmp_path / "other")
    assert "does not fit" in out and "plan-9: it needs 9 more" in err
    plans = sorted((tmp_path / "e").glob("plan-*.json"))
    assert plans and run("build", net, "--plan", plans[0], "-o", tmp_path / "b")[0] == 0
    (tmp_path / "e" / "explore.json").write_text("{")
    refused(run(*arguments), "explore.json", "must be a whole one", "remove it")


def corrupt(path: Path, _: Any) -> Path:
    path.write_bytes(path.read_bytes()[:40])
    return path


def foreign(path: Path, _: Any) -> Path:
    save_file({"x": np.zeros(2)}, path)
    return path


@pytest.mark.parametrize("spoil, words", [
    (lambda path, _: path.with_name("none.nomul"), ("must exist", "nomul train")),
    (corrupt, ("must be a whole safetensors file",)),
    (foreign, ("safetensors file of something else",))])
@pytest.mark.parametrize("command", ["info", "eval", "build"])
def test_bad_network_files(run: Run, net: Path, tmp_path: Path, command: str, spoil: Any,
                           words: tuple[str, ...]) -> None:
    more = ("-o", tmp_path / "build") if command == "build" else ()
    refused(run(command, spoil(net, None), *more), *words)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("options, words", [
    (("--fold", "0x1"), ("must compute 1 to", "not 0")),
    (("--fold", "nowhere=1x1"), ("'nowhere' must be one of",)),
    (("--fold", "fast"), ("OUTPUTSxINPUTS",)),
    (("--fold", "dense1=999x1"), ("outputs at once, not 999",)),
    (("--plan", "none.json"), ("none.json", "must be readable")),
    (("--fps", "0"), ("must be above 0",)),
    (("--fps", "1e9"), ("faster clock",)),
    (("--input-lanes", "0"), ("input lanes must be 1 to",)),
    (("--target", "spartan"), ("spartan", "ice40-hx8k")),
    (("--data", "imagenet"), ("'imagenet' must be", "digits")),
    (("--data", "none.npz"), ("none.npz", "must exist")),
])
def test_bad_builds_leave_the_old_one(run: Run, net: Path, built: Path, options: tuple[str, ...],
                                      words: tuple[str, ...]) -> None:
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    refused(run("build", net, *options, "-o", built), *words)
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before


def test_foreign_folders_are_not_replaced(run: Run, net: Path, tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "love.txt").write_text("x")
    refused(run("build", net, "-o", folder), "must be new, empty or an earlier build")
    assert (folder / "love.txt").read_text() == "x"


@pytest.mark.parametrize("arrays, words", [
    ({"images": np.zeros((2, 9, 9, 1), int)}, ("must have shape",)),
    ({"images": np.full((2, 9, 9, 9), 1.5)}, ("must be integers",)),
    ({"pictures": np.zeros(3)}, ("must hold an array named images",)),
])
def test_bad_images(run: Run, net: Path, tmp_path: Path, arrays: Any,
                    words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(run("eval", net, tmp_path / "bad.npz"), *words)


def test_images_outside_the_codes(run: Run, net: Path, tmp_path: Path) -> None:
    network = load(net)
    images = np.full((2, *network.input.shape), len(network.input.levels))
    np.savez(tmp_path / "bad.npz", images=images)
    refused(run("eval", net, tmp_path / "bad.npz"), "must hold the input codes 0 to")
    np.savez(tmp_path / "bad.npz", images=images * 0, labels=np.zeros(3, int))
    refused(run("eval", net, tmp_path / "bad.npz"), "labels must be 2 integers")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    refused(run("eval", net, tmp_path / "bad.npz"), "must be a whole .npz or .npy file")


def swap_verilog(built: Path) -> None:
    text = (built / "random2.v").read_text()
    (built / "random2.v").write_text(text.replace(text[20:84], "0" * 64))


def swap_vectors(built: Path) -> None:
    path = built / "vectors.safetensors"
    path.write_bytes(path.read_bytes().replace(load(built / "network.nomul").digest.encode(),
                                               b"0" * 64))


def other_plan(built: Path) -> None:
    text = (built / "plan.json").read_text()
    (built / "plan.json").write_text(text.replace('"inputs": 1', '"inputs": 2'))


@pytest.mark.parametrize("spoil, words", [
    (swap_verilog, ("random2.v", "SHA-256 differs")),
    (swap_vectors, ("vectors.safetensors", "SHA-256 differs")),
    (other_plan, ("plan.json", "SHA-256 differs")),
    (lambda b: (b / "vectors.safetensors").unlink(), ("vectors.safetensors", "must exist")),
    (lambda b: (b / "manifest.json").write_text("{"), ("manifest.json", "must be whole")),
    (lambda b: (b / "manifest.json").unlink(), ("has no manifest.json",)),
])
@pytest.mark.parametrize("command", ["sim", "synth"])
def test_mismatched_builds_are_refused(run: Run, built: Path, command: str, spoil: Any,
                                       words: tuple[str, ...]) -> None:
    spoil(built)
    more = ("--target", "ice40-hx8k") if command == "synth" else ()
    refused(run(command, built, *more), *words)


@pytest.mark.parametrize("tool, command", [
    ("g++", ("sim",)), ("make", ("sim",)), ("perl", ("sim",))])
def test_missing_programs(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch, tool: str,
                          command: tuple[str, ...]) -> None:
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, *a, **k: None if name == tool
                        else which(name, *a, **k))
    refused(run(*command, built), f"{tool} must be installed")
    assert not (built / "sim.json").exists()


@pytest.mark.parametrize("module, command, words", [
    ("cocotb", ("sim",), ("cocotb must be installed", "nomul[sim]")),
    ("verilator", ("sim",), ("verilator must be installed", "nomul[sim]")),
])
def test_missing_packages(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch, module: str,
                          command: tuple[str, ...], words: tuple[str, ...]) -> None:
    monkeypatch.setattr("nomul.sim.verilator.find_spec",
                        lambda name: None if name == module else object())
    refused(run(*command, built), *words)


@pytest.mark.parametrize("arguments, words", [
    (("train", "cifar1000", "-o", "x.nomul"), ("'cifar1000'", "digits")),
    (("train", "digits", "--dictionary", "binary", "--bits", "3", "-o", "x.nomul"),
     ("bits of a weight must be 1",)),
    (("train", "digits", "--dictionary", "free", "--fraction", "0.5", "-o", "x.nomul"),
     ("has no setting 'fraction'",)),
    (("train", "digits", "--epochs", "0", "-o", "x.nomul"), ("epochs must be at least 1",)),
    (("synth", "BUILD"), ("a chip or a board must be named",)),
    (("synth", "BUILD", "--board", "icesugar-pro", "--link", "spi"),
     ("board 'icesugar-pro' must have SPI", "--link uart")),
    (("sim", "BUILD", "--images", "0"), ("number of images must be at least 1",)),
    (("sim", "BUILD", "--stall", "1.5"), ("chance of a stall",)),
    (("report", "nowhere"), ("nowhere", "must exist")),
    (("explore", "BUILD/network.nomul", "--target", "ecp5-26k", "-o", "x"), ("'ecp5-26k'",)),
    (("explore", "BUILD/network.nomul", "--target", "ecp5-25k", "--clock", "0", "-o", "x"),
     ("clock must be above 0",)),
])
def test_bad_arguments(run: Run, built: Path, arguments: tuple[str, ...],
                       words: tuple[str, ...]) -> None:
    refused(run(*(a.replace("BUILD", str(built)) for a in arguments)), *words)


def test_a_folder_that_cannot_be_written(run: Run, net: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(run("build", net, "-o", tmp_path / "file" / "build"), "cannot be made")


def test_doctor_lists_tools(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0 and "verilator" in out and "nextpnr-ice40" in out


def test_doctor_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(*absent: str) -> None:
        monkeypatch.setattr(doctor, "_TOOLS", tuple(
            (tool, purpose, (lambda: None) if tool in absent else find, remedy)
            for tool, purpose, find, remedy in doctor._TOOLS))

    hide("spidev", "pyftdi")
    code, out, _ = run("doctor")
    assert code == 0 and "optional" in out and "nomul[spi]" in "".join(out.split())
    hide("numpy")
    code, _, err = run("doctor")
    assert code == 2 and "1 of 25 tools are missing: numpy" in " ".join(err.split())


@pytest.mark.cocotb
def test_a_whole_data_set_in_batch(run: Run, built: Path, tmp_path: Path) -> None:
    network = load(built / "network.nomul")
    images = np.random.default_rng(1).integers(
        0, len(network.input.levels), (30, *network.input.shape))
    np.savez(tmp_path / "mine.npz", images=images, labels=np.zeros(30, dtype=int))
    code, out, _ = run("sim", built, "--batch", "--data", tmp_path / "mine.npz", "--jobs", 2)
    assert code == 0 and "cycles a second" in out
    seen = json.loads((built / "batch.json").read_text())
    assert (seen["images"], seen["mismatches"], seen["split"]) == (30, 0, "")
    assert seen["accuracy"] == seen["golden_accuracy"]
    code, _, err = run("sim", built, "--jobs", 2)
    assert code == 2 and "belong to --batch" in err


@pytest.mark.cocotb
@pytest.mark.synth
def test_an_engine_from_the_command_line(run: Run, net: Path, tmp_path: Path) -> None:
    code, out, _ = run("build", net, "--engine", 3, "--vectors", 8, "-o", tmp_path / "b")
    assert code == 0 and "3 x 1" in out
    code, out, _ = run("sim", tmp_path / "b")
    assert code == 0 and "mismatches" in out
    seen = json.loads((tmp_path / "b" / "sim.json").read_text())
    assert seen["cycles"]["interval"] == seen["cycles"]["ideal_interval"]
    code, out, _ = run("synth", tmp_path / "b", "--target", "ice40-up5k", "--seeds", 1)
    assert code == 0
    figures = json.loads((tmp_path / "b" / "synth.json").read_text())["targets"]["ice40-up5k"]
    amounts = figures["bram_bits"]
    assert 0 < amounts["stored"] <= amounts["weights"] <= amounts["allocated"]
    assert sum(figures["memories"].values()) == figures["bram"]
    assert run("report", tmp_path / "b")[0] == 0
    for option in (("--fold", "2x2"), ("--lean",)):
        code, _, err = run("build", net, "--engine", 3, *option, "-o", tmp_path / "c")
        assert code == 2 and option[0] in err


@pytest.mark.cocotb
@pytest.mark.synth
def test_weights_in_spram_from_the_command_line(run: Run, net: Path, tmp_path: Path) -> None:
    build = ("build", net, "--engine", 3, "--weights-in", "spram", "--vectors", 4)
    built = tmp_path / "b"
    code, out, _ = run(*build, "--target", "ice40-up5k", "-o", built)
    assert code == 0 and "spram" in out
    manifest = json.loads((built / "manifest.json").read_text())
    content = (built / "weights.bin").read_bytes()
    assert manifest["weights"] == "weights.bin"
    assert manifest["sha256"]["weights.bin"] == hashlib.sha256(content).hexdigest()
    assert run("sim", built)[0] == 0
    seen = json.loads((built / "sim.json").read_text())
    assert seen["cycles"]["interval"] == seen["cycles"]["ideal_interval"]
    assert seen["mismatches"] == 0
    refused(run(*build, "--target", "ice40-hx8k", "-o", tmp_path / "c"),
            "block RAM on ice40-hx8k", "has no SPRAM")
    refused(run(*build, "--board", "icebreaker", "-o", tmp_path / "c"),
            "block RAM for board 'icebreaker'", "--weights-in block")
    refused(run("synth", built, "--board", "icebreaker"), "block RAM for board 'icebreaker'")
    refused(run("run", built, "--simulate"), "block RAM for a board's link")
    refused(run("faults", built), "block RAM for upsets")
    refused(run("asic", built, "-o", tmp_path / "asic"), "block RAM for an ASIC")
    code, _, err = run("build", net, "--weights-in", "spram", "-o", tmp_path / "c")
    assert code == 2 and "belongs to --engine" in err
    (built / "weights.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(run("sim", built), "weights.bin", "as it was built")


@pytest.mark.cocotb
@pytest.mark.synth
def test_the_netlist_of_a_chip(run: Run, built: Path) -> None:
    code, out, _ = run("sim", built, "--netlist", "icebreaker", "--images", 20)
    assert code == 0 and "accuracy, netlist for ice40-up5k" in out
    seen = json.loads((built / "netlist.json").read_text())
    assert seen["network"] == load(built / "network.nomul").digest
    facts = seen["targets"]["ice40-up5k"]
    assert (facts["images"], facts["mismatches"], facts["placed"]) == (20, 0, False)
    refused(run("sim", built, "--netlist", "ice41"), "'ice41'", "ice40-hx8k")
    code, _, err = run("sim", built, "--netlist", "ice40-hx8k", "--batch")
    assert code == 2 and "exclude each other" in err


@pytest.mark.cocotb
def test_a_wrong_circuit_is_found_and_named(run: Run, built: Path, tmp_path: Path) -> None:
    """The broken twin of the proof: the Verilog of other weights, digests made to match."""
    network = load(built / "network.nomul")
    layer = network["dense1"]
    assert isinstance(layer, Dense)
    other = Network(name=network.name, layers=tuple(
        replace(layer, bias=layer.bias + 1000) if other is layer else other
        for other in network.layers))
    save(other, tmp_path / "other.nomul")
    assert run("build", tmp_path / "other.nomul", "-o", tmp_path / "other")[0] == 0
    name = f"{network.name}.v"
    wrong = (tmp_path / "other" / name).read_text().replace(other.digest, network.digest)
    (built / name).write_text(wrong)
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(wrong.encode()).hexdigest()
    (built / "manifest.json").write_text(json.dumps(manifest))

    code, _, err = run("sim", built, "--images", 8)
    assert code == 1
    assert "8 images differ; first: layer 'dense1', image 0, position [" in err
    assert json.loads((built / "sim.json").read_text())["mismatches"] > 0


@pytest.mark.cocotb
@pytest.mark.synth
def test_sim_synth_and_report(run: Run, built: Path) -> None:
    code, out, _ = run("sim", built)
    assert code == 0 and "mismatches" in out
    code, out, _ = run("synth", built, "--target", "ice40-up5k", "--board", "icebreaker",
                       "--seeds", 1)
    assert code == 0 and "ice40-up5k" in out
    assert run("report", built)[0] == 0
    facts = json.loads((built / "report.json").read_text())
    assert facts["bitexact"]["mismatches"] == 0
    figures = facts["synthesis"]["ice40-up5k"]
    assert figures["fits"] and figures["dsp"] == 0
    assert (built / figures["bitstream"]).stat().st_size > 10_000
    assert set(figures["layers"]) >= {"dense1", "dense2"}


@pytest.mark.synth
def test_a_net_too_big_is_refused_and_others_are_kept(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = Network(name="big", layers=(
        Input(name="pixels", shape=(8, 8, 1), levels=Levels.uniform(16)),
        Flatten(name="flat", inputs=("pixels",)),
        Dense(name="dense1", inputs=("flat",), dictionary=[-4, -2, -1, 0, 1, 2, 4, 8],
              assignment=rng.integers(0, 8, (64, 64)), bias=np.zeros(64, int))))
    save(network, tmp_path / "big.nomul")
    assert run("build", tmp_path / "big.nomul", "--fold", "32x16", "-o", tmp_path / "b")[0] == 0
    refused(run("synth", tmp_path / "b", "--target", "ice40-up5k"),
            "'big' does not fit ice40-up5k", "logic cells and the chip has 5,280", "--fold")
    assert not (tmp_path / "b" / "synth.json").exists()
