"""The capacity where the KL is in closed form and where it is sampled."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE
from torch.distributions.transforms import AffineTransform

import ppvae
from ppvae.infer import Beta_ELBO, Capacity_ELBO
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


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


SCALE = 0.8
KL = SCALE**2 / 2 - 0.5 - math.log(SCALE)


def model(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(x.shape[0]), 1.0))
        pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)


def guide(x):
    """N(0, SCALE^2) as a transformed law, of which torch knows no KL."""
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), [AffineTransform(0.0, SCALE)]))


@pytest.mark.parametrize("capacity, w", [(0.0, 1.0), (2.0, 0.0)])
def test_without_a_capacity_it_is_the_beta_vae_draw_by_draw(capacity, w):
    for seed in range(10):
        found = []
        for objective in (Beta_ELBO(30.0), Capacity_ELBO(capacity, 30.0)):
            objective.kl_weight = torch.tensor(w if isinstance(objective, Capacity_ELBO) else 1.0)
            with seeded(seed):
                found.append(objective.all_terms(model, guide, torch.zeros(8)))
        assert found[0] == found[1]


@pytest.mark.parametrize("share", [0.3, 1.0, 1.7])
def test_the_distance_of_a_sampled_kl_is_not_overrated(share):
    """The mean penalty is |KL - C| less twice the cost of wrong decisions; the distance of the estimate is above it."""
    C, n, runs = share * KL, 4, 1500
    objective = Capacity_ELBO(C, 1.0)
    with seeded(0), pyro.validation_enabled(False):
        terms = [objective.all_terms(model, guide, torch.zeros(n)) for _ in range(runs)]
    estimates = torch.stack([t["kl"] for t in terms]) / n
    penalty = torch.stack([t["loss"] + t["reconstruction"] for t in terms]) / n
    error = (penalty.std() / runs**0.5).item()
    above = (estimates > C).float().mean().item()
    wrong = 1 - above if KL > C else above
    assert penalty.mean().item() == pytest.approx((1 - 2 * wrong) * abs(KL - C), abs=4 * error)
    assert (estimates - C).abs().mean().item() > abs(KL - C) + 4 * error  # what the plain distance would give


def test_latents_in_another_order_are_refused():
    def first(x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def second(x):
        with pyro.plate("data", x.shape[0]):
            b = pyro.sample("b", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            pyro.sample("a", dist.Normal(b, 1.0))

    with pytest.raises(ValueError, match="site 'b': expected model and guide to sample the latents in one order"):
        Capacity_ELBO(1.0).loss(first, second, torch.zeros(4))
