import math

import numpy as np
import pytest
import torch
from torch import nn

from ppvae.infer.objectives.divergences import SquaredExponential, mmd
from ppvae.manifolds.embeddings import CircleEmbedding, FlatTorusEmbedding, SphereEmbedding, SwissRollEmbedding
from ppvae.metrics import embedding_report, permutation_test

ANGLE = 2 * math.pi * np.random.default_rng(0).random(1500)
CIRCLE = np.stack([np.cos(ANGLE), np.sin(ANGLE)], -1)


def from_circle(x):
    return np.abs(np.linalg.norm(x, axis=-1) - 1)


class Arc(nn.Module):
    """The circle, run through ``turns`` times."""

    dim, ambient = 1, 2

    def __init__(self, turns):
        super().__init__()
        self.turns = turns

    def forward(self, z):
        return CircleEmbedding()(self.turns * z)


def report(f):
    return embedding_report(f, CIRCLE, distance=from_circle, num_samples=800, permutations=200)


def drawn(num_samples, dim):
    """The z that a report draws, and the rows of 1500 points that it compares with, from the seed 0."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(num_samples, dim, generator=generator).double()
    torch.rand(10_000, dim, generator=generator)
    return z, torch.randperm(1500, generator=generator)[:num_samples].numpy()


def overlap(z, turns, near):
    """Whether z on a circle run through ``turns`` times has a second z whose image is nearer than ``near``."""
    edge = 1 - 1 / turns + math.asin(near / 2) / (math.pi * turns)
    return (z < edge) | (z > 1 - edge)


def test_the_exact_embedding_passes():
    r = report(CircleEmbedding())
    assert r.distance < 1e-6 and r.gap < 0.02 and r.p_value > 0.05 and r.density_range == 0
    assert r.colliding < 0.02 and "warning" not in str(r)


def test_an_arc_that_misses_a_tenth_has_a_gap_and_another_law():
    r = report(Arc(0.9))
    angle = ANGLE[drawn(800, 1)[1]]
    inside = np.minimum(angle - 0.9 * 2 * math.pi, 2 * math.pi - angle)  # from the nearer end of the gap
    assert r.gap == pytest.approx(2 * np.sin(inside.max() / 2), abs=1e-3)  # f(Z) is seen at 10,000 points
    assert r.p_value < 0.05 and r.colliding == 0


def test_an_arc_that_overlaps_is_not_injective_and_says_so():
    r = report(Arc(1.3))
    assert r.collision == pytest.approx(1 / 1.3, abs=r.near / (2 * math.pi * 1.3))
    assert r.colliding == overlap(drawn(800, 1)[0], 1.3, r.near).double().mean()
    assert "warning: f is not injective" in str(r)


@pytest.mark.parametrize("f", [FlatTorusEmbedding(2), SphereEmbedding(), SwissRollEmbedding()])
def test_a_surface_whose_charts_edges_meet_is_injective_but_there(f):
    points = f(torch.rand(500, f.dim, generator=torch.Generator().manual_seed(1)))
    r = embedding_report(f, points, num_samples=400, permutations=20)
    assert r.colliding < 0.05 and "warning" not in str(r)


class Twice(nn.Module):
    """The flat torus, its first circle run through 1.25 times."""

    dim, ambient = 2, 4

    def forward(self, z):
        return FlatTorusEmbedding(2)(z * torch.tensor([1.25, 1.0]))


class Flat(nn.Module):
    """A curve that forgets its second coordinate."""

    dim, ambient = 2, 3

    def forward(self, z):
        return torch.cat([Arc(0.5)(z[..., :1]), 0 * z[..., 1:]], -1)


@pytest.mark.parametrize(("f", "density_range"), [(Twice(), 0), (Flat(), math.inf)])
def test_a_surface_that_overlaps_says_where(f, density_range):
    points = f(torch.rand(500, 2, generator=torch.Generator().manual_seed(1)))
    r = embedding_report(f, points, num_samples=400, permutations=20)
    share = 1 if f.ambient == 3 else float(overlap(drawn(400, 2)[0][:, 0], 1.25, 0).double().mean())
    assert r.colliding == pytest.approx(share, abs=2.5 / 400)  # Gauss-Newton may miss a z whose partner is on the edge
    assert "warning: f is not injective" in str(r)
    assert r.density_range == pytest.approx(density_range, abs=1e-5)


def test_without_a_distance_the_points_stand_for_the_manifold():
    r = embedding_report(Arc(0.5), 2 * CIRCLE, num_samples=500, permutations=50)
    assert r.mean_distance == pytest.approx(1, abs=2e-3) and r.distance > r.mean_distance > 1


@pytest.mark.parametrize("shift", [0.0, 0.4, 3.0])
def test_the_p_value_counts_permutations_and_the_mmd_is_the_librarys(shift):
    """One MMD after the other, of the same permutations."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[12:] += shift
    kernel = SquaredExponential(2.0)
    statistic, p_value = permutation_test(x[:12], x[12:], 99, kernel, seed=5)
    generator = torch.Generator().manual_seed(5)
    permuted = []
    for _ in range(99):
        first = torch.zeros(30, dtype=torch.bool)
        first[torch.randperm(30, generator=generator)[:12]] = True
        permuted.append(float(mmd(x[first], x[~first], kernel=kernel)))
    assert statistic == pytest.approx(float(mmd(x[:12], x[12:], kernel=kernel)), abs=1e-12)
    assert p_value == (1 + sum(value >= statistic for value in permuted)) / 100


def test_the_p_value_is_that_of_all_splits():
    """Of the 20 splits of 3 and 3 points two are as far apart: p = 0.1, and permutations estimate it."""
    statistic, p_value = permutation_test([[0.0], [1.0], [2.0]], [[8.0], [9.0], [10.0]], 20_000)
    assert statistic > 0 and p_value == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 20_000))


def test_points_of_another_space_are_refused():
    with pytest.raises(ValueError, match=r"points: expected shape \(k, 2\), the space of f, got \(20, 3\)"):
        embedding_report(CircleEmbedding(), np.zeros((20, 3)))
    with pytest.raises(ValueError, match=r"distance: expected one number for each point, shape \(50,\), got \(50, 1\)"):
        embedding_report(CircleEmbedding(), CIRCLE, distance=lambda x: x[:, :1], num_samples=50)
