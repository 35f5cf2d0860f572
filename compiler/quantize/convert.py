"""A float model of torch becomes one whose weights, biases and activations are quantized."""
from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.activations import (
    QuantizedAverage,
    QuantizedIdentity,
    QuantizedInput,
    QuantizedReLU,
    Uniform,
)
from nomul.compiler.quantize.constraints import Binary, Constraint, Scale, Ternary
from nomul.compiler.quantize.embedding import PixelEmbedding
from nomul.compiler.quantize.graph import ENTRY, Add, Step, steps, trace
from nomul.compiler.quantize.lutq import GridBias, LutQ
from nomul.compiler.quantize.norms import Folded, GridNorm, Norm, fold

__all__ = ["quantize_model"]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What the caller chose."""

    constraint: Constraint
    activation_bits: int
    branch_bits: int
    iterations: int
    norm: Norm
    kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """What a layer has made of the calibration images.

    Parameters
    ----------
    values : Tensor
        Its output.
    grid : float, optional
        What all values are multiples of, a power of two; the step, of codes. None behind a
        normalization.
    coded : bool
        Whether they are codes, not raw sums.
    signed : bool
        Whether codes may mean negative numbers.
    gain : float
        How much larger they are than the float model's; other than 1 only behind
        dictionaries without a scale of their own.
    """

    values: Tensor
    grid: float | None
    coded: bool
    signed: bool = False
    gain: float = 1.0


def quantize_model(model: nn.Module, constraint: Constraint, *, entry: QuantizedInput,
                   calibration: Tensor, activation_bits: int = 4, branch_bits: int | None = None,
                   iterations: int = 1, norm: Norm = Norm.AFFINE,
                   kept: tuple[str, ...] = ()) -> nn.Module:
    """A LUT-Q copy of ``model``, ready for fine-tuning; ``model`` stays as it is.

    Weights get a `LutQ`, biases a `GridBias`, ReLUs become `QuantizedReLU` with the
    step that fits the calibration images, average pooling a `QuantizedAverage`, batch
    normalization a `GridNorm`; names of layers stay. Every layer is quantized, the
    first and the last one too. A branch without codes gets a `QuantizedIdentity` before
    it is added, and so does an ``nn.Identity`` behind a layer.

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
        Bits of the codes behind a ReLU or an average; 1 to 8.
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
    sequential = isinstance(model, nn.Sequential)
    result = (copy.deepcopy(model) if sequential else trace(model)).eval()
    if any(path.partition(".")[0] == ENTRY for path, _module in result.named_modules()):
        raise ModelError(f"layer {ENTRY!r}: its name must be left to the input; rename the module")
    branch = min(8, activation_bits + 1) if branch_bits is None else branch_bits
    options = _Options(constraint=constraint, activation_bits=activation_bits,
                       branch_bits=branch, iterations=iterations, norm=norm, kept=kept)
    with torch.no_grad():
        if norm is Norm.FOLD:
            _fold_norms(result)
        _convert(result, entry, calibration, options)
    if isinstance(result, fx.GraphModule):
        _enter(result, entry)
        return result.train(model.training)
    modules = {path: module for path, module in result.named_modules(remove_duplicate=False)
               if path and "." not in path}
    return nn.Sequential(OrderedDict([(ENTRY, entry), *modules.items()])).train(model.training)


def _convert(model: nn.Module, entry: QuantizedInput, images: Tensor, options: _Options) -> None:
    """Replace the modules of ``model``, each behind those that it reads."""
    order = steps(model)
    for path in options.kept:
        if path not in {step.path for step in order}:
            raise ModelError(f"layer {path!r}: must be one of the model's, to be kept; "
                             f"these are {', '.join(step.path for step in order)}")
    last = {source: step.path for step in order for source in step.inputs}
    signals = {"": _Signal(values=entry(images), grid=entry.step, coded=True)}
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
                _code_branches(model, step, signals, options)
            if isinstance(step.module, PixelEmbedding) and step.inputs != ("",):
                raise ModelError("must read the input; put it first")
            sources = [signals[path] for path in step.inputs]
            if step.path in options.kept:
                module, signal = step.module, replace(sources[0], grid=None, coded=False)
            else:
                module, signal = _CONVERTERS[kind](step.module, sources, options)
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


def _code_branches(model: nn.Module, step: Step, signals: dict[str, _Signal],
                   options: _Options) -> None:
    """Put a `QuantizedIdentity` behind each branch of an addition that gives raw sums."""
    assert isinstance(model, fx.GraphModule)
    node = next(node for node in model.graph.nodes if node.target == step.path)
    for path, source in zip(step.inputs, list(node.all_input_nodes), strict=True):
        if signals[path].coded:
            continue
        if len(source.users) > 1:
            raise ModelError(f"reads the raw sums of {path!r}, which must then be read once; "
                             "put an nn.Identity behind that layer, and read it at all places")
        module, signals[path] = _identity(nn.Identity(), [signals[path]], options)
        signals[path] = replace(signals[path], values=module(signals[path].values))
        name = f"{path.replace('.', '_')}_codes"
        model.add_submodule(name, module)
        with model.graph.inserting_before(node):
            coded = model.graph.call_module(name, (source,))
        node.replace_input_with(source, coded)
    model.recompile()


