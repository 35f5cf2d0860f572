"""Tables of measurements, as Markdown."""
from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from nomul.boards.doctor import tool_versions
from nomul.compiler.files import replace_file

__all__ = ["Row", "put_in", "table", "versions"]

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


def put_in(path: Path, name: str, text: str) -> None:
    """Write ``text`` into a file, between the comments ``<!-- name -->`` and ``<!-- /name -->``.

    Raises
    ------
    ValueError
        If the file lacks one of them.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, begun, rest = path.read_text().partition(first)
    _, ended, after = rest.partition(last)
    if not (begun and ended):
        raise ValueError(f"{path}: must have {first} and, after it, {last}; write both where the "
                         "text belongs")
    replace_file(path, f"{before}{first}\n{text}\n{last}{after}")
