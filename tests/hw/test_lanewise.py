# amaranth: UnusedElaboratable=no
"""LanewiseSums and LanewiseMax against NumPy."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, signed, unsigned

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.lanewise import LanewiseMax, LanewiseSums
from nomul.hw.product import Products, ShiftAddProducts, TableProducts
from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer
from nomul.sim.formal import prove_streams

POW2 = np.outer([0, 1, -1, 2, -8], np.arange(16))
ANY = np.outer([3, -7, 11, 0], np.arange(6)) // 2  # rounded: no product of two numbers
ONE = np.arange(16)[None]


def engine(circuit: type[Products], table: Any, weights: Any, lanes: int,
           storage: Storage = Storage.LOGIC, packed: Any = None) -> LanewiseSums:
    options = {"storage": storage} if circuit is TableProducts else {}
    peak = int(np.abs(table).max()) * weights.shape[1]
    products = [circuit(table.tolist(), lanes=1, inputs=1, **options) for _ in range(lanes)]
    return LanewiseSums(products, weights.tolist(), acc_shape=signed_range(-peak, peak),
                        storage=storage, packed=packed)


def in_words(codes: Any, lanes: int, absent: int = 1) -> list[list[int]]:
    """Beats of codes [positions, taps, channels]; absent lanes hold nonsense."""
    positions, taps, channels = codes.shape
    padded = np.full((positions, taps, beats(channels, lanes) * lanes), absent)
    padded[..., :channels] = codes
    words = padded.reshape(positions, taps, -1, lanes).transpose(0, 2, 1, 3)
    return words.reshape(-1, lanes).tolist()


def channels_of(got: list[Any], positions: int, channels: int) -> Any:
    return np.array([list(beat) for beat in got]).reshape(positions, -1)[:, :channels]


@pytest.mark.parametrize("circuit, table, storage", [
    (ShiftAddProducts, POW2, Storage.LOGIC), (ShiftAddProducts, POW2, Storage.BLOCK),
    (TableProducts, ANY, Storage.LOGIC), (TableProducts, ANY, Storage.BLOCK),
    (ShiftAddProducts, ONE, Storage.BLOCK)])
@pytest.mark.parametrize("channels, taps, lanes", [
    (1, 1, 1), (1, 9, 1), (4, 1, 2), (6, 4, 3), (5, 9, 4), (3, 6, 4), (7, 2, 1)])
def test_sums_are_exact(circuit: type[Products], table: Any, storage: Storage, channels: int,
                        taps: int, lanes: int) -> None:
    rng = np.random.default_rng([channels, taps, lanes])
    weights = rng.integers(0, len(table), (channels, taps))
    codes = rng.integers(0, table.shape[1], (6, taps, channels))
    # Positions 0 and 1 drive every channel to both ends of its range.
    codes[0] = table[weights].argmax(axis=2).T
    codes[1] = table[weights].argmin(axis=2).T
    dut = engine(circuit, table, weights, lanes, storage)
    got = transfer(dut, in_words(codes, lanes), 6 * beats(channels, lanes), seed=taps)
    sums = table[weights.T[None], codes].sum(axis=1)
    assert channels_of(got, 6, channels).tolist() == sums.tolist()


@pytest.mark.parametrize("circuit, storage", [
    (ShiftAddProducts, Storage.BLOCK), (TableProducts, Storage.LOGIC)])
@pytest.mark.parametrize("widths, taps, lanes", [
    ([2], 1, 1), ([0], 9, 1), ([0, 0, 0], 4, 2), ([1, 2, 0, 1], 1, 2), ([2, 0, 1, 1, 2, 2], 4, 3),
    ([0, 1, 2, 0, 2], 9, 4)])
def test_sums_are_exact_where_every_channel_has_its_width(
        circuit: type[Products], storage: Storage, widths: list[int], taps: int, lanes: int,
        ) -> None:
    rng = np.random.default_rng([len(widths), taps, lanes])
    table = np.outer([0, -8, 1, 0, 4, -1, 2, 2], np.arange(16))
    firsts = 1 << np.array(widths)[:, None]
    weights = firsts + rng.integers(0, firsts, (len(widths), taps))
    codes = rng.integers(0, 16, (6, taps, len(widths)))
    packed = [5, 1, 0, 7, 3, 4, 4, 2]
    dut = engine(circuit, table, weights, lanes, storage, packed)
    got = transfer(dut, in_words(codes, lanes), 6 * beats(len(widths), lanes), seed=taps)
    sums = table[packed][weights.T[None], codes].sum(axis=1)
    assert channels_of(got, 6, len(widths)).tolist() == sums.tolist()


@pytest.mark.parametrize("channels, taps, lanes", [
    (1, 1, 1), (1, 4, 1), (4, 1, 2), (6, 4, 3), (5, 9, 4), (2, 25, 4)])
@pytest.mark.parametrize("bits", [1, 4])
def test_maxima_are_exact(channels: int, taps: int, lanes: int, bits: int) -> None:
    rng = np.random.default_rng([channels, taps, lanes, bits])
    codes = rng.integers(0, 1 << bits, (12, taps, channels))
    codes[0], codes[1], codes[2] = 0, (1 << bits) - 1, 0
    dut = LanewiseMax(bits, lanes=lanes, taps=taps)
    got = transfer(dut, in_words(codes, lanes), 12 * beats(channels, lanes), seed=taps)
    assert channels_of(got, 12, channels).tolist() == codes.max(axis=1).tolist()


@pytest.mark.parametrize("taps", [1, 2, 9])
@pytest.mark.parametrize("make, fetches", [
    (lambda taps: engine(ShiftAddProducts, POW2, np.arange(4 * taps).reshape(4, taps) % 5, 2), 1),
    (lambda taps: engine(ShiftAddProducts, ONE, np.zeros((4, taps), int), 2), 0),
    (lambda taps: LanewiseMax(4, lanes=2, taps=taps), 0)], ids=["sums", "pool", "max"])
def test_takes_a_beat_every_cycle(make: Any, fetches: int, taps: int) -> None:
    dut = make(taps)
    cycles = measure(dut, [[3, 5]] * (8 * taps), 8)
    # Fetching the first weights takes a cycle after reset.
    assert cycles == [n * taps + taps - 1 + dut.latency + fetches for n in range(8)]


def test_equal_weights_take_no_memory() -> None:
    assert engine(ShiftAddProducts, ONE, np.zeros((9, 4), int), 2).words() == [0]
    # Entry 3 is 2: a positive sign and a shift by 1.
    assert engine(ShiftAddProducts, POW2, np.full((4, 9), 3), 2).words() == [0b001_001]
    # The last word of channels has an absent lane, whose weight is 0.
    assert len(engine(ShiftAddProducts, POW2, np.full((3, 9), 3), 2).words()) == 18


@pytest.mark.synth
@pytest.mark.parametrize("table, blocks", [(POW2, 1), (ONE, 0)])
def test_weights_are_kept_as_asked(tmp_path: Path, table: Any, blocks: int) -> None:
    weights = np.random.default_rng(0).integers(0, len(table), (8, 9))
    dut = engine(ShiftAddProducts, table, weights, 2, Storage.BLOCK)
    netlist = make_netlist(dut, target("ice40-hx8k"), tmp_path)
    assert (netlist.counts.bram, netlist.multipliers) == (blocks, 0)


ONE_LANE = ShiftAddProducts([[0, 1]], lanes=1, inputs=1)


@pytest.mark.parametrize("make, message", [
    (lambda: LanewiseSums([], [[0]], acc_shape=signed(4), storage=Storage.LOGIC),
     "There must be at least one product circuit, each of one lane and one input"),
    (lambda: LanewiseSums([TableProducts([[0, 1]], lanes=1, inputs=1,
                                         storage=Storage.REGISTERED)], [[0]],
                          acc_shape=signed(4), storage=Storage.LOGIC),
     "Product circuits must have a latency of 1 cycle; use a table that is not registered"),
    (lambda: LanewiseSums([ShiftAddProducts([[0, 1]], lanes=2, inputs=1)], [[0]],
                          acc_shape=signed(4), storage=Storage.LOGIC),
     "There must be at least one product circuit, each of one lane and one input"),
    (lambda: LanewiseSums([ONE_LANE, ShiftAddProducts([[0, 1, 2]], lanes=1, inputs=1)], [[0]],
                          acc_shape=signed(4), storage=Storage.LOGIC),
     "Product circuits must have codes, indices and products of one shape"),
    (lambda: LanewiseSums([ONE_LANE], [[0], [0, 0]], acc_shape=signed(4), storage=Storage.LOGIC),
     "Rows of weights must be of one length, at least 1"),
    (lambda: LanewiseSums([ONE_LANE], [[]], acc_shape=signed(4), storage=Storage.LOGIC),
     "Rows of weights must be of one length, at least 1"),
    (lambda: LanewiseSums([ONE_LANE], [[0, 1]], acc_shape=signed(4), storage=Storage.LOGIC),
     "Weight must be within the dictionary of 1, not 1"),
    (lambda: LanewiseSums([ONE_LANE], [[0]], acc_shape=4, storage=Storage.LOGIC),
     "Accumulator shape must be signed, not unsigned(4)"),
    (lambda: LanewiseMax(signed(4), lanes=1, taps=1), "Code shape must be unsigned, not signed(4)"),
    (lambda: LanewiseMax(unsigned(4), lanes=0, taps=1),
     "There must be at least 1 lane and 1 tap, not 0 and 1"),
    (lambda: LanewiseMax(unsigned(4), lanes=1, taps=0),
     "There must be at least 1 lane and 1 tap, not 1 and 0"),
])
def test_parameters_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.formal
@pytest.mark.parametrize("dut", [
    engine(ShiftAddProducts, np.array([[0, 1], [0, -2]]), np.array([[0, 1, 1], [1, 0, 1]]), 1),
    engine(TableProducts, np.array([[0, 1], [0, 3]]), np.array([[0, 1], [1, 0], [1, 1]]), 2),
    LanewiseMax(2, lanes=2, taps=3), LanewiseMax(2, lanes=1, taps=1)],
    ids=lambda dut: f"{type(dut).__name__}-{dut.lanes}-{dut.taps}")
def test_holds_while_stalled(dut: Any, tmp_path: Path) -> None:
    assert prove_streams(dut, tmp_path)


@pytest.mark.formal
def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Overwrites(LanewiseMax):
        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.i.ready.eq(1)  # the last assignment wins
            return m

    assert not prove_streams(Overwrites(2, lanes=1, taps=1), tmp_path)
