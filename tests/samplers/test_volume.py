"""The volume as a target: against quadrature, and what leaves it as it is."""

import itertools
import math

import pytest
import torch
from pyro.distributions import Normal, Uniform

from ppvae.infer import BatchedHMC, BatchedMCMC, Cycle, IndependenceMetropolis
from ppvae.infer.batched_hmc import leapfrog
from ppvae.manifolds import PosteriorCovarianceMetric
from ppvae.random import seeded
from ppvae.samplers import CentroidMixture, RiemannianVolume
from ppvae.samplers.centroid_mixture import log_prob_anywhere
from ppvae.samplers.chadebec2022 import PublishedHMC


def two_centroids(decay=0.05, dtype=torch.float64):
    """In one dimension, one narrow and one wide."""
    mu, P = torch.tensor([[-1.2], [1.5]], dtype=dtype), torch.tensor([[4.0], [1.0]], dtype=dtype)
    return PosteriorCovarianceMetric(mu, P, 1.5, 0.01, decay)


def in_dimensions(d, full=False, N=6, **options):
    with seeded(d):
        mu = torch.randn(N, d).double()
        A = torch.randn(N, d, d).double()
        P = A @ A.mT + torch.eye(d) if full else 3 * torch.randn(N, d).double().exp()
    return PosteriorCovarianceMetric(mu, P, **options)


GRID = torch.linspace(-15, 15, 30001, dtype=torch.float64)


def distribution_function(log_density):
    """On GRID, by the trapezoidal rule."""
    density = log_density(GRID.unsqueeze(1)).exp()
    mass = torch.cumulative_trapezoid(density, GRID)
    return torch.cat([torch.zeros(1), mass]).double() / mass[-1]


def exact_draws(F, n, seed):
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    i = torch.searchsorted(F, u).clamp(1, len(GRID) - 1)
    return (GRID[i - 1] + (u - F[i - 1]) / (F[i] - F[i - 1]) * (GRID[i] - GRID[i - 1])).unsqueeze(1)


def kolmogorov_smirnov(z, F):
    z = z.flatten().sort().values
    i = torch.searchsorted(GRID, z).clamp(max=len(GRID) - 1)
    n = len(z)
    steps = torch.arange(n + 1).double() / n
    return float(torch.maximum((F[i] - steps[:-1]).abs(), (F[i] - steps[1:]).abs()).max())


def kernels(volume):
    return {
        "hmc": BatchedHMC(value_and_grad=volume.value_and_grad, step_size=0.5, num_steps=5, adapt_mass_matrix=False),
        "independence": IndependenceMetropolis(volume.potential_fn, {"z": volume.proposal()}),
        "mixed": Cycle(
            [
                BatchedHMC(value_and_grad=volume.value_and_grad, step_size=0.5, num_steps=5, adapt_step_size=False),
                IndependenceMetropolis(volume.potential_fn, {"z": volume.proposal()}),
            ]
        ),
    }


BASES = {
    "decay": (0.05, None),
    "law": (0.0, Normal(torch.zeros(1).double(), 3.0).to_event(1)),
    "box": (0.0, Uniform(torch.full((1,), -4.0).double(), 4.0).to_event(1)),
}


@pytest.mark.parametrize("kernel", ["hmc", "independence", "mixed"])
@pytest.mark.parametrize("base", BASES)
def test_the_law_of_two_centroids_is_that_of_quadrature_and_stays(base, kernel):
    """2e4 chains from exact draws, and from the centroids alone: their last draws have the law."""
    decay, law = BASES[base]
    volume = RiemannianVolume(two_centroids(decay), base=law)
    F = distribution_function(volume.log_density)
    starts = {"exact": exact_draws(F, 20_000, 1), "centroids": volume.metric.centroids.repeat(10_000, 1)}
    for name, z in starts.items():
        with seeded(2):
            mcmc = BatchedMCMC(kernels(volume)[kernel], 1, 3 if name == "exact" else 25, {"z": z}, disable_progbar=True)
            mcmc.run()
        assert kolmogorov_smirnov(mcmc.get_samples()["z"], F) < 0.02, name


