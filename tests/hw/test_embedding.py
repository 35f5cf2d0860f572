# amaranth: UnusedElaboratable=no
"""Embedding against NumPy."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, unsigned

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.embedding import Embedding
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer
from nomul.sim.formal import prove_streams


def random_tables(tables: int, rows: int, depth: int, codes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([tables, rows, depth]).integers(0, codes, (tables, rows, depth))


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("tables, channels, rows, depth", [
    (1, 1, 256, 4), (1, 3, 16, 5), (3, 3, 256, 2), (3, 3, 10, 1), (4, 4, 2, 3), (2, 2, 1, 2),
    (1, 2, 1, 1), (5, 5, 7, 2)])
def test_rows_of_the_table(tables: int, channels: int, rows: int, depth: int,
                           storage: Storage) -> None:
    table = random_tables(tables, rows, depth, 8)
    table[0, 0], table[-1, -1] = 0, 7
    pixels = np.random.default_rng(rows).integers(0, rows, (40, channels))
    pixels[0], pixels[1] = 0, rows - 1
    expected = table[np.arange(channels) % tables, pixels].reshape(-1, depth)

    dut = Embedding(table.tolist(), code_shape=unsigned(3), channels=channels, storage=storage)
    got = transfer(dut, pixels.reshape(-1, 1).tolist(), len(expected), seed=rows)
    assert [list(beat) for beat in got] == expected.tolist()


@pytest.mark.parametrize("storage", Storage)
def test_latency_and_rate(storage: Storage) -> None:
    dut = Embedding(random_tables(3, 4, 2, 4).tolist(), code_shape=2, channels=3,
                    storage=storage)
    assert measure(dut, [[0]] * 20, 20) == list(range(dut.latency, dut.latency + 20))


@pytest.mark.formal
@pytest.mark.parametrize("tables", [1, 3])
def test_holds_while_stalled(tables: int, tmp_path: Path) -> None:
    dut = Embedding(random_tables(tables, 4, 2, 4).tolist(), code_shape=2, channels=3,
                    storage=Storage.LOGIC)
    assert prove_streams(dut, tmp_path)


@pytest.mark.formal
def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Hasty(Embedding):
        """Takes pixels while it is stalled."""

        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.i.ready.eq(1)
            return m

    dut = Hasty([[[0], [1]]], code_shape=1, channels=1, storage=Storage.LOGIC)
    assert not prove_streams(dut, tmp_path)


@pytest.mark.synth
@pytest.mark.parametrize("name", ["ice40-hx8k", "ecp5-25k"])
@pytest.mark.parametrize("storage", Storage)
def test_storage_is_as_asked(storage: Storage, name: str, tmp_path: Path) -> None:
    dut = Embedding(random_tables(1, 256, 4, 16).tolist(), code_shape=4, channels=3,
                    storage=storage)
    blocks = make_netlist(dut, target(name), tmp_path).counts.bram
    assert blocks == (0 if storage is Storage.LOGIC else 1)


@pytest.mark.parametrize("wrong, message", [
    ({"channels": 0}, "Number of channels must be at least 1, not 0"),
    ({"tables": [[[0]]] * 2}, "There must be one table, or one for each of the 3 channels, not 2"),
    ({"tables": []}, "There must be one table, or one for each of the 3 channels, not 0"),
    ({"tables": [[[0]], [[0]], [[0], [1]]]}, "Tables must be of one length, at least one row"),
    ({"tables": [[]]}, "Tables must be of one length, at least one row"),
    ({"tables": [[[0], [0, 1]]]}, "Rows must be of one length, at least one code"),
    ({"tables": [[[]]]}, "Rows must be of one length, at least one code"),
    ({"tables": [[[4]]]}, "Table row must be within unsigned(2), not 4"),
])
def test_parameters_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Embedding(**{"tables": [[[0]]], "code_shape": 2, "channels": 3,
                     "storage": Storage.LOGIC, **wrong})
