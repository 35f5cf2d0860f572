"""``nomul run``: images to a network on a board, or on a simulated one."""
from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from nomul.compiler.errors import DataError
from nomul.terminal import bars, console, data_option, images_of, percent, print_table, split_option

if TYPE_CHECKING:
    from nomul.boards.board import LinkKind
    from nomul.boards.host import Client, Result
    from nomul.boards.ports import LinePort
    from nomul.build import BuildFolder
    from nomul.images import Images

__all__ = ["run_on_board", "simulated_board"]

# Cycles of a bit on a simulated line: fewer are faster to simulate. SPI cannot have fewer.
_DIVISOR = 8
# Images whose classes are shown one by one.
_LISTED = 20
# Seconds that an answer may take beyond what the line and the network need.
_PATIENCE = 1.0


@click.command(name="run")
@click.argument("folder", metavar="BUILD", type=Path)
@click.argument("files", metavar="[IMAGE]...", nargs=-1, type=Path)
@click.option("--port", help="Port of the board: a serial one such as /dev/ttyUSB1 or COM5, or "
              "SPI: /dev/spidev0.0, or an FTDI chip such as ftdi://ftdi:232h/1.")
@click.option("--simulate", is_flag=True, help="Ask the same circuit in Verilator instead of a "
              "board.")
@click.option("--link", type=click.Choice(("uart", "spi")), help="Link of the simulated board.  "
              "[default: uart]")
@click.option("--board", help="Board at the port.  [default: that of the build]")
@click.option("--baud", type=click.IntRange(1), help="Bits a second; over SPI at most.  [default: "
              "those of the board's bitstream]")
@click.option("--pixels", is_flag=True, help="Arrays hold pixels of 0 to 255, not codes.")
@data_option
@split_option
@click.option("--images", "count", type=click.IntRange(1), help="How many to send, the first "
              "ones.  [default: all]")
def run_on_board(folder: Path, files: tuple[Path, ...], port: str | None, simulate: bool,
                 link: str | None, board: str | None, baud: int | None, pixels: bool,
                 data: str | None, split: str, count: int | None) -> None:
    """Send images to the network of BUILD on a board and print what it makes of them.

    \b
    IMAGE is a picture of the network's size, or a .npy or .npz file; without any, the images of
    --data are sent. The board must hold a bitstream of this build.
    Example:
      nomul run build/ --port /dev/ttyUSB1 seven.png
      nomul run build/ --port /dev/spidev0.0 seven.png
      nomul run build/ --simulate --data digits
    """
    from nomul.boards.board import LinkKind
    from nomul.boards.ports import link_of, open_port
    from nomul.build import open_build

    if bool(port) == simulate:
        raise click.UsageError("give either --port, where the board is, or --simulate")
    if files and data:
        raise click.UsageError("give either images or --data")
    if pixels and not files:
        raise click.UsageError("--pixels belongs to images in files; give some too")
    if simulate and (board or baud):
        raise click.UsageError("--board and --baud belong to --port; leave them out")
    if link and not simulate:
        raise click.UsageError("--link belongs to --simulate; leave it out")
    built = open_build(folder)
    chosen = _images(built, files, pixels, data, split, count)
    if simulate:
        with simulated_board(built, LinkKind(link or "uart")) as line:
            _show(built, chosen, line, "the simulated board")
        return
    loaded = _loaded(built, board)
    rate = baud or loaded.baud
    assert port is not None
    if link_of(port) is not loaded.link:
        ports = {LinkKind.UART: "a serial port", LinkKind.SPI: "SPI (/dev/spidevB.C or ftdi://...)"}
        raise DataError(f"port '{port}' must be {ports[loaded.link]}, as the bitstream for "
                        f"{loaded.board} has it; make another one with 'nomul synth --link "
                        f"{link_of(port).value}'")
    line = open_port(port, rate, timeout=_timeout(built, rate, loaded.clock_mhz))
    try:
        _show(built, chosen, line, loaded.board)
    finally:
        line.close()


