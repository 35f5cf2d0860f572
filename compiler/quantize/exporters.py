"""What each quantized module becomes in a network; `nomul.compiler.quantize.export` uses it."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

import nomul.compiler.network as ir
from nomul.compiler.errors import ModelError
from nomul.compiler.layers import Window
from nomul.compiler.network import Ints, Layer, Wire
from nomul.compiler.quantize.activations import (
    Quantized,
    QuantizedAverage,
    QuantizedIdentity,
    QuantizedInput,
    QuantizedReLU,
    QuantizedReLU6,
)
from nomul.compiler.quantize.compressed import Compressed
from nomul.compiler.quantize.embedding import PixelEmbedding
from nomul.compiler.quantize.graph import Add, Step, steps
from nomul.compiler.quantize.lutq import grid_bias_of, shadow_of, tied_of
from nomul.compiler.quantize.norms import Folded, GridNorm
from nomul.compiler.quantize.perfilter import PerFilter
from nomul.compiler.quantize.schemes import TableActivation
from nomul.compiler.quantize.staircases import Affine, staircase
from nomul.compiler.quantize.stepped import QuantizedTanh, Stepped
from nomul.compiler.quantize.tables import Tabled, table_bias_of

__all__ = ["Export", "Probe", "export_layers"]

# Bits that float64 holds exactly; a normalization's factor takes 12 of them.
_EXACT_BITS = 53
_FACTOR_BITS = 12

_NO_SUMS = "must read a Linear, a Conv2d or an addition; remove it, or put one before it"


@dataclass(frozen=True, kw_only=True)
class Probe:
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
class Export:
    """The network so far, and for each layer where torch shows the same."""

    shape: tuple[int, int, int]
    layers: list[Layer] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    """What each layer drives."""
    places: dict[str, int] = field(default_factory=dict)
    """Index of the layer that a module belongs to, by the module's path."""
    sums: dict[str, bool] = field(default_factory=dict)
    """Modules that give raw sums, by path, and whether another one has read them."""
    norms: dict[int, GridNorm] = field(default_factory=dict)
    """Normalizations of layers that have no staircase yet."""

    def add(self, step: Step, layer: Layer, probe: Probe) -> None:
        """Append the layer of ``step``."""
        self.places[step.path] = len(self.layers)
        self.wires.append(self._wire(layer))
        self.layers.append(layer)
        self.probes.append(probe)
        if isinstance(self.wires[-1], ir.Integers):
            self.sums[step.path] = False

    def put(self, index: int, layer: Layer, probe: Probe) -> None:
        """Put ``layer`` in the place of another one."""
        self.layers[index], self.probes[index] = layer, probe
        self.wires[index] = self._wire(layer)

    def coded(self, step: Step) -> list[int]:
        """Indices of the layers that ``step`` reads, which must give codes."""
        for path in step.inputs:
            if path in self.sums:
                raise _fail(step, "must read codes, but layer "
                                  f"{self.layers[self.places[path]].name!r} gives raw integers; "
                                  "put a ReLU between them")
        return [self.places[path] for path in step.inputs]

    def summed(self, step: Step) -> int:
        """Index of the layer whose raw sums ``step`` alone reads."""
        path, = step.inputs
        if path not in self.sums:
            raise _fail(step, _NO_SUMS)
        if self.sums[path]:
            raise _fail(step, f"must not read the raw sums of {path!r}, which another module "
                              "reads; put an nn.Identity behind it in the float model")
        self.sums[path] = True
        return self.places[path]

    def _wire(self, layer: Layer) -> Wire:
        names = [known.name for known in self.layers]
        return layer.output(tuple(self.wires[names.index(name)] for name in layer.inputs))


def export_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> Export:
    """Layers of the network that ``model`` is; see `nomul.compiler.quantize.export.to_network`."""
    if model.training:
        raise ModelError("model must be in eval mode to be exported; call model.eval()")
    state = Export(shape=input_shape)
    last = ""
    for step in steps(model):
        kind = parametrize.type_before_parametrizations(step.module)
        if kind not in _EXPORTERS:
            kinds = ", ".join(known.__name__ for known in _EXPORTERS)
            raise _fail(step, f"module must be one of {kinds}, not {kind.__name__}; "
                              "convert the model with quantize_model")
        if (kind is QuantizedInput) != (not state.layers):
            raise _fail(step, "a QuantizedInput must be the first module, and no other; "
                              "convert the model with quantize_model")
        _EXPORTERS[kind](step, step.module, state)
        last = step.path
    layer = state.layers[state.places[last]] if last else None
    if not isinstance(layer, ir.Dense) or layer.staircase or state.norms:
        raise ModelError("last module must be a Linear, whose accumulators are the scores; "
                         "put one at the end of the model")
    state.layers.append(ir.Argmax(name="argmax", inputs=(layer.name,)))
    return state


