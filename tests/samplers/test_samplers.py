"""Samplers of trained VAEs, against laws that are known exactly."""

import math

import numpy as np
import pytest
import torch
from ppvae.models import MCEVAE, VAE, GaussianMixtureVAE, GaussianVAE, SphericalVAE
from torch.distributions import MultivariateNormal

import ppvae
from ppvae import samplers
from ppvae.latents import Gaussian, Hyperbolic, Rotation, Spherical, Torus
from ppvae.manifolds import Sphere
from ppvae.nn import Clusters, EnumeratedClusters, PoissonLikelihood
from ppvae.random import seeded
from ppvae.samplers import Samples, fit_flow, fit_mixture
from ppvae.samplers.space import embeddings

X = np.random.default_rng(0).random((40, 1, 4, 4)).astype(np.float32)
ON_EMBEDDINGS = {
    "jitter": samplers.jitter,
    "mixture": lambda *args, **options: samplers.mixture(*args, num_components=2, **options),
    "flow": lambda *args, **options: samplers.flow(*args, epochs=1, **options),
}
CALLS = {
    "prior": lambda vae, x, n, **options: samplers.prior(vae, n, **options),
    "aggregate_posterior": samplers.aggregate_posterior,
    **ON_EMBEDDINGS,
}


def make(model=GaussianVAE, dim=2):
    torch.manual_seed(0)
    return model((1, 4, 4), dim, (8,))


def moments(vae):
    """Mean and standard deviation of q(z | x) for each datum."""
    with torch.no_grad():
        law = vae.head(vae.encoder(torch.as_tensor(X)))
    return law.mean.numpy(), law.stddev.numpy()


