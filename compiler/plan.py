"""How a network is built: folding, circuits and memories, layer by layer.

Every legal plan of a network gives the same bits (docs/design.md). A plan on disk is JSON.
"""
from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from nomul.compiler.circuits import dense_terms, shift_clip_terms
from nomul.compiler.errors import DataError, PlanError
from nomul.compiler.network import Argmax, Codes, Dense, Network
from nomul.hw.product import shift_add_slopes
from nomul.hw.stream import beats
from nomul.hw.table import Storage

__all__ = [
    "DensePlan",
    "Fold",
    "Plan",
    "ProductCircuit",
    "StaircaseCircuit",
    "check_plan",
    "fold_for_interval",
    "intervals",
    "load_plan",
    "make_plan",
    "parse_folds",
    "plan_json",
]

VERSION = 1

_Choice = TypeVar("_Choice", bound=enum.Enum)

Fold = tuple[int, int]
"""Outputs and inputs computed at once."""


class ProductCircuit(enum.Enum):
    """What makes the products of weights and codes."""

    SHIFT_ADD = "shift-add"
    TABLE = "table"


class StaircaseCircuit(enum.Enum):
    """What makes codes of accumulators."""

    NONE = "none"
    SHIFT_CLIP = "shift-clip"
    COMPARATORS = "comparators"
    SEARCH = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePlan:
    """How a dense layer is built.

    Parameters
    ----------
    name : str
        The layer.
    outputs, inputs : int
        Folding: outputs and inputs computed at once.
    product : ProductCircuit
    products_in, weights_in, constants_in : Storage
        What holds product tables, assignments, and the offsets or thresholds.
    staircase : StaircaseCircuit
    depth : int
        Beats of ``inputs`` codes that the replay buffer holds; 0 builds none, which needs
        all outputs at once.
    """

    name: str
    outputs: int
    inputs: int
    product: ProductCircuit
    products_in: Storage
    weights_in: Storage
    constants_in: Storage
    staircase: StaircaseCircuit
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a network is built.

    Parameters
    ----------
    network : str
        Digest of the network.
    input_lanes : int
        Codes that enter at once.
    layers : tuple of DensePlan
        Those of the dense layers, in the network's order.
    """

    network: str
    input_lanes: int
    layers: tuple[DensePlan, ...]

    def __getitem__(self, name: str) -> DensePlan:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def _dense_layers(network: Network) -> list[Dense]:
    return [layer for layer in network.layers if isinstance(layer, Dense)]


def _codes(network: Network, layer: Dense) -> Codes:
    wire, = network.reads(layer)
    assert isinstance(wire, Codes)
    return wire


def _legal_circuits(network: Network, layer: Dense) -> tuple[list[ProductCircuit],
                                                             list[StaircaseCircuit]]:
    """Circuits that give exactly the layer's bits, the smallest first."""
    terms = dense_terms(layer, _codes(network, layer).levels)
    products = [ProductCircuit.TABLE]
    if shift_add_slopes(terms.products.tolist()) is not None:
        products.insert(0, ProductCircuit.SHIFT_ADD)
    if layer.staircase is None:
        return products, [StaircaseCircuit.NONE]
    staircases = [StaircaseCircuit.COMPARATORS, StaircaseCircuit.SEARCH]
    if len(layer.staircase.levels) > 4:
        staircases.reverse()
    if shift_clip_terms(layer.staircase, terms.low + terms.offsets, terms.high + terms.offsets):
        staircases.insert(0, StaircaseCircuit.SHIFT_CLIP)
    return products, staircases


def make_plan(network: Network, folds: Mapping[str, Fold] | None = None, *,
              default: Fold = (1, 1), input_lanes: int = 1) -> Plan:
    """A plan with the given folding and the smallest circuits.

    Parameters
    ----------
    folds : mapping of layer name to (outputs, inputs) at once
        `PlanError` for a layer that does not exist or cannot be folded like that.
    default : (outputs, inputs)
        For the other layers.
    """
    folds = dict(folds or {})
    layers = []
    for layer in _dense_layers(network):
        outputs, inputs = folds.pop(layer.name, default)
        products, staircases = _legal_circuits(network, layer)
        check_fold(layer, outputs, inputs)
        table = len(layer.dictionary) * len(_codes(network, layer).levels)
        weights = layer.assignment.size * max(1, layer.assignment_bits)
        layers.append(DensePlan(
            name=layer.name, outputs=outputs, inputs=inputs, product=products[0],
            products_in=Storage.BLOCK if table > 64 and outputs * inputs <= 4 else Storage.LOGIC,
            weights_in=Storage.BLOCK if weights >= 512 else Storage.LOGIC,
            constants_in=Storage.LOGIC, staircase=staircases[0],
            depth=_even_depth(layer, outputs, inputs)))
    if folds:
        raise _unknown_layer(network, next(iter(folds)))
    plan = Plan(network=network.digest, input_lanes=input_lanes, layers=tuple(layers))
    check_plan(plan, network)
    return plan


