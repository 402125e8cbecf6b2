"""Hamiltonian dynamics against their Jacobian, and the bound against exact evidence."""

import copy
import math

import pyro
import pytest
import torch
from ppvae.models import GaussianVAE, HamiltonianVAE
from pyro.distributions import MultivariateNormal, Normal
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.distributions import HamiltonianFlow, center
from ppvae.infer import ELBO, IWAE_ELBO, DReG_ELBO
from ppvae.isolation import isolated_param_store
from ppvae.nn import NormalLikelihood
from ppvae.random import seeded

F64 = torch.float64
A = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 2.0]])
X = torch.tensor([[1.0, 0.2, -1.0], [0.0, 1.5, 2.0], [-0.5, -0.5, 0.4]])


@pytest.fixture(autouse=True)
def _own_store_and_seed():
    with pyro.get_param_store().scope(), seeded(0):
        yield


def linear(steps=3, beta=0.5, **options):
    """p(x | z) = N(A z, 1), so that p(x) = N(0, I + A A')."""
    vae = HamiltonianVAE((3,), 2, steps=steps, decoder=nn.Linear(2, 3), likelihood=NormalLikelihood(1.0), **options)
    with torch.no_grad():
        vae.decoder.module.weight.copy_(A)
        vae.decoder.module.bias.zero_()
        vae.beta_logit.copy_(torch.tensor(beta).logit())
    return vae


def evidence():
    return MultivariateNormal(torch.zeros(3), torch.eye(3) + A @ A.T).log_prob(X)


def flow(beta=0.3, steps=4):
    a = torch.randn(2, 2, dtype=F64)
    return HamiltonianFlow(
        torch.zeros(2, dtype=F64),
        torch.ones(2, dtype=F64),
        lambda z: -(z @ a).cos().sum(-1) - z.square().sum(-1) / 2,
        torch.tensor([0.3, 0.2], dtype=F64),
        torch.tensor(beta, dtype=F64),
        steps,
    )


def test_without_a_force_the_momentum_cools_by_the_quadratic_schedule():
    """z_K = z_0 + eps rho_0 sum_k h_k / h_0, k < K, with h_k = 1 / sqrt(beta_k) = (1 - h_0) k^2 / K^2 + h_0."""
    K, beta = 4, 0.3
    law = HamiltonianFlow(
        torch.zeros(2, dtype=F64),
        torch.ones(2, dtype=F64),
        lambda z: 0 * z.sum(-1),
        torch.tensor([0.3, 0.2], dtype=F64),
        torch.tensor(beta, dtype=F64),
        K,
    )
    start, rho = torch.randn(2, 2, dtype=F64)
    h_0 = beta**-0.5
    heat = [(1 - h_0) * k**2 / K**2 + h_0 for k in range(K + 1)]
    z, end = law.move(start, rho)
    torch.testing.assert_close(z, start + law.step_size * rho * sum(heat[:-1]) / h_0)
    torch.testing.assert_close(end, rho / h_0)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_volume_changes_by_the_cooling_alone(beta):
    law, start = flow(beta), torch.randn(4, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda s: torch.cat(law.move(s[:2], s[2:])), start)
    assert jacobian.det().item() == pytest.approx(beta ** (2 / 2), rel=1e-10)


def test_without_cooling_the_dynamics_are_reversible():
    law = flow(beta=1.0)
    z, rho = torch.randn(2, dtype=F64), torch.randn(2, dtype=F64)
    there, momentum = law.move(z, rho)
    back, end = law.move(there, -momentum)
    torch.testing.assert_close(torch.cat([back, -end]), torch.cat([z, rho]))