def test_power_and_gradient_of_the_potential():
    for d, full in ((1, False), (2, True), (16, False)):
        for base in (Normal(torch.ones(d).double(), 2.0).to_event(1), None):
            volume = RiemannianVolume(in_dimensions(d, full, decay=0.5), 2.5, base, procedure="chadebec2022")
            z = volume.metric.centroids + 0.2
            U, grad = volume.value_and_grad({"z": z})
            expected = -2.5 / 2 * torch.linalg.slogdet(volume.metric(z)).logabsdet
            assert torch.allclose(U, expected if base is None else expected - base.log_prob(z))
            h = 1e-5
            for e in h * torch.eye(d).double():
                difference = (volume.potential_fn({"z": z + e}) - volume.potential_fn({"z": z - e})) / (2 * h)
                assert torch.allclose(grad["z"] @ e / h, difference, rtol=1e-6, atol=1e-7)


def test_energy_error_falls_as_the_square_of_the_step_and_acceptance_goes_to_one():
    volume = RiemannianVolume(in_dimensions(16, decay=0.3), base=Normal(torch.zeros(16).double(), 1.0).to_event(1))

    def energy(q):
        U, grad = volume.value_and_grad({"z": q})
        return U, grad["z"]

    with seeded(0):
        q = volume.metric.centroids.repeat(50, 1) + 0.05 * torch.randn(300, 16).double()
        r = torch.randn_like(q)
    U, g = energy(q)
    H = U + (r * r).sum(1) / 2
    errors = []
    for halvings in range(3):
        L = 4 * 2**halvings
        s = torch.full((300, 1), 0.08 / L, dtype=torch.float64)
        q_new, r_new, U_new, g_new = leapfrog(energy, q, r, g, s, L)
        errors.append((U_new + (r_new * r_new).sum(1) / 2 - H).abs())
        back, _, _, _ = leapfrog(energy, q_new, -r_new, g_new, s, L)
        assert torch.allclose(back, q, atol=1e-10)
    for coarse, fine in itertools.pairwise(errors):
        assert 3.5 < float(coarse.mean() / fine.mean()) < 4.5
    acceptance = []
    for step in (0.1, 0.05, 0.01, 0.001):
        kernel = BatchedHMC(value_and_grad=volume.value_and_grad, step_size=step, adapt_step_size=False, seed=0)
        mcmc = BatchedMCMC(kernel, 3, 0, {"z": q}, disable_progbar=True)
        mcmc.run()
        acceptance.append(1 - float(kernel.sample_stats["acceptance_rate"].mean()))
    assert acceptance == sorted(acceptance, reverse=True) and acceptance[-1] < 1e-3


@pytest.mark.parametrize("power", [1.0, 2.0, 7.0])
def test_mass_and_background_are_those_of_quadrature(power):
    for base in BASES.values():
        volume = RiemannianVolume(two_centroids(base[0]), power, base[1])
        density = volume.log_density(GRID.unsqueeze(1)).exp()
        of_background = power / 2 * (math.log(0.01) - base[0] * GRID**2)
        if base[1] is not None:
            of_background = of_background + log_prob_anywhere(base[1], GRID.unsqueeze(1))
        exact, background = (float(torch.trapezoid(f, GRID)) for f in (density, of_background.exp()))
        assert volume.log_background_mass == pytest.approx(math.log(background), abs=0.02)
        mass = volume.mass(20_000)
        assert mass.log_mass == pytest.approx(math.log(exact), abs=4 * mass.error + 1e-6)
        assert mass.background == pytest.approx(background / exact, rel=0.1)
        assert mass.error < 0.05 and mass.ess > 2_000


def test_background_of_centroids_apart():
    metric = PosteriorCovarianceMetric(
        torch.tensor([[-50.0], [50.0]]).double(), torch.tensor([[4.0], [9.0]]).double(), 2.0, 1e-6
    )
    volume = RiemannianVolume(metric, base=Normal(torch.zeros(1).double(), 30.0).to_event(1))
    assert volume.mass().background == pytest.approx(volume.background, rel=0.1)
    assert f"{volume.background:.2%}" in repr(volume)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("background", [None, Normal(torch.zeros(2).double(), 4.0).to_event(1)], ids=["", "background"])
