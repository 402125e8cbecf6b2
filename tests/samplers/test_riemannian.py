"""The metric of a trained VAE and the sampler of its volume: from data to decoded samples."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianMixtureVAE, GaussianVAE, SphericalVAE
from pyro.infer import HMC, NUTS
from torch import Size, nn

import ppvae
from ppvae.infer import BatchedHMC
from ppvae.manifolds import InverseVolumeMetric, RiemannianManifold
from ppvae.random import seeded
from ppvae.samplers import RiemannianVolume, interpolate, pullback_metric, riemannian
from ppvae.samplers.centroids import k_means, k_medoids

X = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
PRIOR = dist.Normal(torch.zeros(2), 1.0).to_event(1)


def make(model=GaussianVAE, dim=2):
    with seeded(0):
        return model((1, 4, 4), dim, (8,))


class FullCovarianceVAE(nn.Module):
    """q(z | x) with a full covariance, the same for all x."""

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.shape, self.encoder, self.decoder = Size([1, 4, 4]), nn.Linear(16, 2), nn.Linear(2, 16)
        self.register_buffer("covariance", torch.tensor([[0.5, 0.2], [0.2, 0.3]]))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", PRIOR)
            x_mean = self.decoder(z).unflatten(-1, (1, 4, 4))
            pyro.sample("x", dist.Normal(x_mean, 1.0).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.MultivariateNormal(self.encoder(x.flatten(-3)), self.covariance))


def test_centroids_are_embeddings_with_their_precisions():
    vae = make()
    mu = ppvae.encode(vae, X)
    with torch.no_grad():
        scale = vae.head(vae.encoder(torch.as_tensor(X))).stddev.numpy()
    for how in ("k-medoids", "k-means", "random"):
        metric = ppvae.riemannian_metric(vae, X, 7, how)
        rows = [int(np.abs(mu - c).sum(1).argmin()) for c in metric.centroids.numpy()]
        assert len(set(rows)) == 7
        assert np.allclose(metric.centroids, mu[rows]) and np.allclose(metric.precision, scale[rows] ** -2, rtol=1e-5)
        distance = torch.cdist(metric.centroids, metric.centroids).fill_diagonal_(torch.inf).amin(1)
        assert metric.temperature == pytest.approx(float(distance.max()), rel=1e-5)
        again = ppvae.riemannian_metric(vae, X, 7, how)
        assert torch.equal(metric.centroids, again.centroids)
    everything = ppvae.riemannian_metric(vae, X, centroids="all", temperature=0.3, regularization=0.1, decay=0.2)
    assert np.allclose(everything.centroids, mu)
    assert (everything.temperature, everything.regularization, everything.decay) == (0.3, 0.1, 0.2)


def test_a_guide_with_full_covariances():
    vae = FullCovarianceVAE()
    metric = ppvae.riemannian_metric(vae, X, 5)
    assert not metric.diagonal and torch.allclose(metric.precision, torch.linalg.inv(vae.covariance).expand(5, 2, 2))
    samples = riemannian(vae, metric, 10, kernel="independence", base=PRIOR, seed=0, num_draws=400)
    assert samples.x.shape == (10, 1, 4, 4)


def test_medoids_minimise_the_distances_in_their_clusters():
    with seeded(0):
        z = torch.cat([torch.randn(30, 2) + shift for shift in (-6.0, 0.0, 6.0)])
        medoids, means = k_medoids(z, 3, chunk=50), k_means(z, 3)
    cluster = torch.cdist(z, z[medoids]).argmin(1)
    for c, medoid in enumerate(medoids):
        members = (cluster == c).nonzero()[:, 0]
        sums = torch.cdist(z[members], z[members]).sum(1)
        assert int(members[sums.argmin()]) == int(medoid)
        assert len(members) == 30
    for c in range(3):
        part = slice(30 * c, 30 * c + 30)
        nearest = 30 * c + int((z[part] - z[part].mean(0)).norm(dim=1).argmin())
        assert nearest in means.tolist()


@pytest.mark.filterwarnings("ignore:the chains have not mixed")  # as they are short
@pytest.mark.parametrize(
    "kernel", ["batched-hmc", "independence", "mixed", BatchedHMC, partial(BatchedHMC, num_steps=2)]
)
def test_batched_kernels(kernel):
    vae, state = make(), torch.get_rng_state()
    metric = ppvae.riemannian_metric(vae, X, 10, temperature=1.0, regularization=1e-3)
    options = {"kernel": kernel, "base": PRIOR, "seed": 1}
    one = riemannian(vae, metric, 50, num_draws=80, warmup_steps=40, **options)
    assert torch.equal(state, torch.get_rng_state())
    assert one.x.shape == (50, 1, 4, 4) and one.z.shape == (50, 2) and one.z.dtype == np.float32
    assert np.array_equal(one.x, ppvae.decode(vae, one.z))
    again = [riemannian(vae, metric, 40, num_chains=40, num_draws=10, warmup_steps=20, **options) for _ in range(2)]
    assert np.array_equal(again[0].z, again[1].z)
    drawn = one.chains.get_samples(group_by_chain=True)["z"]
    assert drawn.shape == (50, 80, 2) and one.chains.num_chains == 50
    assert 0.3 < float(one.chains.kernel.sample_stats["acceptance_rate"].mean()) <= 1
    volume = RiemannianVolume(metric, base=PRIOR)
    mass = volume.mass()
    z = volume.proposal(0.5).sample((20_000,))
    w = (volume.log_density(z) - volume.proposal(0.5).log_prob(z) - mass.log_mass).exp()
    for f in (lambda z: z[..., 0], lambda z: z[..., 1].square()):
        between = f(drawn).mean(1)
        expected, error = (w * f(z)).mean(), (w * f(z)).std() / 20_000**0.5
        spread = float((between.std() ** 2 / 50 + error**2).sqrt())
        assert float(between.mean()) == pytest.approx(float(expected), abs=4 * spread)


@pytest.mark.filterwarnings("ignore:the chains have not mixed")  # as they are short
@pytest.mark.parametrize("kernel", ["hmc", NUTS, partial(HMC, step_size=0.5, num_steps=3)])
def test_kernels_of_pyro(kernel):
    vae = make()
    metric = ppvae.riemannian_metric(vae, X, 10, temperature=1.0, regularization=1e-3)
    samples = riemannian(vae, RiemannianVolume(metric, base=PRIOR), 20, kernel=kernel, num_draws=150, seed=1)
    assert samples.z.shape == (20, 2) and np.array_equal(samples.x, ppvae.decode(vae, samples.z))
    assert samples.chains.get_samples(group_by_chain=True)["z"].shape == (1, 150, 2)
    assert samples.chains.diagnostics()["acceptance rate"]["chain 0"] > 0.5


def test_what_has_not_mixed_is_said():
    vae = make()
    metric = ppvae.riemannian_metric(vae, X, 2, temperature=0.02, regularization=1e-6)
    with pytest.warns(UserWarning, match="the chains have not mixed"):
        riemannian(vae, metric, 20, base=PRIOR, seed=0)


@pytest.mark.parametrize("procedure", ["chadebec2022", "chadebec2022-as-published"])
def test_the_published_procedure_stays_near_the_embeddings(procedure):
    vae = make()
    metric, mu = ppvae.riemannian_metric(vae, X, 10), ppvae.encode(vae, X)
    with pytest.raises(ValueError, match="embeddings=encode"):
        riemannian(vae, metric, 20, procedure=procedure)
    samples = riemannian(vae, metric, 200, procedure=procedure, embeddings=mu + 100, seed=0)
    drawn = samples.chains.get_samples(group_by_chain=True)["z"]
    assert drawn.shape == (200, 100, 2) and np.array_equal(samples.z, drawn[:, -1])
    # Far away the volume is flat, and all that is left is the random walk of the momentum
    moved = samples.z - (mu + 100)[np.abs(samples.z[:, None] - (mu + 100)).sum(-1).argmin(1)]
    step = 0.1 * (1.0 if procedure == "chadebec2022" else 0.5)
    walk = (drawn[:, -1] - drawn[:, 0]) / (step * 99**0.5)
    assert float(walk.std()) == pytest.approx(1, abs=0.15) and np.abs(moved).max() < 5
    assert float(samples.chains.kernel.sample_stats["acceptance_rate"].mean()) > 0.9 or procedure != "chadebec2022"


def test_wrong_arguments_raise():
    vae = make()
    metric = ppvae.riemannian_metric(vae, X, 5, regularization=1e-4)
    with pytest.raises(ValueError, match="the law is improper"):
        riemannian(vae, metric, 5)
    with pytest.raises(ValueError, match="kernel: expected batched-hmc, hmc, nuts"):
        riemannian(vae, metric, 5, kernel="gibbs", base=PRIOR)
    with pytest.raises(ValueError, match="procedure: expected"):
        riemannian(vae, metric, 5, procedure="chadebec", embeddings=metric.centroids)
    with pytest.raises(ValueError, match="expected a metric alone"):
        riemannian(vae, metric, 5, procedure="chadebec2022", power=2.0)
    with pytest.raises(ValueError, match="not beside it"):
        riemannian(vae, RiemannianVolume(metric, base=PRIOR), 5, power=2.0)
    with pytest.raises(ValueError, match="expected latents to start from"):
        riemannian(vae, lambda z: torch.eye(2).expand(*z.shape, 2), 5, base=PRIOR)
    with pytest.raises(ValueError, match="independence proposals: expected a PosteriorCovarianceMetric"):
        riemannian(vae, lambda z: torch.eye(2).expand(*z.shape, 2), 5, base=PRIOR, kernel="independence")
    with pytest.raises(ValueError, match="at least 50 draws"):
        riemannian(vae, metric, 50, base=PRIOR, num_chains=1, num_draws=10)
    with pytest.raises(ValueError, match="centroids: expected"):
        ppvae.riemannian_metric(vae, X, 5, "k-modes")
    with pytest.raises(ValueError, match="num_centroids: expected within 1 and the 60 data"):
        ppvae.riemannian_metric(vae, X, 61)
    with pytest.raises(ValueError, match="VonMisesFisher"):
        ppvae.riemannian_metric(make(SphericalVAE, 3), X, 5)
    with pytest.raises(ValueError, match="GaussianMixture"):
        ppvae.riemannian_metric(GaussianMixtureVAE((1, 4, 4)), X, 5)


def test_the_pull_back_of_a_vae_is_that_of_its_mean():
    vae = make()
    metric, z = pullback_metric(vae), torch.as_tensor(ppvae.encode(vae, X[:5]))
    for point, G in zip(z, metric(z), strict=True):
        J = torch.autograd.functional.jacobian(lambda q: vae.decode(q[None]).mean.flatten(), point)
        assert torch.allclose(G, J.T @ J, atol=1e-6)
    linear = FullCovarianceVAE()
    A = linear.decoder.weight.detach()
    assert torch.allclose(pullback_metric(linear)(z), (A.T @ A).expand(5, 2, 2), atol=1e-6)


def test_interpolations_go_along_geodesics_and_are_decoded():
    vae = FullCovarianceVAE()
    z = torch.as_tensor(ppvae.encode(vae, X[:4]))
    found = interpolate(vae, pullback_metric(vae), z[:2], z[2:], num_points=5)
    assert found.x.shape == found.straight_x.shape == (2, 5, 1, 4, 4) and found.z.shape == (2, 5, 2)
    # the decoder is linear, so the geodesics are straight
    assert np.allclose(found.z, found.straight_z, atol=1e-4)
    distance = np.linalg.norm((found.x[:, 0] - found.x[:, -1]).reshape(2, -1), axis=1)
    assert np.allclose(found.length, distance, rtol=1e-4)
    assert np.allclose(found.straight_length, found.length, rtol=1e-4)
    assert np.allclose(found.x[0], ppvae.decode(vae, found.z[0]), atol=1e-6)
    metric = InverseVolumeMetric(ppvae.riemannian_metric(vae, X, 5, temperature=1.0), 0.5)
    curved = interpolate(vae, metric, z[:2], z[2:], segments=8)
    assert (curved.length <= curved.straight_length * (1 + 1e-4)).all()
    expected = RiemannianManifold(metric, segments=8).dist(z[:2], z[2:])
    assert np.allclose(curved.length, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="start and end of one shape"):
        interpolate(vae, metric, z[:2], z[:1])
    with pytest.raises(ValueError, match="num_points"):
        interpolate(vae, metric, z[:2], z[2:], num_points=1)