def test_the_weight_of_a_draw():
    """log q-hat from the definition in the extended space, at the path of one draw."""
    law = flow()
    with seeded(3):
        z = law.rsample()
    with seeded(3):
        eps, gamma = torch.randn(2, dtype=F64), torch.randn(2, dtype=F64)
    rho_0 = gamma / math.sqrt(0.3)
    _, rho = law.move(eps, rho_0)
    standard, hot = Normal(torch.zeros(2, dtype=F64), 1.0), Normal(torch.zeros(2, dtype=F64), 0.3**-0.5)
    extended = standard.log_prob(eps).sum() + hot.log_prob(rho_0).sum() - math.log(0.3)
    torch.testing.assert_close(law.log_prob(z), extended - standard.log_prob(rho).sum())


@pytest.mark.parametrize("beta", [0.999, 0.5])
def test_bounds_are_ordered_and_the_estimate_is_the_evidence(beta):
    vae = linear(beta=beta)
    elbo = -ELBO(4000).loss(vae.model, vae.guide, X)
    iwae = -IWAE_ELBO(10).loss(vae.model, vae.guide, X.repeat(400, 1)) / 400
    found = ppvae.log_likelihood(vae, X, num_samples=20_000, seed=0)
    assert elbo < iwae < evidence().sum()
    assert (abs(found.values - evidence().numpy()) < 5 * found.error).all(), (found.values, evidence(), found.error)


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("scale", [3.0, 0.3])
def test_steps_raise_the_bound_of_a_wide_start_and_not_of_a_narrow_one(scale, beta):
    """Towards N(0, I) the steps are linear, and the bound is exact: a start N(0, scale^2) loses its KL to N(0, I),
    (scale^2 - 1) / 2 - log scale, before them. Finite steps and cooling take energy from a start that has too much."""
    one, loc = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    target = Normal(loc, one).to_event(1)
    law = HamiltonianFlow(loc, scale * one, target.log_prob, 0.5 * one, torch.tensor(beta, dtype=F64), 2)
    path = torch.autograd.functional.jacobian(lambda s: torch.cat(law.move(s[:1], s[1:])), torch.zeros(2, dtype=F64))
    energy = (path.square() @ torch.tensor([scale**2, 1 / beta], dtype=F64)).sum().item() / 2
    exact, before = 1 + math.log(scale) - energy, math.log(scale) - (scale**2 - 1) / 2
    z = law.rsample((40_000,))
    log_w = target.log_prob(z) - law.log_prob(z)
    assert log_w.mean().item() == pytest.approx(exact, abs=5 * log_w.std().item() / 200)
    assert exact > before + 0.1 if scale > 1 else exact < before - 0.01


