# amaranth: UnusedElaboratable=no
"""BucketDots against NumPy."""
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal, signed, unsigned
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.estimate import features, merged
from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.buckets import BucketDots, Step, bucket_slopes, drain_steps
from nomul.hw.shapes import signed_range
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.sim.bench import measure, transfer

ANY = (-119, -90, -53, -31, -17, -7, -3, 0, 1, 5, 11, 23, 47, 66, 101, 127)


def engine(slopes: Any, codes: int, weights: Any, lanes: int, o_lanes: int,
           storage: Storage = Storage.LOGIC, packed: Any = None) -> BucketDots:
    """As narrow as it can be."""
    used = np.array(slopes)[weights if packed is None else np.array(packed)[weights]]
    low, high = (int(ends(used, 0).sum(axis=1).min() if ends is np.minimum else
                     ends(used, 0).sum(axis=1).max()) for ends in (np.minimum, np.maximum))
    return BucketDots(np.outer(slopes, np.arange(codes)).tolist(), weights.tolist(), lanes=lanes,
                      acc_shape=signed_range(low * (codes - 1), high * (codes - 1)),
                      o_lanes=o_lanes, storage=storage, packed=packed)


def inputs_of(vectors: Any, dut: BucketDots) -> list[list[int]]:
    """Each vector as often as there are groups, a code to a beat."""
    return vectors[:, None].repeat(dut.groups, axis=1).reshape(-1, 1).tolist()


def random_case(slopes: Any, codes: int, outputs: int, inputs: int, lanes: int) -> Any:
    """Weights and vectors; output 0 is driven to both ends of its range, output 1 has one weight
    alone, and vectors 2 and 3 the same code everywhere."""
    rng = np.random.default_rng([outputs, inputs, lanes])
    weights = rng.integers(0, len(slopes), (outputs, inputs))
    weights[1 % outputs] = weights[1 % outputs, 0]
    vectors = rng.integers(0, codes, (6, inputs))
    vectors[0] = (codes - 1) * (np.array(slopes)[weights[0]] > 0)
    vectors[1] = (codes - 1) * (np.array(slopes)[weights[0]] < 0)
    vectors[2], vectors[3] = codes - 1, 0
    return weights, vectors


@pytest.mark.parametrize("slopes, codes", [
    (ANY, 16), ((5,), 2), ((0, 8), 4), ((3, 3, -3, 0), 7), ((-64, 3), 256),
    (tuple(range(-9, 10)), 5)])
@pytest.mark.parametrize("outputs, inputs, lanes, o_lanes", [
    (1, 1, 1, 1), (5, 7, 1, 1), (5, 9, 2, 1), (6, 40, 6, 2), (7, 13, 4, 4), (5, 3, 4, 1)])
