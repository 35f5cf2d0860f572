"""Table-based neural units: products and activations are read from tables of integers.

Covell, Marwood, Baluja, Johnston, "Table-Based Neural Units: Fully Quantizing Networks for
Multiply-Free Inference" (arXiv 1906.04798). The method is covered by US patents 11,488,016 and
12,118,466; see docs/tbnu.md.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from nomul.compiler.errors import ModelError
from nomul.compiler.network import Levels
from nomul.compiler.quantize.activations import Quantized, QuantizedInput
from nomul.compiler.quantize.constraints import Clusters
from nomul.compiler.quantize.convert import (
    Converted,
    Rules,
    Signal,
    coded,
    convert,
    need_finite,
)
from nomul.compiler.quantize.course import Course
from nomul.compiler.quantize.embedding import PixelEmbedding
from nomul.compiler.quantize.methods import Method, trained
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.schemes import Scheme, TableActivation, choose_levels
from nomul.compiler.quantize.stepped import Curve, Stepped, midpoints
from nomul.compiler.quantize.tables import Tabled, table_exponent

__all__ = ["TableRules", "TbnuMethod", "table_model"]

_CURVES: dict[type[nn.Module], Curve] = {
    nn.Tanh: Curve.TANH, nn.ReLU: Curve.RELU, nn.ReLU6: Curve.RELU6}


@dataclass(frozen=True, kw_only=True)
class TableRules(Rules):
    """Tables of products and of activations.

    Parameters
    ----------
    codes : int
        N_a, values that an activation may take.
    entries : int
        N_w, values that a layer's weights may take.
    scheme : Scheme
        How the levels of activations are chosen.
    iterations : int
        k-means iterations after each step of the optimizer.
    zero : bool
        Whether each activation must have a level of 0.
    requantize : bool
        Whether pixels of more than N_a values become codes of N_a first.
    """

    codes: int
    entries: int
    scheme: Scheme
    iterations: int
    zero: bool
    requantize: bool

    def front(self, entry: Signal) -> dict[str, Quantized]:
        assert entry.levels is not None
        if not self.requantize or len(entry.levels) <= self.codes:
            return {}
        levels = choose_levels(self.scheme, Curve.IDENTITY, self.codes, entry.values, zero=True)
        return {"requantized": Stepped(Curve.IDENTITY, levels, midpoints(Curve.IDENTITY, levels))}

    def weights(self, module: nn.Linear | nn.Conv2d, source: Signal, levels: Levels) -> Converted:
        if module.bias is not None:
            need_finite(module.bias)
        fan_in = module.weight[0].numel()
        tabled = Tabled(module, Clusters(count=self.entries), levels=levels,
                        exponent=table_exponent(module(source.values), fan_in),
                        iterations=self.iterations)
        return (tabled.to(source.values.device),
                Signal(values=source.values, grid=tabled.unit, levels=None))

    def activation(self, module: nn.Module, source: Signal) -> Converted:
        curve = _CURVES[type(module)]
        levels = choose_levels(self.scheme, curve, self.codes, source.values, zero=self.zero)
        return coded(TableActivation(curve, levels, grid=source.grid), source)


def table_model(model: nn.Module, *, codes: int, entries: int, scheme: Scheme,
                entry: QuantizedInput, calibration: Tensor, iterations: int = 1,
                norm: Norm = Norm.AFFINE, kept: tuple[str, ...] = ()) -> nn.Module:
    """A copy of ``model`` by tables, ready for fine-tuning; ``model`` stays as it is.

    Layers with weights become `Tabled`, activations `TableActivation`; input pixels of more than
    ``codes`` values become codes of as many first. Averages, and branches without an activation,
    have uniform codes, at most ``codes`` of them.

    Parameters
    ----------
    model, entry, calibration, norm, kept
        As of `nomul.compiler.quantize.convert.quantize_model`.
    codes, entries, scheme, iterations
        As of `TableRules`.

    Raises
    ------
    ModelError
        Naming the layer, if a module is of a kind that is not supported, or if its
        weights hold NaN or infinity; also if ``codes`` or ``entries`` are not 2 to 256.
    """
    if not 2 <= codes <= 256:
        raise ModelError(f"values of an activation must be 2 to 256, not {codes!r}")
    modules = list(model.modules())
    padded = any(isinstance(module, nn.Conv2d | nn.AvgPool2d) and module.padding not in (0, (0, 0))
                 for module in modules)
    bits = codes.bit_length() - 1
    rules = TableRules(
        codes=codes, entries=entries, scheme=scheme, iterations=iterations, zero=padded,
        requantize=not any(isinstance(module, PixelEmbedding) for module in modules),
        average_bits=bits, branch_bits=max(2, bits), norm=norm, kept=kept)
    return convert(model, rules, entry=entry, calibration=calibration)


@dataclass(frozen=True, kw_only=True)
class TbnuMethod(Method):
    """Table-based neural units (Covell et al., arXiv 1906.04798).

    The float net's weights are clustered, its activations get levels, and both are trained on
    with the tables in the loop; clusters follow the weights after each step of the optimizer.

    Parameters
    ----------
    codes : int
        N_a, values that an activation may take; 2 to 256.
    entries : int
        N_w, values that a layer's weights may take; 2 to 256. A product table has
        ``codes * entries`` entries.
    scheme : Scheme
        How the levels of activations are chosen.
    """

    kind: ClassVar[str] = "tbnu"
    continues: ClassVar[bool] = True

    codes: int = 16
    entries: int = 16
    scheme: Scheme = Scheme.KMEANS

    def settings(self) -> dict[str, Any]:
        return {"method": self.kind, "codes": self.codes, "entries": self.entries,
                "scheme": self.scheme.value}

    def compress(self, course: Course, teacher: nn.Module) -> nn.Module:
        recipe = course.recipe
        model = course.placed(table_model(
            copy.deepcopy(teacher).cpu(), codes=self.codes, entries=self.entries,
            scheme=self.scheme, entry=course.entry(), calibration=course.some.cpu(),
            iterations=recipe.iterations, norm=recipe.norm, kept=recipe.kept))
        return trained(course, teacher, model, self.kind)
