"""Beta, capacity and free nats: other weights for the KL."""

import math

import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from pyro import poutine
from pyro.infer import SVI
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.infer import ELBO, Beta_ELBO, Capacity_ELBO, FreeBits_ELBO
from ppvae.isolation import isolated_param_store
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.fixture(autouse=True)
def _own_store():
    with pyro.get_param_store().scope():
        yield


def terms(objective, vae, model=None, guide=None):
    with seeded(1):
        return objective.all_terms(model or vae.model, guide or vae.guide, X)


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("w", [1.0, 0.4])
def test_formulas(make, particles, w):
    vae = make((1, 4, 4), 3, (8,))
    plain = terms(ELBO(particles), vae)
    kl, reconstruction = plain["kl"], plain["reconstruction"]
    low, high = kl.item() / 12 * 0.5, kl.item() / 12 * 3
    expected = {
        Beta_ELBO(4.0, particles): w * 4 * kl - reconstruction,
        Beta_ELBO(1.0, particles): w * kl - reconstruction,
        Capacity_ELBO(high, 30.0, particles): 12 * 30 * abs(kl / 12 - w * high) - reconstruction,
        Capacity_ELBO(low, 30.0, particles): 12 * 30 * abs(kl / 12 - w * low) - reconstruction,
        FreeBits_ELBO(low, particles): w * kl - reconstruction,
        FreeBits_ELBO(high, particles): w * 12 * high - reconstruction,
        FreeBits_ELBO(0.0, particles): w * kl - reconstruction,
    }
    for objective, loss in expected.items():
        objective.kl_weight = torch.tensor(w)
        found = terms(objective, vae)
        assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert found["kl"] == kl and found["reconstruction"] == reconstruction


@pytest.mark.parametrize("objective", [Beta_ELBO(), Capacity_ELBO(), FreeBits_ELBO()], ids=lambda o: type(o).__name__)
def test_scale_of_the_plate(objective):
    """Data counted ten times give ten times the loss: capacity and free nats are per datum."""
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    one = terms(objective, vae)["loss"]
    ten = terms(objective, vae, poutine.scale(vae.model, 10.0), poutine.scale(vae.guide, 10.0))["loss"]
    assert ten.item() == pytest.approx(10 * one.item(), rel=1e-5)


@pytest.mark.parametrize("objective", [Beta_ELBO(), Capacity_ELBO(), FreeBits_ELBO()], ids=lambda o: type(o).__name__)
def test_entry_points_agree_and_are_traceable(objective):
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    numbers = []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    for call in (objective(vae.model, vae.guide), svi.evaluate_loss, svi.step):
        with seeded(3):
            numbers.append(torch.as_tensor(call(X)).detach().item())
    with isolated_param_store(), pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.differentiable_loss(vae.model, vae.guide, x))(X)
        with seeded(3):
            numbers.append(graph(X).item())
    assert numbers == pytest.approx([numbers[0]] * 7, rel=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Beta_ELBO(-1.0), "beta: expected at least 0, got -1.0"),
        (lambda: Beta_ELBO(math.nan), "beta: expected at least 0, got nan"),
        (lambda: Capacity_ELBO(-1.0), "capacity: expected at least 0"),
        (lambda: Capacity_ELBO(1.0, -1.0), "gamma: expected at least 0"),
        (lambda: FreeBits_ELBO(-0.5), "lambda: expected at least 0, got -0.5"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
