import math

import numpy as np
import pytest
import torch
from torch import nn

from ppvae.infer.divergences import SquaredExponential, mmd
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


def test_the_exact_embedding_passes():
    r = report(CircleEmbedding())
    assert r.distance < 1e-6 and r.gap < 0.02 and r.p_value > 0.05 and r.density_range == 0
    assert r.colliding < 0.02 and "warning" not in str(r)


def test_an_arc_that_misses_a_tenth_has_a_gap_and_another_law():
    r = report(Arc(0.9))
    assert r.gap == pytest.approx(
        2 * math.sin(0.1 * math.pi / 2), abs=0.02
    )  # the chord from the gap's middle to its end
    assert r.p_value < 0.05 and r.colliding == 0


def test_an_arc_that_overlaps_is_not_injective_and_says_so():
    r = report(Arc(1.3))
    assert r.collision == pytest.approx(1 / 1.3, abs=0.02)
    assert r.colliding == pytest.approx(2 * 0.3 / 1.3, abs=0.06) and "warning: f is not injective" in str(r)


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


# The law on the torus is uniform on either sheet; the density on the curve is infinite, as J loses rank.
@pytest.mark.parametrize(("f", "share", "density_range"), [(Twice(), 2 * 0.25 / 1.25, 0.0), (Flat(), 1.0, math.inf)])
def test_a_surface_that_overlaps_says_where(f, share, density_range):
    points = f(torch.rand(500, 2, generator=torch.Generator().manual_seed(1)))
    r = embedding_report(f, points, num_samples=400, permutations=20)
    assert r.colliding == pytest.approx(share, abs=0.07) and "warning: f is not injective" in str(r)
    assert r.density_range == pytest.approx(density_range, abs=1e-5)


def test_without_a_distance_the_points_stand_for_the_manifold():
    r = embedding_report(Arc(0.5), 2 * CIRCLE, num_samples=500, permutations=50)
    assert r.mean_distance == pytest.approx(1, abs=0.05)


def test_the_p_value_is_uniform_for_equal_laws_and_the_mmd_is_the_librarys():
    generator = torch.Generator().manual_seed(0)
    values = []
    for seed in range(60):
        x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
        values.append(permutation_test(x[:25], x[25:], permutations=99, seed=seed)[1])
    assert 0.35 < np.mean(values) < 0.65 and min(values) >= 0.01
    kernel = SquaredExponential(2.0)
    statistic, _ = permutation_test(x[:25], x[25:] + 1, 10, kernel)
    assert statistic == pytest.approx(float(mmd(x[:25], x[25:] + 1, kernel=kernel)), abs=1e-12)
    assert permutation_test(x[:25], x[25:] + 1, 99)[1] == 0.01


def test_points_of_another_space_are_refused():
    with pytest.raises(ValueError, match=r"shape \(k, 2\), got \(20, 3\)"):
        embedding_report(CircleEmbedding(), np.zeros((20, 3)))
