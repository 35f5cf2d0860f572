"""What the commands of ``nomul`` share: tables, progress bars, complaints, options."""
from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from nomul.compiler.network import Network
    from nomul.images import Images

__all__ = ["Report", "bars", "build_argument", "command_line", "complain", "console",
           "data_option", "images_of", "network_argument", "percent", "print_table",
           "split_option"]

build_argument = click.argument("folder", metavar="BUILD", type=Path)
network_argument = click.argument("network_file", metavar="NETWORK", type=Path)

data_option = click.option(
    "--data", help="Images: a data set (digits), a .npz file with images and labels, a .npy file "
    "of images, or random.  [default: what the network was trained on]")
split_option = click.option("--split", type=click.Choice(["train", "validation", "test", "all"]),
                             default="test", show_default=True, help="Part of a data set.")

# A terminal's own width; wide enough for the tables where there is none.
console = Console(width=None if sys.stdout.isatty() else 110)


def complain(message: str) -> None:
    """Print ``message`` on stderr."""
    click.echo(f"nomul: {message}", err=True)


class Report(Protocol):
    """Shows how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, text: str = "") -> None: ...


@contextmanager
def bars() -> Iterator[Report]:
    """Progress bars: a callable of stage, done, total and text, with a bar for each stage."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int, text: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total,
                            description=f"{stage} {text}" if text else stage)

        yield update


def command_line() -> str:
    """The command that runs, to be repeated."""
    return shlex.join(["nomul", *sys.argv[1:]])


def print_table(title: str, columns: dict[str, bool], rows: list[tuple[Any, ...]]) -> None:
    """Print a table; ``columns`` says of each if it holds numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, is_number in columns.items():
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else f"{cell:,}" if isinstance(cell, int)
                        else escape(str(cell)) for cell in row))
    console.print(table)


def percent(value: float | None) -> str | None:
    """A share of 1 as text."""
    return None if value is None else f"{100 * value:.2f} %"


def images_of(data: str | None, split: str, network: Network, provenance: dict[str, Any]) -> Images:
    """The images that ``--data`` and ``--split`` name."""
    from nomul.images import RANDOM, load_images

    trained_on = provenance.get("data")
    known = trained_on.get("name") if isinstance(trained_on, dict) else None
    return load_images(data or (known if isinstance(known, str) else RANDOM), network, split=split)
