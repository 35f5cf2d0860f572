"""Methods side by side: their table, their plot, going on where it was."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.boards.targets import target
from nomul.compare import Row, compare, markdown, plot, size_of
from nomul.compiler.errors import DataError
from nomul.compiler.network import Argmax, Dense, Flatten, Input, Levels, Network, Staircase
from nomul.compiler.quantize.constraints import Free, PowerOfTwo
from nomul.compiler.quantize.methods import LutqMethod, UniformMethod
from nomul.compiler.quantize.recipes import recipe_of
from nomul.compiler.storage import load

ROW = Row(name="a", digest="d", weights=10, weight_bits=20, ratio=12.5, table_entries=64,
          multiplications=10, regrouped=4, float_accuracy=0.9, accuracy=0.85, exact=100,
          played=20, mismatches=0, interval=640, logic_cells=700, lut4=600, ff=300, bram=2, dsp=0,
          fmax_mhz=99.94)


def lenet300(entries: int) -> Network:
    """A network of LeNet300's size; what its numbers are does not matter."""
    layers: list[object] = [
        Input(name="pixels", shape=(28, 28, 1), levels=Levels.uniform(2)),
        Flatten(name="flatten", inputs=("pixels",))]
    for number, (inputs, outputs) in enumerate(((784, 300), (300, 100), (100, 10)), start=1):
        layers.append(Dense(
            name=f"dense{number}", inputs=(layers[-1].name,),  # type: ignore[attr-defined]
            dictionary=np.arange(entries) + 1, bias=np.zeros(outputs, int),
            assignment=np.arange(inputs * outputs).reshape(outputs, inputs) % entries,
            staircase=None if number == 3 else Staircase(thresholds=np.array([[5]]),
                                                         levels=Levels.uniform(2))))
    layers.append(Argmax(name="argmax", inputs=("dense3",)))
    return Network(name="lenet300", layers=tuple(layers))  # type: ignore[arg-type]


@pytest.mark.parametrize("entries, ratio", [(2, 30.52), (4, 15.63)])
def test_the_ratio_is_that_of_the_lc_paper(entries: int, ratio: float) -> None:
    size = size_of(lenet300(entries))
    assert size.weights == 266_200
    assert round(size.ratio, 2) == ratio
    assert size.multiplications == 266_200
    # 1, 2 and 4 are powers of two, 3 is not: one multiplication for each output.
    assert size.regrouped == (410 if entries == 4 else 0)
    assert size.table_entries == 3 * 2 * entries


def test_the_table_names_what_a_small_chip_cannot_tell() -> None:
    missing = replace(ROW, name="b", logic_cells=None, lut4=None, ff=None, bram=None, dsp=None,
                      fmax_mhz=None)
    lines = markdown([ROW, missing]).splitlines()
    assert lines[2] == ("| a | 90.00 | 85.00 | 20 | 2.00 | 12.50 | 64 | 10 | 4 | 600 | 300 | 2 | 0 "
                        "| 99.9 | 640 | 20 of 20 |")
    assert lines[3].count("too small") == 5


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot([ROW, replace(ROW, name="b", lut4=None)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.synth
@pytest.mark.train
def test_methods_of_the_digits(tmp_path: Path) -> None:
    recipe = replace(recipe_of("digits"), epochs=20)
    methods = {"uniform": UniformMethod(bits=3), "pow2": LutqMethod(constraint=PowerOfTwo(bits=3))}
    stages: list[str] = []
    rows = compare(recipe, methods, tmp_path, chip=target("ecp5-25k"), images=12,
                   progress=lambda stage, *_: stages.append(stage))
    assert [row.name for row in rows] == [*methods]
    for row in rows:
        assert row.mismatches == 0 and row.played == 12 and row.exact == 360 and row.dsp == 0
        assert row.lut4 and row.fmax_mhz and row.interval >= 2048
        file, = tmp_path.glob(f"{row.name}-*.nomul")
        assert load(file).digest == row.digest
    assert rows[0].float_accuracy == rows[1].float_accuracy
    assert rows[1].regrouped == 0 < rows[0].regrouped
    assert "uniform: float" in stages and "pow2: float" not in stages

    stages.clear()
    again = compare(recipe, dict(reversed(methods.items())), tmp_path, chip=target("ecp5-25k"),
                    images=12, progress=lambda stage, *_: stages.append(stage))
    assert again == rows[::-1] and not stages

    # Another method goes on from the float net that is there.
    more = {"free": LutqMethod(constraint=Free(bits=2))}
    compare(recipe, more, tmp_path, chip=target("ecp5-25k"), images=2,
            progress=lambda stage, *_: stages.append(stage))
    assert "free: lutq" in stages and "free: float" not in stages

    file = tmp_path / "compare.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(DataError, match="must be a whole file of nomul compare; remove it"):
        compare(recipe, methods, tmp_path, chip=target("ecp5-25k"), images=12)
