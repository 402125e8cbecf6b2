"""k-means and k-medoids against plain loops, with equal points, empty clusters and points far from the origin."""

import numpy as np
import pytest
import torch

from ppvae.random import seeded
from ppvae.samplers.centroids import k_means, k_medoids
from ppvae.samplers.mixture import far_apart


def normal(n, d, offset=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset


def lloyd(z, start):
    """Means that no longer move, from their places at the start."""
    means = z[start]
    while True:
        cluster = [int(np.argmin([np.linalg.norm(x - m) for m in means])) for x in z]
        new = [z[np.equal(cluster, c)].mean(0) if c in cluster else means[c] for c in range(len(means))]
        if np.array_equal(new, means):
            return new
        means = new


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_means_are_those_of_lloyds_loop(k, offset):
    z = normal(200, 3, offset)
    with seeded(3):
        start = far_apart(z, k).numpy()
    expected: list[int] = []
    for mean in lloyd(z.numpy(), start):
        order = np.argsort(np.linalg.norm(z.numpy() - mean, axis=1), kind="stable")
        expected.append(next(row for row in order.tolist() if row not in expected))
    with seeded(3):
        assert k_means(z, k).tolist() == sorted(expected)


@pytest.mark.parametrize("choose", [k_means, k_medoids])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_determines_the_choice(choose, dtype):
    z = normal(60, 2).to(dtype)
    with seeded(0):
        first = choose(z, 5)
    with seeded(0):
        assert torch.equal(choose(z, 5), first)
    assert first.dtype == torch.int64 and first.tolist() == sorted(set(first.tolist()))


@pytest.mark.parametrize("choose", [k_means, k_medoids])
def test_equal_points_leave_clusters_empty(choose):
    """Three places for five centroids."""
    z = torch.tensor([[0.0], [5.0], [9.0]]).repeat(10, 1)
    with seeded(0):
        rows = choose(z, 5)
    assert rows.shape == (5,) and set(z[rows, 0].tolist()) == {0.0, 5.0, 9.0}
    if choose is k_means:
        assert len(set(rows.tolist())) == 5


def test_medoids_of_points_far_from_the_origin():
    """In float32 at 1e4 the matrix form of distances has errors of 8, as large as the clusters are apart."""
    z = (normal(90, 4) + torch.tensor([0.0, 4.0, 8.0]).repeat(30).unsqueeze(1)).float()
    z = (z * 2**8).round() / 2**8  # so that the offset costs no digit
    with seeded(1):
        near = k_medoids(z, 3)
    with seeded(1):
        assert torch.equal(k_medoids(z + 2**13, 3), near)


@pytest.mark.parametrize("choose", [k_means, k_medoids])
def test_wrong_numbers(choose):
    with pytest.raises(ValueError, match="k: expected an integer from 1 to 4, got 5"):
        choose(normal(4, 2), 5)
    with pytest.raises(ValueError, match="iterations: expected an integer of at least 1, got 0"):
        choose(normal(4, 2), 2, iterations=0)
