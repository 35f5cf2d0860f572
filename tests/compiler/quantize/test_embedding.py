"""Pixel embedding: the paper's forward and backward, and its thermometer."""
from fractions import Fraction

import numpy as np
import pytest
import torch

from nomul.compiler.quantize.embedding import PixelEmbedding, thermometer


@pytest.mark.parametrize("depth, bits, step", [(10, 2, 8), (4, 1, 63), (3, 3, 12), (1, 8, 1)])
def test_the_thermometer_of_the_paper(depth: int, bits: int, step: int) -> None:
    table = thermometer(depth, bits)
    assert table.shape == (256, depth)
    for pixel in range(256):
        for i in range(1, depth + 1):
            code = (Fraction(pixel, step * depth) + 1 - Fraction(i, depth)).__floor__()
            assert table[pixel, i - 1] == min(code, 2 ** bits - 1)
    assert table.min() == 0 and table.max() == 2 ** bits - 1


def test_the_thermometer_has_31_rows() -> None:
    assert len(np.unique(thermometer(10, 2), axis=0)) == 31


@pytest.mark.parametrize("shared", [True, False])
def test_forward_and_backward_of_the_paper(shared: bool) -> None:
    torch.manual_seed(0)
    depth, bits, top = 3, 2, 0.75
    module = PixelEmbedding(depth, bits, channels=2, shared=shared)
    module.quantize()
    with torch.no_grad():
        module.table.uniform_(-0.3, 1.1)
    pixels = torch.randint(0, 256, (4, 2, 5, 6))
    pixels[..., 0] = 7  # a row that many take
    found = module(pixels / 256)
    assert found.shape == (4, 6, 5, 6)
    wanted = torch.randn_like(found)
    (found * wanted).sum().backward()
    gradient = torch.zeros_like(module.table)
    tables = module.table.detach().view(-1, 256, depth)
    for n, c, y, x in np.ndindex(4, 2, 5, 6):
        pixel, table = int(pixels[n, c, y, x]), 0 if shared else c
        for d in range(depth):
            entry = float(tables[table, pixel, d])
            code = int(min(max(entry, 0), top) / top * 3 + 0.5)
            assert found[n, c * depth + d, y, x] == code / 4
            if 0 < entry < top:
                gradient[256 * table + pixel, d] += wanted[n, c * depth + d, y, x]
    assert module.table.grad is not None
    torch.testing.assert_close(module.table.grad, gradient)


def test_the_float_net_reads_the_clipped_table() -> None:
    module = PixelEmbedding(2, 2, channels=1)
    with torch.no_grad():
        module.table[9] = torch.tensor([0.3, 5.0])
    assert module(torch.full((1, 1, 1, 1), 9 / 256)).flatten().tolist() == [
        pytest.approx(0.3), 0.75]
    module.quantize()
    assert module(torch.full((1, 1, 1, 1), 9 / 256)).flatten().tolist() == [0.25, 0.75]
    # Images that were interpolated take the nearest pixel.
    assert torch.equal(module(torch.tensor(9.4 / 256).view(1, 1, 1, 1)),
                       module(torch.tensor(8.5 / 256).view(1, 1, 1, 1)))


def test_a_fixed_table_is_not_learned() -> None:
    module = PixelEmbedding(10, 2, channels=3, fixed=True)
    module.quantize()
    assert not list(module.parameters())
    assert np.array_equal(module.codes()[0].numpy(), thermometer(10, 2))
    assert module(torch.rand(1, 3, 2, 2)).shape == (1, 30, 2, 2)


def test_the_start_spreads_over_the_codes() -> None:
    codes = PixelEmbedding(10, 2).codes()[0]
    assert len(codes.unique(dim=0)) > 20
    assert (torch.bincount(codes.flatten()) > 300).all()


@pytest.mark.parametrize("arguments, message", [
    ({"depth": 0, "bits": 2}, "depth and channels must be at least 1, not 0 and 3"),
    ({"depth": 2, "bits": 9}, "bits of codes and pixels must be 1 to 8, not 9 and 8"),
])
def test_impossible_sizes_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelEmbedding(**arguments)
