"""Mixtures of laws on any manifold, against torch's own, and by the battery."""

import pytest
import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn.functional import normalize

from ppvae.distributions import HypersphericalUniform, Mixture, VonMisesFisher
from ppvae.testing import check_distribution

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 4, dtype=torch.float64, generator=G)
LOC = torch.randn(3, 4, 3, dtype=torch.float64, generator=G)
SKIP = {
    "argument validation": "an argument is a law",
    "moments": "has none",
    "entropy": "has none",
    "kl": "has none",
    "pathwise gradient": "samples carry none",
}


def spherical(logits, loc, concentration):
    return Mixture(logits, VonMisesFisher(normalize(loc, dim=-1), concentration))


def test_battery():
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=G))[0]
    concentration = torch.tensor([0.5, 2.0, 8.0, 3.0], dtype=torch.float64).expand(3, 4)
    report = check_distribution(
        spherical,
        {"logits": LOGITS, "loc": LOC, "concentration": concentration},
        proposal=HypersphericalUniform(3, dtype=torch.float64),
        isometry=(lambda z: z @ rotation.T, {"loc": LOC @ rotation.T}),
        points=lambda law: law.components.loc.movedim(-2, 0),
        skip=SKIP,
    )
    assert report["mass"] < 4 and report["sampler"] < 4, report


@pytest.mark.parametrize("value_shape", [(3,), (7, 3)])
def test_agrees_with_torch(value_shape):
    ours = Mixture(LOGITS, Normal(LOC, 0.5).to_event(1))
    theirs = MixtureSameFamily(Categorical(logits=LOGITS), Normal(LOC, 0.5).to_event(1))
    z = torch.randn(*value_shape, 3, dtype=torch.float64, generator=G)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    more = ours.expand((2, 3)).log_prob(z.unsqueeze(-3))
    torch.testing.assert_close(more, theirs.log_prob(z).unsqueeze(-2).expand_as(more))


def test_one_law_for_a_batch():
    """The components are not repeated for the batch, the draws are its own."""
    law = Mixture(LOGITS[0], Normal(LOC[0], 0.01).to_event(1)).expand((5000,))
    assert law.components.batch_shape == (4,)
    torch.manual_seed(0)
    z = law.sample()
    assert z.shape == (5000, 3) and law.log_prob(z).shape == (5000,) and law.log_prob(z[:1]).shape == (5000,)
    found = law.component_probs(z).round().mean(0)
    torch.testing.assert_close(found, LOGITS[0].softmax(-1), atol=0.03, rtol=0)


def test_errors():
    with pytest.raises(ValueError, match=r"components of batch shape \(..., K\), got \(3,\) and \(4,\)"):
        Mixture(torch.zeros(3), Normal(LOC[0], 1.0).to_event(1))
