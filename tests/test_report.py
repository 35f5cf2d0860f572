"""The report of a build folder: its JSON, its page, and what it refuses."""
from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.compiler.errors import DataError, NomulError, ToolError
from nomul.compiler.network import Argmax, Dense, Flatten, Input, Levels, Network, Staircase
from nomul.compiler.storage import save
from nomul.report import is_shift_add, value_bits, write_report

IMAGES = 6
LABELS = [0, 1, 2, 2, 9, 9]
PREDICTIONS = [0, 1, 2, 3, 9, 9]


def small_network(seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return Network(name="tiny", layers=(
        Input(name="image", shape=(4, 4, 1), levels=Levels.uniform(16)),
        Flatten(name="flat", inputs=("image",)),
        Dense(name="hidden", inputs=("flat",), dictionary=np.array([-4, -2, -1, 0, 1, 2, 4, 8]),
              assignment=rng.integers(0, 8, (12, 16)), bias=np.zeros(12, int), exponent=-3,
              staircase=Staircase(thresholds=np.array([[10, 20, 30]]),
                                  levels=Levels.uniform(4))),
        Dense(name="scores", inputs=("hidden",), dictionary=np.array([-3, 0, 5]),
              assignment=rng.integers(0, 3, (10, 12)), bias=np.zeros(10, int)),
        Argmax(name="digit", inputs=("scores",)),
    ))


def sim_results() -> dict[str, Any]:
    return {
        "images": IMAGES, "mismatches": 0, "first_difference": None, "accuracy": 0.8333,
        "golden_accuracy": 0.8333, "split": "test", "labels": LABELS,
        "predictions": PREDICTIONS,
        "cycles": {"latency": 61, "ideal_latency": 60, "interval": 50, "ideal_interval": 48},
        "timeline": [{"layer": layer, "image": image, "first": 50 * image + start,
                      "last": 50 * image + start + 20}
                     for image in range(6) for layer, start in (("hidden", 5), ("scores", 30))],
        "simulator": "Verilator 5.048, cocotb 2.1.0", "stall": 0.25, "seed": 7}


def synth_results() -> dict[str, Any]:
    layer = {"lut4": 100, "carry": 40, "ff": 60, "bram": 1, "dsp": 0}
    counts = {"lut4": 200, "carry": 80, "ff": 120, "bram": 2, "lutram": 0, "dsp": 0,
              "multipliers": 0, "logic_cells": 260, "layers": {"hidden": layer, "scores": layer}}
    return {"tools": {"pyosys": "0.70"}, "targets": {
        "ice40-hx8k": {
            **counts, "fits": True, "capacity": {"logic_cells": 7680, "bram": 32, "dsp": 0},
            "fmax_mhz": {"min": 49.0, "median": 50.0, "max": 52.0,
                         "seeds": {"1": 49.0, "2": 50.0, "3": 52.0}},
            "bram_bits": {"stored": 3072, "allocated": 8192, "weights": 4096},
            "memories": {"network.body.dense1.dots.weights.table": 1,
                         "network.body.dense1.replay.memory": 1}, "bitstream": "tiny.bin"},
        "toy": {**counts, "fits": False, "fmax_mhz": None, "bitstream": None,
                "capacity": {"logic_cells": 100, "bram": 1, "dsp": 0}}}}


def put(folder: Path, name: str, content: dict[str, Any], network: Network) -> None:
    (folder / name).write_text(json.dumps({"network": network.digest, **content}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A build folder that was simulated and synthesised."""
    network = small_network()
    path = tmp_path / "build"
    path.mkdir()
    save(network, path / "network.nomul", provenance={
        "recipe": {"name": "digits"}, "method": "lutq", "dictionary": {"kind": "pow2", "bits": 3},
        "seed": 1, "command": "nomul train digits -o tiny.nomul",
        "data": {"name": "digits", "digest": "abc", "sizes": {"train": 10, "test": 6}},
        "accuracy": {"float_test": 0.9, "quantized_test": 0.8333,
                     "quantized_validation": 0.75}})
    put(path, "plan.json", {"layers": [{"name": "hidden", "outputs": 2, "inputs": 2},
                                       {"name": "scores", "outputs": 1, "inputs": 4}]}, network)
    put(path, "manifest.json", {
        "top": "tiny", "verilog": "tiny.v", "tools": {"amaranth": "0.5.10"},
        "estimate": {"ideal_interval": 48, "ideal_latency": 60,
                     "layers": {"hidden": 48, "scores": 30},
                     "targets": {"ice40-hx8k": {
                         "lut4": 987, "carry": 100, "ff": 200, "logic_cells": 1234, "bram": 2,
                         "dsp": 0}}}}, network)
    put(path, "sim.json", sim_results(), network)
    put(path, "synth.json", synth_results(), network)
    return path


def facts_of(folder: Path) -> dict[str, Any]:
    page = write_report(folder)
    assert page == folder / "report.html"
    facts: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return facts


class Page(HTMLParser):
    """Collects what a page refers to, its text, and whether its elements match up."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += " ".join(data.replace("\N{NO-BREAK SPACE}", " ").split()) + " "


def test_json_says_what_was_measured(folder: Path) -> None:
    network = small_network()
    facts = facts_of(folder)
    assert facts["network"] == {
        "name": "tiny", "digest": network.digest, "weights": 312, "weight_bits": 816,
        # 192 weights of 3 bits with 8 entries from -4 to 8; 120 of 2 with 3 from -3 to 5
        "memory_bits": 192 * 3 + 8 * 5 + 120 * 2 + 3 * 4, "float32_bits": 32 * 312,
        "table_entries": 3 * 4,
        "multiplications": {"before": 312, "after": 0, "regrouped": 8 * 12 + 3 * 10}}
    assert facts["memory"]["hidden"] == {
        "index_bits": 3, "value_bits": 5, "assignments": 576, "dictionary": 40, "bits": 616,
        "float32_bits": 6144}
    assert facts["status"] == {"simulation": "bit-exact", "synthesis": "synthesised"}
    assert facts["accuracy"] == {"float": 0.9, "golden": 0.8333, "rtl": 0.8333,
                                 "images": IMAGES, "partial": False, "split": "test"}
    assert facts["bitexact"] == {
        "images": IMAGES, "mismatches": 0, "first_difference": None,
        "simulator": "Verilator 5.048, cocotb 2.1.0", "stall": 0.25, "seed": 7}
    assert facts["cycles"] == {"latency": 61, "ideal_latency": 60, "interval": 50,
                               "ideal_interval": 48}
    assert facts["tools"] | {"nomul": ""} == {
        "nomul": "", "amaranth": "0.5.10", "pyosys": "0.70",
        "simulator": "Verilator 5.048, cocotb 2.1.0"}

    placed, large = facts["synthesis"]["ice40-hx8k"], facts["synthesis"]["toy"]
    given = synth_results()["targets"]["ice40-hx8k"]
    assert {key: placed[key] for key in given} == given
    assert placed["inferences_per_second"] == 50e6 / 50
    assert large["fmax_mhz"] is None and large["inferences_per_second"] is None

    confusion = np.array(facts["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum() == IMAGES
    assert confusion[2, 3] == 1 and confusion[9, 9] == 2

    hidden, scores = facts["layers"]
    assert (hidden["products"], scores["products"]) == ("shift-add", "table")
    assert hidden["fold"] == {"outputs": 2, "inputs": 2}
    assert hidden["zeros"] == int((network["hidden"].weights == 0).sum())  # type: ignore[attr-defined]
    assert scores["estimated_cycles"] == 30


def test_page_reads_nothing_from_outside(folder: Path) -> None:
    text = write_report(folder).read_text("utf-8")
    page = Page(text)
    assert "http" not in text and "@import" not in text and "//" not in text
    assert all(reference.startswith("#") for reference in page.references)
    assert all(reference[1:] in page.ids for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(target in page.ids for target in re.findall(r"url\(#([^)]+)\)", text))
    assert "url(" not in re.sub(r"url\(#[^)]+\)", "", text)


def test_page_shows_the_figures(folder: Path) -> None:
    text = write_report(folder).read_text("utf-8")
    words = Page(text).words
    for shown in ("tiny", "bit-exact 6 / 6 images", "accuracy 83.33 % in Verilog",
                  "0 multipliers", "fits ice40-hx8k", "too large for toy", "1,000,000",
                  "312 before, 0 after; 126", "50.0 MHz", "61 cycles", "ideal 48",
                  "75.0 %", "dense1.replay.memory",
                  "stalled 25 % of the time, seed 7", "Verilator 5.048", "10 train / 6 test",
                  "nomul train digits -o tiny.nomul", "nomul build tiny.nomul -o build/",
                  "260.0 %, 260 of 100", "ice40-hx8k, estimated", "987", "1,234"):
        assert shown in words, shown
    # Seven plots, each described in words, in colours of the page alone.
    assert len(re.findall(r'<svg role="img" aria-label="[^"]{20,}"', text)) == 7
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)


def test_equal_folders_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    again = shutil.copytree(folder, tmp_path / "elsewhere")
    for name in ("report.html", "report.json"):
        assert (write_report(folder).with_name(name).read_bytes()
                == write_report(again).with_name(name).read_bytes())


def test_settings_of_the_user_do_not_matter(folder: Path) -> None:
    import matplotlib

    page = write_report(folder).read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert write_report(folder).read_bytes() == page
        assert matplotlib.rcParams["font.size"] == 30


def test_what_was_not_run_is_said(folder: Path) -> None:
    (folder / "sim.json").unlink()
    (folder / "synth.json").unlink()
    facts = facts_of(folder)
    assert facts["status"] == {"simulation": "not simulated", "synthesis": "not synthesised"}
    assert set(facts["bitexact"].values()) == {None}
    assert facts["cycles"] == {"latency": None, "ideal_latency": 60, "interval": None,
                               "ideal_interval": 48}
    assert facts["synthesis"] is None and facts["confusion"] is None
    assert facts["accuracy"] == {"float": 0.9, "golden": 0.8333, "rtl": None, "images": None,
                                 "partial": False, "split": "test"}
    words = Page((folder / "report.html").read_text("utf-8")).words
    for shown in ("not simulated", "nomul sim fills this in", "nomul synth fills this in"):
        assert shown in words
    assert "bit-exact" not in words


def test_synthesis_without_simulation_gives_no_rate(folder: Path) -> None:
    (folder / "sim.json").unlink()
    target = facts_of(folder)["synthesis"]["ice40-hx8k"]
    assert target["fmax_mhz"]["median"] == 50.0 and target["inferences_per_second"] is None


def test_the_least_a_folder_can_say(folder: Path) -> None:
    network = small_network()
    save(network, folder / "network.nomul")
    least: dict[str, dict[str, Any]] = {
        "plan.json": {}, "manifest.json": {}, "sim.json": {"images": 0, "mismatches": 0},
        "synth.json": {"targets": {"bare": {}}}}
    for name, content in least.items():
        put(folder, name, content, network)
    facts = facts_of(folder)
    assert facts["synthesis"]["bare"]["lut4"] is None
    assert facts["accuracy"]["float"] is None
    assert "No accuracy was recorded" in Page(
        (folder / "report.html").read_text("utf-8")).words


def test_differences_stand_on_top(folder: Path) -> None:
    put(folder, "sim.json", {**sim_results(), "mismatches": 2, "first_difference": {
        "layer": "hidden", "image": 3, "position": [0, 1], "expected": 2, "got": 1,
        "cycle": 188}}, small_network())
    assert facts_of(folder)["status"]["simulation"] == "differs"
    words = Page((folder / "report.html").read_text("utf-8")).words
    assert "2 mismatches in 6 images" in words and "bit-exact" not in words
    assert "layer hidden, image 3, position 0, 1, expected 2, got 1, cycle 188" in words


def test_multipliers_are_counted(folder: Path) -> None:
    results = synth_results()
    results["targets"]["toy"]["dsp"] = 3
    put(folder, "synth.json", results, small_network())
    assert "✗ 3 multipliers" in Page(write_report(folder).read_text("utf-8")).words


def test_names_are_escaped(folder: Path) -> None:
    results = synth_results()
    results["targets"] = {"<b>&\"toy": results["targets"]["toy"]}
    put(folder, "synth.json", results, small_network())
    text = write_report(folder).read_text("utf-8")
    assert "<b>" not in text and '<b>&"toy' in Page(text).words


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "sim.json", "synth.json"])
def test_files_of_another_network_are_refused(folder: Path, name: str) -> None:
    content = json.loads((folder / name).read_text())
    put(folder, name, {**content, "network": small_network(1).digest}, small_network())
    with pytest.raises(DataError, match=rf"{name}' must be of the network in this folder "
                                        rf"\(digest {small_network().digest[:12]}\), not of "
                                        rf"{small_network(1).digest[:12]}; .*'nomul "):
        write_report(folder)


@pytest.mark.parametrize("content", [
    b"{", b"[]", b"\xff", b"", b'{"images": NaN}', b"null"])
@pytest.mark.parametrize("name, command", [
    ("plan.json", "build"), ("manifest.json", "build"), ("sim.json", "sim"),
    ("synth.json", "synth")])
def test_broken_json_is_refused(folder: Path, name: str, command: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"file '.*{name}' must .*JSON.*; .*'nomul {command}"):
        write_report(folder)


@pytest.mark.parametrize("change, message", [
    ({"images": "six"}, "images must be an integer of at least 0, not 'six'"),
    ({"images": True}, "images must be an integer of at least 0, not True"),
    ({"mismatches": None}, "mismatches must be an integer of at least 0, not None"),
    ({"accuracy": 83.3}, "accuracy must be from 0 to 1, not 83.3"),
    ({"cycles": []}, r"cycles must be an object, not \[\]"),
    ({"cycles": {"interval": 1.5}}, "cycles.interval must be an integer, not 1.5"),
    ({"labels": [1, 2]}, r"labels must be one for each of 6 predictions, not \[1, 2\]"),
    ({"labels": [-1] * 6}, "labels must be classes from 0 to 999"),
    ({"labels": [0.5] * 6}, "labels must be a list of integers"),
    ({"timeline": [{"layer": "hidden", "image": 0, "first": 9, "last": 3}]},
     r"timeline\[0\].last must be at least 9, the first cycle, not 3"),
    ({"timeline": [3]}, "timeline must be a list of objects"),
    ({"simulator": 5}, "simulator must be a string, not 5"),
])
def test_wrong_values_are_refused_by_name(folder: Path, change: dict[str, Any],
                                          message: str) -> None:
    put(folder, "sim.json", {**sim_results(), **change}, small_network())
    with pytest.raises(DataError, match=f"sim.json': {message}.*; run 'nomul sim .*' again"):
        write_report(folder)


@pytest.mark.parametrize("name", ["network.nomul", "plan.json", "manifest.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}' must exist; .*'nomul build'"):
        write_report(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*nowhere' must exist; make it with 'nomul build'"):
        write_report(tmp_path / "nowhere")


def test_broken_network_is_refused(folder: Path) -> None:
    (folder / "network.nomul").write_bytes(b"no network")
    with pytest.raises(NomulError, match=r"network\.nomul' must be a whole"):
        write_report(folder)


@pytest.mark.parametrize("taken", ["report.html", "report.json"])
def test_refused_report_leaves_the_old_one(folder: Path, taken: str) -> None:
    kept = "report.json" if taken == "report.html" else "report.html"
    (folder / kept).write_text("old")
    (folder / taken).mkdir()
    with pytest.raises(DataError, match=f"{taken}' must be a file, but is a folder"):
        write_report(folder)
    assert (folder / kept).read_text() == "old"

    (folder / taken).rmdir()
    (folder / taken).write_text("old")
    (folder / "sim.json").write_text("{")
    with pytest.raises(DataError):
        write_report(folder)
    assert {(folder / name).read_text() for name in (kept, taken)} == {"old"}
    assert not list(folder.glob(".report*"))


def test_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nomul.report_page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ToolError, match=r"'jinja2'.*pip install 'nomul\[report\]'"):
        write_report(folder)


@pytest.mark.parametrize("dictionary, bits", [
    ([0], 1), ([1], 1), ([0, 3], 2), ([0, 4], 3), ([-1, 1], 2), ([-4, 3], 3), ([-4, 4], 4),
    ([-5, 0], 4), ([-128, 127], 8), ([-1], 1), ([-3, -2], 3)])
def test_dictionary_width(dictionary: list[int], bits: int) -> None:
    assert value_bits(np.array(dictionary)) == bits


@pytest.mark.parametrize("products, expected", [
    ([[0, 4, 8], [0, 0, 0], [0, -1, -2]], True),
    ([[7, 9, 11]], True),          # an offset and 2 times the code
    ([[0, 3, 6]], False),
    ([[0, 1, 4]], False),          # a power of two each, but of no one shift
    ([[5]], True),
    ([[0], [3]], True),
])
def test_products_that_need_no_table(products: list[list[int]], expected: bool) -> None:
    assert is_shift_add(np.array(products)) is expected