def _enter(model: fx.GraphModule, entry: QuantizedInput) -> None:
    """Put ``entry`` before all that reads the images."""
    model.add_submodule(ENTRY, entry)
    images = next(node for node in model.graph.nodes if node.op == "placeholder")
    with model.graph.inserting_after(images):
        node = model.graph.call_module(ENTRY, (images,))
    images.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    model.recompile()


_Converted = tuple[nn.Module, _Signal]


def _keep(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    return copy.deepcopy(module), sources[0]  # a copy, where one module runs at two places


def _pool(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    _need_codes(sources[0])
    return _keep(module, sources, options)


def _weighted(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    step = _need_codes(sources[0])
    gain = sources[0].gain
    if _unit_scale(options.constraint):
        # {-1, 1} cannot follow the size of the weights: they and all behind them grow instead.
        shrink = float(module.weight.abs().mean())
        module.weight.div_(shrink)
        gain /= shrink
    weights = LutQ(module.weight, options.constraint, iterations=options.iterations)
    parametrize.register_parametrization(module, "weight", weights)
    if module.bias is not None:
        if not module.bias.isfinite().all():
            raise ModelError("biases must be finite, but hold NaN or infinity; train again "
                             "with a lower learning rate")
        module.bias.mul_(gain)
        parametrize.register_parametrization(module, "bias", GridBias(weights, step))
    grid = 2.0 ** weights.exponent * step
    return module, replace(sources[0], grid=grid, coded=False, gain=gain)


def _norm(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    source, = sources
    if source.coded or source.grid is None:
        raise ModelError("must read a Linear, a Conv2d or an addition; move it behind one")
    _need_statistics("", module)
    assert module.running_mean is not None and module.running_var is not None
    module.running_mean.mul_(source.gain)
    module.running_var.mul_(source.gain ** 2)
    return (GridNorm(module, source.grid, options.norm),
            replace(source, grid=None, gain=1.0))


def _relu(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    relu = QuantizedReLU(options.activation_bits)
    return _calibrated(relu, sources[0], sources[0].values)


def _identity(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    if sources[0].coded:
        return _keep(module, sources, options)
    codes = QuantizedIdentity(options.branch_bits)
    return _calibrated(codes, sources[0], sources[0].values)


def _average(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    _need_codes(sources[0])
    if sources[0].signed:
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
    average = QuantizedAverage(options.activation_bits, kernel)
    sums, count = average.sums(sources[0].values)
    return _calibrated(average, sources[0], sums / count)


def _add(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    first, second = sources
    assert first.grid is not None and second.grid is not None
    if first.gain != second.gain:
        raise ModelError("branches must have one scale, which dictionaries without a scale of "
                         "their own do not keep; use another scale, or batch normalization")
    return module, replace(first, grid=min(first.grid, second.grid), coded=False)


def _embed(module: nn.Module, sources: list[_Signal], options: _Options) -> _Converted:
    assert isinstance(module, PixelEmbedding)
    if sources[0].grid != 2.0 ** -module.pixel_bits:
        raise ModelError(f"must read pixels of {module.pixel_bits} bits, but the input's step is "
                         f"{sources[0].grid}; change pixel_bits or the input")
    module.quantize()
    return module, replace(sources[0], grid=module.step)


_CONVERTERS: dict[type[nn.Module], Callable[[nn.Module, list[_Signal], _Options], _Converted]] = {
    nn.Flatten: _keep,
    nn.Linear: _weighted,
    nn.Conv2d: _weighted,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.ReLU: _relu,
    nn.Identity: _identity,
    nn.Dropout: _keep,
    Folded: _keep,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
    Add: _add,
    PixelEmbedding: _embed,
}


def _calibrated(codes: Uniform, source: _Signal, values: Tensor) -> _Converted:
    codes = codes.to(values.device)
    codes.calibrate(values)
    return codes, replace(source, grid=codes.step, coded=True, signed=codes.signed)


def _need_statistics(path: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if module.running_mean is None or module.running_var is None:
        raise ModelError((f"layer {path!r}: " if path else "")
                         + "must have running statistics; use track_running_stats=True")


def _need_codes(source: _Signal) -> float:
    """The step of the codes that a layer reads."""
    if not source.coded or source.grid is None:
        raise ModelError("must read codes, but the layer before it gives raw integers; "
                         "put a ReLU between them")
    return source.grid


def _pair(value: object) -> tuple[object, object]:
    return value if isinstance(value, tuple) and len(value) == 2 else (value, value)


def _unit_scale(constraint: Constraint) -> bool:
    return isinstance(constraint, Binary | Ternary) and constraint.scale is Scale.UNIT
