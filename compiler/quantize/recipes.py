"""How a data set is learned: the float net, and the settings of both trainings."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import nn

from nomul.compiler.errors import DataError, ModelError
from nomul.compiler.quantize.augment import Augmentation
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
        First learning rate of the float training and of LUT-Q's (Adam, falling to 0
        along a cosine).
    weight_decay : float
        Decoupled, per learning rate; in both trainings.
    label_smoothing : float
        Share of the label that is spread over all classes.
    distillation : float
        Share of LUT-Q's loss that the float net's scores are the target of, not the labels.
    augmentation : Augmentation
        How training images are changed.
    checkpoint_every : int
        Epochs between two checkpoints.
    threads : int
        Threads of torch; sums, and so results, may depend on it.
    """

    name: str
    dataset: str
    model: Callable[[], nn.Sequential]
    activation_bits: int
    epochs: int
    batch: int
    float_rate: float
    rate: float
    weight_decay: float
    label_smoothing: float
    distillation: float
    augmentation: Augmentation
    checkpoint_every: int
    threads: int

    def settings(self) -> dict[str, Any]:
        """All that was chosen, as JSON values; the float net by the text torch prints of it."""
        with torch.random.fork_rng(devices=[]):  # making a net draws its weights
            return {**asdict(self), "model": str(self.model())}


def _digits() -> nn.Sequential:
    return nn.Sequential(OrderedDict([
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(64, 32)),
        ("relu1", nn.ReLU()),
        ("dense2", nn.Linear(32, 10)),
    ]))


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe(name="digits", dataset="digits", model=_digits, activation_bits=4, epochs=300,
           batch=64, float_rate=2e-2, rate=5e-3, weight_decay=1e-2, label_smoothing=0.0,
           distillation=0.5, checkpoint_every=20, threads=1,
           augmentation=Augmentation(shift=0.3, rotation=6, stretch=0.06, noise=0.15)),
)}


def recipe_of(name: str) -> Recipe:
    """The recipe called ``name``; `DataError` listing the known ones if there is none."""
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
