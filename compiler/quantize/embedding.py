"""Pixel embedding: each pixel becomes a row of a table of codes (Tokunaga et al., 2407.16174)."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nomul.compiler.quantize.rounding import round_half_up

__all__ = ["PixelEmbedding", "thermometer"]


def thermometer(depth: int, bits: int, *, pixels: int = 256) -> NDArray[np.int64]:
    """The paper's fixed table, in integers: codes [pixels, depth].

    Pixel ``x`` has in column ``i = 1 … depth`` the code ``floor(x / (s * depth) + 1 - i / depth)``,
    at most ``2**bits - 1``, where ``s`` is the largest step that still reaches every code.
    """
    top = (1 << bits) - 1
    step = max(1, (pixels - 1) // (depth * top))
    x, i = np.arange(pixels)[:, np.newaxis], np.arange(1, depth + 1)
    codes: NDArray[np.int64] = ((x + step * (depth - i)) // (step * depth)).clip(max=top)
    return codes


class _Lookup(torch.autograd.Function):
    """Rows of the clipped, maybe rounded, table; backward the sum over the pixels of each."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, index: Tensor, top: float) -> Tensor:
        ctx.save_for_backward((table > 0) & (table < top), index)
        return rows[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        inside, index = ctx.saved_tensors
        sums = torch.zeros(inside.shape, dtype=gradients[0].dtype, device=inside.device)
        sums.index_add_(0, index.flatten(), gradients[0].flatten(0, -2))
        return sums * inside, None, None, None


class PixelEmbedding(nn.Module):
    """First module of a net: ``channels`` of pixels become ``channels * depth`` of few bits.

    A float table ``E`` is learned. Forward: ``E[x]`` clipped to 0 and the highest level,
    and, once `quantize` was called, rounded to the levels ``0, 2**-bits, …``. Backward: the
    gradient of a row is the sum over the pixels that took it, where it was not clipped.

    Parameters
    ----------
    depth : int
        Codes that a pixel becomes; at least 1.
    bits : int
        Bits of each; 1 to 8.
    channels : int
        Channels of the images.
    shared : bool
        Whether all channels have one table.
    pixel_bits : int
        Bits of a pixel. Images enter as ``pixel * 2**-pixel_bits``.
    fixed : bool
        Whether the table is the `thermometer`, not learned.
    """

    table: Tensor

    def __init__(self, depth: int, bits: int, *, channels: int = 3, shared: bool = True,
                 pixel_bits: int = 8, fixed: bool = False) -> None:
        super().__init__()
        if depth < 1 or channels < 1:
            raise ValueError(f"depth and channels must be at least 1, not {depth!r} and "
                             f"{channels!r}")
        if not 1 <= bits <= 8 or not 1 <= pixel_bits <= 8:
            raise ValueError(f"bits of codes and pixels must be 1 to 8, not {bits!r} and "
                             f"{pixel_bits!r}")
        self.depth, self.bits, self.channels = depth, bits, channels
        self.pixel_bits, self.tables = pixel_bits, 1 if shared else channels
        pixels = 1 << pixel_bits
        start = torch.from_numpy(thermometer(depth, bits, pixels=pixels)) * self.step
        if not fixed:
            # A ramp like the thermometer's, without its steps, and a little noise.
            ramp = torch.arange(pixels)[:, None] / pixels * 2 ** bits
            places = (torch.arange(depth) + 0.5) / depth - 0.5
            start = (ramp - places).clamp(0.25, 2 ** bits - 1.25) * self.step
            start = start + 0.1 * self.step * torch.randn(start.shape)
        table = start.float().repeat(self.tables, 1)
        self.rounded = False
        if fixed:
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)

    @property
    def step(self) -> float:
        """Distance of two levels."""
        return math.ldexp(1.0, -self.bits)

    def quantize(self) -> None:
        """Round from now on."""
        self.rounded = True

    def get_extra_state(self) -> Tensor:
        """Whether the table is rounded."""
        return torch.tensor(self.rounded)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.rounded = bool(state)

    def codes(self) -> Tensor:
        """The table as codes, int64 [tables, pixels, depth]."""
        rows = round_half_up(self.table.detach().double() / self.step).clamp(0, self._top)
        return rows.long().view(self.tables, -1, self.depth)

    def forward(self, images: Tensor) -> Tensor:
        """Levels [N, channels * depth, height, width] of ``images``, those of a channel together.

        Images that augmentation has interpolated are rounded to pixels first.
        """
        pixels = 1 << self.pixel_bits
        # Channels last, as the rows of the table are: no code is moved once it is looked up.
        index = round_half_up(images.detach().permute(0, 2, 3, 1) * pixels)
        index = index.clamp(0, pixels - 1).long()
        if self.tables > 1:
            index = index + pixels * torch.arange(self.channels, device=images.device)
        rows = self.table.clamp(0, self._top * self.step).detach()
        if self.rounded:
            rows = self.codes().to(self.table).flatten(0, 1) * self.step
        looked: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.table, rows, index, self._top * self.step)
        return looked.flatten(3).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return (f"depth={self.depth}, bits={self.bits}, channels={self.channels}, "
                f"tables={self.tables}, pixel_bits={self.pixel_bits}")

    @property
    def _top(self) -> int:
        return (1 << self.bits) - 1
