"""The catalogue of hardware components, made of their docstrings.

``python -m nomul.catalogue docs`` writes it.
"""
from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from amaranth.lib import wiring

import nomul.hw
from nomul.compiler.files import replace_file

__all__ = ["catalogue"]


def catalogue() -> str:
    """Text of docs/components.md."""
    rows = [f"| `{cls.__module__}.{cls.__name__}` | {_summary(cls)} | {_fact(cls, 'Latency')} | "
            f"{_fact(cls, 'Throughput')} |" for cls in _components()]
    return "\n".join((
        "# Hardware components", "",
        "Made from the docstrings by `python -m nomul.catalogue docs`; do not edit.", "",
        "| component | what it does | latency | throughput |", "|---|---|---|---|", *rows, ""))


def _components() -> Iterator[type]:
    for info in pkgutil.iter_modules(nomul.hw.__path__):
        module = importlib.import_module(f"nomul.hw.{info.name}")
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if (issubclass(cls, wiring.Component) and cls.__module__ == module.__name__
                    and not name.startswith("_")):
                yield cls


def _summary(cls: type) -> str:
    first, _, _ = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    return " ".join(first.split()).replace("``", "`").replace("|", "\\|")


def _fact(cls: type, name: str) -> str:
    """What follows ``Latency:`` up to the next fact or paragraph, in the class or its bases."""
    for base in cls.__mro__:
        match = re.search(rf"{name}: (.*?)\.(?:\s+[A-Z]\w+:|\n\n|\s*$)",
                          inspect.cleandoc(base.__doc__ or ""), re.DOTALL)
        if match:
            return " ".join(match[1].split()).replace("``", "`")
    return ""


if __name__ == "__main__":
    replace_file(Path(sys.argv[1]) / "components.md", catalogue())
