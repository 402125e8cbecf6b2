"""The VampPrior: the mixture that it says, where the pseudo-inputs start, and what is drawn from it."""

import math

import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, VampVAE
from pyro.distributions import Normal

import ppvae
from ppvae.infer import ELBO
from ppvae.nn import NormalLikelihood, VonMisesFisherHead

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def vamp(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VampVAE((5,), hidden=(16,), likelihood=NormalLikelihood(0.5), **options)


@pytest.mark.parametrize("head", [None, VonMisesFisherHead(3)])
def test_placed_at_all_data_the_prior_is_the_aggregate_posterior(head):
    vae = vamp(dim=3, pseudo_inputs=12, head=head)
    vae.place(X, seed=0)
    q = ppvae.guide_laws(vae, X)["z"]
    with torch.no_grad():
        z = q.sample((4,))[:, :5]
        log_q = q.log_prob(z.unsqueeze(-2)).logsumexp(-1) - math.log(12)
        torch.testing.assert_close(vae.prior().log_prob(z), log_q)


def test_the_prior_learns_and_shares_the_encoder():
    vae = vamp(dim=2, pseudo_inputs=3)
    loss = ELBO().differentiable_loss(vae.model, lambda x: vae_guide_frozen(vae, x), X)
    gradients = torch.autograd.grad(loss, [vae.u, *vae.encoder.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients)


def vae_guide_frozen(vae, x):
    """A guide apart from the encoder: what gradient the encoder has comes through the prior."""
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", Normal(x[:, :2], 1.0).to_event(1))


def test_two_clusters_are_too_much_for_a_normal_prior():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, generator=g) * 0.5 + torch.tensor([-3.0, 3.0]).repeat(200)[:, None]
    truth = (Normal(3.0, 0.5).log_prob(x.abs()) - math.log(2)).mean().item()
    found, between = {}, {}
    for make in (VampVAE, GaussianVAE):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = make((1,), 1, hidden=(32,), likelihood=NormalLikelihood(0.3))
        if make is VampVAE:
            vae.place(x, seed=0)
        ppvae.fit(vae, x, epochs=60, batch_size=100, lr=5e-3, seed=0, progress=False)
        found[make] = ppvae.log_likelihood(vae, x, num_samples=100, seed=0).mean
        between[make] = (abs(ppvae.generate(vae, 2000, sample=True, seed=0)) < 1.5).mean()
    assert truth - 0.1 < found[VampVAE] < truth + 0.1 and found[GaussianVAE] < truth - 0.5, (found, truth)
    assert between[VampVAE] < 0.02 < 0.1 < between[GaussianVAE], between


@pytest.mark.parametrize("options", [{"dim": 2}, {"dim": 3, "head": VonMisesFisherHead(3)}])
def test_chains_of_the_posterior(options):
    vae = vamp(pseudo_inputs=4, **options)
    post = ppvae.posterior(vae, X[:2].numpy(), num_samples=30, warmup=20, num_chains=2, importance_samples=20, seed=0)
    assert post.z.shape == (2, 2, 30, options["dim"])


def test_errors():
    with pytest.raises(ValueError, match="pseudo_inputs: expected at least 1, got 0"):
        vamp(pseudo_inputs=0)
    with pytest.raises(ValueError, match="x: expected at least 20 data, one for each pseudo-input, got 12"):
        vamp(pseudo_inputs=20).place(X)
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 5\), got \(12, 1\)"):
        vamp(pseudo_inputs=2).place(X[:, :1])
    with pytest.raises(ValueError, match="x: expected finite numbers"):
        vamp(pseudo_inputs=2).place(X * torch.nan)
