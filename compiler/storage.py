"""Networks on disk: one safetensors file, its JSON header versioned, no pickle."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.files import replace_file
from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    MaxPool,
    PixelEmbedding,
    SumPool,
    Weighted,
    Window,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Levels, Staircase, Value

__all__ = ["FORMAT", "VERSION", "load", "load_provenance", "save"]

FORMAT = "nomul.network"
#: Of files with corrections; those with widths are version 2, all others version 1.
VERSION = 3

_TYPES: dict[str, type[Value]] = {
    cls.__name__: cls for cls in (
        Add, Argmax, Conv2d, Dense, Flatten, Input, Levels, MaxPool, Network, PixelEmbedding,
        Staircase, SumPool, Window)}


def save(network: Network, path: Path | str, *, provenance: Mapping[str, Any] | None = None,
         ) -> None:
    """Write ``network`` to ``path``; a file that was there is replaced only by a whole one.

    ``provenance`` is kept beside it and is no part of its digest: how it was trained,
    on what, and how well (JSON values).
    """
    from safetensors.numpy import save as pack

    arrays: dict[str, np.ndarray] = {}

    def describe(value: Any, where: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[where] = np.ascontiguousarray(value.astype(_smallest(value)))
            return {"array": where}
        if isinstance(value, Value):
            return {"type": type(value).__name__,
                    **{field.name: describe(getattr(value, field.name), f"{where}.{field.name}")
                       for field in fields(value)  # type: ignore[arg-type]
                       if getattr(value, field.name) is not None}}
        if isinstance(value, tuple):
            return [describe(item, f"{where}.{getattr(item, 'name', index)}")
                    for index, item in enumerate(value)]
        return value

    header = {"format": FORMAT, "version": _version(network), "digest": network.digest,
              "network": describe(network, network.name), "provenance": dict(provenance or {})}
    replace_file(Path(path), pack(arrays, {"nomul": json.dumps(header, sort_keys=True)}))


def load(path: Path | str) -> Network:
    """The network in the file at ``path``; `ModelError` if it is not a whole one."""
    header, arrays = _read(Path(path))

    def build(value: Any) -> Any:
        if isinstance(value, dict) and "array" in value:
            return arrays[value["array"]]
        if isinstance(value, dict):
            return _TYPES[value["type"]](**{name: build(item) for name, item in value.items()
                                            if name != "type"})
        if isinstance(value, list):
            return tuple(build(item) for item in value)
        return value

    try:
        network = build(header["network"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"network file '{path}': its header describes no network ({error}); "
                         "write it again with nomul") from error
    except ModelError as error:
        raise ModelError(f"network file '{path}': {error}") from error
    if not isinstance(network, Network) or network.digest != header.get("digest"):
        raise ModelError(f"network file '{path}': its contents must match its digest; "
                         "the file was changed, write it again with nomul")
    return network


def load_provenance(path: Path | str) -> dict[str, Any]:
    """How the network in the file at ``path`` came to be, as it was saved."""
    provenance = _read(Path(path))[0].get("provenance", {})
    return dict(provenance) if isinstance(provenance, dict) else {}


def _version(network: Network) -> int:
    """The oldest version that can say what ``network`` is."""
    layers = [layer for layer in network.layers if isinstance(layer, Weighted)]
    if any(layer.corrections is not None for layer in layers):
        return VERSION
    return 2 if any(layer.widths is not None for layer in layers) else 1


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"network file '{path}' must exist; make it with 'nomul train'")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("nomul")
            arrays = {name: file.get_tensor(name) for name in file.keys()} if text else {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"network file '{path}' must be a whole safetensors file ({error}); "
                         "make it again with 'nomul train'") from error
    if text is None:
        raise ModelError(f"network file '{path}' must be written by nomul, but is a safetensors "
                         "file of something else; make it with 'nomul train'")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"network file '{path}': its header must be JSON ({error}); "
                         "make it again with 'nomul train'") from error
    if header.get("format") != FORMAT or header.get("version") not in range(1, VERSION + 1):
        raise ModelError(f"network file '{path}' must have format {FORMAT} 1 to {VERSION}, not "
                         f"{header.get('format')} {header.get('version')}; "
                         "use the nomul version that wrote it")
    return header, arrays


def _smallest(array: np.ndarray) -> np.dtype:
    """The smallest integer type that holds ``array``."""
    if not array.size:
        return np.dtype(np.int8)
    return np.promote_types(np.min_scalar_type(int(array.min())),
                            np.min_scalar_type(int(array.max())))
