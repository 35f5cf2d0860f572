"""Random convolutional networks for tests of the project's law."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from nomul.compiler.layers import (
    Add,
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    PixelEmbedding,
    SumPool,
    Window,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Codes, Integers, Levels, Staircase, Wire
from nomul.sim.random_networks import random_staircase, with_widths

__all__ = ["random_image_network", "residual_network"]


def random_image_network(seed: int) -> Network:
    """A network with convolutions of every kind, pooling, an embedding and residual branches."""
    return _Builder(seed).build()


def residual_network(seed: int, *, blocks: tuple[int, ...] = (1, 1),
                     channels: tuple[int, ...] = (4, 8), side: int = 8, depth: int = 2) -> Network:
    """A residual network for colour images behind a pixel embedding, with random weights.

    Its codes have 4 bits, 5 where branches meet; its weights are 16 powers of two. Activations
    spread over their codes.

    Parameters
    ----------
    blocks, channels : tuple of int
        For each stage its blocks of two convolutions, and its channels. Every stage but the first
        halves the image and has a convolution beside its first block.
    side : int
        Pixels of an image in each direction; a power of two.
    depth : int
        Codes that stand for a pixel of a channel.
    """
    rng = np.random.default_rng([4, seed])
    powers = 1 << np.arange(8)
    dictionary = np.concatenate([-powers[::-1], [0], powers[:-1]])
    relu, signed = Levels.uniform(16), Levels(values=np.arange(-16, 16))
    layers: list[Layer] = [
        Input(name="pixels", shape=(side, side, 3), levels=Levels.uniform(256)),
        PixelEmbedding(name="embedding", inputs=("pixels",), levels=Levels.uniform(4),
                       table=rng.integers(0, 4, (1, 256, depth)))]

    def even(levels: Levels, step: int) -> Staircase:
        """Rounds to multiples of ``step``, of which 0 has the level 0."""
        thresholds = levels.values[:-1] * step + step // 2
        return Staircase(thresholds=thresholds.reshape(1, -1), levels=levels)

    def conv(name: str, source: str, shape: tuple[int, int, int], levels: Levels,
             stride: int = 1) -> str:
        outputs, kernel, inputs = shape
        spread = np.sqrt((dictionary ** 2).mean() * 8 * kernel ** 2 * inputs)
        layers.append(Conv2d(
            name=name, inputs=(source,), dictionary=dictionary, stride=stride,
            assignment=rng.integers(0, 16, (outputs, kernel, kernel, inputs)),
            bias=rng.integers(-spread // 4, spread // 4, outputs), padding=(kernel // 2,) * 4,
            staircase=even(levels, 1 << round(np.log2(spread / 4)))))
        return name

    tip, wide = conv("conv", "embedding", (channels[0], 3, 3 * depth), relu), channels[0]
    for stage, (count, outputs) in enumerate(zip(blocks, channels, strict=True)):
        for block in range(count):
            name, stride = f"block_{stage}_{block}", 2 if stage and not block else 1
            inner = conv(f"{name}_conv1", tip, (outputs, 3, wide), relu, stride)
            main = conv(f"{name}_conv2", inner, (outputs, 3, outputs), signed)
            if stride > 1:
                tip = conv(f"{name}_shortcut", tip, (outputs, 1, wide), signed, stride)
            layers.append(Add(name=f"{name}_add", inputs=(main, tip), shifts=(0, 1),
                              staircase=even(relu, 2)))
            tip, wide = f"{name}_add", outputs
    pixels = (side >> len(blocks) - 1) ** 2
    layers += [
        SumPool(name="average", inputs=(tip,), staircase=even(relu, pixels)),
        Flatten(name="flatten", inputs=("average",)),
        Dense(name="dense", inputs=("flatten",), dictionary=dictionary,
              assignment=rng.integers(0, 16, (10, wide)), bias=rng.integers(-500, 500, 10)),
        Argmax(name="argmax", inputs=("dense",))]
    return Network(name="residual", layers=tuple(layers))


class _Builder:
    """Grows a network layer by layer; ``tip`` is the layer that the next one reads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = np.random.default_rng([3, seed])
        self.layers: list[Layer] = []
        self.wires: dict[str, Wire] = {}
        self.tip = ""

    def build(self) -> Network:
        rng = self.rng
        levels = Levels.uniform(int(rng.choice([2, 4, 16])))
        height, width = (int(size) for size in rng.integers(3, 7, 2))
        self.add(Input(name="pixels", shape=(height, width, int(rng.integers(1, 4))),
                       levels=levels))
        if rng.integers(3) == 0:
            tables = self.wire().shape[2] if rng.integers(2) else 1
            table = rng.integers(0, 4, (tables, len(levels), int(rng.integers(1, 4))))
            self.add(PixelEmbedding(name="embed", inputs=("pixels",), table=table,
                                    levels=Levels.uniform(4)))
        for number in range(1, int(rng.integers(2, 5))):
            self.block(number)
        if rng.integers(2):
            self.add(Flatten(name="flat", inputs=(self.tip,)))
            fan_in, outputs = self.wire().shape[0], int(rng.integers(1, 6))
            self.add(Dense(name="dense1", inputs=("flat",), dictionary=self.dictionary(4),
                           assignment=rng.integers(0, 4, (outputs, fan_in)),
                           bias=rng.integers(-9, 10, outputs)))
            if rng.integers(2):
                self.add(Argmax(name="best", inputs=("dense1",)))
        return Network(name=f"images{self.seed}", layers=tuple(self.layers))

    def add(self, layer: Layer) -> None:
        self.wires[layer.name] = layer.output(tuple(self.wires[name] for name in layer.inputs))
        self.layers.append(layer)
        self.tip = layer.name

    def wire(self, name: str | None = None) -> Codes:
        wire = self.wires[name or self.tip]
        assert isinstance(wire, Codes)
        return wire

    def block(self, number: int) -> None:
        rng, wire = self.rng, self.wire()
        match int(rng.integers(6)):
            case 0:
                self.add(MaxPool(name=f"pool{number}", inputs=(self.tip,), window=self.window()))
            case 1:
                window = self.window() if rng.integers(2) else None
                self.add(self.coded(SumPool(name=f"sum{number}", inputs=(self.tip,),
                                            window=window)))
            case 2 | 3 if wire.levels.zero is not None:
                self.residual(number)
            case _:
                self.add(self.conv(f"conv{number}", self.window()))

    def window(self) -> Window:
        """Any window that fits the tip; no padding where there is no zero."""
        rng, wire = self.rng, self.wire()
        kernel = tuple(int(rng.integers(1, min(size, 3) + 1)) for size in wire.shape[:2])
        padding = tuple(int(rng.integers(0, size)) for size in (*kernel, *kernel))
        if wire.levels.zero is None:
            padding = (0, 0, 0, 0)
        return Window(kernel=(kernel[0], kernel[1]), stride=int(rng.integers(1, 3)),
                      padding=(padding[0], padding[1], padding[2], padding[3]))

    def dictionary(self, entries: int) -> np.ndarray:
        if self.rng.integers(2):
            return self.rng.choice([-4, -2, -1, 0, 1, 2, 4], entries)
        return self.rng.integers(-5, 6, entries)

    def conv(self, name: str, window: Window, outputs: int | None = None) -> Layer:
        rng, channels, groups = self.rng, self.wire().shape[2], 1
        if outputs is None:
            groups = int(rng.choice([1, 1, channels]))
            outputs = groups * int(rng.integers(1, 3)) if groups > 1 else int(rng.integers(1, 6))
        entries = int(rng.choice([2, 4, 16]))
        shape = (outputs, *window.kernel, channels // groups)
        layer = Conv2d(
            name=name, inputs=(self.tip,), dictionary=self.dictionary(entries), groups=groups,
            assignment=rng.integers(0, entries, shape), bias=rng.integers(-20, 21, outputs),
            stride=window.stride, padding=window.padding)
        own, = rng.spawn(1)
        return self.coded(layer if own.integers(2) else with_widths(own, layer))

    def coded(self, layer: Layer) -> Layer:
        """``layer`` with a staircase that suits its range, often to levels that can be padded."""
        wire = layer.output(tuple(self.wires[name] for name in layer.inputs))
        assert isinstance(wire, Integers)
        staircase = random_staircase(self.rng, wire.shape[-1], wire.low, wire.high)
        if self.rng.integers(4):
            staircase = replace(staircase, levels=Levels.uniform(len(staircase.levels)))
        return replace(layer, staircase=staircase)  # type: ignore[call-arg]

    def residual(self, number: int) -> None:
        """Two branches that meet again: convolutions, and nothing or a convolution."""
        fork, channels = self.tip, self.wire().shape[2]
        for part in range(int(self.rng.integers(1, 3))):
            self.add(self.conv(f"main{number}_{part}", self.same(), channels))
        main = self.tip
        self.tip = fork
        if self.rng.integers(3) == 0:
            self.add(self.conv(f"skip{number}", self.same(), channels))
        other = self.tip
        shifts = (int(self.rng.integers(0, 3)), int(self.rng.integers(0, 3)))
        self.add(self.coded(Add(name=f"add{number}", inputs=(main, other), shifts=shifts)))

    def same(self) -> Window:
        """A window that keeps the image's size."""
        if self.wire().levels.zero is None:
            return Window(kernel=(1, 1))
        size = 2 * int(self.rng.integers(0, 2)) + 1
        half = size // 2
        return Window(kernel=(size, size), padding=(half, half, half, half))
