"""One-dimensional k-means against matrices of all distances."""
import numpy as np
import pytest
import torch

from nomul.compiler.quantize.kmeans import cluster_means, lloyd, nearest, squared_error


@pytest.mark.parametrize("entries", [1, 2, 3, 16])
def test_a_step_equals_brute_force(entries: int) -> None:
    rng = np.random.default_rng(entries)
    weights, dictionary = rng.normal(size=(20, 15)), rng.normal(size=entries)

    expected = np.abs(weights[..., None] - dictionary).argmin(axis=-1)
    means = [weights[expected == entry].mean() if (expected == entry).any() else dictionary[entry]
             for entry in range(entries)]

    values = torch.from_numpy(weights)
    assignment = nearest(values, torch.from_numpy(dictionary))
    found, counts = cluster_means(values, assignment, torch.from_numpy(dictionary))
    assert assignment.tolist() == expected.tolist()
    assert counts.tolist() == np.bincount(expected.ravel(), minlength=entries).tolist()
    np.testing.assert_allclose(found.numpy(), means, rtol=1e-12)


def test_a_tie_takes_the_lower_value() -> None:
    assert nearest(torch.tensor([1.0]), torch.tensor([2.0, 0.0])).tolist() == [1]


def test_equal_entries_part_again() -> None:
    dictionary = torch.tensor([1.0, 1.0, -5.0], dtype=torch.float64)
    weights = torch.tensor([0.5, 1.5], dtype=torch.float64)
    assignment = nearest(weights, dictionary)
    assert cluster_means(weights, assignment, dictionary)[0].tolist() == [0.5, 1.5, -5.0]


def test_an_empty_cluster_keeps_its_value() -> None:
    dictionary = torch.tensor([0.0, 100.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    means, counts = cluster_means(weights, nearest(weights, dictionary), dictionary)
    assert means.tolist() == [1.5, 100.0]
    assert counts.tolist() == [2, 0]


def test_lloyd_finds_separate_clusters() -> None:
    centers = torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.float64)
    offsets = torch.tensor([-0.125, 0.0, 0.125], dtype=torch.float64)
    weights = centers[:, None] + offsets
    assert lloyd(weights, 4).tolist() == centers.tolist()
    assert squared_error(weights, centers) == 4 * 2 * 0.125 ** 2