def _input(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, QuantizedInput)
    levels = module.quantizer().levels
    state.add(step, ir.Input(name=_name(step, "pixels"), shape=state.shape, levels=levels),
              Probe(path=step.path, unit=Fraction(module.step)))


def _alias(step: Step, module: nn.Module, state: Export) -> None:
    """A module that does nothing in eval mode."""
    source, = step.inputs
    state.places[step.path] = state.summed(step) if source in state.sums else state.places[source]
    if source in state.sums:
        state.sums[step.path] = False


def _flatten(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, nn.Flatten)
    if (module.start_dim, module.end_dim) != (1, -1):
        raise _fail(step, "all dimensions but the first must be flattened; use nn.Flatten()")
    index, = state.coded(step)
    wire = state.wires[index]
    if len(wire.shape) != 3:
        raise _fail(step, "must read an image; remove it where a vector is read")
    height, width, channels = wire.shape
    torch_order = np.arange(channels * height * width).reshape(channels, height, width)
    state.add(step, ir.Flatten(name=_name(step, "flatten"), inputs=(state.layers[index].name,)),
              replace(state.probes[index], path=step.path,
                      order=torch_order.transpose(1, 2, 0).ravel()))


def _weights(step: Step, module: nn.Linear | nn.Conv2d, state: Export,
             tabled: Tabled | None = None) -> tuple[int, dict[str, Any], Fraction]:
    """Index of the layer that is read, what makes a Weighted, and what its sums count."""
    index, = state.coded(step)
    weights, grid_bias = tied_of(module), grid_bias_of(module) or table_bias_of(module)
    if weights is None or (module.bias is not None and grid_bias is None):
        raise _fail(step, "weights must be LutQ and biases GridBias; "
                          "convert the model with quantize_model")
    tensors = [shadow_of(module, "weight"), weights.dictionary]
    if grid_bias is not None:
        tensors.append(shadow_of(module, "bias"))
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise _fail(step, "weights, dictionary and biases must be finite, but hold NaN or "
                          "infinity; train again with a lower learning rate")

    unit = (Fraction(tabled.unit) if tabled else
            Fraction(float(weights.unit())) * state.probes[index].unit)
    bias = np.zeros(weights.assignment.shape[0], np.int64)
    if grid_bias is not None:
        if Fraction(float(grid_bias.unit)) != unit:
            raise _fail(step, f"biases must be on the grid of the accumulators, {float(unit)}, "
                              f"not {float(grid_bias.unit)}; call update_dictionaries")
        bias = np.array(grid_bias.integers(shadow_of(module, "bias")))

    integers = weights.integers()
    factor = math.gcd(*integers)
    corrections = None
    if isinstance(weights, Compressed) and weights.divisor:
        factor = math.gcd(factor, int(weights.divisor))
        corrections = weights.correction_codes().cpu().numpy() // factor
    factor = factor or 1
    entries, first, place = np.unique(np.array(integers) // factor, return_index=True,
                                      return_inverse=True)
    twos = (factor & -factor).bit_length() - 1
    parts = {"inputs": (state.layers[index].name,), "dictionary": entries, "bias": bias,
             "assignment": place[weights.assignment.cpu().numpy()],
             "exponent": weights.exponent + twos, "corrections": corrections}
    if isinstance(weights, PerFilter):  # segments stay as they are, and hold 1 or -1
        parts |= {"dictionary": np.array(integers), "widths": weights.widths.cpu().numpy(),
                  "assignment": weights.assignment.cpu().numpy()}
    if tabled:
        wire = state.wires[index]
        if not isinstance(wire, ir.Codes) or wire.levels != tabled.input_levels():
            raise _fail(step, "must read the levels that its table was made for; convert the "
                              "model with table_model")
        parts["table"] = tabled.table().cpu().numpy()[first]
    return index, parts, unit


