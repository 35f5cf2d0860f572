"""LUT-Q: weights that are entries of a small dictionary, trained by iterated k-means.

Put it on any layer of torch, run the model and the optimizer as usual, and call
`update_dictionaries` after each step of the optimizer::

    register_parametrization(layer, "weight", LutQ(layer.weight, PowerOfTwo(bits=3)))
    …
    loss.backward(); optimizer.step(); update_dictionaries(model)

Cardinaux et al., "Iteratively trained look-up table for network quantization"
(arXiv 1811.05355; journal version 1911.04951): the loop over minibatches.
"""
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.constraints import Constraint
from nomul.compiler.quantize.kmeans import cluster_means
from nomul.compiler.quantize.rounding import round_half_up, straight_through

__all__ = [
    "GridBias",
    "LutQ",
    "Tied",
    "grid_bias_of",
    "shadow_of",
    "tied_of",
    "update_dictionaries",
]

_START_ITERATIONS = 20


class Tied(nn.Module):
    """Parametrization of a weight: it becomes exactly ``dictionary[assignment]``.

    The parameter of the layer stays behind it as shadow weights, to which the gradient of the
    tied ones goes straight through. The dictionary never has a gradient.

    Parameters
    ----------
    dictionary : Tensor, shape [K]
        Entries, integers times ``2**exponent``.
    assignment : Tensor, int64, shape of the weight
        Indices into the dictionary.
    exponent : int
        Exponent of the grid.
    """

    dictionary: Tensor
    assignment: Tensor

    def __init__(self, dictionary: Tensor, assignment: Tensor, exponent: int) -> None:
        super().__init__()
        self.register_buffer("dictionary", dictionary)
        self.register_buffer("assignment", assignment)
        self.exponent = exponent

    def get_extra_state(self) -> Tensor:
        """The exponent, which stays on the host: a GPU never waits for it."""
        return torch.tensor(self.exponent)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.exponent = int(state)

    def forward(self, weights: Tensor) -> Tensor:
        """Tied weights, of the shape of the shadow ``weights``."""
        return straight_through(weights, self.dictionary[self.assignment])

    def step(self, weights: Tensor, *, settled: bool = False, checked: bool = True) -> None:
        """What follows a step of the optimizer on the shadow ``weights``: nothing."""

    def integers(self) -> list[int]:
        """Entries, in units of the grid."""
        codes: list[int] = self._codes().tolist()
        return codes

    def unit(self) -> Tensor:
        """Largest number of which every weight is a multiple; the grid if all of them are 0.

        Float64, shape [].
        """
        divisors = self._divisors()
        while len(divisors) > 1:
            divisors = torch.gcd(divisors[::2], functional.pad(
                divisors[1::2], (0, len(divisors) % 2)))
        return divisors[0].clamp(min=1).double() * self._grid()

    def _codes(self) -> Tensor:
        return (self.dictionary.double() / self._grid()).long()

    def _divisors(self) -> Tensor:
        """Integers whose greatest common divisor is that of all weights, in units of the grid."""
        return self._codes()

    def _grid(self) -> float | Tensor:
        """What the integers count."""
        return math.ldexp(1.0, self.exponent)


