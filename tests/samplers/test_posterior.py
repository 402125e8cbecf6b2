"""The posterior of single data against exact posteriors: linear-Gaussian, circle by quadrature, sphere by a grid."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae.distributions import HypersphericalUniform, VonMisesFisher, WrappedNormal
from ppvae.manifolds import Hyperboloid
from ppvae.manifolds.hyperboloid import from_origin, log_sinhc, to_origin
from ppvae.nn import register

W = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.0, 0.7]])
SIGMA = 0.6
X = torch.tensor([[1.0, -0.5, 0.3], [0.0, 3.0, 0.5], [-2.0, 0.1, 0.0]])


class Linear(nn.Module):
    """z ~ prior, x | z ~ N(W z, SIGMA^2), and a guide that knows nothing of x."""

    def __init__(self, prior, guide, W=W):
        super().__init__()
        self.shape, self.W = torch.Size((W.shape[0],)), nn.Parameter(W)
        self.prior, self.law = prior, guide

    def model(self, x):
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z @ self.W.mT, SIGMA).to_event(1), obs=x)

    def guide(self, x):
        register(self)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.law)


def normal(dim=2, scale=1.0):
    return dist.Normal(torch.zeros(dim), scale).to_event(1)


def exact(x=X):
    """N(mu, Sigma) for each datum, and log p(x)."""
    Sigma = torch.linalg.inv(torch.eye(2) + W.mT @ W / SIGMA**2)
    evidence = MultivariateNormal(torch.zeros(3), W @ W.mT + SIGMA**2 * torch.eye(3)).log_prob(x)
    return MultivariateNormal(x @ W @ Sigma / SIGMA**2, Sigma), evidence


def z_scores(values, truth):
    """values (n, chains, draws, ...): errors of the means in standard errors between chains."""
    means = values.mean(2)
    return (means.mean(1) - truth) / (means.std(1, ddof=1) / math.sqrt(values.shape[1]))


def test_the_posterior_of_a_linear_model():
    law, evidence = exact()
    found = ppvae.posterior(Linear(normal(), normal(scale=0.7)), X, num_samples=60, warmup=80, num_chains=50, seed=0)
    assert found.z.shape == (3, 50, 60, 2) and found.z.dtype == np.float32
    z = found.z.astype(float)
    assert np.abs(z_scores(z, law.mean.numpy())).max() < 4
    d = z - law.mean.numpy()[:, None, None]
    assert np.abs(z_scores(d[..., :, None] * d[..., None, :], law.covariance_matrix.numpy())).max() < 4
    gap = kl_divergence(MultivariateNormal(torch.zeros(3, 2), 0.49 * torch.eye(2)), law).numpy()
    close = found.pareto_k < 0.7
    assert close.any() and (np.abs(found.gap - gap) < 5 * found.gap_error + 0.02)[close].all()
    elbo_error = found.log_likelihood.log_weights.std(1) / math.sqrt(500)
    assert (np.abs(found.elbo - (evidence.numpy() - gap)) < 5 * elbo_error).all()
    assert found.r_hat.shape == (3,)
    assert (found.sample_stats["acceptance_rate"].mean((1, 2)) > 0.7).all()


def test_it_returns_the_chains_for_arviz():
    found = ppvae.posterior(Linear(normal(), normal()), X, num_samples=20, warmup=20, num_chains=2, seed=0)
    data = found.inference_data
    assert data.posterior["z"].dims == ("chain", "draw", "datum", "z_dim_0")
    assert data.sample_stats["energy"].shape == (2, 20)
    assert np.allclose(data.posterior["z"].values[1, 3, 2], found.z[2, 1, 3])
    assert np.allclose(data.sample_stats["lp"].values, found.sample_stats["lp"].sum(0))
    one = found[1]
    assert len(one) == 1 and np.array_equal(one.z, found.z[1:2]) and one.gap == found.gap[1]
    assert found[-1].z.shape == (1, 2, 20, 2) and len(found[:2]) == 2
    assert np.allclose(one.r_hat, found.r_hat[1])
    with pytest.raises(IndexError, match="no datum 3"):
        found[3]
    assert "p(z | x) of 3 data by batched-hmc: 2 chains of 20 draws, 6 coordinates" in str(found)


CIRCLE_W = torch.tensor([[1.0, 0.2], [0.3, 1.5]])
CIRCLE_X = torch.tensor([[0.9, 0.8], [0.1, -0.1]])  # the second is far from the ellipse W S^1: two modes


def circle_cdf(x):
    angle = np.linspace(-np.pi, np.pi, 4001)
    z = np.stack([np.cos(angle), np.sin(angle)], 1)
    log_p = -((x.numpy() - z @ CIRCLE_W.numpy().T) ** 2).sum(1) / 2 / SIGMA**2
    cdf = integrate.cumulative_simpson(np.exp(log_p - log_p.max()), x=angle, initial=0)
    return lambda a: np.interp(a, angle, cdf / cdf[-1])


def test_the_posterior_on_the_circle():
    vae = Linear(HypersphericalUniform(2), HypersphericalUniform(2), CIRCLE_W)
    found = ppvae.posterior(vae, CIRCLE_X, num_samples=1, warmup=100, num_chains=1000, importance_samples=50, seed=0)
    assert np.allclose(np.linalg.norm(found.z, axis=-1), 1, atol=1e-5)
    for x, z in zip(CIRCLE_X, found.z[:, :, -1], strict=True):  # one draw a chain: independent
        assert stats.kstest(np.arctan2(z[:, 1], z[:, 0]), circle_cdf(x)).pvalue > 0.001


@pytest.mark.parametrize("concentration", [0.0, 4.0])
def test_the_posterior_on_the_sphere(concentration):
    """E[z | x] and E[z z^T | x] under a prior that is uniform, or not."""
    loc = torch.tensor([0.0, 0.6, 0.8])
    uniform = HypersphericalUniform(3)
    prior = VonMisesFisher(loc, torch.tensor(concentration)) if concentration else uniform
    sphere_W, x = torch.tensor([[1.0, 0.2, 0.0], [0.3, 1.5, -0.5]]), torch.tensor([[0.9, 0.8]])
    cos, weights = np.polynomial.legendre.leggauss(200)
    phi = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    sin = np.sqrt(1 - cos**2)
    grid = np.stack(np.broadcast_arrays(sin[:, None] * np.cos(phi), sin[:, None] * np.sin(phi), cos[:, None]), -1)
    log_p = -((x.numpy()[0] - grid @ sphere_W.numpy().T) ** 2).sum(-1) / 2 / SIGMA**2
    log_p += concentration * grid @ loc.numpy()
    p = np.exp(log_p - log_p.max()) * weights[:, None]
    p /= p.sum()
    found = ppvae.posterior(
        Linear(prior, uniform, sphere_W), x, num_samples=40, warmup=60, num_chains=60, importance_samples=50, seed=1
    )
    z = found.z.astype(float)
    assert np.abs(z_scores(z, np.einsum("ij,ijk->k", p, grid))).max() < 4
    second = np.einsum("ij,ijk,ijl->kl", p, grid, grid)
    assert np.abs(z_scores(z[..., :, None] * z[..., None, :], second)).max() < 4


def test_the_posterior_in_the_hyperbolic_plane():
    """E[v | x] and E[v v^T | x] of v = log_o(z), by quadrature in v, where the volume is sinh|v| / |v|."""
    loc, scale = torch.tensor([0.5, -0.3]), torch.tensor([0.8, 1.2])
    guide = WrappedNormal(Hyperboloid(), from_origin(torch.zeros(2)), torch.ones(2))
    prior = WrappedNormal(Hyperboloid(), from_origin(loc), scale)
    hyper_W, x = torch.tensor([[0.2, 1.0, 0.2], [0.0, 0.3, 1.5]]), torch.tensor([[1.2, 0.8]])
    side = torch.linspace(-5, 5, 801, dtype=torch.float64)
    v = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    z = from_origin(v)
    log_p = -(x.double() - z @ hyper_W.double().mT).square().sum(-1) / 2 / SIGMA**2
    log_p += WrappedNormal(Hyperboloid(), from_origin(loc.double()), scale.double()).log_prob(z)
    log_p += log_sinhc(v.square().sum(-1))
    p = (log_p - log_p.max()).exp().numpy()
    p /= p.sum()
    found = ppvae.posterior(
        Linear(prior, guide, hyper_W), x, num_samples=60, warmup=80, num_chains=60, importance_samples=50, seed=1
    )
    draws = to_origin(torch.as_tensor(found.z)).double().numpy()
    assert np.abs(z_scores(draws, np.einsum("ij,ijk->k", p, v.numpy()))).max() < 4
    second = np.einsum("ij,ijk,ijl->kl", p, v.numpy(), v.numpy())
    assert np.abs(z_scores(draws[..., :, None] * draws[..., None, :], second)).max() < 4


def test_a_product_of_spheres_is_a_torus():
    prior = HypersphericalUniform(2).expand([2]).to_event(1)

    class Torus(Linear):
        def model(self, x):
            register(self)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", self.prior)
                pyro.sample("x", dist.Normal((z @ self.W.mT).flatten(-2), SIGMA).to_event(1), obs=x)

    vae = Torus(prior, prior, CIRCLE_W)
    vae.shape = torch.Size((4,))
    found = ppvae.posterior(
        vae, CIRCLE_X.reshape(1, 4), num_samples=1, warmup=100, num_chains=1000, importance_samples=50, seed=0
    )
    assert found.z.shape == (1, 1000, 1, 2, 2)
    for i, x in enumerate(CIRCLE_X):
        z = found.z[0, :, 0, i]
        assert stats.kstest(np.arctan2(z[:, 1], z[:, 0]), circle_cdf(x)).pvalue > 0.001


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_pyros_own_kernels(method):
    law, _ = exact(X[:1])
    vae = Linear(normal(), normal())
    found = ppvae.posterior(vae, X[:1], method=method, num_samples=60, warmup=80, num_chains=2, seed=0)
    assert found.z.shape == (1, 2, 60, 2)
    sd = law.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    assert (np.abs(found.z.mean((1, 2)) - law.mean.numpy()) < 0.6 * sd).all()
    assert set(found.sample_stats) == {"lp", "diverging", "step_size"}
    z = torch.as_tensor(found.z[0, 1, 7])
    log_p = normal().log_prob(z) + dist.Normal(W @ z, SIGMA).log_prob(X[0]).sum()
    assert found.sample_stats["lp"][0, 1, 7] == pytest.approx(float(log_p), rel=1e-4)


class Shifted(Linear):
    """x | z, s ~ N(W z + s, SIGMA^2) for a given s."""

    def model(self, x, s):
        register(self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z @ self.W.mT + s, SIGMA).to_event(1), obs=x)

    def guide(self, x, s):
        return super().guide(x)


def test_data_in_parts_and_conditioned():
    """Each datum has the posterior of its own x and s, whichever part it is run in."""
    vae, x, s = Shifted(normal(), normal()), X.repeat(8, 1), torch.linspace(-2, 2, 24)[:, None].expand(24, 3)
    found = ppvae.posterior(vae, x, s, num_samples=30, warmup=40, num_chains=4, chunk=48, importance_samples=30, seed=0)
    law, _ = exact(x - s)
    assert found.z.shape == (24, 4, 30, 2)
    off = (found.z.mean((1, 2)) - law.mean.numpy()) / law.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    assert np.abs(off).max() < 1 and abs(off.mean()) < 0.1


def test_equal_seeds_give_equal_draws_and_nothing_else_changes():
    vae = Linear(normal(), normal()).train()
    before = torch.get_rng_state()

    def draws(seed):
        return ppvae.posterior(vae, X, num_samples=3, warmup=5, num_chains=2, importance_samples=30, seed=seed)

    first, again, other = draws(0), draws(0), draws(1)
    assert np.array_equal(first.z, again.z) and not np.array_equal(first.z, other.z)
    assert np.array_equal(first.gap, again.gap)
    assert torch.equal(before, torch.get_rng_state())
    assert vae.training and vae.W.grad is None
    assert not list(pyro.get_param_store().keys())


def test_a_deterministic_guide_has_a_posterior_and_no_gap():
    vae = Linear(normal(), dist.Delta(torch.zeros(2), event_dim=1))
    found = ppvae.posterior(vae, X, num_samples=5, warmup=10, num_chains=2, seed=0)
    assert found.log_likelihood is None and "nats" not in str(found)
    with pytest.raises(ValueError, match="deterministic"):
        _ = found.gap


def test_other_latents_and_options_raise():
    class Counts(Linear):
        def model(self, x):
            with pyro.plate("data", x.shape[0]):
                k = pyro.sample("k", dist.Poisson(3.0))
                pyro.sample("x", dist.Normal(k[:, None], SIGMA).expand([x.shape[0], 3]).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", x.shape[0]):
                pyro.sample("k", dist.Poisson(3.0))

    with pytest.raises(ValueError, match=r"expected latents on manifolds, got site 'k'.*sum a discrete latent out"):
        ppvae.posterior(Counts(None, None), X)
    vae = Linear(normal(), normal())
    with pytest.raises(ValueError, match="method: expected one of batched-hmc, nuts, hmc, got 'gibbs'"):
        ppvae.posterior(vae, X, method="gibbs")
    with pytest.raises(ValueError, match="num_chains: expected a whole number of at least 1, got 0"):
        ppvae.posterior(vae, X, num_chains=0)
    with pytest.raises(ValueError, match="expected shape"):
        ppvae.posterior(vae, X[:, :2])


def test_the_laws_of_the_guide():
    from ppvae.models import SphericalVAE

    vae = SphericalVAE((3,), dim=4, hidden=(8,))
    laws = ppvae.guide_laws(vae, X.sigmoid().round())
    assert list(laws) == ["z"] and laws["z"].batch_shape == (3,) and laws["z"].event_shape == (4,)
    assert np.allclose(laws["z"].loc.numpy(), ppvae.encode(vae, X.sigmoid().round().numpy()))
