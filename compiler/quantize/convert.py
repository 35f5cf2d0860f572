"""A float model of torch becomes one whose weights, biases and activations are quantized."""
from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.activations import QuantizedInput, QuantizedReLU
from nomul.compiler.quantize.constraints import Binary, Constraint, Scale, Ternary
from nomul.compiler.quantize.lutq import GridBias, LutQ

__all__ = ["chain", "quantize_model"]


@dataclass(kw_only=True)
class _Conversion:
    """What the layers so far have made of the calibration images.

    ``gain`` is how much larger their values are than the float model's; other than 1
    only behind dictionaries without a scale of their own.
    """

    constraint: Constraint
    activation_bits: int
    iterations: int
    values: Tensor
    step: float | None
    gain: float = 1.0


def quantize_model(model: nn.Sequential, constraint: Constraint, *, entry: QuantizedInput,
                   calibration: Tensor, activation_bits: int = 4, iterations: int = 1,
                   ) -> nn.Sequential:
    """A LUT-Q copy of ``model``, ready for fine-tuning; ``model`` stays as it is.

    Weights get a `LutQ`, biases a `GridBias`, ReLUs become `QuantizedReLU` with the
    step that fits the calibration images; names of layers stay. Every layer is
    quantized, the first and the last one too.

    Parameters
    ----------
    model : nn.Sequential
        Of Flatten, Linear and ReLU modules, in nested Sequentials if wanted.
    constraint : Constraint
        What each layer's dictionary may hold.
    entry : QuantizedInput
        First module of the copy, there called ``pixels``.
    calibration : Tensor, shape [N, channels, height, width]
        Images, as ``model`` reads them.
    activation_bits : int
        Bits of the codes behind a ReLU; 1 to 8.
    iterations : int
        M, k-means iterations after each step of the optimizer.

    Raises
    ------
    ModelError
        Naming the layer, if a module is of a kind that is not supported, or if its
        weights hold NaN or infinity.
    """
    result = copy.deepcopy(model)
    with torch.no_grad():
        state = _Conversion(constraint=constraint, activation_bits=activation_bits,
                            iterations=iterations, values=entry(calibration), step=entry.step)
        for path, module in list(chain(result)):
            convert = _CONVERTERS.get(type(module))
            if convert is None:
                kinds = ", ".join(kind.__name__ for kind in _CONVERTERS)
                raise ModelError(f"layer {path!r}: module must be one of {kinds}, "
                                 f"not {type(module).__name__}; replace or remove it")
            try:
                converted = convert(module, state)
            except ModelError as error:
                raise ModelError(f"layer {path!r}: {error}") from error
            result.set_submodule(path, converted)
            state.values = converted(state.values)
    modules = {path: module for path, module in result.named_modules(remove_duplicate=False)
               if path and "." not in path}
    if "pixels" in modules:
        raise ModelError("layer 'pixels': its name must be left to the input; rename the module")
    return nn.Sequential(OrderedDict(pixels=entry, **modules)).train(model.training)


def chain(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules of a Sequential in the order they run, nested ones unfolded.

    A module that runs several times is given each time.

    Raises
    ------
    ModelError
        If ``model`` is no Sequential, whose modules alone run in the order they have.
    """
    if not isinstance(model, nn.Sequential):
        raise ModelError(f"model must be an nn.Sequential, not {type(model).__name__}; "
                         "put its modules into one")
    containers = {""}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Sequential:
            containers.add(path)
        elif path and path.rpartition(".")[0] in containers:
            yield path, module


def _keep(module: nn.Module, state: _Conversion) -> nn.Module:
    return module


def _linear(module: nn.Module, state: _Conversion) -> nn.Module:
    assert isinstance(module, nn.Linear)
    if state.step is None:
        raise ModelError("must read codes, but the layer before it gives raw integers; "
                         "put a ReLU between them")
    if _unit_scale(state.constraint):
        # {-1, 1} cannot follow the size of the weights: they and all behind them grow instead.
        shrink = float(module.weight.abs().mean())
        module.weight.div_(shrink)
        state.gain /= shrink
    weights = LutQ(module.weight, state.constraint, iterations=state.iterations)
    parametrize.register_parametrization(module, "weight", weights)
    if module.bias is not None:
        if not module.bias.isfinite().all():
            raise ModelError("biases must be finite, but hold NaN or infinity; train again "
                             "with a lower learning rate")
        module.bias.mul_(state.gain)
        parametrize.register_parametrization(module, "bias", GridBias(weights, state.step))
    state.step = None
    return module


def _relu(module: nn.Module, state: _Conversion) -> nn.Module:
    relu = QuantizedReLU(state.activation_bits).to(state.values.device)
    relu.calibrate(state.values)
    state.step = relu.step
    return relu


_CONVERTERS: dict[type[nn.Module], Callable[[nn.Module, _Conversion], nn.Module]] = {
    nn.Flatten: _keep,
    nn.Linear: _linear,
    nn.ReLU: _relu,
}


def _unit_scale(constraint: Constraint) -> bool:
    return isinstance(constraint, Binary | Ternary) and constraint.scale is Scale.UNIT
