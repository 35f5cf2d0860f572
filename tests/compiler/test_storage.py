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
from nomul.compiler.network import Network
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
    network = next(n for n in map(random_network, range(99))
                   if isinstance(n, Network) and len(getattr(n.layers[2], "dictionary", ())) == 8)
    save(network, path)
    rewrite(path, change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"network file '{path}'")


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
