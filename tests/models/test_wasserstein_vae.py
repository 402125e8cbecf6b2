"""The deterministic encoders, and the models for which InfoVAE and WAE are looked up by name."""

import math

import pyro
import pytest
import torch
from ppvae.models import InfoVAE, SphericalVAE, WassersteinVAE
from pyro import poutine

import ppvae
from ppvae import models
from ppvae.infer import ELBO, CodeNorm, InfoVAE_ELBO, Regularized, energy_distance
from ppvae.isolation import isolated_param_store
from ppvae.nn import DeltaHead, NormalLikelihood, SphericalDeltaHead
from ppvae.random import seeded
from ppvae.testing import check_vae

BINARY = (torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
REAL = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make, x, alpha",
    [
        (lambda: WassersteinVAE((1, 8, 8), 2, (16,)), BINARY, 1),
        (lambda: WassersteinVAE((5,), 2, (16,), likelihood=NormalLikelihood(0.5)), REAL, 1),
        (lambda: SphericalVAE((1, 8, 8), 3, (16,), head=SphericalDeltaHead(3)), BINARY, 1),
        (lambda: InfoVAE((5,), 2, (16,)), REAL, 0),
    ],
    ids=["WAE", "WAE, tabular", "WAE on the sphere", "InfoVAE"],
)
def test_contract(make, x, alpha):
    assert len(check_vae(make, x, objective=lambda K: InfoVAE_ELBO(alpha=alpha, num_particles=K))) >= 10


def test_they_are_found_by_name():
    assert models.find("info-vae") is InfoVAE and models.find("wasserstein-vae") is WassersteinVAE
    assert models.summary("wasserstein-vae").startswith("Wasserstein auto-encoder (WAE)")
    assert models.summary("info-vae").startswith("InfoVAE")


@pytest.mark.parametrize(
    "vae",
    [WassersteinVAE((1, 8, 8), 3, (16,)), SphericalVAE((1, 8, 8), 3, (16,), head=SphericalDeltaHead(3))],
    ids=["R^3", "S^2"],
)
def test_the_encoder_is_deterministic(vae):
    with isolated_param_store(), torch.no_grad():
        draws = [poutine.trace(vae.guide).get_trace(BINARY).nodes["z"]["value"] for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(draws[0], torch.as_tensor(ppvae.encode(vae, BINARY)))


def test_heads():
    h = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    q = DeltaHead(3)(h)
    assert q.event_shape == (3,) and q.batch_shape == (4,) and torch.equal(q.rsample(), h)
    q = SphericalDeltaHead(3)(h)
    torch.testing.assert_close(q.rsample().norm(dim=-1), torch.ones(4, dtype=torch.float64))
    # The projection has no gradient along the point, and scales as 1 / |h| across it.
    (gradient,) = torch.autograd.grad(q.rsample()[:, 0].sum(), h)
    torch.testing.assert_close((gradient * h).sum(-1), torch.zeros(4, dtype=torch.float64))
    for head in (DeltaHead(3), SphericalDeltaHead(3)):
        with pytest.raises(ValueError, match=r"expected features of shape \(\.\.\., 3\), got \(4, 2\)"):
            head(torch.ones(4, 2))


def test_the_loss_is_reconstruction_and_divergence():
    """With a normal likelihood of scale s the first term is |x - f(g(x))|^2 / (2 s^2) and a constant."""
    vae, s = WassersteinVAE((5,), 2, (16,), likelihood=NormalLikelihood(0.3)), 0.3
    with seeded(0), isolated_param_store():
        loss = InfoVAE_ELBO("energy", alpha=1, lambda_=10).loss(vae.model, vae.guide, REAL)
    with seeded(0), torch.no_grad():
        z = vae.encoder(REAL)
        cost = (REAL - vae.decode(z).mean).square().sum() / (2 * s**2)
        prior = torch.randn(16, 2)
        constant = REAL.numel() * math.log(s * math.sqrt(2 * math.pi))
        expected = cost + constant + 10 * 16 * energy_distance(prior, z, paired=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_training_brings_the_codes_to_the_prior_and_their_norm_does_not():
    """-log p(z) = |z|^2 / 2 draws a deterministic encoder to the mode of the prior: its codes gather near 0."""
    with seeded(0):
        x = torch.randn(256, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    spread = {}
    plain = InfoVAE_ELBO(alpha=1, lambda_=0)
    objectives = {"wae": InfoVAE_ELBO("energy", alpha=1, lambda_=20), "norm": Regularized(plain, code=CodeNorm(1.0))}
    for name, objective in objectives.items():
        with seeded(1):
            vae = WassersteinVAE((2,), 2, (32,), likelihood=NormalLikelihood(0.5))
        ppvae.fit(vae, x, epochs=40, batch_size=128, lr=1e-2, objective=objective, seed=0, progress=False)
        z = torch.as_tensor(ppvae.encode(vae, x))
        with seeded(2):
            spread[name] = energy_distance(torch.randn(2000, 2), z).item()
    assert spread["wae"] < 0.03 < 0.1 < spread["norm"]


def test_the_scale_of_the_decoder_is_its_own():
    """Data whose spread depends on a mode: the decoder of InfoVAE says so."""
    vae = InfoVAE((5,), 2, (16,))
    law = vae.decode(torch.randn(7, 2, generator=torch.Generator().manual_seed(0)))
    scale = law.base_dist.scale
    assert law.event_shape == (5,) and scale.shape == (7, 5) and scale.std() > 0
    with isolated_param_store(), pyro.validation_enabled(True):
        assert ELBO(3).loss(vae.model, vae.guide, REAL).isfinite()
