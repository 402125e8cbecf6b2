"""BatchedHMC: exact targets, the laws of the integrator, and Pyro's own MCMC around it."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC
from pyro.infer.autoguide.initialization import init_to_sample
from scipy import integrate, stats
from torch import Tensor

from ppvae.distributions import HypersphericalUniform
from ppvae.infer import BatchedHMC, BatchedMCMC
from ppvae.infer.batched_hmc import leapfrog

COV = torch.tensor([[2.0, 0.9, 0.0], [0.9, 0.5, 0.1], [0.0, 0.1, 9.0]], dtype=torch.float64)
MU = torch.tensor([1.0, -30.0, 0.5], dtype=torch.float64)
PRECISION = torch.linalg.inv(COV)


def gaussian(q):
    d = q["z"] - MU.to(q["z"])
    return (d @ PRECISION.to(d) * d).sum(-1) / 2


def quartic(q):
    """Two wells of unequal depth: not Gaussian, not symmetric."""
    z = q["z"]
    return (z**4 / 4 - z**2 + 0.3 * z).sum(-1)


def quartic_and_gradient(q):
    return quartic(q), {"z": q["z"] ** 3 - 2 * q["z"] + 0.3}


def run(kernel, start, draws=300, warmup=200, cls=BatchedMCMC, **options):
    mcmc = cls(kernel, draws, warmup_steps=warmup, initial_params=start, disable_progbar=True, **options)
    mcmc.run()
    return mcmc


def starts(C=100, d=3, dtype=torch.float64, seed=0):
    return {"z": torch.randn(C, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))}


def between_chain_z(draws, truth):
    """Errors of the means in units of the standard error between chains."""
    means = draws.mean(1)
    return (means.mean(0) - truth) / (means.std(0) / math.sqrt(len(draws)))


@pytest.mark.parametrize(("per_chain", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_means_and_covariance_of_a_gaussian(per_chain, dtype):
    kernel = BatchedHMC(potential_fn=gaussian, step_size_per_chain=per_chain, seed=1)
    draws = run(kernel, starts(dtype=dtype), 150, 150).get_samples(group_by_chain=True)["z"]
    assert draws.shape == (100, 150, 3) and draws.dtype == dtype
    draws = draws.double()
    assert between_chain_z(draws, MU).abs().max() < 3.5
    d = draws - MU
    assert between_chain_z(d[..., :, None] * d[..., None, :], COV).abs().max() < 3.5
    acceptance = kernel.sample_stats["acceptance_rate"].mean()
    assert 0.75 < acceptance < (0.97 if per_chain else 0.85)
    assert kernel.step_size.shape == ((100,) if per_chain else (1,))
    assert torch.allclose(kernel.inverse_mass_matrix["z"][0].double(), COV.diagonal(), rtol=0.2)


def quartic_cdf():
    grid = np.linspace(-5, 5, 4001)
    density = np.exp(-(grid**4 / 4 - grid**2 + 0.3 * grid))
    cdf = integrate.cumulative_simpson(density, x=grid, initial=0)
    return lambda z: np.interp(z, grid, cdf / cdf[-1])


@pytest.mark.parametrize("source", ["potential_fn", "value_and_grad"])
def test_the_law_of_a_target_that_is_not_gaussian(source):
    kernel = BatchedHMC(**{source: quartic if source == "potential_fn" else quartic_and_gradient}, seed=0)
    last = run(kernel, starts(4000, 1), draws=1, warmup=150).get_samples()["z"]  # one draw a chain: independent
    assert stats.kstest(last[:, 0].numpy(), quartic_cdf()).pvalue > 0.001


@pytest.mark.slow
def test_the_law_of_pyros_own_kernel():
    """Pyro's HMC and this one against quadrature: the same target, thinned to draws that are nearly independent."""
    pyro.set_rng_seed(0)
    theirs = MCMC(
        HMC(potential_fn=quartic, step_size=0.5, num_steps=4), 1200, 100, {"z": torch.zeros(1)}, disable_progbar=True
    )
    theirs.run()
    ours = run(BatchedHMC(potential_fn=quartic, seed=0), starts(400, 1), draws=10, warmup=150)
    a, b = theirs.get_samples()["z"][::6, 0].numpy(), ours.get_samples()["z"][:, 0].numpy()
    assert stats.kstest(a, quartic_cdf()).pvalue > 0.001
    assert stats.ks_2samp(a, b).pvalue > 0.001