def test_the_mixture_near_the_centroids_has_mass_one_and_draws_with_its_density(full, background):
    law = CentroidMixture(in_dimensions(2, full, temperature=1.0), 2.0, background=background, fraction=0.3)
    axis = torch.linspace(-20, 20, 1601, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = law.log_prob(z).exp()
    cell = (axis[1] - axis[0]) ** 2
    assert float(density.sum() * cell) == pytest.approx(1, abs=1e-6)
    with seeded(0):
        draws = law.sample((200, 200))
    assert draws.shape == (200, 200, 2)
    for f in (lambda z: z[..., 0], lambda z: z[..., 1].square(), lambda z: z.prod(-1), lambda z: z.cos().sum(-1)):
        values = f(draws)
        expected = float((density * f(z)).sum() * cell)
        assert float(values.mean()) == pytest.approx(expected, abs=4 * float(values.std()) / 200)


def test_near_a_lone_centroid_the_mixture_is_the_law():
    metric = PosteriorCovarianceMetric(torch.zeros(1, 3).double(), torch.tensor([[1.0, 4.0, 9.0]]).double(), 0.7, 0.0)
    for power in (1.0, 3.0):
        volume = RiemannianVolume(metric, power)
        z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
        ratio = volume.log_density(z) - CentroidMixture(metric, power).log_prob(z)
        assert torch.allclose(ratio, volume.log_centroid_masses.expand(20))
        assert volume.mass(100).log_mass == pytest.approx(float(volume.log_centroid_masses))


def test_an_improper_law_raises_and_an_empty_one_too():
    metric = in_dimensions(16, N=100)
    with pytest.raises(ValueError, match="at decay 0 det G is constant far away, so the law is improper"):
        RiemannianVolume(metric)
    N, lam, tau, rho, d = 100, 0.01, 1e-5, metric.temperature, 16
    empty = PosteriorCovarianceMetric(metric.centroids, metric.precision, decay=tau)
    with pytest.raises(ValueError, match=r"the background has 100\.0000% of the mass") as error:
        RiemannianVolume(empty)
    log_ratio = d / 2 * math.log(lam / (tau * rho**2)) - math.log(N)
    assert f"exp({log_ratio:.1f})" in str(error.value)
    enough = float(str(error.value).split("at least ")[1].split(" ")[0])
    sufficient = PosteriorCovarianceMetric(metric.centroids, metric.precision, decay=enough)
    assert RiemannianVolume(sufficient).background == pytest.approx(0.01, rel=0.5)
    RiemannianVolume(metric, procedure="chadebec2022")
    assert RiemannianVolume(PosteriorCovarianceMetric(metric.centroids, metric.precision, 1.0, 0.0)).background == 0
    with pytest.raises(ValueError, match="base: expected a law"):
        RiemannianVolume(lambda z: torch.eye(2).expand(*z.shape, 2))
    with pytest.raises(ValueError, match=r"use .to_event.1."):
        RiemannianVolume(metric, base=Normal(torch.zeros(16), 1.0))
    with pytest.raises(ValueError, match="power"):
        RiemannianVolume(metric, 0.0)
    with pytest.warns(UserWarning, match="of the mass is background"):
        RiemannianVolume(metric, base=Normal(torch.zeros(16).double(), 1e3).to_event(1))


def test_the_published_kernel_has_the_law_of_about_the_seventh_power():
    """From exact draws of the law that it is said to have, it goes to det G^{1/2} det G_{N lambda}^3."""
    metric = two_centroids(decay=0.05)
    claimed = RiemannianVolume(metric)
    inflated = PosteriorCovarianceMetric(metric.centroids, metric.precision, 1.5, 2 * 0.01, 0.05)
    F_claimed = distribution_function(claimed.log_density)
    F = distribution_function(lambda z: metric.log_volume(z) + 6 * inflated.log_volume(z))
    kernel = PublishedHMC(metric, step_size=0.15, num_steps=8)
    with seeded(0):
        mcmc = BatchedMCMC(kernel, 1, 250, {"z": exact_draws(F_claimed, 4_000, 0)}, disable_progbar=True)
        mcmc.run()
    z = mcmc.get_samples()["z"]
    assert kolmogorov_smirnov(z, F) < 0.04
    assert kolmogorov_smirnov(z, F_claimed) > 0.1
    seventh = distribution_function(lambda z: 7 * metric.log_volume(z))
    assert kolmogorov_smirnov(z, seventh) < 0.05