def _tabled(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, Tabled)
    export = _linear if isinstance(module.layer, nn.Linear) else _conv
    export(step, module.layer, state, module)


def _linear(step: Step, module: nn.Module, state: Export, tabled: Tabled | None = None) -> None:
    assert isinstance(module, nn.Linear)
    index, parts, unit = _weights(step, module, state, tabled)
    order = state.probes[index].order
    if order is not None:
        parts["assignment"] = parts["assignment"][:, order]
    if parts["corrections"] is not None:
        dense = parts["corrections"] if order is None else parts["corrections"][:, order]
        parts["corrections"] = np.stack([*dense.nonzero(), dense[dense.nonzero()]], axis=1)
    state.add(step, ir.Dense(name=_name(step, "dense"), **parts),
              Probe(path=step.path, unit=unit))


def _conv(step: Step, module: nn.Module, state: Export, tabled: Tabled | None = None) -> None:
    assert isinstance(module, nn.Conv2d)
    if (module.dilation != (1, 1) or module.padding_mode != "zeros"
            or isinstance(module.padding, str) or module.stride[0] != module.stride[1]):
        raise _fail(step, "dilation must be 1, the stride equal in both directions, and padding a "
                          "number of zeros; change it")
    _index, parts, unit = _weights(step, module, state, tabled)
    if parts["corrections"] is not None:
        raise _fail(step, "sparse corrections must be those of a Linear; use a codebook without "
                          "them for a net with convolutions")
    parts["assignment"] = parts["assignment"].transpose(0, 2, 3, 1)
    down, across = module.padding
    state.add(step, ir.Conv2d(name=_name(step, "conv"), **parts, stride=module.stride[0],
                              padding=(down, across, down, across), groups=module.groups),
              Probe(path=step.path, unit=unit))


def _max_pool(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, nn.MaxPool2d)
    kernel, stride, padding, dilation = (
        value if isinstance(value, tuple) else (value, value)
        for value in (module.kernel_size, module.stride, module.padding, module.dilation))
    if stride[0] != stride[1] or dilation != (1, 1) or module.ceil_mode:
        raise _fail(step, "dilation must be 1, the stride equal in both directions, and ceil_mode "
                          "off; change it")
    index, = state.coded(step)
    window = Window(kernel=(kernel[0], kernel[1]), stride=stride[0],
                    padding=(padding[0], padding[1], padding[0], padding[1]))
    state.add(step, ir.MaxPool(name=_name(step, "pool"), window=window,
                               inputs=(state.layers[index].name,)),
              replace(state.probes[index], path=step.path))


def _average(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, QuantizedAverage)
    index, = state.coded(step)
    shape, quantizer = state.wires[index].shape, module.quantizer()
    kernel = (shape[0], shape[1]) if module.kernel is None else (module.kernel, module.kernel)
    unit = state.probes[index].unit / math.prod(kernel)
    window = None if module.kernel is None else Window(kernel=kernel, stride=module.kernel)
    state.add(step, ir.SumPool(name=_name(step, "average"), window=window,
                               inputs=(state.layers[index].name,),
                               staircase=staircase(quantizer, unit)[0]),
              Probe(path=step.path, unit=quantizer.unit))


