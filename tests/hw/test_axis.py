# amaranth: UnusedElaboratable=no
"""AXI4-Stream ports: fields, tlast, frame errors."""
import pytest
from amaranth.hdl import signed
from amaranth.sim import Simulator, SimulatorContext

from nomul.hw.axis import AxisTop, axis_width
from nomul.hw.chain import Chain
from nomul.hw.staircase import Offset
from nomul.hw.table import Storage


def negate() -> Chain:
    return Chain({"negate": Offset(signed(4), signed(5), offsets=[0], lanes=2, negate=True,
                                   storage=Storage.LOGIC)})


@pytest.mark.parametrize("tlasts, error", [
    ([0, 1, 0, 1], 0), ([0, 0, 0, 1], 1), ([1, 0, 0, 1], 1), ([0, 1, 1, 1], 1)])
def test_fields_and_frames(tlasts: list[int], error: int) -> None:
    dut = AxisTop(negate(), i_length=4, o_length=4)
    sent = [0x0301, 0x0f08, 0x0002, 0x0705]  # the low nibble of each byte is an element
    seen = []

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.m_axis_tready, 1)
        for word, last in [*zip(sent, tlasts, strict=True), (0, 0)]:
            ctx.set(dut.s_axis_tvalid, word != 0)
            ctx.set(dut.s_axis_tdata, word)
            ctx.set(dut.s_axis_tlast, last)
            assert ctx.get(dut.s_axis_tready)
            if ctx.get(dut.m_axis_tvalid):
                seen.append((ctx.get(dut.m_axis_tdata), ctx.get(dut.m_axis_tlast)))
            await ctx.tick()
        assert ctx.get(dut.frame_error) == error

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(20e-6)
    # 1, 3 -> -1, -3; -8, -1 -> 8, 1; 2, 0 -> -2, 0; 5, 7 -> -5, -7; each in its own byte.
    assert seen == [(0xfdff, 0), (0x0108, 1), (0x00fe, 0), (0xf9fb, 1)]


@pytest.mark.parametrize("shape, lanes, width", [
    (4, 1, 8), (8, 3, 24), (signed(9), 2, 32), (17, 1, 24)])
def test_elements_take_whole_bytes(shape: object, lanes: int, width: int) -> None:
    assert axis_width(shape, lanes) == width
