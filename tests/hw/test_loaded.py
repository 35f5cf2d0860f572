# amaranth: UnusedElaboratable=no
"""Words that a stream fills: none but the right ones. Proofs are in nomul.sim.proofs."""
from __future__ import annotations

import random
from collections.abc import Sequence
from zlib import crc32

import pytest
from amaranth.hdl import Module, Value
from amaranth.sim import Simulator, SimulatorContext

from nomul.hw.crc import CRC_RESIDUE, CRC_START, crc_state, crc_step
from nomul.hw.loaded import LoadedWords
from nomul.hw.table import Storage

WORDS = (0x51f, 0x200, 0x7ff, 0x001, 0x3c3)


def words(**changes: object) -> LoadedWords:
    options: dict[str, object] = {"width": 11, "storage": Storage.BLOCK, **changes}
    return LoadedWords(WORDS, **options)  # type: ignore[arg-type]


async def send(ctx: SimulatorContext, dut: LoadedWords, image: bytes, *, seed: int = 0,
               stall: float = 0.0) -> None:
    """One load, and the cycles until its verdict."""
    rng = random.Random(seed)
    for n, byte in enumerate(image):
        while rng.random() < stall:
            await ctx.tick()
        ctx.set(dut.i.payload, {"byte": byte, "last": n == len(image) - 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
    await ctx.tick().repeat(8)
    assert not ctx.get(dut.loaded) and not ctx.get(dut.failed)
    await ctx.tick()


async def read(ctx: SimulatorContext, dut: LoadedWords) -> list[int]:
    """All words, one a cycle, with pauses in which they are held."""
    got = []
    rng = random.Random(7)
    for n in range(len(WORDS) + dut.latency - 1):
        while rng.random() < 0.4:
            ctx.set(dut.enable, 0)
            ctx.set(dut.address, rng.randrange(len(WORDS)))
            await ctx.tick()
        ctx.set(dut.address, n % len(WORDS))
        ctx.set(dut.enable, 1)
        await ctx.tick()
        got.append(ctx.get(dut.word))
    ctx.set(dut.enable, 0)
    return got[dut.latency - 1:]


def play(dut: LoadedWords, images: Sequence[bytes], *, stall: float = 0.0,
         ) -> list[tuple[bool, list[int]]]:
    """Of each load, one after the other: whether it was right, and then the words."""
    results: list[tuple[bool, list[int]]] = []

    async def test(ctx: SimulatorContext) -> None:
        ctx.set(dut.free, 1)
        for n, image in enumerate(images):
            await send(ctx, dut, image, seed=n, stall=stall)
            right = bool(ctx.get(dut.loaded))
            assert right != bool(ctx.get(dut.failed))
            results.append((right, await read(ctx, dut) if right else []))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()
    return results


@pytest.mark.parametrize("storage", [Storage.BLOCK, Storage.REGISTERED])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_what_was_loaded_is_read(storage: Storage, stall: float) -> None:
    dut = words(storage=storage)
    assert dut.image == b"".join(word.to_bytes(2, "little") for word in WORDS)
    assert play(dut, [dut.image] * 2, stall=stall) == [(True, list(WORDS))] * 2


def wrong(image: bytes) -> list[bytes]:
    """Every single bit flipped, bytes changed places, too few bytes, too many."""
    flipped = [bytes(byte ^ (1 << bit) * (n == at) for n, byte in enumerate(image))
               for at in range(len(image)) for bit in range(0, 8, 3)]
    return [*flipped, image[::-1], image[:-1], image[:1], image + b"\0", image * 2,
            image + crc32(image).to_bytes(4, "little")]


def test_wrong_loads_fail_and_right_ones_may_follow() -> None:
    dut = words()
    images = [one for image in wrong(dut.image) for one in (image, dut.image)]
    assert play(dut, images) == [(False, []), (True, list(WORDS))] * (len(images) // 2)


def test_without_its_checksum_it_takes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of the test above: only the length is checked."""
    def whole_alone(self: LoadedWords, crc: Value, whole: Value) -> Value:
        return whole

    monkeypatch.setattr(LoadedWords, "_right", whole_alone)
    dut = words()
    (right, got), (short, _) = play(dut, [b"\x1e" + dut.image[1:], dut.image[:-1]])
    assert right and got == [0x51e, *WORDS[1:]] and not short


def test_words_stay_until_they_are_free() -> None:
    dut = words()

    async def test(ctx: SimulatorContext) -> None:
        await send(ctx, dut, dut.image)
        ctx.set(dut.i.valid, 1)
        for _ in range(30):
            assert ctx.get(dut.loaded) and not ctx.get(dut.i.ready)
            await ctx.tick()
        ctx.set(dut.free, 1)
        assert ctx.get(dut.i.ready)
        await ctx.tick()
        assert not ctx.get(dut.loaded) and not ctx.get(dut.failed)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()


def test_the_checksum_is_that_of_zlib() -> None:
    for content in (b"", b"123456789", bytes(range(256))):
        got = []

        async def test(ctx: SimulatorContext, content: bytes = content,
                       got: list[int] = got) -> None:
            crc = Value.cast(CRC_START)
            for byte in content[:9]:
                for bit in range(8):
                    crc = Value.cast(ctx.get(crc_step(crc + Value.cast(0), byte >> bit & 1)))
            got.append(ctx.get(crc + 0))

        sim = Simulator(Module())
        sim.add_testbench(test)
        sim.run()
        assert got == [crc_state(crc32(content[:9]))]
    assert crc_state(crc32(b"any" + crc32(b"any").to_bytes(4, "little"))) == CRC_RESIDUE


@pytest.mark.parametrize(("given", "changes", "message"), [
    ([], {}, "at least one word"),
    ([1], {"width": 0}, "Words must have at least 1 bit, not 0"),
    ([4], {"width": 2}, "must be within unsigned\\(2\\), not 4"),
    ([1], {"storage": Storage.LOGIC}, "must be in block or registered, not logic"),
])
def test_wrong_parameters_are_refused(given: list[int], changes: dict[str, object], message: str,
                                      ) -> None:
    options: dict[str, object] = {"width": 3, "storage": Storage.BLOCK, **changes}
    with pytest.raises(ValueError, match=message):
        LoadedWords(given, **options)  # type: ignore[arg-type]


def test_a_single_word_and_a_single_bit() -> None:
    dut = LoadedWords([1], width=1, storage=Storage.BLOCK)
    assert dut.image == b"\1" and dut.load() == [{"byte": 1, "last": 1}]
    assert [right for right, _ in play_one(dut, [b"\1", b"\0", b"\1\1", b"\1"])] == [
        True, False, False, True]


def play_one(dut: LoadedWords, images: Sequence[bytes]) -> list[tuple[bool, int]]:
    results = []

    async def test(ctx: SimulatorContext) -> None:
        ctx.set(dut.free, 1)
        for image in images:
            await send(ctx, dut, image)
            ctx.set(dut.enable, 1)
            await ctx.tick()
            results.append((bool(ctx.get(dut.loaded)), ctx.get(dut.word)))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(test)
    sim.run()
    assert all(word == 1 for right, word in results if right)
    return results
