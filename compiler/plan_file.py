"""Plans as JSON files.

Whatever is read is checked, field by field, and against its network.
"""
from __future__ import annotations

import enum
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from nomul.compiler.errors import DataError, PlanError
from nomul.compiler.network import Network
from nomul.compiler.plan import EnginePlan, LayerPlan, Plan, QueuePlan, check_plan
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit, WeightMemory
from nomul.hw.table import Storage

__all__ = ["load_plan", "plan_json"]

VERSION = 1

_Choice = TypeVar("_Choice", bound=enum.Enum)


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
        if isinstance(content, dict):
            content = {"engine": None, **content}  # plans of earlier versions lack it
        _only(content, {"version", *(field.name for field in fields(Plan))}, "plan")
        if content["version"] != VERSION:
            raise PlanError(f"version must be {VERSION}, not {content['version']!r}")
        plan = Plan(network=_text(content["network"]), input_lanes=_count(content["input_lanes"]),
                    layers=tuple(_layer_plan(entry) for entry in content["layers"]),
                    queues=tuple(_queue_plan(entry) for entry in content["queues"]),
                    engine=content["engine"] and _engine_plan(content["engine"]))
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


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"parity must be true or false, not {value!r}")
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


def _layer_plan(entry: dict[str, Any]) -> LayerPlan:
    if isinstance(entry, dict):
        # Plans of earlier versions lack these.
        entry = {"buffer_in": Storage.BLOCK.value, "staircase_in": Storage.LOGIC.value,
                 "parity": False, "spread": 0, **entry}
    _only(entry, {field.name for field in fields(LayerPlan)}, "layer")
    return LayerPlan(
        name=_text(entry["name"]), outputs=_count(entry["outputs"]),
        inputs=_count(entry["inputs"]), depth=_count(entry["depth"]), parity=_flag(entry["parity"]),
        spread=_count(entry["spread"]),
        product=_choice(ProductCircuit, entry["product"]),
        staircase=_choice(StaircaseCircuit, entry["staircase"]),
        **{name: _choice(Storage, entry[name])
           for name in ("products_in", "weights_in", "constants_in", "buffer_in", "staircase_in")})


def _engine_plan(entry: dict[str, Any]) -> EnginePlan:
    if isinstance(entry, dict):
        entry = {"weights_in": WeightMemory.BLOCK.value, **entry}  # earlier plans lack it
    _only(entry, {field.name for field in fields(EnginePlan)}, "engine")
    return EnginePlan(
        lanes=_count(entry["lanes"]), product=_choice(ProductCircuit, entry["product"]),
        staircase=_choice(StaircaseCircuit, entry["staircase"]),
        products_in=_choice(Storage, entry["products_in"]),
        memories=_choice(Storage, entry["memories"]),
        codes_in=_choice(CodeMemory, entry["codes_in"]),
        weights_in=_choice(WeightMemory, entry["weights_in"]))


def _queue_plan(entry: dict[str, Any]) -> QueuePlan:
    _only(entry, {field.name for field in fields(QueuePlan)}, "queue")
    return QueuePlan(source=_text(entry["source"]), reader=_text(entry["reader"]),
                     depth=_count(entry["depth"]))