def test_exact_draws_stay_exact():
    """Chains that start as draws from the target are draws from it after any number of transitions."""
    grid = np.linspace(-4, 4, 8001)
    u = torch.rand(4000, generator=torch.Generator().manual_seed(3)).numpy()
    exact = torch.from_numpy(np.interp(u, quartic_cdf()(grid), grid))[:, None]
    for step_size in (0.1, 0.45):  # the second rejects about a tenth
        kernel = BatchedHMC(potential_fn=quartic, step_size=step_size, num_steps=4, seed=5)
        moved = run(kernel, {"z": exact}, draws=5, warmup=0).get_samples(group_by_chain=True)["z"][:, -1, 0].numpy()
        assert stats.kstest(moved, quartic_cdf()).pvalue > 0.001
        assert np.abs(moved - exact[:, 0].numpy()).mean() > 0.2
        assert abs(moved.mean() - exact.mean().item()) < 0.05
    assert kernel.sample_stats["acceptance_rate"].mean() < 0.97


def energy(q: Tensor) -> tuple[Tensor, Tensor]:
    U, gradients = quartic_and_gradient({"z": q})
    return U, gradients["z"]


def test_the_integrator_is_reversible_and_its_error_is_of_second_order():
    generator = torch.Generator().manual_seed(0)
    q, r = torch.randn(2, 50, 3, dtype=torch.float64, generator=generator)
    U, g = energy(q)
    errors = []
    for eps in (0.1, 0.05, 0.025):
        steps = round(1 / eps)
        s = torch.full((50, 1), eps, dtype=torch.float64)
        q1, r1, U1, g1 = leapfrog(energy, q, r, g, s, steps)
        back, r_back, *_ = leapfrog(energy, q1, -r1, g1, s, steps)
        assert torch.allclose(back, q, atol=1e-10) and torch.allclose(-r_back, r, atol=1e-10)
        errors.append((U1 - U + ((r1**2).sum(1) - (r**2).sum(1)) / 2).abs().mean())
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.8 < errors[1] / errors[2] < 4.2


def test_acceptance_goes_to_one_with_the_step():
    rates = []
    for eps in (0.4, 0.1, 0.025):
        kernel = BatchedHMC(potential_fn=quartic, step_size=eps, num_steps=5, seed=0)
        run(kernel, starts(200, 2), draws=20, warmup=0)
        rates.append(1 - float(kernel.sample_stats["acceptance_rate"].mean()))
        assert float(kernel.step_size) == pytest.approx(eps)  # nothing is adapted without warm-up
    assert rates[0] > 10 * rates[1] > 100 * rates[2] > 0
    assert rates[2] < 1e-3


def test_jitter_keeps_a_trajectory_from_being_a_period():
    """L steps of a harmonic oscillator that come back to where they began: cos(2 pi / L) = 1 - e^2 / 2."""
    L = 20
    moved = []
    for jitter in (0.0, 0.5):
        kernel = BatchedHMC(
            potential_fn=lambda q: (q["z"] ** 2).sum(-1) / 2,
            step_size=2 * math.sin(math.pi / L),
            num_steps=L,
            jitter=jitter,
            seed=0,
        )
        z = run(kernel, starts(100, 1), draws=20, warmup=0).get_samples(group_by_chain=True)["z"]
        moved.append(float((z[:, -1] - z[:, 0]).square().mean().sqrt()))
    assert moved[0] < 1e-10 and moved[1] > 1


def test_one_gradient_for_each_step():
    calls = []

    def counted(q):
        calls.append(1)
        return quartic_and_gradient(q)

    run(BatchedHMC(value_and_grad=counted, num_steps=7, adapt_step_size=False), starts(5, 2), draws=11, warmup=0)
    assert len(calls) == 1 + 7 * 11


def funnel(q):
    """Neal's funnel: v ~ N(0, 3^2), y_i ~ N(0, e^v)."""
    v, y = q["v"], q["y"]
    return v**2 / 18 + (y**2).sum(-1) * (-v).exp() / 2 + y.shape[-1] * v / 2


