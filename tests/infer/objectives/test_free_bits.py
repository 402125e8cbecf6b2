"""Free nats where the KL is in closed form and where it is sampled."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE
from torch.distributions.transforms import AffineTransform

from ppvae.distributions import SO3Normal, SO3Uniform
from ppvae.infer import ELBO, Beta_ELBO, FreeBits_ELBO
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


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


def pair(q, p):
    """z ~ p and z ~ q for each of the data, which say nothing of z."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", p)
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", q)

    return model, guide


def rotations():
    return pair(SO3Normal(torch.eye(3), torch.full((3,), 1.6)), SO3Uniform())


def moved(scale=0.8):
    """N(0, scale^2) as a transformed law, of which torch knows no KL: here it is scale^2 / 2 - 1/2 - log scale."""
    law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [AffineTransform(0.0, scale)])
    return pair(law, dist.Normal(0.0, 1.0)), scale**2 / 2 - 0.5 - math.log(scale)


@pytest.mark.parametrize("particles", [1, 3])
def test_no_free_nats_are_the_elbo_draw_by_draw(particles):
    """At SO3Normal(1.6) half of the estimates of a batch of 8 are negative."""
    model, guide = rotations()
    negative = 0
    for seed in range(20):
        found = []
        for objective in (ELBO(particles), FreeBits_ELBO(0.0, particles)):
            with seeded(seed):
                found.append((objective.all_terms(model, guide, torch.zeros(8)), torch.rand(())))
        assert found[0] == found[1]
        negative += found[0][0]["kl"].item() < 0
    assert negative > 2


@pytest.mark.parametrize("share, particles", [(0.5, 1), (1.0, 1), (1.5, 1), (1.0, 2)])
def test_free_nats_of_a_sampled_kl_are_not_overrated(share, particles):
    """The mean penalty lies between max(lambda, KL) less the cost of wrong decisions, and max(lambda, KL) itself.

    The maximum of lambda and the estimate would be above it by up to 0.4 of the estimate's deviation.
    """
    (model, guide), kl = moved()
    free, n, runs = share * kl, 4, 1500
    objective = FreeBits_ELBO(free, particles)
    with seeded(0), pyro.validation_enabled(False):
        terms = [objective.all_terms(model, guide, torch.zeros(n)) for _ in range(runs)]
    estimates = torch.stack([t["kl"] for t in terms]) / n
    penalty = torch.stack([t["loss"] + t["reconstruction"] for t in terms]) / n
    assert estimates.mean().item() == pytest.approx(kl, abs=4 * (estimates.std() / runs**0.5).item())
    error = (penalty.std() / runs**0.5).item()
    above = (estimates > free).float().mean().item()
    wrong = 1 - above if kl > free else above
    assert penalty.mean().item() == pytest.approx(max(free, kl) - wrong * abs(kl - free), abs=4 * error)
    assert estimates.clamp(min=free).mean().item() > max(free, kl) + 4 * error  # what the maximum would give


def test_the_gradient_of_a_sampled_kl_is_there_above_lambda_alone():
    for free, scaled in ((0.01, 1.0), (50.0, 0.0)):
        scale = torch.tensor(0.1, requires_grad=True)
        law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [AffineTransform(0.0, scale)])
        model, guide = pair(law, dist.Normal(0.0, 1.0))
        gradients = []
        for objective in (FreeBits_ELBO(free), ELBO()):
            with seeded(0):
                gradients.append(
                    torch.autograd.grad(objective.differentiable_loss(model, guide, torch.zeros(8)), scale)
                )
        assert gradients[0][0] == scaled * gradients[1][0]


def several(aligned):
    def model(x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(x.shape[0]), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            if aligned:
                a = pyro.sample("a", dist.Normal(torch.ones(x.shape[0]), 1.0))
            b = pyro.sample("b", dist.Normal(3 + (a if aligned else torch.zeros(x.shape[0])), 1.0))
            if not aligned:
                pyro.sample("a", dist.Normal(b, 1.0))

    return model, guide


def test_each_latent_has_nats_of_its_own():
    """KL 1/2 and 9/2 for each of 4 data: with 2 free nats of each the penalty is 2 + 9/2."""
    terms = FreeBits_ELBO(2.0).all_terms(*several(True), torch.zeros(4))
    assert terms["kl"].item() == pytest.approx(4 * 5.0)
    assert (terms["loss"] + terms["reconstruction"]).item() == pytest.approx(4 * 6.5)


def test_a_site_without_a_kl_of_its_own_is_refused():
    model, _ = rotations()

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("u", dist.Normal(torch.zeros(x.shape[0]), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", SO3Uniform())

    with pytest.raises(ValueError, match="site 'u': FreeBits_ELBO expected latents of the model"):
        FreeBits_ELBO(1.0).loss(model, guide, torch.zeros(4))
    assert FreeBits_ELBO(0.0).loss(model, guide, torch.zeros(4)).isfinite()
    with pytest.raises(ValueError, match="site 'b': expected model and guide to sample the latents in one order"):
        FreeBits_ELBO(1.0).loss(*several(False), torch.zeros(4))
    assert FreeBits_ELBO(0.0).loss(*several(False), torch.zeros(4)).isfinite()


def test_an_observed_site_before_x_is_not_counted():
    """The data are those of x: a factor outside the plate does not change how many there are."""
    model, guide = moved()[0]

    def longer(x):
        pyro.factor("prior", torch.zeros(()))
        model(x)

    losses = []
    for fn in (model, longer):
        with seeded(0):
            losses.append(FreeBits_ELBO(3.0).loss(fn, guide, torch.zeros(4)))
    assert losses[0] == losses[1]