def test_sums_are_exact(slopes: tuple[int, ...], codes: int, outputs: int, inputs: int, lanes: int,
                        o_lanes: int) -> None:
    weights, vectors = random_case(slopes, codes, outputs, inputs, lanes)
    storage = list(Storage)[(outputs + len(slopes)) % 3]
    dut = engine(slopes, codes, weights, lanes, o_lanes, storage)
    got = transfer(dut, inputs_of(vectors, dut), 6 * beats(outputs, o_lanes), seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(6, -1)[:, :outputs]
    assert sums.tolist() == (vectors @ np.array(slopes)[weights].T).tolist()


@pytest.mark.parametrize("outputs, inputs, lanes, o_lanes", [(5, 7, 2, 1), (7, 9, 4, 2)])
@pytest.mark.parametrize("storage", Storage)
def test_sums_are_exact_where_every_output_has_its_width(
        storage: Storage, outputs: int, inputs: int, lanes: int, o_lanes: int) -> None:
    rng = np.random.default_rng([outputs, inputs, lanes])
    widths = rng.integers(0, 5, (outputs, 1))
    numbers = (1 << widths) + rng.integers(0, 1 << widths, (outputs, inputs))
    packed = rng.integers(0, len(ANY), 32)
    vectors = rng.integers(0, 8, (4, inputs))
    vectors[0] = 7
    dut = engine(ANY, 8, numbers, lanes, o_lanes, storage, packed)
    got = transfer(dut, inputs_of(vectors, dut), 4 * beats(outputs, o_lanes), seed=inputs)
    sums = np.array([list(beat) for beat in got]).reshape(4, -1)[:, :outputs]
    assert sums.tolist() == (vectors @ np.array(ANY)[packed[numbers]].T).tolist()


@pytest.mark.parametrize("inputs, lanes, o_lanes", [
    (100, 2, 1), (93, 2, 1), (47, 1, 1), (10, 4, 4), (10, 4, 1), (1, 2, 2)])
def test_a_pass_takes_its_inputs_or_its_drain(inputs: int, lanes: int, o_lanes: int) -> None:
    rng = np.random.default_rng(inputs)
    weights = rng.integers(0, 16, (8, inputs))
    weights[0, 0], weights[0, -1] = 0, 15
    dut = engine(ANY, 4, weights, lanes, o_lanes)
    vectors = rng.integers(0, 4, (4, inputs))
    drain = lanes // o_lanes * len(drain_steps(ANY))
    assert dut.pass_cycles == max(inputs, drain)
    cycles = measure(dut, inputs_of(vectors, dut), 4 * 8 // o_lanes)
    first = cycles[::lanes // o_lanes]
    assert np.diff(first).tolist() == [max(inputs, drain)] * (len(first) - 1)
    # And what clears the buckets after reset, with a cycle to fetch its first step.
    assert first[0] == len(dut.steps) + 1 + inputs - 1 + dut.latency


@pytest.mark.parametrize("broken", [False, True])
def test_a_reset_clears_what_was_begun(broken: bool) -> None:
    """The twin leaves its buckets as they were: its sums are wrong."""
    weights = np.array([[0, 1, 2, 15, 9], [3, 3, 3, 0, 7]])
    dut = engine(ANY, 8, weights, 2, 1)
    if broken:
        dut.steps = [Step(bucket=s.bucket, negative=s.negative) for s in dut.steps]
    vector, sums = [7, 1, 5, 2, 6], []
    reset = Signal()
    top = ResetInserter(reset)(dut)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.o.ready, 1)
        for given in (vector[:3], vector, vector):  # each but the last is cut off
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            for code in given:
                ctx.set(dut.i.payload, [code])
                ctx.set(dut.i.valid, 1)
                await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
        for _ in range(2):
            payload, = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            sums.append(payload[0])

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    exact = (np.array(ANY)[weights] @ vector).tolist()
    assert (sums == exact) != broken


@pytest.mark.parametrize("slopes", [
    ANY, (1,), (0, -8), (3, 3), (-127, 128), (0, 6, -10, 6), tuple(range(-40, 40))])
def test_a_drain_weights_the_buckets(slopes: tuple[int, ...]) -> None:
    values = bucket_slopes(slopes)
    weights = np.zeros(len(values), dtype=int)
    seen = []
    for step in drain_steps(slopes):
        if step.bucket is None:
            weights *= 2
        else:
            assert step.bucket not in seen, "not needed again"
            weights[step.bucket] += -1 if step.negative else 1
            seen += [step.bucket] * step.clears
    assert values == tuple(sorted(set(slopes))) and {values[n] for n in seen} == {*values} - {0}
    power = np.gcd.reduce(values) & -np.gcd.reduce(values)
    assert (weights * power).tolist() == list(values)


@pytest.mark.synth
@pytest.mark.parametrize("chip, memories", [
    ("ecp5-25k", {"lutram": 2 * 2 * 3, "bram": 2}),
    ("ice40-up5k", {"lutram": 0, "bram": 2 * 2 + 2})])
def test_buckets_lie_in_small_memories(chip: str, memories: dict[str, int], tmp_path: Path) -> None:
    """Two banks of each of two lanes, and two tables in block RAM; no multiplier."""
    weights = np.random.default_rng(0).integers(0, 16, (2, 100))
    dut = engine(ANY, 256, weights, 2, 1, Storage.BLOCK)
    assert dut.bucket_shape == unsigned(12)
    netlist = make_netlist(dut, target(chip), tmp_path)
    assert netlist.multipliers == netlist.counts.dsp == 0
    assert {name: getattr(netlist.counts, name) for name in memories} == memories
    guess = features(dut, "top", target(chip), tmp_path)
    assert {name: merged(guess.values())[name] for name in memories} == memories


@pytest.mark.parametrize("change, message", [
    ({"table": [[0, 1, 3]]}, "Products of buckets must be slopes times the code; use a table"),
    ({"table": [[0, 0, 0]]}, "There must be a slope that is not 0; without one all sums are 0"),
    ({"rows": [[]]}, "Rows of weights must be of one length, at least 1"),
    ({"acc_shape": 4}, "Accumulator shape must be signed, not unsigned(4)"),
    ({"lanes": 3, "o_lanes": 2}, "Lanes must be at least 1, and a multiple of those that leave at "
     "once, not 3 and 2"),
])
def test_parameters_are_checked(change: Any, message: str) -> None:
    right = {"table": [[0, 3, 6]], "rows": [[0, 0]], "lanes": 1, "acc_shape": signed(5),
             "o_lanes": 1, "storage": Storage.LOGIC}
    BucketDots(**right)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BucketDots(**{**right, **change})