def test_divergences_of_a_funnel_are_counted():
    kernel = BatchedHMC(potential_fn=funnel, step_size=0.5, adapt_step_size=False, adapt_mass_matrix=False, seed=0)
    g = torch.Generator().manual_seed(0)
    start = {"v": torch.randn(50, generator=g), "y": torch.randn(50, 9, generator=g)}
    mcmc = run(kernel, start, draws=200, warmup=1)
    samples, diverging = mcmc.get_samples(group_by_chain=True), kernel.sample_stats["diverging"]
    assert samples["v"].shape == (50, 200) and samples["y"].shape == (50, 200, 9)
    assert diverging.any() and torch.isfinite(kernel.sample_stats["energy"]).all()
    counts = [len(where) for where in mcmc.diagnostics()["divergences"].values()]
    assert counts == diverging.sum(1).tolist()


def test_an_energy_that_is_not_finite_rejects():
    def box(q):
        z = q["z"][:, 0]
        U = torch.where(z > 1, math.nan, z * 0)
        return torch.where(z < -1, -math.inf, U)  # infinitely probable: a chain that went there would stay

    kernel = BatchedHMC(potential_fn=box, step_size=0.3, adapt_step_size=False, num_steps=3, seed=0)
    mcmc = run(kernel, {"z": torch.zeros(300, 1)}, draws=300, warmup=50)
    z = mcmc.get_samples()["z"]
    assert z.abs().max() <= 1 and torch.isfinite(kernel.sample_stats["lp"]).all()
    assert kernel.sample_stats["diverging"].any()
    assert z.mean().abs() < 0.05 and abs(float(z.var()) - 1 / 3) < 0.02  # uniform on the box


def test_a_seed_gives_the_same_chains_and_moves_no_generator():
    def draws(seed):
        return run(BatchedHMC(potential_fn=quartic, seed=seed), starts(3, 2), 20, 20).get_samples()["z"]

    before = torch.get_rng_state()
    assert torch.equal(draws(1), draws(1)) and not torch.equal(draws(1), draws(2))
    assert torch.equal(before, torch.get_rng_state())
    draws(None)
    assert not torch.equal(before, torch.get_rng_state())


def test_targets_have_steps_and_masses_of_their_own():
    scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64).repeat_interleave(40)[:, None]
    kernel = BatchedHMC(potential_fn=lambda q: ((q["z"] / scale) ** 2).sum(-1) / 2, num_targets=3, seed=0)
    mcmc = run(kernel, {"z": scale * starts(120, 2)["z"]}, 100, 200)
    z = mcmc.get_samples(group_by_chain=True)["z"] / scale[:, None]
    assert torch.allclose(z.reshape(3, -1).std(1), torch.ones(3, dtype=torch.float64), atol=0.05)
    # 5e-3 / (n + 5) is added to the variance, as in Stan
    assert torch.allclose(kernel.inverse_mass_matrix["z"][1:].sqrt().mean(1), scale[[40, 80], 0], rtol=0.1)
    assert (kernel.sample_stats["acceptance_rate"].reshape(3, -1).mean(1) - 0.8).abs().max() < 0.06


def test_through_pyros_own_mcmc():
    """There the chains are a dimension of the parameter."""
    kernel = BatchedHMC(potential_fn=gaussian, seed=0)
    mcmc = run(kernel, starts(30), 60, 60, MCMC)
    z = mcmc.get_samples()["z"]
    assert z.shape == (60, 30, 3)  # draws, chains, event
    ours = run(BatchedHMC(potential_fn=gaussian, seed=0), starts(30), 60, 60).get_samples(group_by_chain=True)["z"]
    assert torch.equal(z.transpose(0, 1), ours)
    rate = float(kernel.sample_stats["acceptance_rate"].mean())
    assert mcmc.diagnostics()["acceptance rate"]["chain 0"] == pytest.approx(rate) and 0.6 < rate < 0.95
    assert kernel.sample_stats["energy"].shape == (30, 60)


def test_pyros_summary_and_diagnostics_read_the_chains(capsys):
    mcmc = run(BatchedHMC(potential_fn=gaussian, seed=0), starts(20), 50, 50)
    mcmc.summary()
    assert "z[2]" in capsys.readouterr().out
    found = mcmc.diagnostics()
    assert found["z"]["r_hat"].max() < 1.05
    assert len(found["acceptance rate"]) == 20
    mcmc.run()  # and again
    assert mcmc.get_samples(group_by_chain=True)["z"].shape == (20, 50, 3)


