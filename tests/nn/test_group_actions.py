import math

import pytest
import torch
from torch import nn

from ppvae.manifolds.embeddings import CircleEmbedding, FlatTorusEmbedding, SphereEmbedding, TorusEmbedding
from ppvae.nn import RotatePlanes, RotateSpace, invariance


@pytest.mark.parametrize(("action", "m"), [(RotatePlanes(), 2), (RotatePlanes(3), 6), (RotateSpace(), 3)])
def test_an_element_is_an_isometry_and_depends_on_the_features_alone(action, m):
    torch.manual_seed(0)
    h, z = torch.randn(5, 1, action.features), torch.randn(5, 7, m)
    moved = action(h, z)
    assert moved.shape == z.shape
    torch.testing.assert_close(torch.cdist(moved, moved), torch.cdist(z, z), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(action(3 * h, z), moved)


def test_the_angle_adds():
    action, angle = RotatePlanes(), torch.tensor(0.7)
    z = CircleEmbedding()(torch.tensor([0.2]))
    moved = action(torch.stack([angle.cos(), angle.sin()]), z)
    torch.testing.assert_close(CircleEmbedding().inverse(moved), torch.tensor([0.2 + 0.7 / (2 * math.pi)]))


@pytest.mark.parametrize(
    ("f", "action"),
    [(CircleEmbedding(), RotatePlanes()), (FlatTorusEmbedding(2), RotatePlanes(2)), (SphereEmbedding(), RotateSpace())],
)
def test_uniform_laws_are_invariant(f, action):
    off, change = invariance(f, action, torch.zeros((), dtype=torch.float64))
    assert off < 1e-7 and change == 0


def test_a_manifold_or_a_density_that_is_not_invariant_is_seen():
    off, _ = invariance(TorusEmbedding(), RotateSpace(), torch.empty(0))
    assert off > 0.1

    class Uneven(nn.Module):
        """The circle, run through faster on one side: density 1 / (2 pi (1 + 0.3 cos 2 pi z))."""

        dim, ambient = 1, 2

        def forward(self, z):
            return CircleEmbedding()(z + 0.3 / (2 * math.pi) * (2 * math.pi * z).sin())

    off, change = invariance(Uneven(), RotatePlanes(), torch.empty(0, dtype=torch.float64))
    assert off < 1e-9 and math.log(1.3 / 0.7) * 0.9 < change < math.log(1.3 / 0.7)
