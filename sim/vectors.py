"""Test vectors: images, and what every layer must make of them.

On disk they are one safetensors file beside the Verilog, bound to it by the network's digest.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nomul.compiler.errors import DataError
from nomul.compiler.files import replace_file
from nomul.compiler.network import Network
from nomul.sim.golden import run

__all__ = ["Vectors", "load_vectors", "make_vectors", "save_vectors"]

FORMAT = "nomul.vectors"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Images and what a network makes of them.

    Parameters
    ----------
    network : str
        Digest of the network.
    source : str
        Where the images are from: a data set, or a file.
    split : str
        The part of the data set, or empty.
    images : array of int, shape [images, height, width, channels]
        Input codes.
    labels : array of int, shape [images], or None
        Their classes, if known.
    values : mapping of layer name to array of int, shape [images, *layer's shape]
        What the layer gives, by the golden model.
    classes : array of int, shape [images]
        The class the network gives.
    """

    network: str
    source: str
    split: str
    images: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    values: Mapping[str, NDArray[np.int64]]
    classes: NDArray[np.int64]

    @property
    def accuracy(self) -> float | None:
        """Fraction of the images that the network classifies as they are labelled."""
        return None if self.labels is None else float((self.classes == self.labels).mean())


def make_vectors(network: Network, images: ArrayLike, labels: ArrayLike | None, *,
                 source: str, split: str = "") -> Vectors:
    """Vectors of ``network`` for ``images``; `DataError` if they do not fit it or each other."""
    trace = run(network, images)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(trace.classes),) or labels.dtype.kind not in "iu":
            raise DataError(f"labels must be {len(trace.classes)} integers, one for each image, "
                            f"not {labels.dtype} of shape {list(labels.shape)}")
        labels = labels.astype(np.int64)
    first, *layers = network.layers
    return Vectors(network=network.digest, source=source, split=split,
                   images=trace[first.name], labels=labels,
                   values={layer.name: trace[layer.name] for layer in layers},
                   classes=trace.classes)


def save_vectors(vectors: Vectors, path: Path) -> None:
    """Write ``vectors`` to ``path``; an older file is replaced only by a whole one."""
    from safetensors.numpy import save

    arrays = {f"layer.{name}": values for name, values in vectors.values.items()}
    arrays |= {"images": vectors.images, "classes": vectors.classes}
    if vectors.labels is not None:
        arrays["labels"] = vectors.labels
    small = {name: np.ascontiguousarray(a.astype(np.promote_types(
        np.min_scalar_type(int(a.min())), np.min_scalar_type(int(a.max())))))
        for name, a in arrays.items()}
    header = {"format": FORMAT, "version": VERSION, "network": vectors.network,
              "source": vectors.source, "split": vectors.split}
    replace_file(path, save(small, {"nomul": json.dumps(header, sort_keys=True)}))


def load_vectors(path: Path) -> Vectors:
    """The vectors in the file at ``path``; `DataError` if it does not hold any."""
    from safetensors import SafetensorError, safe_open

    remedy = "build again with 'nomul build'"
    if not path.is_file():
        raise DataError(f"vectors file '{path}' must exist; {remedy}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["nomul"])
            arrays = {name: file.get_tensor(name).astype(np.int64) for name in file.keys()}
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise DataError(f"vectors file '{path}' must have format {FORMAT} {VERSION}; {remedy}")
        return Vectors(network=header["network"], source=header["source"],
                       split=header["split"],
                       images=arrays["images"], labels=arrays.get("labels"),
                       classes=arrays["classes"],
                       values={name.removeprefix("layer."): values
                               for name, values in arrays.items() if name.startswith("layer.")})
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"vectors file '{path}' must be whole and written by nomul "
                        f"({error}); {remedy}") from error