def test_chains_that_another_kernel_moved():
    """A mixture of kernels gives other parameters than were returned: energy and gradient are then of these."""
    kernel = BatchedHMC(potential_fn=quartic, step_size=0.05, jitter=0.0, seed=0)
    kernel.initial_params = {"z": torch.zeros(4, 1)}
    kernel.setup(0)
    kernel.sample(kernel.initial_params)
    moved = kernel.sample({"z": torch.full((4, 1), 3.0)})
    assert (moved["z"] - 3).abs().max() < 2
    assert torch.allclose(-kernel.sample_stats["lp"][:, 1], quartic(moved))


def hierarchy(y):
    """Latents outside and inside plates, on constrained and unconstrained spaces."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
    with pyro.plate("groups", 5, dim=-1):
        b = pyro.sample("b", dist.Normal(weights[..., 0:1].squeeze(-1), scale))
        with pyro.plate("data", y.shape[0], dim=-2):
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def test_the_potential_of_a_model_is_pyros():
    y = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    kernel = BatchedHMC(hierarchy, num_chains=6, seed=0)
    kernel.setup(0, y)
    params = kernel.initial_params
    assert {n: tuple(v.shape) for n, v in params.items()} == {"scale": (6,), "weights": (6, 2), "b": (6, 5)}
    from pyro.infer.mcmc.util import initialize_model

    _, potential_fn, _, _ = initialize_model(hierarchy, (y,))
    theirs = torch.stack([potential_fn({n: v[i] for n, v in params.items()}) for i in range(6)])
    assert torch.allclose(kernel.potential_fn(params), theirs, rtol=1e-5)


def test_a_conjugate_model():
    """mu ~ N(0, 1), y_i ~ N(mu, 1): the posterior is N(sum y / (n + 1), 1 / (n + 1)). tau ~ Gamma has no data."""
    y = torch.tensor([1.0, 2.5, 0.5])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("tau", dist.Gamma(3.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    before = torch.get_rng_state()
    mcmc = BatchedMCMC(BatchedHMC(model, num_chains=200, seed=0), 50, 80, disable_progbar=True)
    mcmc.run(y)
    assert torch.equal(before, torch.get_rng_state())
    draws = {name: value.double() for name, value in mcmc.get_samples(group_by_chain=True).items()}
    assert draws["mu"].shape == (200, 50)
    assert abs(between_chain_z(draws["mu"], 1.0)) < 3.5
    assert abs(between_chain_z((draws["mu"] - 1) ** 2, 0.25)) < 3.5
    assert (draws["tau"] > 0).all() and abs(between_chain_z(draws["tau"], 1.5)) < 3.5


def test_options_and_starts_that_do_not_fit():
    with pytest.raises(ValueError, match="one of model, potential_fn and value_and_grad"):
        BatchedHMC()
    with pytest.raises(ValueError, match="num_steps: expected a number of at least 1, got 0"):
        BatchedHMC(potential_fn=quartic, num_steps=0)
    with pytest.raises(ValueError, match="initial_params: expected where the chains start"):
        run(BatchedHMC(potential_fn=quartic), None)
    with pytest.raises(ValueError, match="first chain 1"):
        run(BatchedHMC(potential_fn=quartic), {"z": torch.tensor([[0.0], [math.nan]])})
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(\)"):
        run(BatchedHMC(potential_fn=lambda q: q["z"].sum()), {"z": torch.zeros(4, 1)})
    with pytest.raises(ValueError, match="num_chains: expected none"):
        BatchedMCMC(BatchedHMC(potential_fn=quartic), 10, num_chains=2)
    with pytest.raises(ValueError, match="3 targets, got 4"):
        run(BatchedHMC(potential_fn=quartic, num_targets=3), {"z": torch.zeros(4, 1)})

    def coin():
        pyro.sample("c", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="site 'c': expected a continuous latent, got Bernoulli"):
        kernel = BatchedHMC(coin, num_chains=2, init_strategy=init_to_sample)
        BatchedMCMC(kernel, 10, disable_progbar=True).run()

    def direction():
        pyro.sample("u", HypersphericalUniform(3))

    with pytest.raises(ValueError, match="site 'u': no map from R\\^d"):
        BatchedMCMC(BatchedHMC(direction, num_chains=2, init_strategy=init_to_sample), 10, disable_progbar=True).run()
    with pytest.raises(ValueError, match="num_chains: expected how many"):
        BatchedMCMC(BatchedHMC(coin), 10, disable_progbar=True).run()