@contextmanager
def simulated_board(built: BuildFolder, link: LinkKind | None = None) -> Iterator[LinePort]:
    """The circuit of a board that holds ``built``, in Verilator, as a port; with a serial line
    unless told otherwise."""
    from amaranth.back import verilog

    from nomul.boards.board import LinkKind
    from nomul.boards.ports import SpiPort
    from nomul.boards.top import link_top
    from nomul.compiler.lower import lower
    from nomul.compiler.plan import intervals, refuse_loads
    from nomul.sim.line import LineSimulation, compiled_line
    from nomul.sim.spi_line import SpiSimulation

    refuse_loads(built.network, built.plan, "a board's link")
    link = link or LinkKind.UART
    core = link_top(built.network, built.plan, lower(built.network, built.plan), link,
                    divisor=_DIVISOR)
    text = verilog.convert(core, name="board", emit_src=False, strip_internal_attrs=True)
    if link is LinkKind.SPI:
        with (compiled_line(text, "board", "spi_line") as program,
              SpiSimulation(program, period=_DIVISOR) as controller):
            yield SpiPort(controller, timeout=controller.timeout)
        return
    cycles = 8 * sum(intervals(built.plan, built.network).values())
    with (compiled_line(text, "board") as program, LineSimulation(
            program, divisor=_DIVISOR, patience=100_000 + cycles) as line):
        yield line


def _images(built: BuildFolder, files: tuple[Path, ...], pixels: bool, data: str | None,
            split: str, count: int | None) -> Images:
    from nomul.images import load_files

    if files:
        chosen = load_files(files, built.network, pixels=pixels)
    else:
        chosen = images_of(data, split, built.network, built.provenance)
    if not len(chosen.codes):
        raise DataError("there must be at least one image to send")
    return chosen.first(count or len(chosen.codes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bitstream:
    """What the board at the port holds."""

    board: str
    link: LinkKind
    baud: int
    clock_mhz: float


def _loaded(built: BuildFolder, board: str | None) -> _Bitstream:
    """The bitstream that ``nomul synth`` made, for ``board`` if there are several."""
    from nomul.boards.board import LinkKind

    found: list[_Bitstream] = []
    file = built.path / "synth.json"
    if file.is_file():
        try:
            synth = json.loads(file.read_text())
            if synth["network"] == built.network.digest:
                # Bitstreams of earlier versions have a serial line.
                found = [_Bitstream(board=name, baud=int(target["board"]["baud"]),
                                    link=LinkKind(target["board"].get("link", "uart")),
                                    clock_mhz=float(target["board"]["clock_mhz"]))
                         for name, target in synth["targets"].items() if "board" in target]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"file '{file}' must be whole ({error!r}); write it again with "
                            "'nomul synth'") from error
    if board is not None:
        found = [one for one in found if one.board == board]
    if not found:
        raise DataError(f"build '{built.path}' must hold a bitstream for "
                        f"{board or 'a board'}; make one with 'nomul synth {built.path} --board "
                        f"{board or 'NAME'}'")
    if len(found) > 1:
        names = ", ".join(one.board for one in found)
        raise DataError(f"build '{built.path}' holds bitstreams for {names}; say with --board "
                        "which one is at the port")
    return found[0]


def _timeout(built: BuildFolder, baud: int, clock_mhz: float) -> float:
    """Seconds after which no answer comes any more."""
    from nomul.compiler.plan import intervals

    image = prod(built.network.input.shape) * (built.circuit.s_axis.bits // 8)
    result = prod(built.network.output.shape) * (built.circuit.m_axis.bits // 8)
    # A byte takes ten bits, and another byte where it is escaped.
    line = 20 * (image + result + 40) / baud
    network = sum(intervals(built.plan, built.network).values()) / (clock_mhz * 1e6)
    return _PATIENCE + line + 2 * network


def _show(built: BuildFolder, images: Images, line: LinePort, where: str) -> None:
    from nomul.boards.host import Client

    client = Client(line, built.network, s_axis=built.circuit.s_axis,
                    m_axis=built.circuit.m_axis)
    start = time.perf_counter()
    results = list(_results(client, images))
    seconds = time.perf_counter() - start
    labels = [result.label for result in results]
    if len(results) <= _LISTED:
        print_table(f"{built.network.name} on {where}",
                    {"image": True, "class": True, "label": True, "scores": False},
                    [(number, result.label,
                      None if images.labels is None else int(images.labels[number]),
                      None if result.scores is None else
                      " ".join(map(str, result.scores.reshape(-1).tolist())))
                     for number, result in enumerate(results)])
    else:
        print_table(f"{built.network.name} on {where}", {"class": True, "images": True},
                    sorted(Counter(labels).items()))
    accuracy = (None if images.labels is None
                else float((np.array(labels) == images.labels).mean()))
    status = client.status()
    console.print(f"{len(results):,} images, {len(results) / seconds:,.1f} a second"
                  + (f", accuracy {percent(accuracy)}" if accuracy is not None else "")
                  + f"; frames damaged on the line {status.damaged:,}, refused {status.refused:,}",
                  highlight=False)


def _results(client: Client, images: Images) -> Iterator[Result]:
    with bars() as report:
        for number, result in enumerate(client.infer(images.codes), 1):
            report("images", number, len(images.codes))
            yield result
