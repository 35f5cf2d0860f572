# amaranth: UnusedElaboratable=no
"""The bench of unrolled networks: what it gives the peers is what we build."""
from pathlib import Path

import numpy as np
import pytest

from nomul.compiler.errors import ModelError, ToolError
from nomul.compiler.network import Argmax
from nomul.compiler.storage import load
from nomul.images import load_images
from nomul.peers import affines, main, markdown, scores_of
from nomul.sim.golden import run

ZOO = Path(__file__).parents[1] / "examples" / "zoo"


@pytest.mark.parametrize("name", ["pow2_3bit", "free_4bit", "pruned_4bit", "fixed_4bit"])
def test_the_layers_say_what_the_network_does(name: str) -> None:
    network = load(ZOO / f"digits_{name}.nomul")
    images = load_images("digits", network, split="test").codes[:50]
    values = images.reshape(50, -1)
    for layer in affines(scores_of(network)):
        values = values @ layer.matrix.T + layer.offsets
        if layer.shift is not None:
            values = np.clip(values >> layer.shift, 0, (1 << layer.bits) - 1)
    scores = scores_of(network)
    assert isinstance(network.layers[-1], Argmax) and not isinstance(scores.layers[-1], Argmax)
    assert (run(scores, images).output.reshape(50, -1) == values).all()


def test_thresholds_that_are_no_shift_are_left_out() -> None:
    with pytest.raises(ModelError, match="thresholds must be a common shift apart"):
        affines(scores_of(load(ZOO / "digits_binary.nomul")))


def test_a_missing_peer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomul.peers.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"'da4ml' must be installed .* 'nomul\[peers\]'"):
        main(tmp_path, ZOO)


def test_the_page_says_what_was_measured() -> None:
    page = markdown([("`net`", "ecp5-25k", "nomul", 1000, 20, 1020, 30, 1040)])
    assert "| `net` | ecp5-25k | nomul | 1,000 | 20 | 1,020 | 30 | 1,040 |" in page


def test_the_table_has_ours_below_both_peers() -> None:
    text = (ZOO.parents[1] / "docs" / "unrolled.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in text.splitlines() if line.startswith("| `digits_")]
    sizes = {(net, chip, name): (int(both.replace(",", "")), int(packed.replace(",", "")))
             for net, chip, name, _, _, both, _, packed in cells}
    ours = [(net, chip) for net, chip, name in sizes if name == "nomul"]
    assert len(ours) == 8
    for net, chip in ours:
        for peer in ("da4ml", "alkaid"):
            assert all(a < b for a, b in zip(sizes[net, chip, "nomul"], sizes[net, chip, peer],
                                             strict=True)), (net, chip, peer)
