# amaranth: UnusedElaboratable=no
"""Windows against NumPy's sliding windows, and its depths against what it does."""
import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import data
from amaranth.sim import Simulator, SimulatorContext

from nomul.boards.targets import target
from nomul.boards.yosys import make_netlist
from nomul.hw.table import Storage
from nomul.hw.window import Windows, even_depth, minimum_depth, window_needs
from nomul.sim.bench import measure, transfer
from nomul.sim.formal import prove_streams

IMAGES = 3
SIZES = range(1, 8)
NO_PADDING = (0, 0, 0, 0)


def seen(images: Any, kernel: Any, stride: int, padding: Any, pad: Any, groups: int,
         repeats: int) -> list[int]:
    """What the kernel sees of images [images, height, width, words]."""
    top, left, bottom, right = padding
    count, height, width, words = images.shape
    canvas = np.empty((count, height + top + bottom, width + left + right, words), int)
    canvas[:] = pad
    canvas[:, top:top + height, left:left + width] = images
    views = np.lib.stride_tricks.sliding_window_view(canvas, kernel, axis=(1, 2))
    views = views[:, ::stride, ::stride].reshape(-1, groups, words // groups, *kernel)
    views = views.transpose(0, 1, 3, 4, 2)[:, :, None].repeat(repeats, axis=2)
    order: list[int] = views.ravel().tolist()
    return order


def draw(seed: int, kernel: Any, stride: int) -> dict[str, Any]:
    """Parameters, except for the depth, of a small buffer that is legal."""
    rng = random.Random(f"{seed} {kernel} {stride}")
    high, wide = kernel
    while True:
        height, width = rng.choice(SIZES), rng.choice(SIZES)
        padding = rng.choice([NO_PADDING, (rng.randrange(high), rng.randrange(wide),
                                           rng.randrange(high), rng.randrange(wide))])
        if height + padding[0] + padding[2] >= high and width + padding[1] + padding[3] >= wide:
            break
    words = rng.choice([1, 2, 3, 8] if high * wide < 4 else [1, 2, 3])
    return {"height": height, "width": width, "words": words, "kernel": kernel, "stride": stride,
            "padding": padding, "pad": [rng.randrange(256) for _ in range(words)],
            "groups": rng.choice([n for n in range(1, words + 1) if words % n == 0]),
            "repeats": rng.choice([1, 1, 2, 3])}


def geometry(options: dict[str, Any]) -> dict[str, Any]:
    names = ("height", "width", "words", "kernel", "stride", "padding")
    return {name: options[name] for name in names}


def draw_images(options: dict[str, Any], count: int = IMAGES) -> Any:
    shape = count, options["height"], options["width"], options["words"]
    return np.random.default_rng(list(shape)).integers(0, 256, shape)


def expected(images: Any, options: dict[str, Any]) -> list[int]:
    return seen(images, *(options[name] for name in ("kernel", "stride", "padding", "pad",
                                                     "groups", "repeats")))


def rounded(depth: int) -> int:
    return 1 << (depth - 1).bit_length()


CASES = [draw(seed, kernel, stride) for kernel, stride, seed in
         product(product([1, 2, 3, 5], repeat=2), [1, 2, 3], range(2))]
SAME: dict[str, Any] = {
    "height": 6, "width": 7, "words": 2, "kernel": (3, 3), "stride": 1, "padding": (1, 1, 1, 1),
    "pad": [9, 200], "groups": 1, "repeats": 2}
PIXEL: dict[str, Any] = {**SAME, "height": 1, "width": 1, "kernel": (5, 5), "padding": (4, 4, 4, 4)}
WIDE: dict[str, Any] = {
    **SAME, "height": 2, "words": 1, "kernel": (2, 5), "padding": (1, 4, 0, 3), "pad": [1]}
POINT: dict[str, Any] = {**SAME, "kernel": (1, 1), "padding": NO_PADDING}
THIN: dict[str, Any] = {**POINT, "stride": 3}  # leaves out most pixels


@pytest.mark.parametrize("options", [*CASES, SAME, PIXEL, WIDE, POINT, THIN],
                         ids=lambda o: "-".join(map(str, geometry(o).values())))
def test_every_position_sees_its_pixels(options: dict[str, Any]) -> None:
    images = draw_images(options)
    least = minimum_depth(**geometry(options))
    outputs = expected(images, options)
    for depth in (least, least + 1 + least % 2, rounded(2 * images[0].size + least)):
        dut = Windows(8, depth=depth, **options)
        got = transfer(dut, images.ravel().tolist(), len(outputs), seed=depth)
        assert got == outputs, f"depth {depth}"


@pytest.mark.parametrize("options", [*CASES[::3], SAME, PIXEL, WIDE, POINT, THIN],
                         ids=lambda o: "-".join(map(str, geometry(o).values())))
def test_even_depth_is_as_fast_as_any(options: dict[str, Any]) -> None:
    beats = draw_images(options).ravel().tolist()
    count = len(expected(draw_images(options), options))

    def cycles(depth: int) -> list[int]:
        return measure(Windows(8, depth=depth, **options), beats, count)

    depth = even_depth(**geometry(options), repeats=options["repeats"])
    assert cycles(depth) == cycles(depth + len(beats))


@pytest.mark.parametrize("options", [SAME, PIXEL, POINT, {**POINT, "repeats": 1},
                                     {**SAME, "padding": NO_PADDING},
                                     {**SAME, "kernel": (5, 5), "padding": (2, 2, 2, 2)},
                                     {**SAME, "padding": (0, 0, 1, 1), "stride": 2}])
@pytest.mark.parametrize("storage", [Storage.BLOCK, Storage.REGISTERED])
def test_images_follow_without_a_gap(options: dict[str, Any], storage: Storage) -> None:
    images = draw_images(options)
    depth = even_depth(**geometry(options), repeats=options["repeats"])
    count = len(expected(images, options))
    dut = Windows(8, depth=depth, storage=storage, **options)
    cycles = measure(dut, images.ravel().tolist(), count)
    assert cycles == list(range(cycles[0], cycles[0] + count))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_pool_is_read_as_fast_as_it_is_written(groups: int) -> None:
    options = {**SAME, "height": 4, "width": 6, "kernel": (2, 2), "stride": 2, "groups": groups,
               "padding": NO_PADDING, "repeats": 1}
    images = draw_images(options)
    depth = even_depth(**geometry(options), repeats=1)
    cycles = measure(Windows(8, depth=depth, **options), images.ravel().tolist(), images.size)
    assert cycles == list(range(cycles[0], cycles[0] + images.size))


def leave(dut: Windows, beats: list[int], cycles: int) -> int:
    """Words that have left so many cycles after ``beats`` have been offered, and no more."""
    words = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal words
        ctx.set(dut.o.ready, 1)
        for beat in beats + [None] * cycles:
            ctx.set(dut.i.valid, beat is not None)
            ctx.set(dut.i.payload, beat or 0)
            assert beat is None or ctx.get(dut.i.ready)
            words += ctx.get(dut.o.valid)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return words


@pytest.mark.parametrize("options", [
    {**SAME, **change} for change in (
        {"height": 3, "width": 4},
        {"height": 1, "width": 2, "kernel": (3, 2), "padding": (1, 1, 1, 0)},
        {"height": 4, "kernel": (1, 1), "padding": NO_PADDING, "stride": 3},
        {"height": 2, "width": 3, "kernel": (1, 1), "padding": NO_PADDING},
        {"height": 4, "width": 5, "stride": 2, "padding": (2, 0, 2, 2)})])
def test_a_position_leaves_when_what_it_needs_has_come(options: dict[str, Any]) -> None:
    image = draw_images(options, 1)
    needs, count = window_needs(**geometry(options)), len(expected(image, options))
    for taken in sorted({*needs, *(need - 1 for need in needs)}):
        dut = Windows(8, depth=image.size + 2, **options)
        words = leave(dut, image.ravel().tolist()[:taken], count + dut.latency)
        assert words == sum(need <= taken for need in needs) * count // len(needs)


@pytest.mark.parametrize("options", [SAME, PIXEL, POINT, THIN])
@pytest.mark.parametrize("storage", [Storage.BLOCK, Storage.REGISTERED])
def test_latency(options: dict[str, Any], storage: Storage) -> None:
    need = window_needs(**geometry(options))[0]
    dut = Windows(8, depth=minimum_depth(**geometry(options)), storage=storage, **options)
    assert measure(dut, [0] * need, 1) == [need - 1 + dut.latency]


def test_depths_by_hand() -> None:
    assert minimum_depth(28, 28, 1, (5, 5), 1, (2, 2, 2, 2)) == 4 * 28 + 5
    assert minimum_depth(32, 32, 4, (3, 3), 1, (1, 1, 1, 1)) == (2 * 32 + 3) * 4
    assert minimum_depth(4, 4, 3, (4, 4), 1, NO_PADDING) == 48
    assert minimum_depth(1, 1, 1, (5, 5), 1, (4, 4, 4, 4)) == 2  # a memory has at least 2 words
    assert even_depth(9, 9, 4, (1, 1), 1, NO_PADDING, 3) == 2 * 4
    # One row of positions later, the kernel needs two rows more and keeps one row less.
    assert even_depth(28, 28, 1, (2, 2), 2, NO_PADDING, 1) == 2 * 28 + 4
    assert window_needs(3, 3, 2, (2, 2), 1, NO_PADDING) == [10, 12, 16, 18]
    assert window_needs(2, 3, 1, (2, 2), 1, (0, 0, 1, 1)) == [5, 6, 6, 6, 6, 6]


def test_words_may_be_vectors() -> None:
    options = {**SAME, "words": 1, "pad": [0x57], "repeats": 1}
    images = draw_images(options)
    dut = Windows(data.ArrayLayout(4, 2), depth=64, **options)
    got = transfer(dut, [[n % 16, n // 16] for n in images.ravel().tolist()],
                   len(expected(images, options)), seed=1)
    assert [low + 16 * high for low, high in got] == expected(images, options)


@pytest.mark.parametrize("wrong, message", [
    ({"height": 0}, "Image, kernel and stride must have at least 1 row, not 0, 3 and 1"),
    ({"width": 0}, "Image, kernel and stride must have at least 1 column, not 0, 3 and 1"),
    ({"kernel": (3, 0)}, "Image, kernel and stride must have at least 1 column, not 7, 0 and 1"),
    ({"stride": 0}, "Image, kernel and stride must have at least 1 row, not 6, 3 and 0"),
    ({"padding": (3, 1, 1, 1)},
     "Padding must be 0 to 2 rows, fewer than the kernel has, not 3 and 1"),
    ({"padding": (1, 1, 1, -1)},
     "Padding must be 0 to 2 columns, fewer than the kernel has, not 1 and -1"),
    ({"height": 1, "padding": (1, 1, 0, 1)},
     "Kernel of 3 rows must fit in the padded image of 2"),
    ({"words": 0}, "Pixel must have at least 1 word, not 0"),
    ({"groups": 0}, "Groups must divide the 2 words of a pixel, not 0"),
    ({"groups": 3}, "Groups must divide the 2 words of a pixel, not 3"),
    ({"repeats": 0}, "Number of repeats must be at least 1, not 0"),
    ({"depth": 33}, "Buffer depth must be at least 34, not 33"),
    ({"pad": [1]}, "Padding must have 2 words, not 1"),
    ({"pad": [1, 256]}, "Word of padding must be within 8 bits, not 256"),
    ({"pad": [-1, 1]}, "Word of padding must be within 8 bits, not -1"),
])
def test_parameters_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Windows(8, **{**SAME, "depth": 34, **wrong})


TINY: dict[str, Any] = {
    "height": 2, "width": 2, "words": 1, "kernel": (2, 2), "stride": 1, "padding": (1, 0, 0, 1),
    "pad": [2], "groups": 1, "repeats": 1, "depth": 4}


@pytest.mark.formal
@pytest.mark.parametrize("options", [TINY, {**TINY, "words": 2, "kernel": (1, 2), "groups": 2,
                                            "padding": NO_PADDING, "pad": [1, 3], "depth": 5}])
def test_holds_while_stalled(options: dict[str, Any], tmp_path: Path) -> None:
    assert prove_streams(Windows(2, **options), tmp_path)


@pytest.mark.formal
def test_the_proof_can_fail(tmp_path: Path) -> None:
    class Overwrites(Windows):
        def elaborate(self, platform: object) -> Module:
            m = super().elaborate(platform)
            m.d.comb += self.o.payload.eq(self.i.payload)  # the last assignment wins
            return m

    assert not prove_streams(Overwrites(2, **TINY), tmp_path)


LINES: dict[str, Any] = {
    "height": 28, "width": 28, "words": 1, "kernel": (5, 5), "stride": 1, "padding": (2, 2, 2, 2),
    "pad": [0], "groups": 1, "repeats": 4, "depth": 128}
DEEP: dict[str, Any] = {
    **LINES, "height": 32, "width": 32, "words": 4, "kernel": (3, 3), "padding": (1, 1, 1, 1),
    "pad": [0] * 4, "depth": 512}


@pytest.mark.synth
@pytest.mark.parametrize("name, width, options, blocks, lut4, ff", [
    ("ice40-hx8k", 8, LINES, 1, 140, 80), ("ecp5-25k", 8, LINES, 1, 230, 80),
    ("ice40-hx8k", 64, DEEP, 8, 200, 200), ("ecp5-25k", 64, DEEP, 2, 245, 200)])
def test_rows_are_in_block_ram(tmp_path: Path, name: str, width: int, options: dict[str, Any],
                               blocks: int, lut4: int, ff: int) -> None:
    counts = make_netlist(Windows(width, **options), target(name), tmp_path).counts
    assert (counts.bram, counts.lutram, counts.dsp) == (blocks, 0, 0)
    assert counts.lut4 < lut4 and counts.ff < ff
