"""How a data set is learned: the float net, and the settings of both trainings."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import nn

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.quantize.augment import Augmentation, CropAndFlip
from nomul.compiler.quantize.constraints import (
    Binary,
    Constraint,
    Fixed,
    Free,
    PowerOfTwo,
    Pruned,
    Scale,
    Ternary,
)
from nomul.compiler.quantize.nets import (
    digits_net,
    fashion_net,
    lenet300,
    mobile_net,
    resnet20,
    small_net,
)
from nomul.compiler.quantize.norms import Norm
from nomul.compiler.quantize.rounding import Rounding

__all__ = ["RECIPES", "Recipe", "constraint_from_names", "recipe_of"]

_Choice = TypeVar("_Choice", bound=Enum)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one data set is learned.

    Parameters
    ----------
    name : str
        As `recipe_of` knows it; names the network too.
    dataset : str
        As `nomul.compiler.quantize.datasets.load` knows it.
    model : callable
        Makes the float net.
    activation_bits : int
        Bits of the codes between layers.
    epochs : int
        Epochs of each of the two trainings, float and LUT-Q.
    batch : int
        Images in a step of the optimizer.
    float_rate, rate : float
        Highest learning rate of the float training and of LUT-Q's, falling to 0 along a
        cosine.
    weight_decay : float
        Decoupled, per learning rate; in both trainings.
    label_smoothing : float
        Share of the label that is spread over all classes.
    distillation : float
        Share of LUT-Q's loss that the float net's scores are the target of, not the labels.
    augmentation : Augmentation or CropAndFlip
        How training images are changed.
    checkpoint_every : int
        Epochs between two checkpoints.
    threads : int
        Threads of torch; sums, and so results, may depend on it.
    input_bits : int, optional
        Bits of the codes that images enter as; the data set's own if omitted.
    branch_bits : int, optional
        Bits of signed codes; see `nomul.compiler.quantize.convert.quantize_model`.
    norm : Norm
        What batch normalization may multiply with.
    iterations : int
        M, k-means iterations after each step of the optimizer.
    momentum : float
        Of stochastic gradient descent (Nesterov's); 0 takes Adam.
    warmup : float
        Share of each training, or of each of its cycles, in which the learning rate rises.
    cycles : int
        How often the learning rate of LUT-Q's training rises and falls: a warm restart after each
        cosine (Loshchilov and Hutter, arXiv 1608.03983).
    settled : float
        Share of LUT-Q's training at whose end dictionaries stay as they are, and so do the
        powers of two that normalizations multiply with.
    calibration : int
        Training images that find the steps of the codes.
    accelerate : bool
        Whether it runs on a GPU, where there is one. Results then differ a little each time.
    mixed : bool
        Whether training computes in bfloat16 where that is accurate enough (torch.autocast), in
        half the time; scores are always computed in float32 or better.
    kept : tuple of str
        Layers that stay in float, to compare with; see
        `nomul.compiler.quantize.convert.quantize_model`.
    """

    name: str
    dataset: str
    model: Callable[[], nn.Module]
    activation_bits: int
    epochs: int
    batch: int
    float_rate: float
    rate: float
    weight_decay: float
    label_smoothing: float
    distillation: float
    augmentation: Augmentation | CropAndFlip
    checkpoint_every: int
    threads: int
    input_bits: int | None = None
    branch_bits: int | None = None
    norm: Norm = Norm.AFFINE
    iterations: int = 1
    momentum: float = 0.0
    warmup: float = 0.0
    cycles: int = 1
    settled: float = 0.0
    calibration: int = 2048
    accelerate: bool = False
    mixed: bool = False
    kept: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """All that was chosen, as JSON values; the float net by the text torch prints of it.

        Settings at their default are left out.
        """
        with torch.random.fork_rng(devices=[]):  # making a net draws its weights
            values = {**asdict(self), "model": str(self.model())}
        for item in fields(self):
            if item.default is not MISSING and values[item.name] == item.default:
                del values[item.name]
        return {name: value.value if isinstance(value, Enum) else value
                for name, value in values.items()}

    def optimizer(self, model: nn.Module, rate: float, device: torch.device,
                  ) -> torch.optim.Optimizer:
        """The optimizer of one training; a GPU reads its learning rate from a tensor."""
        gpu = device.type == "cuda"
        lr = torch.tensor(rate, device=device) if gpu else rate
        if self.momentum:
            return torch.optim.SGD(model.parameters(), lr=lr, momentum=self.momentum,
                                   nesterov=True, weight_decay=self.weight_decay,
                                   fused=True if gpu else None)
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=self.weight_decay,
                                 capturable=gpu)


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe(name="digits", dataset="digits", model=digits_net, activation_bits=4, epochs=300,
           batch=64, float_rate=2e-2, rate=5e-3, weight_decay=1e-2, label_smoothing=0.0,
           distillation=0.5, checkpoint_every=20, threads=1,
           augmentation=Augmentation(shift=0.3, rotation=6, stretch=0.06, noise=0.15)),
    Recipe(name="mnist", dataset="mnist", model=small_net, activation_bits=4, input_bits=4,
           epochs=24, batch=128, float_rate=6e-3, rate=2e-3, weight_decay=1e-2, warmup=0.1,
           label_smoothing=0.05, distillation=0.7, norm=Norm.FOLD, checkpoint_every=2, threads=1,
           augmentation=Augmentation(shift=2, rotation=10, stretch=0.1)),
    Recipe(name="lenet300", dataset="mnist", model=lenet300, activation_bits=8, epochs=40,
           batch=256, float_rate=0.1, rate=0.02, weight_decay=1e-4, label_smoothing=0.0,
           distillation=0.0, momentum=0.9, checkpoint_every=5, threads=1,
           augmentation=CropAndFlip()),
    Recipe(name="fashion", dataset="fashion", model=fashion_net, activation_bits=4, input_bits=4,
           epochs=24, batch=256, float_rate=6e-3, rate=1e-3, weight_decay=1e-2, warmup=0.1,
           label_smoothing=0.05, distillation=0.9, norm=Norm.POWER_OF_TWO, settled=0.9,
           checkpoint_every=2, threads=1, augmentation=CropAndFlip(crop=1, flip=True)),
    Recipe(name="cifar10", dataset="cifar10", model=resnet20, activation_bits=4,
           epochs=160, batch=128, float_rate=0.1, rate=0.02, weight_decay=5e-4, warmup=0.03,
           label_smoothing=0.0, distillation=0.5, norm=Norm.POWER_OF_TWO, momentum=0.9,
           calibration=256, checkpoint_every=1, threads=1, accelerate=True, mixed=True,
           settled=0.975, cycles=2, augmentation=CropAndFlip(crop=4, flip=True)),
    Recipe(name="cifar10_mobile", dataset="cifar10", model=mobile_net, activation_bits=4,
           epochs=160, batch=128, float_rate=0.1, rate=0.02, weight_decay=1e-4, warmup=0.03,
           label_smoothing=0.0, distillation=0.5, norm=Norm.POWER_OF_TWO, momentum=0.9,
           calibration=256, checkpoint_every=1, threads=1, accelerate=True, mixed=True,
           settled=0.95, augmentation=CropAndFlip(crop=4, flip=True)),
)}


