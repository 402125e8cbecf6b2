"""The clusters of a latent: placed on points, and read off features."""

import math

import pytest
import torch

from ppvae.nn import Clusters, EnumeratedClusters, GaussianMixtureHead, LabelledClusters, NormalHead
from ppvae.random import seeded


def test_place_gives_each_cluster_the_moments_of_its_points():
    clusters = Clusters(2, 3)
    c = torch.tensor([0] * 5 + [1] * 10 + [2] * 25)
    with seeded(0):
        z = torch.randn(40, 2) * (c[:, None] + 1) + 10 * c[:, None]
    clusters.place(z.double().numpy(), c.numpy())
    law = clusters.law
    torch.testing.assert_close(law.probs, torch.tensor([5, 10, 25]) / 40)
    for k in range(3):
        torch.testing.assert_close(law.loc[k], z[c == k].mean(0))
        torch.testing.assert_close(law.scale[k], z[c == k].std(0))
    assert (law.cluster_probs(z).argmax(-1) == c).all() and all(p.requires_grad for p in clusters.parameters())
    with pytest.raises(ValueError, match="at least two points in each of 3 clusters, got 0 in 2"):
        clusters.place(z, c.clamp(max=1))


def test_place_refuses_before_it_changes_anything():
    clusters = Clusters(2, 3)
    before = clusters.loc.detach().clone()
    with pytest.raises(ValueError, match="got 1 in 2"):
        clusters.place(torch.randn(5, 2), torch.tensor([0, 0, 1, 1, 2]))
    with pytest.raises(ValueError, match="expected clusters 0 to 2, got -1 to 3"):
        clusters.place(torch.randn(8, 2), torch.tensor([0, 0, 1, 1, 2, 2, -1, 3]))
    flat = torch.randn(6, 2)
    flat[4:, 1] = 0.5
    with pytest.raises(ValueError, match="a spread in every coordinate, got none in cluster 2"):
        clusters.place(flat, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.equal(clusters.loc, before)


def test_a_head_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"head: expected a law on R\^10, got NormalHead\(3\)"):
        Clusters(10, 10, NormalHead(3))


def test_head_splits_its_features():
    head = GaussianMixtureHead(2, 3)
    h = torch.arange(15.0).expand(4, 15) / 10
    law = head(h)
    assert law.batch_shape == (4,) and law.event_shape == (2,)
    torch.testing.assert_close(law.logits[0], h[0, :3])
    torch.testing.assert_close(law.loc[0], h[0, 3:9].view(3, 2))
    torch.testing.assert_close(law.scale[0], h[0, 9:].view(3, 2).exp())
    with pytest.raises(
        ValueError, match=r"GaussianMixtureHead expected features of shape \(\.\.\., 15\), got \(4, 14\)"
    ):
        head(h[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_known_label_leaves_no_probability_elsewhere(dtype):
    clusters = LabelledClusters(2, 3).to(dtype)
    law = clusters._cluster(clusters.logits, torch.tensor([2, 0]), torch.tensor([True, False]))
    assert law.probs[0].tolist() == [0, 0, 1] and torch.isfinite(law.logits).all()
    torch.testing.assert_close(law.probs[1], torch.full((3,), 1 / 3, dtype=dtype))
    assert [len(kind(2, 3).given) for kind in (Clusters, EnumeratedClusters, LabelledClusters)] == [0, 0, 2]
    assert math.isclose(law.log_prob(torch.tensor([2, 0]))[0].item(), 0.0)