def _even_depth(layer: Dense, outputs: int, inputs: int) -> int:
    """Depth at which vectors follow without a gap: two of them, up to a power of two."""
    if outputs >= layer.outputs:
        return 0
    return 1 << max(1, (2 * beats(layer.fan_in, inputs) - 1).bit_length())


def _unknown_layer(network: Network, name: str) -> PlanError:
    known = ", ".join(layer.name for layer in _dense_layers(network))
    return PlanError(f"plan: layer {name!r} must be a dense layer of network {network.name!r}, "
                     f"which has {known}")


def check_fold(layer: Dense, outputs: int, inputs: int) -> None:
    """`PlanError` unless ``layer`` can compute so many outputs and inputs at once."""
    for what, lanes, most in (("outputs", outputs, layer.outputs),
                              ("inputs", inputs, layer.fan_in)):
        if not 1 <= lanes <= most:
            raise PlanError(f"plan: layer {layer.name!r} must compute 1 to {most} {what} at once, "
                            f"not {lanes}; change its fold")


def check_plan(plan: Plan, network: Network) -> None:
    """`PlanError` unless ``plan`` is a legal one for ``network``."""
    if plan.network != network.digest:
        raise PlanError(f"plan: must be of network {network.name!r} ({network.digest[:12]}), not "
                        f"of one with digest {plan.network[:12]}; make a plan for this network")
    pixels = 1
    for size in network.input.shape:
        pixels *= size
    if not 1 <= plan.input_lanes <= pixels:
        raise PlanError(f"plan: input lanes must be 1 to {pixels}, not {plan.input_lanes}")
    expected = [layer.name for layer in _dense_layers(network)]
    given = [layer.name for layer in plan.layers]
    for name in given:
        if name not in expected:
            raise _unknown_layer(network, name)
    if given != expected:
        raise PlanError(f"plan: must have the layers {', '.join(expected)} in this order, "
                        f"not {', '.join(given) or 'none'}")
    for layer, entry in zip(_dense_layers(network), plan.layers, strict=True):
        check_fold(layer, entry.outputs, entry.inputs)
        products, staircases = _legal_circuits(network, layer)
        for what, choice, legal in (("products", entry.product, products),
                                    ("staircase", entry.staircase, staircases)):
            if choice not in legal:
                raise PlanError(f"plan: layer {layer.name!r} must make its {what} by "
                                f"{' or '.join(c.value for c in legal)}, not {choice.value}: "
                                "that circuit would give other bits")
        chunks = beats(layer.fan_in, entry.inputs)
        if entry.depth == 0 and entry.outputs < layer.outputs:
            raise PlanError(f"plan: layer {layer.name!r} must have a buffer, because it computes "
                            f"{entry.outputs} of {layer.outputs} outputs at once; "
                            f"set its depth to {_even_depth(layer, entry.outputs, entry.inputs)}")
        if entry.depth and entry.depth < max(chunks, 2):
            raise PlanError(f"plan: layer {layer.name!r} must have a buffer of at least "
                            f"{max(chunks, 2)} beats, not {entry.depth}; increase its depth")


def intervals(plan: Plan, network: Network) -> dict[str, int]:
    """Ideal cycles between inferences of every part of the pipeline; the slowest one rules."""
    pixels = 1
    for size in network.input.shape:
        pixels *= size
    cycles = {network.layers[0].name: beats(pixels, plan.input_lanes)}
    lanes = plan.input_lanes
    for layer in network.layers[1:]:
        match layer:
            case Dense():
                fold = plan[layer.name]
                chunks = beats(layer.fan_in, fold.inputs)
                cycles[layer.name] = beats(layer.outputs, fold.outputs) * chunks
                lanes = output_lanes(layer, fold)
            case Argmax():
                cycles[layer.name] = beats(network.reads(layer)[0].shape[0], lanes)
    return cycles


