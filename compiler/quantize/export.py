"""Trained models of torch become integer networks, exactly.

Nothing is rounded here: the model was trained on the grids that the integers count.
`layer_codes` gives torch's own codes under the names of the network's layers, to
compare them with the golden model's.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.network import (
    Argmax,
    Dense,
    Flatten,
    Input,
    Ints,
    Layer,
    Levels,
    Network,
    Staircase,
)
from nomul.compiler.quantize.activations import QuantizedInput, QuantizedReLU
from nomul.compiler.quantize.convert import chain
from nomul.compiler.quantize.lutq import grid_bias_of, lutq_of, shadow_of

__all__ = ["layer_codes", "model_input", "staircase", "to_network"]


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """Where torch shows what a layer of the network drives.

    Parameters
    ----------
    path : str
        Module whose output it is.
    unit : Fraction
        What 1 on the network's wire stands for.
    order : array of int, optional
        Torch's position for each position of the network's vector, where they differ.
    """

    path: str
    unit: Fraction
    order: Ints | None = None


@dataclass(kw_only=True)
class _Export:
    """The network so far, and for each layer where torch shows the same."""

    shape: tuple[int, int, int]
    layers: list[Layer] = field(default_factory=list)
    probes: list[_Probe] = field(default_factory=list)

    def add(self, layer: Layer, probe: _Probe) -> None:
        self.layers.append(layer)
        self.probes.append(probe)

    @property
    def open(self) -> Dense | None:
        """The last layer, if it is one whose accumulators have no staircase yet."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, Dense) and last.staircase is None else None


def to_network(model: nn.Module, name: str, input_shape: tuple[int, int, int]) -> Network:
    """The integer network that computes what ``model`` does.

    Parameters
    ----------
    model : nn.Sequential
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
    learned scale) vanishes into what follows, the staircase or the argmax.
    """
    return Network(name=name, layers=tuple(_export(model, input_shape).layers))


def layer_codes(model: nn.Module, images: NDArray[np.integer]) -> dict[str, Ints]:
    """What ``model`` itself computes for each layer of its network, in float64.

    Parameters
    ----------
    model : nn.Sequential
        As for `to_network`.
    images : array of int, shape [N, height, width, channels]
        Codes.

    Returns
    -------
    dict
        For each name of a layer, codes or raw integers, [N, …]: those that torch's own
        modules give, divided by their step.

    Raises
    ------
    ModelError
        As `to_network`; also if a value is no multiple of its step.
    """
    height, width, channels = images.shape[1:]
    export = _export(model, (height, width, channels))
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
    for layer, probe in zip(export.layers, export.probes, strict=False):  # the argmax has none
        values = seen[probe.path].numpy() / float(probe.unit)
        if (values != np.floor(values)).any():
            raise ModelError(f"layer {probe.path!r}: values must be multiples of {probe.unit}; "
                             "quantize the layer that drives it")
        if values.ndim == 4:
            values = values.transpose(0, 2, 3, 1)
        if probe.order is not None:
            values = values[:, probe.order]
        codes[layer.name] = values.astype(np.int64)
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


def staircase(bits: int, step: Fraction, unit: Fraction) -> Ints:
    """Thresholds of a `QuantizedReLU` on integers that count ``unit``; one row.

    Code i begins where ``acc * unit >= (i - 1/2) * step``: the threshold is the
    smallest integer that does so, in exact fractions.

    Parameters
    ----------
    bits : int
        Bits of a code.
    step : Fraction
        Distance of two levels.
    unit : Fraction
        What an accumulator of 1 stands for.

    Returns
    -------
    array of int, shape [1, 2**bits - 1]
    """
    return np.array([[math.ceil((code - Fraction(1, 2)) * step / unit)
                      for code in range(1, 1 << bits)]], dtype=np.int64)


def _export(model: nn.Module, input_shape: tuple[int, int, int]) -> _Export:
    if model.training:
        raise ModelError("model must be in eval mode to be exported; call model.eval()")
    state = _Export(shape=input_shape)
    for path, module in chain(model):
        kind = parametrize.type_before_parametrizations(module)
        if kind not in _EXPORTERS:
            kinds = ", ".join(known.__name__ for known in _EXPORTERS)
            raise _fail(path, f"module must be one of {kinds}, not {kind.__name__}; "
                              "convert the model with quantize_model")
        if (kind is QuantizedInput) != (not state.layers):
            raise _fail(path, "a QuantizedInput must be the first module, and no other; "
                              "convert the model with quantize_model")
        _EXPORTERS[kind](path, module, state)
    last = state.open
    if last is None:
        raise ModelError("last module must be a Linear, whose accumulators are the scores; "
                         "put one at the end of the model")
    state.layers.append(Argmax(name="argmax", inputs=(last.name,)))
    return state


