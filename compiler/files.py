"""Files that appear whole or not at all."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nomul.compiler.errors import DataError

__all__ = ["cache_folder", "check_replaceable", "new_folder", "replace_file"]


def cache_folder() -> Path:
    """``nomul`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``: for what can be made or fetched
    again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "nomul"


def replace_file(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``. On any failure the file that was there stays as it was."""
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.",
                                         delete=False) as file:
            temporary = file.name
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"file '{path}' cannot be written ({error.strerror}); "
                        "free space or choose another place") from error


def check_replaceable(folder: Path, marker: str, what: str) -> None:
    """`DataError` if ``folder`` holds something else than ``what``, which has a file ``marker``."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise DataError(f"folder '{folder}' must be new, empty or hold {what}, because its "
                        "contents are replaced; choose another one")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, which becomes ``path`` once the block ends without an error.

    Until then a folder that was there stays as it was; afterwards it is gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        temporary.chmod(0o755)
    except OSError as error:
        raise DataError(f"folder '{path}' cannot be made ({error.strerror}); "
                        "choose another place") from error
    try:
        yield temporary
        if path.exists() and not path.is_dir():
            raise DataError(f"'{path}' must be a folder, but is a file; choose another place")
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
