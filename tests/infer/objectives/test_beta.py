"""Beta, capacity and free nats."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from pyro import poutine
from pyro.infer import SVI
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.distributions import SO3Normal, SO3Uniform
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


def test_free_nats_are_free_of_gradient():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    gradients = []
    for objective in (FreeBits_ELBO(1e6), Beta_ELBO(0.0)):
        vae.zero_grad()
        with seeded(0):
            objective.loss_and_grads(vae.model, vae.guide, X)
        gradients.append([p.grad.clone() for p in vae.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


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


def test_the_capacity_is_reached():
    """A constant encoder at first; the KL of its codes goes to C = 1.5 nats, which the data alone do not ask for."""
    with seeded(0):
        vae = GaussianVAE((1, 4, 4), 2, (16,))
    fit = ppvae.fit(
        vae,
        X,
        epochs=300,
        batch_size=12,
        lr=1e-2,
        objective=Capacity_ELBO(1.5, 50.0),
        warmup=100,
        seed=0,
        progress=False,
    )
    kl = fit.history["kl"]
    assert sum(kl[35:46]) / 11 == pytest.approx(0.4 * 1.5, abs=0.3)
    assert sum(kl[-50:]) / 50 == pytest.approx(1.5, abs=0.1)


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


def rotations():
    """A pair whose KL, some hundredths of a nat, is estimated by draws: means over 8 data are negative at times."""
    scale = torch.full((8, 3), 1.6)

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", SO3Uniform())
            pyro.sample("x", dist.Normal(z[..., 0, 0], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", SO3Normal(torch.eye(3).expand(8, 3, 3), scale))

    return model, guide


def test_no_free_nats_are_the_elbo_where_the_kl_is_sampled():
    model, guide = rotations()
    x = torch.zeros(8)
    negative = 0
    for seed in range(60):
        found = []
        for objective in (ELBO(), FreeBits_ELBO(0.0)):
            with seeded(seed):
                found.append(objective.all_terms(model, guide, x))
        assert found[0]["loss"] == found[1]["loss"]
        negative += bool(found[0]["kl"] < 0)
    assert negative > 5  # else the test would not see a clamp at 0


def test_free_nats_of_a_sampled_kl_are_not_biased_upwards():
    model, guide = rotations()
    x, lambda_ = torch.zeros(8), 0.02
    kls, kept = [], []
    with seeded(0):
        for _ in range(2000):
            terms = FreeBits_ELBO(lambda_).all_terms(model, guide, x)
            kls.append(terms["kl"] / 8)
            kept.append((terms["loss"] + terms["reconstruction"]) / 8)
    kl, kept = torch.stack(kls), torch.stack(kept)
    right = max(lambda_, kl.mean().item())
    error = kept.std().item() / 2000**0.5
    assert kept.mean().item() < right + 3 * error
    assert kl.clamp(min=lambda_).mean().item() > right + 10 * error  # what comparing the estimate with itself gives
