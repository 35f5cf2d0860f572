# amaranth: UnusedElaboratable=no
"""Tables in simulation, and the memory Yosys makes of them."""
from typing import Any

import pytest
from amaranth.hdl import Signal, signed
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw import table
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


def flags_seen(dut: Cycle, flag: Signal, count: int) -> set[int]:
    """Of ``count`` steps, those at which the flag was up: a row is there from one to the next."""
    seen: set[int] = set()

    async def bench(ctx: SimulatorContext) -> None:
        for step in range(count):
            while not ctx.get(dut.valid):
                await ctx.tick()
            ctx.set(dut.next, 1)
            if ctx.get(flag):
                seen.add(step)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-4)
    return seen


@pytest.mark.parametrize("storage", Storage)
def test_parity_flags_every_wrong_bit(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every word: when it has been read, and not before."""
    rows, even, ahead = [-3, 7, 0, -8, 5], table._even, storage.latency - 1
    for row in range(5):
        for bit in range(5):
            def wrong(word: int, width: int, row: int = row, bit: int = bit) -> int:
                return even(word, width) ^ (word == rows[row] & 15) << bit

            flag = Signal()
            monkeypatch.setattr(table, "_even", wrong)
            dut = Cycle(signed(4), rows, storage=storage, flag=flag)
            # The register behind a block RAM holds a row a step longer.
            assert flags_seen(dut, flag, 5 - ahead) == {row - ahead} - {-1}


@pytest.mark.parametrize("storage", Storage)
def test_parity_is_silent_and_changes_no_row(storage: Storage,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    flag, rows = Signal(), [-3, 7, 1, -8, 5]
    assert flags_seen(Cycle(signed(4), rows, storage=storage, flag=flag), flag, 15) == set()
    dut = Cycle(signed(4), rows, storage=storage, flag=Signal())
    assert rows_seen(dut, 20, 3) == (rows * 20)[:20]
    # A generator that is wrong is found: -3, 7, 1 and -8 are odd.
    monkeypatch.setattr(table, "_even", lambda word, width: word)
    assert len(flags_seen(Cycle(signed(4), rows, storage=storage, flag=flag), flag, 10)) == 8


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