def recipe_of(name: str) -> Recipe:
    """The recipe called ``name``; `DataError` listing the known ones if there is none."""
    name = name.replace("-", "_")
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise DataError(f"recipe {name!r} is unknown; known are: {known}")
    return RECIPES[name]


def constraint_from_names(dictionary: str, bits: int | None = None, *, value_bits: int = 8,
                          fraction: float | None = None, scale: str | None = None,
                          rounding: str | None = None, zero: bool | None = None) -> Constraint:
    """The constraint that a command line names.

    Parameters
    ----------
    dictionary : str
        ``free``, ``pow2``, ``pruned``, ``binary``, ``ternary`` or ``fixed``.
    bits : int, optional
        Bits of a weight: 4, but 1 for binary and 2 for ternary, which take no other.
    value_bits : int
        Bits of a dictionary value; for ``fixed`` they are the weight's.
    fraction : float, optional
        Share of pruned weights, only for ``pruned``; 0.7.
    scale : str, optional
        ``unit``, ``pow2`` or ``free``, only for ``binary`` and ``ternary``; ``free``.
    rounding : str, optional
        ``geometric`` or ``arithmetic``, only where there are powers of two; ``geometric``.
    zero : bool, optional
        Whether 0 is an entry, only for ``pow2``; it is.

    Raises
    ------
    ModelError
        If a name is unknown, or a setting does not belong to the dictionary.
    """
    if dictionary not in _SETTINGS:
        raise ModelError(f"dictionary {dictionary!r} is unknown; known are: "
                         f"{', '.join(_SETTINGS)}")
    given = {name: value for name, value in (
        ("fraction", fraction), ("scale", scale), ("rounding", rounding), ("zero", zero),
    ) if value is not None}
    for name in given:
        if name not in _SETTINGS[dictionary]:
            raise ModelError(f"dictionary {dictionary!r}: has no setting {name!r}; leave it out")
    fixed_bits = {"binary": 1, "ternary": 2}.get(dictionary)
    if fixed_bits and bits not in (None, fixed_bits):
        raise ModelError(f"dictionary {dictionary!r}: bits of a weight must be {fixed_bits}, "
                         f"not {bits!r}; leave them out")
    size = 4 if bits is None else bits
    turn = _choice(dictionary, Rounding, "rounding", rounding, Rounding.GEOMETRIC)
    factor = _choice(dictionary, Scale, "scale", scale, Scale.FREE)
    match dictionary:
        case "free":
            return Free(bits=size, value_bits=value_bits)
        case "pow2":
            return PowerOfTwo(bits=size, value_bits=value_bits, rounding=turn,
                              zero=zero is not False)
        case "pruned":
            return Pruned(bits=size, value_bits=value_bits,
                          fraction=0.7 if fraction is None else fraction)
        case "binary":
            return Binary(value_bits=value_bits, scale=factor, rounding=turn)
        case "ternary":
            return Ternary(value_bits=value_bits, scale=factor, rounding=turn)
        case _:
            return Fixed(bits=size)


_SETTINGS: dict[str, tuple[str, ...]] = {
    "free": (),
    "pow2": ("rounding", "zero"),
    "pruned": ("fraction",),
    "binary": ("scale", "rounding"),
    "ternary": ("scale", "rounding"),
    "fixed": (),
}


def _choice(dictionary: str, kind: type[_Choice], name: str, value: str | None,
            default: _Choice) -> _Choice:
    known = {item.value: item for item in kind}
    if value is None:
        return default
    if value not in known:
        raise ModelError(f"dictionary {dictionary!r}: {name} must be one of "
                         f"{', '.join(known)}, not {value!r}")
    return known[value]
