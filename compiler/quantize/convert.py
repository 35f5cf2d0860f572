"""A float model of torch becomes one whose weights, biases and activations are quantized."""
from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize.activations import (
    Quantized,
    QuantizedAverage,
    QuantizedIdentity,
    QuantizedInput,
    QuantizedReLU,
    QuantizedReLU6,
    Uniform,
)
from nomul.compiler.quantize.constraints import Binary, Constraint, Scale, Ternary
from nomul.compiler.quantize.embedding import PixelEmbedding
from nomul.compiler.quantize.graph import ENTRY, Add, Step, steps, trace
from nomul.compiler.quantize.lutq import GridBias, LutQ
from nomul.compiler.quantize.norms import Folded, GridNorm, Norm, fold
from nomul.compiler.quantize.stepped import QuantizedTanh

__all__ = ["Converted", "Rules", "Signal", "coded", "convert", "need_finite", "quantize_model"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a layer has made of the calibration images.

    Parameters
    ----------
    values : Tensor
        Its output.
    grid : float, optional
        What all values are multiples of, a power of two. None behind a normalization.
    levels : Levels, optional
        What codes mean; None for raw sums.
    gain : float
        How much larger they are than the float model's; other than 1 only behind
        dictionaries without a scale of their own.
    """

    values: Tensor
    grid: float | None
    levels: Levels | None
    gain: float = 1.0


Converted = tuple[nn.Module, Signal]
"""What a module becomes, and what it gives; the values of the signal are filled in later."""


@dataclass(frozen=True, kw_only=True)
class Rules(ABC):
    """How weights and activations become quantized; all else is the same for every method.

    Parameters
    ----------
    average_bits : int
        Bits of the codes of averages.
    branch_bits : int
        Bits of the signed codes of a `QuantizedIdentity`.
    norm : Norm
        What batch normalization may multiply with.
    kept : tuple of str
        See `quantize_model`.
    """

    average_bits: int
    branch_bits: int
    norm: Norm = Norm.AFFINE
    kept: tuple[str, ...] = ()

    @abstractmethod
    def weights(self, module: nn.Linear | nn.Conv2d, source: Signal, levels: Levels) -> Converted:
        """``module``, which may be changed, reading codes that mean ``levels``."""

    @abstractmethod
    def activation(self, module: nn.Module, source: Signal) -> Converted:
        """What takes the place of a ReLU, ReLU6 or tanh."""

    def front(self, entry: Signal) -> dict[str, Quantized]:
        """Modules to put behind the input, by name."""
        return {}


def quantize_model(model: nn.Module, constraint: Constraint, *, entry: QuantizedInput,
                   calibration: Tensor, activation_bits: int = 4, branch_bits: int | None = None,
                   iterations: int = 1, norm: Norm = Norm.AFFINE,
                   kept: tuple[str, ...] = ()) -> nn.Module:
    """A LUT-Q copy of ``model``, ready for fine-tuning; ``model`` stays as it is.

    Weights get a `LutQ`, biases a `GridBias`, ReLUs become `QuantizedReLU` with the
    step that fits the calibration images, tanh a `QuantizedTanh`, average pooling a
    `QuantizedAverage`, batch normalization a `GridNorm`; names of layers stay. Every layer
    is quantized, the first and the last one too. A branch without codes gets a
    `QuantizedIdentity` before it is added, and so does an ``nn.Identity`` behind a layer.

    Parameters
    ----------
    model : nn.Module
        An `nn.Sequential`, nested if wanted, or a module that torch.fx can trace, of the
        modules in the error message for others. Calibration takes it in eval mode.
    constraint : Constraint
        What each layer's dictionary may hold.
    entry : QuantizedInput
        First module of the copy, there called ``pixels``.
    calibration : Tensor, shape [N, channels, height, width]
        Images, as ``model`` reads them.
    activation_bits : int
        Bits of the codes behind a ReLU, a tanh or an average; 1 to 8, from 2 with a tanh.
    branch_bits : int, optional
        Bits of the signed codes of a `QuantizedIdentity`; one more than
        ``activation_bits`` if omitted.
    iterations : int
        M, k-means iterations after each step of the optimizer.
    norm : Norm
        What batch normalization may multiply with.
    kept : tuple of str
        Paths of layers that stay as they are, in float, to measure what quantizing them costs.
        Such a model is trained and scored, but not exported.

    Returns
    -------
    nn.Module
        An `nn.Sequential` of an `nn.Sequential`, otherwise an `fx.GraphModule`.

    Raises
    ------
    ModelError
        Naming the layer, if a module is of a kind that is not supported, or if its
        weights hold NaN or infinity.
    """
    branch = min(8, activation_bits + 1) if branch_bits is None else branch_bits
    rules = _Lutq(constraint=constraint, iterations=iterations, average_bits=activation_bits,
                  branch_bits=branch, norm=norm, kept=kept)
    return convert(model, rules, entry=entry, calibration=calibration)


def convert(model: nn.Module, rules: Rules, *, entry: QuantizedInput, calibration: Tensor,
            ) -> nn.Module:
    """A copy of ``model`` that is quantized by ``rules``; see `quantize_model`."""
    sequential = isinstance(model, nn.Sequential)
    result = (copy.deepcopy(model) if sequential else trace(model)).eval()
    first = Signal(values=entry(calibration), grid=entry.step, levels=entry.quantizer().levels)
    with torch.no_grad():
        front: dict[str, Quantized] = {ENTRY: entry, **rules.front(first)}
        for path, _module in result.named_modules():
            if path.partition(".")[0] in front:
                raise ModelError(f"layer {path!r}: its name must be left to the input; rename "
                                 "the module")
        if rules.norm is Norm.FOLD:
            _fold_norms(result)
        _convert(result, front, first, rules)
    if isinstance(result, fx.GraphModule):
        _enter(result, front)
        return result.train(model.training)
    modules = {path: module for path, module in result.named_modules(remove_duplicate=False)
               if path and "." not in path}
    return nn.Sequential(OrderedDict({**front, **modules})).train(model.training)


def _convert(model: nn.Module, front: dict[str, Quantized], first: Signal, rules: Rules) -> None:
    """Replace the modules of ``model``, each behind those that it reads."""
    order = steps(model)
    for path in rules.kept:
        if path not in {step.path for step in order}:
            raise ModelError(f"layer {path!r}: must be one of the model's, to be kept; "
                             f"these are {', '.join(step.path for step in order)}")
    last = {source: step.path for step in order for source in step.inputs}
    for codes in list(front.values())[1:]:
        first = coded(codes, replace(first, values=codes(first.values)))[1]
    signals = {"": first}
    trained: set[int] = set()
    for step in order:
        kind = type(step.module)
        if kind not in _CONVERTERS:
            kinds = ", ".join(known.__name__ for known in _CONVERTERS if known is not Folded)
            raise ModelError(f"layer {step.path!r}: module must be one of {kinds}, "
                             f"not {kind.__name__}; replace or remove it")
        if id(step.module) in trained:
            raise ModelError(f"layer {step.path!r}: a module with weights must run once; "
                             "give each place a module of its own")
        trained.update([id(step.module)] if [*step.module.parameters()] else [])
        try:
            if isinstance(step.module, Add):
                _code_branches(model, step, signals, rules)
            if isinstance(step.module, PixelEmbedding) and step.inputs != ("",):
                raise ModelError("must read the input; put it first")
            sources = [signals[path] for path in step.inputs]
            if step.path in rules.kept:
                module, signal = step.module, replace(sources[0], grid=None, levels=None)
            else:
                module, signal = _CONVERTERS[kind](step.module, sources, rules)
        except ModelError as error:
            raise ModelError(f"layer {step.path!r}: {error}") from error
        model.set_submodule(step.path, module)
        values = module.eval()(*(source.values for source in sources))
        signals[step.path] = replace(signal, values=values)
        for path in step.inputs:
            if last[path] == step.path:
                signals.pop(path, None)


def _fold_norms(model: nn.Module) -> None:
    """Fold each normalization of ``model`` into the layer before it."""
    order = steps(model)
    modules = {step.path: step.module for step in order}
    readers = [source for step in order for source in step.inputs]
    for step in order:
        if not isinstance(step.module, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        source = modules.get(step.inputs[0])
        if not isinstance(source, nn.Linear | nn.Conv2d) or readers.count(step.inputs[0]) > 1:
            raise ModelError(f"layer {step.path!r}: must read a Linear or a Conv2d that nothing "
                             "else reads, to be folded into it; use another normalization")
        _need_statistics(step.path, step.module)
        fold(source, step.module)
        model.set_submodule(step.path, Folded())


def _code_branches(model: nn.Module, step: Step, signals: dict[str, Signal],
                   rules: Rules) -> None:
    """Put a `QuantizedIdentity` behind each branch of an addition that gives raw sums."""
    assert isinstance(model, fx.GraphModule)
    node = next(node for node in model.graph.nodes if node.target == step.path)
    for path, source in zip(step.inputs, list(node.all_input_nodes), strict=True):
        if signals[path].levels:
            continue
        if len(source.users) > 1:
            raise ModelError(f"reads the raw sums of {path!r}, which must then be read once; "
                             "put an nn.Identity behind that layer, and read it at all places")
        module, signals[path] = _identity(nn.Identity(), [signals[path]], rules)
        signals[path] = replace(signals[path], values=module(signals[path].values))
        name = f"{path.replace('.', '_')}_codes"
        model.add_submodule(name, module)
        with model.graph.inserting_before(node):
            coded = model.graph.call_module(name, (source,))
        node.replace_input_with(source, coded)
    model.recompile()


def _enter(model: fx.GraphModule, front: dict[str, Quantized]) -> None:
    """Put ``front`` before all that reads the images."""
    images = next(node for node in model.graph.nodes if node.op == "placeholder")
    for name, module in front.items():
        model.add_submodule(name, module)
        with model.graph.inserting_after(images):
            node = model.graph.call_module(name, (images,))
        images.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user is not node)
        images = node
    model.recompile()


def _keep(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    return copy.deepcopy(module), sources[0]  # a copy, where one module runs at two places


def _pool(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    _need_codes(sources[0])
    return _keep(module, sources, rules)


def _weighted(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return rules.weights(module, sources[0], _need_codes(sources[0]))


def _norm(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    source, = sources
    if source.levels or source.grid is None:
        raise ModelError("must read a Linear, a Conv2d or an addition; move it behind one")
    _need_statistics("", module)
    assert module.running_mean is not None and module.running_var is not None
    module.running_mean.mul_(source.gain)
    module.running_var.mul_(source.gain ** 2)
    return (GridNorm(module, source.grid, rules.norm),
            replace(source, grid=None, gain=1.0))


def _activation(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    return rules.activation(module, sources[0])


def _identity(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    if sources[0].levels:
        return _keep(module, sources, rules)
    return _calibrated(QuantizedIdentity(rules.branch_bits), sources[0])


def _average(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    if _need_codes(sources[0]).values[0] < 0:
        raise ModelError("must read codes that are not negative; put a ReLU before it")
    kernel = None
    if isinstance(module, nn.AvgPool2d):
        kernel = module.kernel_size if isinstance(module.kernel_size, int) else (
            module.kernel_size[0])
        if ({*_pair(module.kernel_size), *_pair(module.stride)} != {kernel}
                or {*_pair(module.padding)} != {0} or module.ceil_mode):
            raise ModelError("windows must be square and side by side, without padding; "
                             "use nn.AvgPool2d(size)")
    elif isinstance(module, nn.AdaptiveAvgPool2d) and _pair(module.output_size) != (1, 1):
        raise ModelError("output must be one value for each channel; "
                         "use nn.AdaptiveAvgPool2d(1)")
    average = QuantizedAverage(rules.average_bits, kernel)
    sums, count = average.sums(sources[0].values)
    return _calibrated(average, replace(sources[0], values=sums / count))


def _add(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    first, second = sources
    assert first.grid is not None and second.grid is not None
    if first.gain != second.gain:
        raise ModelError("branches must have one scale, which dictionaries without a scale of "
                         "their own do not keep; use another scale, or batch normalization")
    return module, replace(first, grid=min(first.grid, second.grid), levels=None)


def _embed(module: nn.Module, sources: list[Signal], rules: Rules) -> Converted:
    assert isinstance(module, PixelEmbedding)
    if sources[0].grid != 2.0 ** -module.pixel_bits:
        raise ModelError(f"must read pixels of {module.pixel_bits} bits, but the input's step is "
                         f"{sources[0].grid}; change pixel_bits or the input")
    module.quantize()
    levels = Levels.uniform(1 << module.bits, exponent=-module.bits)
    return module, replace(sources[0], grid=module.step, levels=levels)


_CONVERTERS: dict[type[nn.Module], Callable[[nn.Module, list[Signal], Rules], Converted]] = {
    nn.Flatten: _keep,
    nn.Linear: _weighted,
    nn.Conv2d: _weighted,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.ReLU: _activation,
    nn.ReLU6: _activation,
    nn.Tanh: _activation,
    nn.Identity: _identity,
    nn.Dropout: _keep,
    Folded: _keep,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
    Add: _add,
    PixelEmbedding: _embed,
}


@dataclass(frozen=True, kw_only=True)
class _Lutq(Rules):
    """Dictionaries with a grid, and uniform codes."""

    constraint: Constraint
    iterations: int

    def weights(self, module: nn.Linear | nn.Conv2d, source: Signal, levels: Levels) -> Converted:
        step, gain = math.ldexp(1.0, levels.exponent), source.gain
        if _unit_scale(self.constraint):
            # {-1, 1} cannot follow the size of the weights: they and all behind them grow instead.
            shrink = float(module.weight.abs().mean())
            module.weight.div_(shrink)
            gain /= shrink
        weights = LutQ(module.weight, self.constraint, iterations=self.iterations)
        parametrize.register_parametrization(module, "weight", weights)
        if module.bias is not None:
            need_finite(module.bias)
            module.bias.mul_(gain)
            parametrize.register_parametrization(module, "bias", GridBias(weights, step))
        grid = 2.0 ** weights.exponent * step
        return module, replace(source, grid=grid, levels=None, gain=gain)

    def activation(self, module: nn.Module, source: Signal) -> Converted:
        bits = self.average_bits
        if isinstance(module, nn.Tanh):
            if bits < 2:
                raise ModelError("codes of a tanh must have at least 2 bits, one is the sign; "
                                 "use more bits of activations")
            return coded(QuantizedTanh(bits, gain=source.gain), replace(source, gain=1.0))
        if isinstance(module, nn.ReLU6):
            return _calibrated(QuantizedReLU6(bits, limit=6 * source.gain), source)
        return _calibrated(QuantizedReLU(bits), source)


def coded(codes: Quantized, source: Signal) -> Converted:
    """``codes``, on the device of what it reads, and the signal that it gives."""
    return (codes.to(source.values.device),
            replace(source, grid=codes.step, levels=codes.quantizer().levels))


def _calibrated(codes: Uniform, source: Signal) -> Converted:
    codes.calibrate(source.values)
    return coded(codes, source)


def need_finite(bias: Tensor) -> None:
    """`ModelError` if biases hold NaN or infinity."""
    if not bias.isfinite().all():
        raise ModelError("biases must be finite, but hold NaN or infinity; train again "
                         "with a lower learning rate")


def _need_statistics(path: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if module.running_mean is None or module.running_var is None:
        raise ModelError((f"layer {path!r}: " if path else "")
                         + "must have running statistics; use track_running_stats=True")


def _need_codes(source: Signal) -> Levels:
    """What the codes mean that a layer reads."""
    if source.levels is None:
        raise ModelError("must read codes, but the layer before it gives raw integers; "
                         "put a ReLU between them")
    return source.levels


def _pair(value: object) -> tuple[object, object]:
    return value if isinstance(value, tuple) and len(value) == 2 else (value, value)


def _unit_scale(constraint: Constraint) -> bool:
    return isinstance(constraint, Binary | Ternary) and constraint.scale is Scale.UNIT