def output_lanes(layer: Dense, fold: DensePlan) -> int:
    """Sums that leave a layer at once: the fewest that do not slow it down."""
    chunks = beats(layer.fan_in, fold.inputs)
    return next(n for n in range(1, fold.outputs + 1)
                if fold.outputs % n == 0 and n * chunks >= fold.outputs)


def fold_for_interval(network: Network, cycles: int) -> dict[str, Fold]:
    """For each dense layer the fewest lanes that keep its interval within ``cycles``."""
    if cycles < 1:
        raise PlanError("plan: the clock must be at least as fast as the inferences; "
                        "ask for fewer of them a second, or for a faster clock")
    folds = {}
    for layer in _dense_layers(network):
        candidates = []
        for outputs in range(1, layer.outputs + 1):
            passes = beats(layer.outputs, outputs)
            if passes <= cycles:
                inputs = beats(layer.fan_in, min(layer.fan_in, cycles // passes))
                candidates.append((outputs * inputs, outputs, inputs))
        _, outputs, inputs = min(candidates)
        folds[layer.name] = (outputs, inputs)
    return folds


def parse_folds(text: str, network: Network) -> dict[str, Fold]:
    """Folding as typed: ``4x8`` for every layer, or ``dense1=4x8,dense2=2x16``."""
    folds: dict[str, Fold] = {}
    for item in text.split(","):
        match = re.fullmatch(r"\s*(?:(\w+)\s*=\s*)?(-?\d+)\s*x\s*(-?\d+)\s*", item)
        if not match:
            raise PlanError(f"fold: must be OUTPUTSxINPUTS or LAYER=OUTPUTSxINPUTS, separated by "
                            f"commas, not {item!r}; for example dense1=4x8,dense2=2x16")
        name, fold = match[1], (int(match[2]), int(match[3]))
        names = [name] if name else [layer.name for layer in _dense_layers(network)]
        folds.update(dict.fromkeys(names, fold))
    return folds


def plan_json(plan: Plan) -> str:
    """``plan`` as JSON text; `load_plan` reads it back."""
    return json.dumps({"version": VERSION, **asdict(plan)}, indent=2,
                      default=lambda value: value.value) + "\n"


def load_plan(path: Path, network: Network) -> Plan:
    """The plan in the JSON file at ``path``, checked against ``network``."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"plan file '{path}' must be readable ({error.strerror}); "
                        "check its name") from error
    except ValueError as error:
        raise PlanError(f"plan file '{path}' must be JSON ({error}); "
                        "take the plan.json of a build as an example") from error
    try:
        _only(content, {"version", *(field.name for field in fields(Plan))}, "plan")
        if content["version"] != VERSION:
            raise PlanError(f"version must be {VERSION}, not {content['version']!r}")
        layers = []
        for entry in content["layers"]:
            _only(entry, {field.name for field in fields(DensePlan)}, "layer")
            layers.append(_dense_plan(entry))
        plan = Plan(network=_text(content["network"]), input_lanes=_count(content["input_lanes"]),
                    layers=tuple(layers))
        check_plan(plan, network)
    except (PlanError, KeyError, TypeError) as error:
        raise PlanError(f"plan file '{path}': {error}") from error
    return plan


def _only(content: Any, names: set[str], what: str) -> None:
    if not isinstance(content, dict):
        raise PlanError(f"{what} must be an object, not {content!r}")
    for name in content.keys() ^ names:
        raise PlanError(f"{what} must have {', '.join(sorted(names))}; "
                        f"{name!r} is {'missing' if name in names else 'unknown'}")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"sizes must be whole numbers, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise PlanError(f"names must be text, not {value!r}")
    return value


def _choice(kind: type[_Choice], value: Any) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise PlanError(f"{kind.__name__} must be one of {', '.join(c.value for c in kind)}, "
                        f"not {value!r}") from None


def _dense_plan(entry: dict[str, Any]) -> DensePlan:
    return DensePlan(
        name=_text(entry["name"]), outputs=_count(entry["outputs"]),
        inputs=_count(entry["inputs"]), depth=_count(entry["depth"]),
        product=_choice(ProductCircuit, entry["product"]),
        staircase=_choice(StaircaseCircuit, entry["staircase"]),
        **{name: _choice(Storage, entry[name])
           for name in ("products_in", "weights_in", "constants_in")})