def _input(path: str, module: nn.Module, state: _Export) -> None:
    assert isinstance(module, QuantizedInput)
    levels = Levels.uniform(1 << module.bits, exponent=int(module.exponent))
    state.add(Input(name=_name(path, "pixels"), shape=state.shape, levels=levels),
              _Probe(path=path, unit=Fraction(module.step)))


def _flatten(path: str, module: nn.Module, state: _Export) -> None:
    assert isinstance(module, nn.Flatten)
    if (module.start_dim, module.end_dim) != (1, -1):
        raise _fail(path, "all dimensions but the first must be flattened; use nn.Flatten()")
    if not isinstance(state.layers[-1], Input):
        raise _fail(path, "must read the input; remove it where a vector is read")
    height, width, channels = state.shape
    torch_order = np.arange(channels * height * width).reshape(channels, height, width)
    state.add(Flatten(name=_name(path, "flatten"), inputs=(state.layers[-1].name,)),
              _Probe(path=path, unit=state.probes[-1].unit,
                     order=torch_order.transpose(1, 2, 0).ravel()))


def _linear(path: str, module: nn.Module, state: _Export) -> None:
    assert isinstance(module, nn.Linear)
    if state.open:
        raise _fail(path, f"must read codes, but layer {state.open.name!r} gives raw integers; "
                          "put a ReLU between them")
    weights, grid_bias = lutq_of(module), grid_bias_of(module)
    if weights is None or (module.bias is not None and grid_bias is None):
        raise _fail(path, "weights must be LutQ and biases GridBias; "
                          "convert the model with quantize_model")
    tensors = [shadow_of(module, "weight"), weights.dictionary]
    if grid_bias is not None:
        tensors.append(shadow_of(module, "bias"))
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise _fail(path, "weights, dictionary and biases must be finite, but hold NaN or "
                          "infinity; train again with a lower learning rate")

    source = state.probes[-1]
    unit = Fraction(weights.unit()) * source.unit
    bias = np.zeros(module.out_features, np.int64)
    if grid_bias is not None:
        if Fraction(float(grid_bias.unit)) != unit:
            raise _fail(path, f"biases must be on the grid of the accumulators, {float(unit)}, "
                              f"not {float(grid_bias.unit)}; call update_dictionaries")
        bias = np.array(grid_bias.integers(shadow_of(module, "bias")))

    integers = weights.integers()
    factor = math.gcd(*integers) or 1
    entries, place = np.unique(np.array(integers) // factor, return_inverse=True)
    assignment = place[weights.assignment.cpu().numpy()]
    if source.order is not None:
        assignment = assignment[:, source.order]
    twos = (factor & -factor).bit_length() - 1
    state.add(Dense(name=_name(path, "dense"), inputs=(state.layers[-1].name,),
                    dictionary=entries, assignment=assignment, bias=bias,
                    exponent=int(weights.exponent) + twos),
              _Probe(path=path, unit=unit))


def _relu(path: str, module: nn.Module, state: _Export) -> None:
    assert isinstance(module, QuantizedReLU)
    dense = state.open
    if dense is None:
        raise _fail(path, "must read a Linear; remove it, or put a Linear before it")
    step = Fraction(module.step)
    thresholds = staircase(module.bits, step, state.probes[-1].unit)
    levels = Levels.uniform(1 << module.bits, exponent=int(module.exponent))
    state.layers[-1] = replace(dense, staircase=Staircase(thresholds=thresholds, levels=levels))
    state.probes[-1] = _Probe(path=path, unit=step)


_EXPORTERS: dict[type[nn.Module], Callable[[str, nn.Module, _Export], None]] = {
    QuantizedInput: _input,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    QuantizedReLU: _relu,
}


def _name(path: str, kind: str) -> str:
    """Identifier for the module at ``path``; ``kind`` goes before one that is only a number."""
    name = path.replace(".", "_")
    return name if name.isidentifier() else f"{kind}_{name}"


def _fail(path: str, message: str) -> ModelError:
    return ModelError(f"layer {path!r}: {message}")
