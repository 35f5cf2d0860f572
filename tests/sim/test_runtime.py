"""Verilator's runtime is compiled once, and again where anything about it differs."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nomul.sim.runtime import compile_model
from nomul.sim.verilator import build_environment

pytestmark = pytest.mark.cocotb

MODULE = "module inverter(input a, output b); assign b = ~a; endmodule\n"
MAIN = """\
#include <cstdio>
#include "Vtop.h"
int main() {
    Vtop top;
    top.a = 0;
    top.eval();
    std::printf("%d\\n", static_cast<int>(top.b));
}
"""


def compiled(folder: Path, *options: str) -> tuple[str, str]:
    """What make printed, and then the program."""
    folder.mkdir()
    (folder / "inverter.v").write_text(MODULE)
    (folder / "main.cpp").write_text(MAIN)
    printed = []

    def call(*command: str) -> None:
        printed.append(subprocess.run(command, cwd=folder, check=True, capture_output=True,
                                      text=True).stdout)

    with build_environment():
        call("verilator", "--cc", "--exe", "-Mdir", ".", "--prefix", "Vtop", "-o", "program",
             *options, "main.cpp", "inverter.v")
        compile_model("Vtop", folder, call)
        call(str(folder / "program"))
    return printed[1], printed[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nomul" / "verilator"


@pytest.mark.parametrize("level", ["0", "1"])
def test_the_second_simulation_takes_what_the_first_one_compiled(
        tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("MAKELEVEL", level)  # 1: below another make, as `make test` runs it
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    first, result = compiled(tmp_path / "first")
    assert "/verilated.cpp" in first and result == "1\n"
    kept, = cache.iterdir()
    assert {file.name for file in kept.iterdir()} >= {"verilated.o", "verilated_threads.o"}
    second, result = compiled(tmp_path / "second")
    assert "/verilated" not in second and "main.cpp" in second and result == "1\n"
    # Another option is another runtime.
    third, result = compiled(tmp_path / "third", "-CFLAGS", "-DANOTHER")
    assert "/verilated.cpp" in third and result == "1\n"
    assert len(list(cache.iterdir())) == 2
    # What is linked is what the cache holds.
    (kept / "verilated.o").write_bytes(b"no object")
    with pytest.raises(subprocess.CalledProcessError):
        compiled(tmp_path / "fourth")


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file")
    printed, result = compiled(tmp_path / "first")
    assert "/verilated.cpp" in printed and result == "1\n"
