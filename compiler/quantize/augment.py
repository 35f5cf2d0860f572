"""Random changes of training images that leave their classes as they are."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Augmentation", "CropAndFlip"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Moves, turns, stretches and blurs images a little, each one differently.

    Parameters
    ----------
    shift : float
        Pixels, and parts of them, that an image moves at most to each side.
    rotation : float
        Degrees that it turns at most, either way.
    stretch : float
        Share by which it grows, shrinks or slants at most.
    noise : float
        Standard deviation of what is added to each pixel, whose range is 0 to 1.
    """

    shift: float = 0.0
    rotation: float = 0.0
    stretch: float = 0.0
    noise: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of ``images`` [N, channels, height, width]; 0 moves in."""
        count, _channels, height, width = images.shape
        uniform = (2 * torch.rand(5, count, generator=generator) - 1).to(images.device)
        angle = uniform[0] * math.radians(self.rotation)
        size, slant = 1 + uniform[1] * self.stretch, uniform[2] * self.stretch
        # One pixel is 2 / width of the range -1 to 1 that sampling grids have.
        right, down = uniform[3] * 2 * self.shift / width, uniform[4] * 2 * self.shift / height
        maps = torch.stack([
            torch.stack([size * angle.cos(), slant - angle.sin(), right], dim=1),
            torch.stack([angle.sin(), size * angle.cos(), down], dim=1)], dim=1)
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, align_corners=False)
        if not self.noise:
            return moved
        return moved + self.noise * torch.randn(images.shape, generator=generator).to(images.device)


@dataclass(frozen=True, kw_only=True)
class CropAndFlip:
    """Moves images by whole pixels and turns some of them left to right.

    Pixels stay what they were, as a table of pixels needs them.

    Parameters
    ----------
    crop : int
        Pixels that an image moves at most to each side; 0 moves in.
    flip : bool
        Whether every second image, at random, is mirrored.
    """

    crop: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of ``images`` [N, channels, height, width]."""
        if not self.crop and not self.flip:
            return images
        count, _channels, height, width = images.shape
        random = torch.rand(3, count, 1, generator=generator).to(images.device)
        down, right = ((random[:2] * (2 * self.crop + 1)).floor().long())
        rows = torch.arange(height, device=images.device) + down
        columns = torch.arange(width, device=images.device) + right
        if self.flip:
            columns = torch.where(random[2] < 0.5, columns.flip(1), columns)
        padded = functional.pad(images, [self.crop] * 4).permute(0, 2, 3, 1)
        index = torch.arange(count, device=images.device)[:, None, None]
        return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
