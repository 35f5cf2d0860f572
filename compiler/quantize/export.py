"""Trained models of torch become integer networks, exactly.

Nothing is rounded here: the model was trained on the grids that the integers count.
`layer_codes` gives torch's own codes under the names of the network's layers, to
compare them with the golden model's.
"""
from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.network import Codes, Input, Ints, Levels, Network
from nomul.compiler.quantize.exporters import export_layers

__all__ = ["layer_codes", "model_input", "to_network"]


def to_network(model: nn.Module, name: str, input_shape: tuple[int, int, int]) -> Network:
    """The integer network that computes what ``model`` does.

    Parameters
    ----------
    model : nn.Module
        As `nomul.compiler.quantize.convert.quantize_model` makes it, in eval mode.
    name : str
        Names the network and its top module.
    input_shape : tuple of int
        Height, width and channels of an image.

    Returns
    -------
    Network
        Ends in an `Argmax` called ``argmax``. A layer is named as its module is, with
        underscores for dots; one that has only a number is called after its kind too.

    Raises
    ------
    ModelError
        Naming the layer, if a module is of a kind that is not supported, is not
        quantized, or holds NaN or infinity.

    Notes
    -----
    Dictionaries are sorted, and equal entries merged. What divides a whole dictionary
    and bias is taken out of both: powers of two go into the exponent, an odd factor (a
    learned scale) vanishes into what follows, the staircase or the argmax. So do batch
    normalization and the division of an average.
    """
    return Network(name=name, layers=tuple(export_layers(model, input_shape).layers))


def layer_codes(model: nn.Module, images: NDArray[np.integer]) -> dict[str, Ints]:
    """What ``model`` itself computes for each layer of its network, in float64.

    Parameters
    ----------
    model : nn.Module
        As for `to_network`.
    images : array of int, shape [N, height, width, channels]
        Codes.

    Returns
    -------
    dict
        For each name of a layer, codes or raw integers, [N, …]: those that torch's own
        modules give, divided by their step and found among the levels.

    Raises
    ------
    ModelError
        As `to_network`; also if a value is no multiple of its step, or none of the levels.
    """
    height, width, channels = images.shape[1:]
    export = export_layers(model, (height, width, channels))
    first = export.layers[0]
    assert isinstance(first, Input)
    twin = copy.deepcopy(model).cpu().double()
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = output
        return hook

    for probe in export.probes:
        twin.get_submodule(probe.path).register_forward_hook(keep(probe.path))
    with torch.no_grad():
        scores = twin(model_input(images, first.levels).double())

    codes: dict[str, Ints] = {}
    probes = zip(export.layers, export.probes, export.wires, strict=False)  # the argmax has none
    for layer, probe, wire in probes:
        values = seen[probe.path].numpy() / float(probe.unit)
        if (values != np.floor(values)).any():
            raise ModelError(f"layer {probe.path!r}: values must be multiples of {probe.unit}; "
                             "quantize the layer that drives it")
        if values.ndim == 4:
            values = values.transpose(0, 2, 3, 1)
        if probe.order is not None:
            values = values[:, probe.order]
        codes[layer.name] = values.astype(np.int64)
        if isinstance(wire, Codes):
            levels = wire.levels.values
            found = np.searchsorted(levels[:-1], codes[layer.name])
            if (levels[found] != codes[layer.name]).any():
                raise ModelError(f"layer {probe.path!r}: values must be among its levels; "
                                 "quantize the layer that drives it")
            codes[layer.name] = found
    codes[export.layers[-1].name] = scores.argmax(dim=1, keepdim=True).numpy()
    return codes


def model_input(images: NDArray[np.integer], levels: Levels) -> Tensor:
    """Codes [N, height, width, channels] as torch reads them: levels [N, channels, height, width].

    Raises
    ------
    DataError
        If a code is none of ``levels``.
    """
    if images.size and not 0 <= images.min() <= images.max() < len(levels):
        raise DataError(f"images must hold codes 0 to {len(levels) - 1}, not {images.min()} to "
                        f"{images.max()}; convert them as the data set does")
    values = np.ldexp(levels.values.astype(np.float32), levels.exponent)[images]
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
