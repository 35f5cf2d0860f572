"""What a build folder holds, read and checked before anything is reported."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from nomul.compiler.errors import DataError
from nomul.compiler.network import Network
from nomul.compiler.storage import load, load_provenance

__all__ = ["Build", "Part", "read_build"]

# Which command writes each file of a build folder.
_WRITERS = {"plan.json": "build", "manifest.json": "build", "sim.json": "sim",
            "synth.json": "synth"}


class Part:
    """A JSON object, read key by key; a value of the wrong kind is refused by its name.

    A key that is missing reads as None, like null.

    Parameters
    ----------
    file : Path
        Where the object stands, for the message.
    remedy : str
        What the user can do about a wrong value.
    values : dict
        The object.
    where : str
        Keys that lead to the object, for the message.
    """

    def __init__(self, file: Path, remedy: str, values: dict[str, Any], where: str = "") -> None:
        self.file = file
        self.remedy = remedy
        self.values = values
        self.where = where

    def refuse(self, key: str, rule: str) -> NoReturn:
        """Raise the `DataError` that says ``key`` breaks ``rule``."""
        value = repr(self.values.get(key))
        value = value if len(value) <= 60 else f"{value[:57]}..."
        raise DataError(f"file '{self.file}': {self.where}{key} must be {rule}, "
                        f"not {value}; {self.remedy}")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, "a string")
        return value

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def integer(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and not _is_integer(value):
            self.refuse(key, "an integer")
        return value

    def count(self, key: str) -> int:
        """An integer of at least 0 that must be there."""
        value = self.values.get(key)
        if not _is_integer(value) or value < 0:
            self.refuse(key, "an integer of at least 0")
        return value

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is not None and not (_is_integer(value) or isinstance(value, float)):
            self.refuse(key, "a number")
        return value

    def fraction(self, key: str) -> float | None:
        """A number from 0 to 1."""
        value = self.number(key)
        if value is not None and not 0 <= value <= 1:
            self.refuse(key, "from 0 to 1")
        return value

    def integers(self, key: str) -> list[int] | None:
        value = self.values.get(key)
        if value is not None and not (isinstance(value, list) and all(map(_is_integer, value))):
            self.refuse(key, "a list of integers")
        return value

    def part(self, key: str) -> Part | None:
        """The object at ``key``."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(key, "an object")
        return Part(self.file, self.remedy, value, f"{self.where}{key}.")

    def parts(self, key: str) -> dict[str, Part]:
        """The objects in the object at ``key``, by their names; none if it is missing."""
        outer = self.part(key)
        if outer is None:
            return {}
        parts = {}
        for name in outer.values:
            inner = outer.part(name)
            if inner is None:
                outer.refuse(name, "an object")
            parts[name] = inner
        return parts

    def rows(self, key: str) -> list[Part]:
        """The objects in the list at ``key``; none if it is missing."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            self.refuse(key, "a list of objects")
        return [Part(self.file, self.remedy, row, f"{self.where}{key}[{index}].")
                for index, row in enumerate(value)]


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build folder whose files all belong to its network.

    Parameters
    ----------
    network : Network
        What was built.
    provenance : Part
        How the network came to be.
    plan, manifest : Part
        How it was built.
    sim, synth : Part, optional
        How it was proven, and what it costs; None if the command has not run.
    """

    network: Network
    provenance: Part
    plan: Part
    manifest: Part
    sim: Part | None
    synth: Part | None


def read_build(folder: Path) -> Build:
    """Read the build folder; `DataError` if a file is missing, broken or of another network."""
    if not folder.is_dir():
        raise DataError(f"build folder '{folder}' must exist; make it with 'nomul build'")
    file = folder / "network.nomul"
    if not file.is_file():
        raise DataError(f"network file '{file}' must exist; make the folder again with "
                        "'nomul build'")
    network = load(file)

    def optional(name: str) -> Part | None:
        return _read(folder, name, network.digest) if (folder / name).exists() else None

    return Build(network=network,
                 provenance=Part(file, "train or import the network again", load_provenance(file),
                                 "provenance."),
                 plan=_read(folder, "plan.json", network.digest),
                 manifest=_read(folder, "manifest.json", network.digest),
                 sim=optional("sim.json"), synth=optional("synth.json"))


def _read(folder: Path, name: str, digest: str) -> Part:
    """The JSON object in the file called ``name``, which must be of the network ``digest``."""
    file = folder / name
    writer = _WRITERS[name]
    remedy = "make the folder again with 'nomul build'" if writer == "build" else (
        f"run 'nomul {writer} {folder}' again")
    try:
        value = json.loads(file.read_text("utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise DataError(f"file '{file}' must exist; {remedy}") from None
    except OSError as error:
        raise DataError(f"file '{file}' must be readable ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise DataError(f"file '{file}' must be JSON ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise DataError(f"file '{file}' must hold a JSON object, not {type(value).__name__}; "
                        f"{remedy}")
    part = Part(file, remedy, value)
    theirs = part.text("network")
    if theirs != digest:
        raise DataError(f"file '{file}' must be of the network in this folder (digest "
                        f"{digest[:12]}), not of {theirs[:12] if theirs else 'an unnamed one'}; "
                        f"{remedy}")
    return part


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
