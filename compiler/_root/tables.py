"""Tables of measurements, as Markdown."""
from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from nomul.boards.doctor import tool_versions

__all__ = ["Row", "table", "versions"]

Row = Sequence[object]


def table(header: Row, rows: Sequence[Row]) -> str:
    """A table; thousands are parted by commas."""
    def line(cells: Row) -> str:
        return "| " + " | ".join(f"{c:,}" if isinstance(c, int) else str(c) for c in cells) + " |"
    return "\n".join((line(header), "|" + "---|" * len(header), *map(line, rows)))


def versions(*tools: str) -> str:
    """A sentence that names the versions of Python and of those ``tools``, or packages, that are
    there."""
    known = tool_versions()
    for name in tools:
        if name not in known and find_spec(name):
            known[name] = version(name)
    return (f"Python {platform.python_version()}, "
            + ", ".join(f"{name} {known[name]}" for name in tools if name in known) + ".")
