# amaranth: UnusedElaboratable=no
"""Tables in simulation, and the memory Yosys makes of them."""
from typing import Any

import pytest
from amaranth.hdl import signed
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.table import Cycle, Storage


def rows_seen(dut: Cycle, count: int, skip: int) -> list[int]:
    seen: list[int] = []

    async def bench(ctx: SimulatorContext) -> None:
        step = 0
        while len(seen) < count:
            step += 1
            take = ctx.get(dut.valid) and step % skip == 0
            ctx.set(dut.next, take)
            if take:
                seen.append(ctx.get(dut.row))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-3)
    return seen


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("rows", [[-3, 7], [1, -8, 3], list(range(-4, 4))])
@pytest.mark.parametrize("skip", [1, 3])
def test_rows_come_in_order_and_again(rows: list[int], storage: Storage, skip: int) -> None:
    assert rows_seen(Cycle(signed(4), rows, storage=storage), 20, skip) == (rows * 20)[:20]


def test_one_row_takes_no_clock() -> None:
    dut = Cycle(signed(4), [-5], storage=Storage.LOGIC)

    async def bench(ctx: SimulatorContext) -> None:
        assert ctx.get(dut.valid) and ctx.get(dut.row) == -5

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("make, message", [
    (lambda: Cycle(signed(4), [8], storage=Storage.LOGIC),
     r"^Table row must be within signed\(4\), not 8$"),
    (lambda: Cycle(signed(4), [], storage=Storage.LOGIC), "^Table must have at least one row$")])
def test_rows_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.synth
@pytest.mark.parametrize("name", ["ice40-hx8k", "ecp5-25k"])
@pytest.mark.parametrize("storage, rows, blocks", [
    (Storage.BLOCK, 16, 1), (Storage.BLOCK, 256, 1), (Storage.REGISTERED, 256, 1),
    (Storage.LOGIC, 256, 0)])
def test_storage_is_as_asked(tmp_path: Any, name: str, storage: Storage, rows: int,
                             blocks: int) -> None:
    table = Cycle(16, [n * 40503 & 0xffff for n in range(rows)], storage=storage)
    assert make_netlist(table, target(name), tmp_path).counts.bram == blocks