@pytest.mark.parametrize("name", CALLS)
def test_every_sampler_decodes_its_latents_and_keeps_to_its_seed(name):
    vae = make()
    state = torch.get_rng_state()
    one = CALLS[name](vae, X, 30, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(one, Samples) and one.chains is None and len(one) == 30
    assert one.x.shape == (30, 1, 4, 4) and one.z.shape == (30, 2) and one.z.dtype == one.x.dtype == np.float32
    assert np.array_equal(one.x, ppvae.decode(vae, one.z))
    assert np.array_equal(one.z, CALLS[name](vae, X, 30, seed=1).z)
    assert not np.array_equal(one.z, CALLS[name](vae, X, 30, seed=2).z)
    assert len(np.unique(one.z, axis=0)) == 30
    assert repr(one) == "Samples(x (30, 1, 4, 4), z (30, 2); independent draws)"
    with pytest.raises(ValueError, match="num_samples: expected a whole number of at least 1, got 0"):
        CALLS[name](vae, X, 0)


def test_the_prior_draws_what_generate_draws():
    for vae in (make(), make(SphericalVAE, 3)):
        drawn = samplers.prior(vae, 50, seed=3)
        assert np.array_equal(drawn.x, ppvae.generate(vae, 50, seed=3))
        batched = samplers.prior(vae, 50, seed=3, batch_size=20)
        assert np.array_equal(batched.x, ppvae.generate(vae, 50, seed=3, batch_size=20))


def test_draws_of_the_prior_and_the_aggregate_posterior_have_their_moments():
    vae, n = make(), 40_000
    mean, sd = moments(vae)
    z = samplers.prior(vae, n, seed=0).z
    assert np.abs(z.mean(0)).max() < 5 / math.sqrt(n) and np.abs(np.cov(z.T) - np.eye(2)).max() < 7 / math.sqrt(n)
    z = samplers.aggregate_posterior(vae, X, n, seed=0).z
    spread = np.cov(mean.T, bias=True) + np.diag((sd**2).mean(0))
    assert np.abs(z.mean(0) - mean.mean(0)).max() < 5 * math.sqrt(spread.max() / n)
    assert np.abs(np.cov(z.T) - spread).max() < 7 * spread.max() / math.sqrt(n)


def test_jitter_is_about_the_embeddings():
    vae = make()
    mean = ppvae.encode(vae, X)
    z = samplers.jitter(vae, X, 500, scale=0, seed=0).z
    assert {tuple(row) for row in z} == {tuple(row) for row in mean}  # 500 draws miss one of 40 in 1 of 8,000 cases
    z = samplers.jitter(vae, X, 40_000, scale=0.3, seed=0).z
    spread = np.cov(mean.T, bias=True) + 0.09 * np.eye(2)
    assert np.abs(np.cov(z.T) - spread).max() < 7 * spread.max() / 200
    with pytest.raises(ValueError, match="scale: expected a standard deviation of at least 0, got -1"):
        samplers.jitter(vae, X, 3, scale=-1)


LATENTS = {
    "sphere": lambda: Spherical(3),
    "circle": lambda: Spherical(2),
    "spheres": lambda: Spherical(4, copies=2),
    "torus": lambda: Torus(2),
    "rotation": Rotation,
    "hyperbolic": lambda: Hyperbolic(3),
    "product": lambda: {"pose": Rotation(), "style": Gaussian(2)},
}


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_samplers_on_embeddings_stay_on_every_manifold(name, latent):
    torch.manual_seed(0)
    vae = VAE(X.shape[1:], LATENTS[latent](), hidden=(8,))
    drawn, again = (ON_EMBEDDINGS[name](vae, X, 30, seed=0) for _ in range(2))
    space, _, _ = embeddings(vae, X, name)
    for site, z in (drawn.z if isinstance(drawn.z, dict) else {"z": drawn.z}).items():
        assert space.manifolds[site].support.check(torch.as_tensor(z)).all()
    assert np.array_equal(drawn.x, again.x) and np.array_equal(drawn.x, ppvae.decode(vae, drawn.z))


def test_jitter_of_a_sphere_has_its_scale():
    """Distances from the embedding are those of exp of a normal vector: E |v|^2 = 2 s^2 on S^2."""
    torch.manual_seed(0)
    vae = VAE(X.shape[1:], Spherical(3), hidden=(8,))
    one = X[:1].repeat(2, 0)
    mean = torch.as_tensor(ppvae.encode(vae, one))[0]
    z = torch.as_tensor(samplers.jitter(vae, one, 20_000, scale=0.1, seed=0).z)
    square = Sphere().dist(z, mean.expand_as(z)).square()
    assert square.mean().item() == pytest.approx(2 * 0.1**2, rel=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_samplers_on_embeddings_refuse_a_discrete_latent(name):
    vae = GaussianMixtureVAE(X.shape[1:], EnumeratedClusters(2, 3), hidden=(8,))
    with pytest.raises(ValueError, match=rf"{name}: expected latents on manifolds, got site 'c'"):
        ON_EMBEDDINGS[name](vae, X, 5)


def test_several_latents_come_as_a_dict():
    torch.manual_seed(0)
    vae = MCEVAE((1, 8, 8), 2, Clusters(3, 4), hidden=(16,))
    x = np.random.default_rng(0).integers(0, 2, (12, 1, 8, 8)).astype(np.float32)
    for drawn in (samplers.prior(vae, 7, seed=0), samplers.aggregate_posterior(vae, x, 7, seed=0)):
        assert isinstance(drawn.z, dict) and all(len(value) == 7 for value in drawn.z.values())
        assert drawn.x.shape == (7, 1, 8, 8) and np.array_equal(drawn.x, ppvae.decode(vae, drawn.z))
        assert all(f"{site} ({7}" in repr(drawn) for site in drawn.z)
    drawn = samplers.jitter(vae, x, 5)
    assert drawn.z["turn"].shape == (5, 2) and drawn.x.shape == (5, 1, 8, 8)
    with pytest.raises(ValueError, match="z: expected a dict of the latents"):
        ppvae.decode(vae, np.zeros((7, 2)))


def test_what_the_model_is_given_reaches_the_decoder():
    """Counts x ~ Poisson(s exp(h(z))): the decoded mean is in proportion to the size factor s."""
    torch.manual_seed(0)
    vae = GaussianVAE((3,), 2, (8,), likelihood=PoissonLikelihood(size_factor=True))
    x, sizes = np.random.default_rng(0).poisson(3.0, (20, 3)), np.linspace(1, 5, 20)
    one, five = (samplers.prior(vae, 4, np.full(4, s), seed=0) for s in (1.0, 5.0))
    assert np.array_equal(one.z, five.z) and np.allclose(five.x, 5 * one.x)
    one, five = (samplers.mixture(vae, (x, sizes), 4, np.full(4, s), num_components=1, seed=0) for s in (1.0, 5.0))
    assert np.allclose(five.x, 5 * one.x)
    for draw in (samplers.aggregate_posterior, samplers.jitter):
        drawn = draw(vae, (x, sizes), 50, seed=0)
        factors = drawn.x / ppvae.decode(vae, drawn.z, np.ones(50))
        assert np.allclose(factors, factors[:, :1]) and {round(float(f), 3) for f in factors[:, 0]} <= {
            round(float(s), 3) for s in sizes
        }
    with pytest.raises(ValueError, match="expected 1 arrays beside x, got 0"):
        samplers.prior(vae, 4)


class TestFitMixture:
    def test_one_component_is_the_normal_of_the_same_moments(self):
        z = (
            torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            @ torch.randn(3, 3).double()
        )
        law = fit_mixture(z, 1, seed=0)
        assert torch.allclose(law.component_distribution.mean[0], z.mean(0))
        assert torch.allclose(law.component_distribution.covariance_matrix[0], z.mT.cov(correction=0), rtol=1e-4)

    def test_clusters_far_apart_are_found_with_their_moments(self):
        with seeded(0):
            clusters = [
                torch.randn(n, 2).double() @ torch.randn(2, 2).double() + 100 * k for k, n in enumerate((30, 50, 20))
            ]
        law = fit_mixture(torch.cat(clusters), 3, seed=0)
        order = law.component_distribution.mean[:, 0].argsort()
        assert torch.allclose(law.mixture_distribution.probs[order], torch.tensor([0.3, 0.5, 0.2]).double())
        for k, cluster in zip(order, clusters, strict=True):
            assert torch.allclose(law.component_distribution.mean[k], cluster.mean(0))
            # within the floor of the covariance, 1e-6 of the variance of all points
            assert torch.allclose(
                law.component_distribution.covariance_matrix[k], cluster.mT.cov(correction=0), atol=0.01
            )

    def test_it_ends_where_the_likelihood_is_stationary(self):
        with seeded(1):
            z = torch.cat([torch.randn(200, 2), 0.5 * torch.randn(100, 2) + 1.5]).double()
        law = fit_mixture(z, 2, tolerance=1e-13, max_steps=5000, seed=0)
        logits = law.mixture_distribution.logits.clone().requires_grad_()
        mean = law.component_distribution.mean.clone().requires_grad_()
        L = law.component_distribution.scale_tril.clone().requires_grad_()
        log_w = logits.log_softmax(-1)
        log_p = (log_w + MultivariateNormal(mean, scale_tril=L).log_prob(z[:, None])).logsumexp(1).mean()
        assert all(g.abs().max() < 1e-4 for g in torch.autograd.grad(log_p, (logits, mean, L)))

    def test_more_components_than_distinct_points_end_finite(self):
        law = fit_mixture(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(5, 1), 4, seed=0)
        assert torch.isfinite(law.log_prob(torch.zeros(2, dtype=torch.float64)))

    def test_what_it_cannot_do_it_says(self):
        with pytest.raises(ValueError, match="num_components: expected within 1 and the 5 points, got 6"):
            fit_mixture(torch.randn(5, 2), 6)
        with pytest.warns(RuntimeWarning, match="2 steps of EM still gained more than 1e-09 nats"):
            fit_mixture(torch.rand(200, 2), 3, tolerance=1e-9, max_steps=2, seed=0)


with seeded(0):
    Z = torch.cat([torch.randn(600, 2) * 0.4 - 1, torch.randn(600, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.5]]) + 1])


