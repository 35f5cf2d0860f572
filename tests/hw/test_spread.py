# amaranth: UnusedElaboratable=no
"""SpreadCycle in simulation, and how far block RAM is filled."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Signal, signed
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.dots import DotProducts
from nomul.hw.product import ShiftAddProducts
from nomul.hw.shapes import signed_range
from nomul.hw.spread import SpreadCycle, spread_size
from nomul.hw.table import Cycle, Storage


def seen(dut: Any, count: int, skip: int) -> tuple[list[int], int]:
    """Rows that leave, one every ``skip`` cycles, and the cycles to the first one."""
    rows: list[int] = []
    waited = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal waited
        step = 0
        while len(rows) < count:
            step += 1
            waited += not ctx.get(dut.valid) and not rows
            take = ctx.get(dut.valid) and step % skip == 0
            ctx.set(dut.next, take)
            if take:
                rows.append(ctx.get(dut.row))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-2)
    return rows, waited


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("count, spread, skip", [
    (3, 1, 3), (3, 2, 1), (9, 8, 1), (20, 3, 1), (22, 3, 2), (23, 3, 1), (17, 4, 3)])
def test_rows_come_in_order_and_again(count: int, spread: int, skip: int,
                                      storage: Storage) -> None:
    rows = np.random.default_rng([count, spread]).integers(-64, 64, count).tolist()
    dut = SpreadCycle(signed(7), rows, spread=spread, storage=storage)
    found, waited = seen(dut, 3 * count, skip)
    assert found == 3 * rows
    assert waited == storage.latency
    assert spread_size(7, count, spread) == (7 + -(-7 // spread), len(dut.words()))


def test_a_wrong_part_is_found() -> None:
    """The bench's twin: a part of a row beside another one."""
    class Swapped(SpreadCycle):
        def words(self) -> list[int]:
            first, second, *others = super().words()
            return [first & 127 | second & ~127, second & 127 | first & ~127, *others]

    rows = [3, -8, 27, 5, 1]
    assert seen(Swapped(signed(7), rows, spread=2, storage=Storage.BLOCK), 5, 1)[0] != rows


@pytest.mark.parametrize("storage", Storage)
def test_parity_flags_a_part(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from nomul.hw import table

    def up(change: int) -> bool:
        even = table._even
        monkeypatch.setattr(table, "_even", lambda word, width: even(word, width) ^ (
            change if word >> 7 == 5 else 0))
        flag = Signal()
        dut = SpreadCycle(7, [3, 8, 27 | 5 << 4, 5, 1], spread=2, storage=storage, flag=flag)
        raised = False

        async def bench(ctx: SimulatorContext) -> None:
            nonlocal raised
            for _ in range(20):
                ctx.set(dut.next, ctx.get(dut.valid))
                raised |= bool(ctx.get(flag))
                await ctx.tick()

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run_until(1e-4)
        monkeypatch.setattr(table, "_even", even)
        return raised

    assert any(word >> 7 == 5 for word in SpreadCycle(
        7, [3, 8, 27 | 5 << 4, 5, 1], spread=2, storage=storage).words())
    assert not up(0) and up(1 << 9)


@pytest.mark.parametrize("spread", [0, 5, -1])
def test_spread_is_checked(spread: int) -> None:
    with pytest.raises(ValueError, match=rf"^Rows between two that are spread must be 1 to 4, "
                                         rf"not {spread}$"):
        SpreadCycle(4, [0] * 5, spread=spread, storage=Storage.BLOCK)


def test_there_are_rows_to_spread() -> None:
    with pytest.raises(ValueError, match=r"^Rows that are spread must be at least 3, not 2$"):
        SpreadCycle(4, [0] * 2, spread=1, storage=Storage.BLOCK)


def test_dots_are_spread_or_packed() -> None:
    products = ShiftAddProducts([[0, 1], [0, 2]], lanes=1, inputs=1)
    with pytest.raises(ValueError, match=r"^Words of weights cannot be both spread and packed$"):
        DotProducts(products, [[2, 2, 2]], acc_shape=signed_range(0, 9), o_lanes=1, spread=1,
                    storage=Storage.BLOCK, packed=[0, 0, 0, 1])


@pytest.mark.synth
@pytest.mark.parametrize("width, rows, spread, blocks", [
    (64, 2304, 8, 8), (64, 576, 8, 2), (128, 1152, 8, 8)])
def test_block_ram_is_full(tmp_path: Path, width: int, rows: int, spread: int, blocks: int,
                           ) -> None:
    """Weights of ResNet-20's larger layers fill block RAMs of an ECP5 to the last bit."""
    rng, chip = np.random.default_rng(0), target("ecp5-85k")
    words = [int.from_bytes(rng.bytes(width // 8), "little") for _ in range(rows)]
    plain, full = (make_netlist(dut, chip, tmp_path).counts.bram for dut in (
        Cycle(width, words, storage=Storage.REGISTERED),
        SpreadCycle(width, words, spread=spread, storage=Storage.REGISTERED)))
    assert plain > full == blocks
    assert width * rows == blocks * chip.capacity.bram_block_bits
