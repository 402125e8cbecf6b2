"""The conditional VAE: what the label says goes to the label, what it does not to the latent."""

import numpy as np
import pytest
import torch
from ppvae.models import ConditionalVAE

import ppvae
from ppvae.nn import CovariatesCondition, NormalLikelihood, OneHotCondition
from ppvae.random import seeded


@pytest.fixture(scope="module")
def trained():
    """x = a mean of three by the label + a direction that all labels share, with noise."""
    g = np.random.default_rng(0)
    means = np.array([[-4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    y, t = g.integers(3, size=600), g.standard_normal(600)
    x = (means[y] + t[:, None] * [1.0, 1.0] + 0.5 * g.standard_normal((600, 2))).astype(np.float32)
    with seeded(0):
        vae = ConditionalVAE((2,), 1, OneHotCondition(3), (32,), likelihood=NormalLikelihood(0.5))
    ppvae.fit(vae, (x, y), epochs=150, batch_size=100, lr=5e-3, seed=0, progress=False)
    return vae, x, y, t, means


def test_the_evidence_is_that_of_the_truth(trained):
    vae, x, y, _, means = trained
    cov = torch.ones(2, 2) + 0.25 * torch.eye(2)
    law = torch.distributions.MultivariateNormal(torch.tensor(means[y], dtype=torch.float32), cov)
    truth = law.log_prob(torch.tensor(x)).mean().item()
    found = ppvae.log_likelihood(vae, x, y, num_samples=200, seed=0).mean
    assert truth - 0.15 < found < truth + 0.1, (found, truth)


def test_the_latent_has_what_the_label_does_not_say(trained):
    vae, x, y, t, _ = trained
    z = ppvae.encode(vae, x, y)[:, 0]
    for k in range(3):
        assert abs(np.corrcoef(z[y == k], t[y == k])[0, 1]) > 0.9
        assert abs(z[y == k].mean()) < 0.3


def test_generate_and_decode_by_label(trained):
    vae, _, _, _, means = trained
    for k in range(3):
        drawn = ppvae.generate(vae, 500, np.full(500, k), seed=0)
        assert np.allclose(drawn.mean(0), means[k], atol=0.4)
    z = np.zeros((3, 1), np.float32)
    assert np.allclose(ppvae.decode(vae, z, np.arange(3)), means, atol=0.4)


def test_labels_are_checked(trained):
    vae, x, y, *_ = trained
    with pytest.raises(ValueError, match=r"given\[0\]: expected"):
        ppvae.encode(vae, x, y + 1)
    with pytest.raises(ValueError, match="expected 1 arrays beside x, got 0"):
        ppvae.encode(vae, x)


def test_saved_and_loaded(trained, tmp_path):
    vae, x, y, *_ = trained
    ppvae.save(vae, tmp_path / "a.safetensors")
    other = ppvae.load(tmp_path / "a.safetensors")
    assert (ppvae.encode(other, x, y) == ppvae.encode(vae, x, y)).all()


def test_errors():
    with pytest.raises(ValueError, match="OneHotCondition expected num_classes of at least 2, got 1"):
        OneHotCondition(1)
    with pytest.raises(ValueError, match="CovariatesCondition expected dim of at least 1, got 0"):
        CovariatesCondition(0)
    vae = ConditionalVAE((2,), 1, CovariatesCondition(2), (4,), likelihood=NormalLikelihood(1.0))
    with pytest.raises(ValueError, match=r"CovariatesCondition expected y of shape \(n, 2\), got \(6, 3\)"):
        ppvae.encode(vae, torch.zeros(6, 2), torch.zeros(6, 3))
