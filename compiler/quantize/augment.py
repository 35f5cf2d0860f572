"""Random changes of training images that leave their classes as they are."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Augmentation"]


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
        uniform = 2 * torch.rand(5, count, generator=generator) - 1
        angle = uniform[0] * math.radians(self.rotation)
        size, slant = 1 + uniform[1] * self.stretch, uniform[2] * self.stretch
        # One pixel is 2 / width of the range -1 to 1 that sampling grids have.
        right, down = uniform[3] * 2 * self.shift / width, uniform[4] * 2 * self.shift / height
        maps = torch.stack([
            torch.stack([size * angle.cos(), slant - angle.sin(), right], dim=1),
            torch.stack([angle.sin(), size * angle.cos(), down], dim=1)], dim=1)
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, align_corners=False)
        return moved + self.noise * torch.randn(images.shape, generator=generator)
