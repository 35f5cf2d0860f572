"""Networks on disk: load(save(n)) == n, and what is refused."""
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from nomul.compiler.errors import DataError, ModelError, NomulError
from nomul.compiler.network import Dense, Network, Weighted
from nomul.compiler.storage import load, load_provenance, save
from nomul.sim.random_networks import random_network


@pytest.mark.parametrize("seed", range(40))
def test_load_gives_back_what_was_saved(tmp_path: Path, seed: int) -> None:
    network = random_network(seed)
    save(network, tmp_path / "net.nomul", provenance={"seed": seed})
    again = load(tmp_path / "net.nomul")
    assert again == network and again.digest == network.digest
    assert load_provenance(tmp_path / "net.nomul") == {"seed": seed}


def rewrite(path: Path, change: Any) -> None:
    """The file at ``path`` again, with its header and arrays changed."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["nomul"])
        arrays = {name: file.get_tensor(name).astype(np.int64) for name in file.keys()}
    change(header, arrays)
    save_file(arrays, path, {"nomul": json.dumps(header)})


def flip_a_weight(header: Any, arrays: Any) -> None:
    name = next(name for name in arrays if name.endswith("assignment"))
    arrays[name].flat[0] ^= 1


def weight_outside(header: Any, arrays: Any) -> None:
    arrays[next(name for name in arrays if name.endswith("assignment"))].flat[0] = 99


def nan_dictionary(header: Any, arrays: Any) -> None:
    name = next(name for name in arrays if name.endswith("dictionary"))
    arrays[name] = arrays[name] * np.nan


@pytest.mark.parametrize("change, message", [
    (flip_a_weight, "contents must match its digest"),
    (weight_outside, "assignment must be within the dictionary of 8 entries, not 99"),
    (nan_dictionary, "dictionary must be finite, but hold NaN or infinity"),
    (lambda header, arrays: header.update(version=99), "must have format nomul.network 1"),
    (lambda header, arrays: header.update(network={"type": "Levels"}),
     "header describes no network"),
    (lambda header, arrays: header.update(network=[]), "contents must match its digest"),
    (lambda header, arrays: arrays.clear() or arrays.update(x=np.zeros(1)),
     "header describes no network"),
])
def test_changed_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "net.nomul"
    network = next(n for n in map(random_network, range(99)) if isinstance(n, Network)
                   and isinstance(n.layers[2], Dense) and len(n.layers[2].dictionary) == 8
                   and n.layers[2].widths is None)
    save(network, path)
    rewrite(path, change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"network file '{path}'")


def has_widths(network: Network) -> bool:
    return any(layer.widths is not None for layer in network.layers
               if isinstance(layer, Weighted))


def has_corrections(network: Network) -> bool:
    return any(layer.corrections is not None for layer in network.layers
               if isinstance(layer, Weighted))


@pytest.mark.parametrize("widths, corrections, version", [
    (False, False, 1), (True, False, 2), (False, True, 3), (True, True, 3)])
def test_only_files_with_what_is_new_have_the_new_version(
        tmp_path: Path, widths: bool, corrections: bool, version: int) -> None:
    """Older versions of nomul read the others, and say of these that they are too new."""
    network = next(n for n in map(random_network, range(99))
                   if (has_widths(n), has_corrections(n)) == (widths, corrections))
    save(network, tmp_path / "net.nomul")
    with safe_open(tmp_path / "net.nomul", framework="numpy") as file:
        header = json.loads(file.metadata()["nomul"])
    assert header["version"] == version
    assert ("widths" in json.dumps(header)) is widths
    assert ("corrections" in json.dumps(header)) is corrections
    assert load(tmp_path / "net.nomul") == network


def test_files_of_version_1_can_name_what_is_left_out(tmp_path: Path) -> None:
    """As the first releases wrote them."""
    path = tmp_path / "net.nomul"
    network = next(n for n in map(random_network, range(99)) if not has_widths(n)
                   and not has_corrections(n))
    save(network, path)

    def name_all(header: Any, arrays: Any) -> None:
        for layer in header["network"]["layers"]:
            if layer["type"] == "Dense":
                layer.setdefault("table", None)
                layer.setdefault("staircase", None)

    rewrite(path, name_all)
    assert load(path) == network


def test_foreign_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.nomul"
    with pytest.raises(DataError, match="must exist; make it with 'nomul train'"):
        load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ModelError, match="is a safetensors file of something else"):
        load(path)
    save(random_network(1), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match="must be a whole safetensors file"):
        load(path)
    path.write_text("not a network")
    with pytest.raises(ModelError, match="must be a whole safetensors file"):
        load(path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "net.nomul"
    save(random_network(1), path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(NomulError, match=r"cannot be written \(No space left on device\)"):
        save(random_network(2), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