@pytest.fixture(scope="module")
def law():
    return fit_flow(Z, num_layers=4, hidden=48, epochs=25, batch_size=64, lr=5e-3, seed=0)


class TestFitFlow:
    def test_its_density_has_mass_one(self, law):
        t = torch.linspace(-9, 9, 361)
        mass = law.log_prob(torch.cartesian_prod(t, t)).double().exp().sum() * 0.05**2
        assert mass == pytest.approx(1, abs=1e-3)

    def test_it_is_nearer_to_the_truth_than_to_one_normal(self, law):
        """Mean log density of fresh points: that of the true law minus the KL divergence."""
        with seeded(5):
            z = torch.cat(
                [torch.randn(4000, 2) * 0.4 - 1, torch.randn(4000, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.5]]) + 1]
            )
        A = torch.tensor([[1.0, 0.8], [0.0, 0.5]])
        parts = [MultivariateNormal(-torch.ones(2), 0.16 * torch.eye(2)), MultivariateNormal(torch.ones(2), A.mT @ A)]
        truth = (torch.stack([p.log_prob(z) for p in parts]).logsumexp(0) - math.log(2)).mean()
        normal = MultivariateNormal(Z.mean(0), Z.mT.cov()).log_prob(z).mean()
        assert (truth + normal) / 2 < law.log_prob(z).mean() < truth

    def test_its_draws_have_its_density(self, law):
        """The mean of log q over its own draws is minus its entropy, which quadrature has too."""
        with seeded(0):
            z = law.sample((20_000,))
        log_q = law.log_prob(z)
        t = torch.linspace(-9, 9, 361)
        grid = law.log_prob(torch.cartesian_prod(t, t)).double()
        assert abs(log_q.mean() - (grid.exp() * grid).sum() * 0.05**2) < 5 * log_q.std() / math.sqrt(20_000)

    def test_what_it_cannot_do_it_says(self):
        with pytest.raises(ValueError, match="at least 20 points, got shape"):
            fit_flow(torch.randn(10, 2))
        with pytest.raises(ValueError, match=r"points that span R\^d"):
            fit_flow(torch.randn(30, 1).expand(30, 2))
