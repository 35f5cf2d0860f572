"""Trainings that can be interrupted: one file holds the state of each stage."""
from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nomul.compiler.errors import DataError
from nomul.compiler.files import replace_file

__all__ = ["Checkpoint"]

State = dict[str, Any]


class Checkpoint:
    """States of the stages of one training, in memory and, if it has a path, in a file.

    The file appears whole or not at all, and is read without running code from it.

    Parameters
    ----------
    path : Path or None
        File to go on from if it exists; None keeps nothing.
    identity : mapping
        What is trained, as JSON values. A file of another identity is refused.

    Raises
    ------
    DataError
        If the file is damaged, or belongs to another training.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = json.dumps(identity, sort_keys=True)
        self._stages: dict[str, State] = {}
        if path is not None and path.exists():
            self._stages = self._read(path)

    def stage(self, name: str) -> State | None:
        """The state that was last kept of a stage, if there is one."""
        return self._stages.get(name)

    def keep(self, name: str, state: State) -> None:
        """Write the state of a stage: dicts of tensors, numbers and strings.

        Raises
        ------
        DataError
            If the file cannot be written; the one that was there stays as it was.
        """
        if self._path is None:
            return
        self._stages[name] = state
        file = io.BytesIO()
        torch.save({"identity": self._identity, "stages": self._stages}, file)
        replace_file(self._path, file.getvalue())

    def _read(self, path: Path) -> dict[str, State]:
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
            identity, stages = content["identity"], dict(content["stages"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError,
                pickle.UnpicklingError) as error:
            raise DataError(f"checkpoint '{path}' must be a whole file of nomul; "
                            "remove it to train from the start") from error
        if identity != self._identity:
            raise DataError(f"checkpoint '{path}' must belong to this training, but has other "
                            "settings, data or seed; remove it, or name another file")
        return stages
