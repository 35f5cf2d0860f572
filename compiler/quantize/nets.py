"""The float nets that the recipes train."""
from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from nomul.compiler.quantize.embedding import PixelEmbedding

__all__ = [
    "ResidualBlock",
    "ResidualNet",
    "digits_net",
    "fashion_net",
    "lenet300",
    "mobile_net",
    "resnet20",
    "small_net",
]

_CLASSES = 10


def digits_net() -> nn.Sequential:
    """64-32-10, for images of 8 by 8."""
    return nn.Sequential(OrderedDict([
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(64, 32)),
        ("relu1", nn.ReLU()),
        ("dense2", nn.Linear(32, _CLASSES)),
    ]))


def lenet300() -> nn.Sequential:
    """784-300-100-10 with tanh, for images of 28 by 28: what the LC paper compresses
    (arXiv 1707.04319)."""
    return nn.Sequential(OrderedDict([
        ("flatten", nn.Flatten()),
        ("dense1", nn.Linear(784, 300)),
        ("tanh1", nn.Tanh()),
        ("dense2", nn.Linear(300, 100)),
        ("tanh2", nn.Tanh()),
        ("dense3", nn.Linear(100, _CLASSES)),
    ]))


def small_net(channels: tuple[int, int, int] = (12, 16, 32)) -> nn.Sequential:
    """Of LeNet's kind, for images of 28 by 28 and the smallest FPGAs: three convolutions of
    3 by 3, two poolings, one dense layer."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    before = 1
    for number, after in enumerate(channels, start=1):
        modules[f"conv{number}"] = nn.Conv2d(before, after, 3, bias=False)
        modules[f"norm{number}"] = nn.BatchNorm2d(after)
        modules[f"relu{number}"] = nn.ReLU()
        if number < len(channels):
            modules[f"pool{number}"] = nn.MaxPool2d(2)
        before = after
    modules["flatten"] = nn.Flatten()
    modules["dense"] = nn.Linear(3 * 3 * before, _CLASSES)
    return nn.Sequential(modules)


def fashion_net() -> nn.Sequential:
    """`small_net` with more channels where an image is already small."""
    return small_net((12, 24, 64))


class ResidualBlock(nn.Module):
    """Two convolutions of 3 by 3 and a shortcut, which is a convolution of 1 by 1 where the
    shape changes (He et al., arXiv 1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential() if (before, stride) == (after, 1) else nn.Sequential(
            nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, values: Tensor) -> Tensor:
        """Both branches, added."""
        inner = self.relu1(self.norm1(self.conv1(values)))
        sums: Tensor = self.relu2(self.norm2(self.conv2(inner)) + self.shortcut(values))
        return sums


class ResidualNet(nn.Module):
    """A ResNet for images of 32 by 32 behind a pixel embedding.

    Parameters
    ----------
    blocks : int
        In each of three groups; 3 make a ResNet-20.
    width : int
        Channels of the first group; doubled in the next ones.
    depth : int
        Codes of 2 bits that each colour of a pixel becomes; with 0 there is no embedding.
    """

    def __init__(self, blocks: int = 3, width: int = 16, depth: int = 10) -> None:
        super().__init__()
        self.embedding = (PixelEmbedding(depth, bits=2, shared=True) if depth
                          else nn.Identity())
        self.conv = nn.Conv2d(3 * (depth or 1), width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        groups, before = [], width
        for group in range(3):
            for number in range(blocks):
                after = width << group
                stride = 2 if group and not number else 1
                groups.append(ResidualBlock(before, after, stride))
                before = after
        self.blocks = nn.Sequential(*groups)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(before, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of ``images``."""
        values = self.relu(self.norm(self.conv(self.embedding(images))))
        scores: Tensor = self.dense(self.flatten(self.average(self.blocks(values))))
        return scores


def resnet20() -> ResidualNet:
    """ResNet-20 behind a pixel embedding, for images of 32 by 32."""
    return ResidualNet()


def mobile_net(width: int = 16, depth: int = 10) -> nn.Sequential:
    """Depthwise and pointwise convolutions by turns, behind a pixel embedding, for images of
    32 by 32 (after Howard et al., arXiv 1704.04861)."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        embedding=PixelEmbedding(depth, bits=2, shared=True))

    def layer(name: str, conv: nn.Conv2d) -> None:
        modules[name] = conv
        modules[f"{name}_norm"] = nn.BatchNorm2d(conv.out_channels)
        modules[f"{name}_relu"] = nn.ReLU()

    layer("conv", nn.Conv2d(3 * depth, width, 3, padding=1, bias=False))
    before = width
    for number, (after, stride) in enumerate(
            ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (8, 1)), start=1):
        layer(f"depthwise{number}", nn.Conv2d(before, before, 3, stride=stride, padding=1,
                                              groups=before, bias=False))
        layer(f"pointwise{number}", nn.Conv2d(before, after * width, 1, bias=False))
        before = after * width
    modules["average"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["dense"] = nn.Linear(before, _CLASSES)
    return nn.Sequential(modules)