class LutQ(Tied):
    """A tied weight that iterated k-means on its shadow trains.

    The optimizer moves the shadow: ``W <- W - rate * dLoss/dQ`` with ``Q = d[A]``.

    Parameters
    ----------
    weights : Tensor, any shape
        What training starts with; k-means on it gives dictionary and assignment.
    constraint : Constraint
        What the dictionary may hold.
    iterations : int
        M, k-means iterations of a `step`; at least 1.

    Attributes
    ----------
    dictionary, assignment, exponent
        As of `Tied`.

    Raises
    ------
    ModelError
        If the weights hold NaN or infinity.
    """

    def __init__(self, weights: Tensor, constraint: Constraint, *, iterations: int = 1) -> None:
        if iterations < 1:
            raise ValueError(f"k-means iterations must be at least 1, not {iterations!r}")
        shadow = self._finite(weights)
        grid = constraint.grid(shadow)
        dictionary = constraint.start(shadow, grid)
        super().__init__(dictionary.to(weights.dtype), constraint.assign(shadow, dictionary), grid)
        self.constraint = constraint
        self.iterations = iterations
        for _ in range(_START_ITERATIONS):
            dictionary, assignment = self._iterate(shadow, dictionary, grid)
        self.dictionary.copy_(dictionary)
        self.assignment.copy_(assignment)

    @torch.no_grad()
    def step(self, weights: Tensor, *, settled: bool = False, checked: bool = True) -> None:
        """M iterations of k-means on the shadow ``weights``; only an assignment, if ``settled``.

        Each takes ``A = argmin_k |W - d_k|``, then ``d_k = mean{W : A = k}`` (an empty
        cluster keeps its ``d_k``), then what the constraint allows of it.

        Raises
        ------
        ModelError
            If the weights hold NaN or infinity, and are ``checked``.
        """
        shadow = self._finite(weights) if checked else weights.detach().double()
        dictionary, grid = self.dictionary.double(), self.exponent
        if settled:
            self.assignment.copy_(self.constraint.assign(shadow, dictionary))
            return
        for _ in range(self.iterations):
            dictionary, assignment = self._iterate(shadow, dictionary, grid)
        self.dictionary.copy_(dictionary)
        self.assignment.copy_(assignment)

    def _iterate(self, shadow: Tensor, dictionary: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        """One iteration: assign to the nearest entry, take means, make them allowed values."""
        assignment = self.constraint.assign(shadow, dictionary)
        means, counts = cluster_means(shadow, assignment, dictionary)
        return self.constraint.project(means, counts, grid), assignment

    @staticmethod
    def _finite(weights: Tensor) -> Tensor:
        if not weights.isfinite().all():
            raise ModelError("weights must be finite, but hold NaN or infinity; train again "
                             "with a lower learning rate")
        return weights.detach().double()


class GridBias(nn.Module):
    """Parametrization of a bias: it becomes an integer multiple of the accumulators' unit.

    Every product of a dictionary entry and an input code is a multiple of
    ``dictionary unit * input step``; so is then the bias, and the accumulator with it.
    The nearest multiple is taken, halves upwards; the gradient goes straight through.

    Parameters
    ----------
    weights : Tied
        Of the layer that the bias belongs to.
    input_step : float
        Step of the input codes, a power of two.

    Attributes
    ----------
    unit : Tensor, shape []
        Unit of the accumulators; `follow` changes it.
    """

    unit: Tensor
    input_step: Tensor

    def __init__(self, weights: Tied, input_step: float) -> None:
        super().__init__()
        self.register_buffer("input_step", torch.tensor(input_step, dtype=torch.float64))
        self.register_buffer("unit", weights.unit() * input_step)

    def forward(self, bias: Tensor) -> Tensor:
        """Bias on its grid, of the shape of the shadow ``bias``."""
        return straight_through(bias, (self._codes(bias) * self.unit).to(bias.dtype))

    def integers(self, bias: Tensor) -> list[int]:
        """The shadow ``bias`` in units of the accumulators."""
        codes: list[int] = self._codes(bias).long().tolist()
        return codes

    def follow(self, weights: Tied) -> None:
        """Take the unit of a dictionary that has changed."""
        self.unit.copy_(weights.unit() * self.input_step)

    def _codes(self, bias: Tensor) -> Tensor:
        # In float64 whatever the model's type is, so that its copies round alike.
        return round_half_up(bias.detach().double() / self.unit.double())


def tied_of(module: nn.Module) -> Tied | None:
    """The `Tied` on the weight of ``module``, if there is one."""
    return next((item for item in _on(module, "weight") if isinstance(item, Tied)), None)


def grid_bias_of(module: nn.Module) -> GridBias | None:
    """The `GridBias` on the bias of ``module``, if there is one."""
    return next((item for item in _on(module, "bias") if isinstance(item, GridBias)), None)


def shadow_of(module: nn.Module, tensor: str) -> Tensor:
    """The parameter behind the parametrization of ``tensor``."""
    original: Tensor = module.parametrizations[tensor].original  # type: ignore[index, union-attr]
    return original


def update_dictionaries(model: nn.Module, *, settled: bool = False, checked: bool = True) -> None:
    """`Tied.step` of every layer of ``model``: call it after each step of the optimizer.

    Parameters
    ----------
    model : nn.Module
        With weights that are `Tied`.
    settled : bool
        Whether dictionaries stay as they are, and only assignments follow the weights. At the
        end of a training this keeps a layer from jumping, where an entry would become the next
        power of two.
    checked : bool
        Whether weights are looked at first, for which a host must wait for its GPU.

    Raises
    ------
    ModelError
        Naming the layer, if its weights hold NaN or infinity, and are ``checked``.
    """
    for path, module in model.named_modules():
        weights = tied_of(module)
        if weights is None:
            continue
        try:
            weights.step(shadow_of(module, "weight"), settled=settled, checked=checked)
        except ModelError as error:
            raise ModelError(f"layer {path!r}: {error}") from error
        bias = grid_bias_of(module)
        if bias is not None:
            bias.follow(weights)


def _on(module: nn.Module, tensor: str) -> Iterator[nn.Module]:
    if parametrize.is_parametrized(module, tensor):
        yield from module.parametrizations[tensor]  # type: ignore[index]
