"""Data sets: whole, fixed for ever, split once; without torch."""
import subprocess
import sys

import numpy as np
import pytest

from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.quantize.datasets import load

TEST = [2, 3, 11, 13, 15, 20]
DIGEST = "0cdbf73887d74986878c15ef13de967517d248f24deb97c21a52f72b966b0aa8"


def test_digits_are_codes_of_four_bits() -> None:
    data = load("digits")
    assert data.images.shape == (1797, *data.shape) == (1797, 8, 8, 1)
    assert data.images.dtype == np.uint8
    assert data.images.min() == 0 and data.images.max() == 15
    assert len(data.levels) == 16 and data.levels.exponent == -4
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "CC BY 4.0" in data.licence


def test_digits_are_split_once() -> None:
    data = load("digits")
    assert data.sizes == {"train": 1257, "validation": 180, "test": 360}
    whole = np.concatenate([data.train, data.validation, data.test])
    assert np.array_equal(np.sort(whole), np.arange(1797))
    for part, size in ((data.validation, 180), (data.test, 360)):
        share = np.bincount(data.labels) * size / 1797
        assert (np.abs(np.bincount(data.labels[part]) - share) < 1).all()
    assert data.test[:6].tolist() == TEST
    assert data.digest == DIGEST == load("digits").digest


def test_arrays_cannot_be_changed() -> None:
    data = load("digits")
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError) as error:
        load("mnits")
    assert str(error.value) == ("data set 'mnits' is unknown; known are: cifar10, digits, "
                                "fashion, mnist")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ToolError) as error:
        load("digits")
    assert str(error.value) == ("data set 'digits': scikit-learn must be installed; "
                                "run: pip install nomul[train]")


def test_data_and_memory_need_no_torch() -> None:
    code = ("import sys, nomul.compiler.quantize.memory; "
            "from nomul.compiler.quantize.datasets import load; load('digits'); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
