"""Images for a network: from a data set, from a file, or random."""
from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError
from nomul.compiler.network import Network
from nomul.compiler.quantize.datasets import DATASETS, load
from nomul.sim.golden import check_images

__all__ = ["RANDOM", "Images", "load_images"]

RANDOM = "random"
SPLITS = ("train", "validation", "test", "all")
_RANDOM_IMAGES = 64


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
    if not path.is_file():
        raise DataError(f"data file '{path}' must exist; check its name")
    arrays = _arrays(path)
    if "images" not in arrays:
        raise DataError(f"data file '{path}' must hold an array named images; "
                        "save it with numpy.savez(file, images=..., labels=...)")
    codes, labels = check_images(network, arrays["images"]), arrays.get("labels")
    if not len(codes):
        raise DataError(f"data file '{path}' must hold at least one image")
    if labels is not None and (labels.shape != (len(codes),) or labels.dtype.kind not in "iu"):
        raise DataError(f"data file '{path}': labels must be {len(codes)} integers, one for each "
                        f"image, not {labels.dtype} of shape {list(labels.shape)}")
    return Images(source=path.name, split="", codes=codes,
                  labels=None if labels is None else labels.astype(np.int64))


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