def test_with_steps_of_no_length_the_bound_is_that_of_the_gaussian_vae():
    vae = linear()
    plain = GaussianVAE(
        (3,), 2, encoder=vae.encoder.module, decoder=vae.decoder.module, likelihood=NormalLikelihood(1.0)
    )
    with torch.no_grad():
        vae.step_logit.fill_(-50)
    for objective in (IWAE_ELBO(1), IWAE_ELBO(5)):
        losses = []
        for pair in (vae, plain):
            with seeded(1):
                losses.append(objective.loss(pair.model, pair.guide, X).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_are_those_of_differences():
    vae = HamiltonianVAE((3,), 2, (8,), likelihood=NormalLikelihood(0.5)).double()
    parameters = list(vae.parameters())

    def loss():
        with seeded(1):
            return ELBO(2).differentiable_loss(vae.model, vae.guide, X.double())

    gradients = torch.autograd.grad(loss(), parameters)
    for p, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p += 1e-5 * direction
            rise = loss()
            p -= 2e-5 * direction
            rise = (rise - loss()) / 2e-5
            p += 1e-5 * direction
        torch.testing.assert_close((gradient * direction).sum(), rise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", [ELBO(), IWAE_ELBO(3)])
@pytest.mark.parametrize("learning", [True, False])
def test_traceable(objective, learning):
    vae = HamiltonianVAE((3,), 2, (8,), likelihood=NormalLikelihood(0.5))
    with isolated_param_store(), pyro.validation_enabled(False), torch.set_grad_enabled(learning):
        with seeded(0):
            graph = make_fx(lambda x: objective.differentiable_loss(vae.model, vae.guide, x))(X)
        with seeded(2):
            eager = objective.differentiable_loss(vae.model, vae.guide, X).detach()
        with seeded(2):
            torch.testing.assert_close(graph(X).detach(), eager)


def prior_as_guide(steps, beta, size):
    """q(z_0) is N(0, 1) for every x, a bound as poor as the encoder."""
    vae = linear(steps, beta, max_step_size=2 * size)
    with torch.no_grad():
        for p in [*vae.encoder.parameters(), vae.step_logit]:
            p.zero_()
    return vae


def bound(vae):
    with torch.no_grad(), seeded(0):
        return -ELBO(4000).loss(vae.model, vae.guide, X).item()


def test_exact_dynamics_leave_the_bound_as_it_is():
    """They leave the target as it is too, and a divergence does not change where both its laws are moved alike."""
    still = bound(prior_as_guide(1, 1 - 1e-6, 1e-5))
    assert bound(prior_as_guide(40, 1 - 1e-6, 0.01)) == pytest.approx(still, abs=0.15)


def test_learned_steps_raise_the_bound():
    vae = prior_as_guide(3, 0.9, 0.5)
    optimizer = torch.optim.Adam([vae.step_logit, vae.beta_logit], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        ELBO(20).differentiable_loss(vae.model, vae.guide, X).backward()
        optimizer.step()
    assert bound(prior_as_guide(1, 0.9, 1e-5)) + 3 < bound(vae) < evidence().sum().item()


def test_it_is_trained_and_asked_without_gradients():
    vae = HamiltonianVAE((3,), 2, (16,), likelihood=NormalLikelihood(0.5))
    ppvae.fit(vae, X, epochs=2, progress=False)
    for p in vae.parameters():
        p.requires_grad_(False)
    assert ppvae.encode(vae, X).shape == (3, 2) and ppvae.reconstruct(vae, X).shape == (3, 3)
    assert ppvae.generate(vae, 2).shape == (2, 3)
    torch.testing.assert_close(ppvae.encode(vae, X), center(ppvae.guide_laws(vae, X)["z"]))


def test_chains_of_the_posterior():
    post = ppvae.posterior(linear(), X.numpy(), num_samples=50, warmup=50, num_chains=2, importance_samples=50, seed=0)
    assert post.z.shape == (3, 2, 50, 2)


def test_errors():
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0; for none take GaussianVAE"):
        HamiltonianVAE((3,), steps=0)
    with pytest.raises(ValueError, match="max_step_size: expected a positive number, got 0"):
        HamiltonianVAE((3,), max_step_size=0)
    with pytest.raises(ValueError, match="the density of a point is not known"):
        flow().log_prob(torch.zeros(2, dtype=F64))
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0; without any the law is Normal"):
        flow(steps=0)
    with pytest.raises(ValueError, match="beta_0"):
        flow(beta=0.0)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode forbids; use torch\.no_grad"):
        flow().rsample()
    vae = linear()
    with pytest.raises(ValueError, match="the density of a point is not known"):
        DReG_ELBO(2).differentiable_loss(vae.model, vae.guide, X)


def test_a_weight_without_gradients_is_not_taken_for_one_with():
    law = flow()
    law.loc.requires_grad_()
    z = law.sample()
    with pytest.raises(ValueError, match="the draw was made without gradients"):
        law.log_prob(z)
    with torch.no_grad():
        assert torch.isfinite(law.log_prob(z))


def test_a_copy_of_a_law_forgets_the_draw():
    law = flow()
    law.loc.requires_grad_()
    z = law.rsample()
    with pytest.raises(ValueError, match="only the weight of the law's last draw"):
        copy.deepcopy(law).log_prob(z)
