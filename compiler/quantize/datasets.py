"""Data sets as integer codes, with one fixed split each. Needs no torch."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.network import Levels

__all__ = ["DATASETS", "Dataset", "load"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images with labels, and who may see which of them.

    Parameters
    ----------
    name : str
        As `load` knows it.
    images : array of uint8, shape [N, height, width, channels]
        Codes.
    levels : Levels
        What the codes mean.
    labels : array of int64, shape [N]
        Classes.
    classes : tuple of str
        Their names.
    train, validation, test : array of int64
        Indices into the images: to learn from, to choose by, to report. Disjoint.
    licence : str
        Origin and terms.
    """

    name: str
    images: NDArray[np.uint8]
    levels: Levels
    labels: Indices
    classes: tuple[str, ...]
    train: Indices
    validation: Indices
    test: Indices
    licence: str

    def __post_init__(self) -> None:
        for array in self._arrays():
            array.flags.writeable = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part of the split."""
        return {"train": len(self.train), "validation": len(self.validation),
                "test": len(self.test)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, labels and split, in hexadecimal."""
        state = hashlib.sha256(b"nomul.dataset 1\n")
        for array in self._arrays():
            state.update(f"{array.shape}\n".encode())
            state.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return state.hexdigest()

    def _arrays(self) -> tuple[NDArray[np.integer], ...]:
        return self.images, self.labels, self.train, self.validation, self.test


def load(name: str) -> Dataset:
    """The data set called ``name``.

    Raises
    ------
    DataError
        If there is none of that name.
    ToolError
        If a package that holds it is missing.
    """
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise DataError(f"data set {name!r} is unknown; known are: {known}")
    return DATASETS[name]()


def _digits() -> Dataset:
    """8 by 8 digits of scikit-learn; pixels 0 to 16 become ``min(pixel, 15)``, 16ths each."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ToolError("data set 'digits': scikit-learn must be installed; "
                        "run: pip install nomul[train]") from error
    source = load_digits()
    labels = source.target.astype(np.int64)
    train, validation, test = _split(labels, validation=180, test=360, seed=0)
    return Dataset(
        name="digits",
        images=source.images.clip(max=15).astype(np.uint8)[..., np.newaxis],
        levels=Levels.uniform(16, exponent=-4),
        labels=labels,
        classes=tuple("0123456789"),
        train=train, validation=validation, test=test,
        licence="Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI "
                "Machine Learning Repository, CC BY 4.0; the copy in scikit-learn")


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits}


def _split(labels: Indices, *, validation: int, test: int, seed: int,
           ) -> tuple[Indices, Indices, Indices]:
    """Train, validation and test indices, each in increasing order and stratified.

    Depends on ``labels`` and ``seed`` alone: a class's images are ordered by random
    keys of PCG64, whose stream is fixed for ever.
    """
    keys = np.random.Generator(np.random.PCG64(seed)).random(len(labels))
    counts = np.bincount(labels)
    tests, validations = _shares(counts, test), _shares(counts, validation)
    parts: tuple[list[Indices], ...] = ([], [], [])
    for label, (first, second) in enumerate(zip(tests, validations, strict=True)):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(keys[members], kind="stable")]
        for part, chosen in zip(parts, np.split(members, [first, first + second]), strict=True):
            part.append(chosen)
    tested, validated, trained = (np.sort(np.concatenate(part)) for part in parts)
    return trained, validated, tested


def _shares(counts: Indices, total: int) -> Indices:
    """``total`` shared out in proportion to ``counts``, by largest remainder."""
    shares: Indices = counts * total // counts.sum()
    remainders = counts * total % counts.sum()
    shares[np.argsort(-remainders, kind="stable")[:total - shares.sum()]] += 1
    return shares
