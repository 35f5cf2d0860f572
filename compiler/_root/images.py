"""Images for a network: from a data set, from a file, or random."""
from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError
from nomul.compiler.network import Network
from nomul.compiler.quantize.datasets import DATASETS, load, requantize
from nomul.compiler.values import Levels
from nomul.sim.golden import check_images

__all__ = ["RANDOM", "Images", "load_files", "load_images"]

RANDOM = "random"
SPLITS = ("train", "validation", "test", "all")
_RANDOM_IMAGES = 64
# What the pixels of a picture mean, as in the data sets.
_PIXELS = Levels.uniform(256, exponent=-8)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Input codes of a network, [images, height, width, channels], and their classes if known.

    ``split`` is the part of the data set, or empty.
    """

    source: str
    split: str
    codes: NDArray[np.int64]
    labels: NDArray[np.int64] | None

    def first(self, count: int) -> Images:
        """The first ``count`` of them."""
        return replace(self, codes=self.codes[:count],
                       labels=None if self.labels is None else self.labels[:count])


def load_images(data: str, network: Network, *, split: str = "test") -> Images:
    """Images that fit ``network``.

    Parameters
    ----------
    data : str
        Name of a data set; a ``.npz`` file with ``images`` and, if known, ``labels``; a
        ``.npy`` file of images; or ``random``.
    split : str
        Which images of a data set: train, validation, test or all.

    Raises
    ------
    DataError
        If there is no such data, or it does not fit the network.
    """
    if data == RANDOM:
        rng = np.random.default_rng(0)
        codes = rng.integers(0, len(network.input.levels), (_RANDOM_IMAGES, *network.input.shape))
        return Images(source=RANDOM, split="", codes=codes, labels=None)
    if data in DATASETS:
        dataset = load(data)
        index = (np.arange(len(dataset.images)) if split == "all" else getattr(dataset, split))
        return Images(source=data, split=split, labels=dataset.labels[index],
                      codes=check_images(network, dataset.codes(network.input.levels)[index]))
    path = Path(data)
    if path.suffix not in (".npy", ".npz"):
        known = ", ".join((*sorted(DATASETS), RANDOM))
        raise DataError(f"data {data!r} must be {known}, or a .npz or .npy file")
    return _array_file(path, network)


def load_files(files: Sequence[Path], network: Network, *, pixels: bool = False) -> Images:
    """Images in files: pictures of one each, or arrays.

    Parameters
    ----------
    files : sequence of Path
        At least one: ``.npz`` and ``.npy`` files as for `load_images`, or pictures of any kind that
        Pillow reads, which must have the network's height and width.
    pixels : bool
        Whether arrays hold pixels of 0 to 255 instead of the network's codes. Pictures always do.

    Raises
    ------
    DataError
        A file cannot be read, or does not fit the network.
    """
    parts = [_array_file(path, network, pixels=pixels) if path.suffix in (".npy", ".npz")
             else _picture(path, network) for path in files]
    labels = [part.labels for part in parts]
    known = [one for one in labels if one is not None]
    return Images(source=", ".join(path.name for path in files), split="",
                  codes=np.concatenate([part.codes for part in parts]),
                  labels=np.concatenate(known) if len(known) == len(labels) else None)


def _array_file(path: Path, network: Network, *, pixels: bool = False) -> Images:
    if not path.is_file():
        raise DataError(f"data file '{path}' must exist; check its name")
    arrays = _arrays(path)
    if "images" not in arrays:
        raise DataError(f"data file '{path}' must hold an array named images; "
                        "save it with numpy.savez(file, images=..., labels=...)")
    images, labels = arrays["images"], arrays.get("labels")
    codes = (_codes(_checked_pixels(path, images), network) if pixels
             else check_images(network, images))
    if not len(codes):
        raise DataError(f"data file '{path}' must hold at least one image")
    if labels is not None and (labels.shape != (len(codes),) or labels.dtype.kind not in "iu"):
        raise DataError(f"data file '{path}': labels must be {len(codes)} integers, one for each "
                        f"image, not {labels.dtype} of shape {list(labels.shape)}")
    return Images(source=path.name, split="", codes=codes,
                  labels=None if labels is None else labels.astype(np.int64))


def _checked_pixels(path: Path, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype.kind not in "iu" or (
            images.size and not 0 <= images.min() <= images.max() <= 255):
        raise DataError(f"data file '{path}' must hold pixels of 0 to 255; leave out --pixels if "
                        "it holds codes")
    return images.astype(np.uint8)


def _picture(path: Path, network: Network) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise DataError(f"picture '{path}' needs the package 'pillow' to be read; "
                        "pip install 'nomul[host]'") from error
    height, width, channels = network.input.shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise DataError(f"picture '{path}' cannot be an image of {channels} channels, which "
                        f"network {network.name!r} takes; save an array as .npy")
    try:
        with Image.open(path) as picture:
            mode, array = picture.mode, np.asarray(picture.convert(modes[channels]))
    except FileNotFoundError as error:
        raise DataError(f"picture '{path}' must exist; check its name") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError,
            ValueError) as error:
        raise DataError(f"picture '{path}' must be a whole picture that Pillow reads, a .npy or a "
                        f".npz file ({error})") from error
    if mode.startswith(("I", "F")):  # Pillow cuts larger numbers off at 255
        raise DataError(f"picture '{path}' must have 8 bits a channel, not mode {mode}; convert it")
    if array.shape[:2] != (height, width):
        raise DataError(f"picture '{path}' must have {width} x {height} pixels for network "
                        f"{network.name!r}, not {array.shape[1]} x {array.shape[0]}; crop or "
                        "resize it")
    return Images(source=path.name, split="", labels=None,
                  codes=_codes(array.reshape(1, height, width, channels), network))


def _codes(pixels: NDArray[np.uint8], network: Network) -> NDArray[np.int64]:
    return check_images(network, requantize(pixels, _PIXELS, network.input.levels))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"data file '{path}' must be a whole .npz or .npy file ({error}); "
                        "save it again") from error