def _add(step: Step, module: nn.Module, state: Export) -> None:
    first, second = state.coded(step)
    units = [state.probes[index].unit for index in (first, second)]
    unit = min(units)
    shifts = tuple((value // unit).bit_length() - 1 for value in units)
    state.add(step, ir.Add(name=_name(step, "add"), shifts=(shifts[0], shifts[1]),
                           inputs=(state.layers[first].name, state.layers[second].name)),
              Probe(path=step.path, unit=unit))


def _embed(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, PixelEmbedding)
    index, = state.coded(step)
    if not module.rounded:
        raise _fail(step, "must round its table; convert the model with quantize_model")
    if not module.table.isfinite().all():
        raise _fail(step, "table must be finite, but holds NaN or infinity; train again with a "
                          "lower learning rate")
    levels = ir.Levels.uniform(1 << module.bits, exponent=-module.bits)
    state.add(step, ir.PixelEmbedding(name=_name(step, "embedding"), levels=levels,
                                      inputs=(state.layers[index].name,),
                                      table=module.codes().cpu().numpy()),
              Probe(path=step.path, unit=Fraction(module.step)))


def _norm(step: Step, module: nn.Module, state: Export) -> None:
    assert isinstance(module, GridNorm)
    index = state.summed(step)
    if index in state.norms:
        raise _fail(step, _NO_SUMS)
    if not all(value.isfinite().all() for value in module.exact()):
        raise _fail(step, "factors and offsets must be finite, but hold NaN or infinity; train "
                          "again with a lower learning rate")
    state.norms[index] = module
    state.places[step.path] = index
    state.sums[step.path] = False


def _stepped(step: Step, module: nn.Module, state: Export) -> None:
    """A staircase for the sums that it reads; behind codes of an image, a table of codes."""
    assert isinstance(module, Stepped)
    if step.inputs[0] in state.sums:
        _close(step, module, state)
        return
    index, = state.coded(step)
    wire, quantizer = state.wires[index], module.quantizer()
    assert isinstance(wire, ir.Codes)
    rows = [[quantizer.code(value * state.probes[index].unit)]
            for value in wire.levels.values.tolist()]
    state.add(step, ir.PixelEmbedding(name=_name(step, "codes"), table=np.array([rows]),
                                      levels=quantizer.levels,
                                      inputs=(state.layers[index].name,)),
              Probe(path=step.path, unit=quantizer.unit))


def _close(step: Step, module: nn.Module, state: Export) -> None:
    """A quantizer gives its staircase to the layer whose sums it reads."""
    assert isinstance(module, Quantized)
    index = state.summed(step)
    layer, unit, quantizer = state.layers[index], state.probes[index].unit, module.quantizer()
    norm = state.norms.pop(index, None)
    channels = _affine(step, norm, unit, state.wires[index]) if norm else []
    biased = isinstance(layer, ir.Weighted)
    made, bias = staircase(quantizer, unit, channels, biased=biased)
    if isinstance(layer, ir.Weighted):
        layer = replace(layer, bias=layer.bias + bias if channels else layer.bias)
    assert isinstance(layer, ir.Weighted | ir.Add)
    state.put(index, replace(layer, staircase=made),
              Probe(path=step.path, unit=quantizer.unit))
    state.places[step.path] = index


def _affine(step: Step, norm: GridNorm, unit: Fraction, wire: Wire) -> list[Affine]:
    """Channels of a normalization behind sums that count ``unit``, in fractions."""
    assert isinstance(wire, ir.Integers)
    grid = Fraction(float(norm.unit))
    factors, offsets = (values.tolist() for values in norm.exact())
    largest = max([0, *(abs(offset) for factor, offset in zip(factors, offsets, strict=True)
                        if factor)])
    peak = max(abs(wire.low), abs(wire.high)) * (unit / grid) + int(largest)
    if unit % grid or int(peak).bit_length() + _FACTOR_BITS > _EXACT_BITS:
        raise _fail(step, f"sums must be multiples of {float(grid)} and have at most "
                          f"{_EXACT_BITS - _FACTOR_BITS} bits, to be exact in float64; use fewer "
                          "bits of a value")
    return [Affine(factor=Fraction(factor),
                   offset=Fraction(factor) * int(offset) * grid if factor else Fraction(offset))
            for factor, offset in zip(factors, offsets, strict=True)]


_EXPORTERS: dict[type[nn.Module], Callable[[Step, nn.Module, Export], None]] = {
    QuantizedInput: _input,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    QuantizedReLU: _close,
    QuantizedReLU6: _close,
    QuantizedTanh: _close,
    TableActivation: _close,
    Stepped: _stepped,
    Tabled: _tabled,
    QuantizedIdentity: _close,
    QuantizedAverage: _average,
    GridNorm: _norm,
    Add: _add,
    PixelEmbedding: _embed,
    nn.MaxPool2d: _max_pool,
    nn.Identity: _alias,
    nn.Dropout: _alias,
    Folded: _alias,
}


def _name(step: Step, kind: str) -> str:
    """Identifier for a module; ``kind`` goes before one that is only a number."""
    name = step.path.replace(".", "_")
    return name if name.isidentifier() else f"{kind}_{name}"


def _fail(step: Step, message: str) -> ModelError:
    return ModelError(f"layer {step.path!r}: {message}")
