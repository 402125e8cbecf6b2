"""The objectives against Pyro's own, through every entry point, and against exact evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.infer import ELBO, IWAE_ELBO, TensorELBO
from ppvae.isolation import isolated_param_store
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


class Linear(nn.Module):
    """p(z) = N(0, 1), p(x|z) = N(a z, 1) in D dimensions: evidence N(0, I + a a'), posterior N(a'x / (1 + a'a), 1 /
    (1 + a'a))."""

    shape = torch.Size([3])

    def __init__(self, exact=False):
        super().__init__()
        self.a, self.exact = nn.Parameter(torch.tensor([1.0, -0.5, 2.0])), exact

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * self.a, 1.0).to_event(1), obs=x)

    def guide(self, x):
        precision = 1 + self.a @ self.a
        loc = (x @ self.a)[:, None] / precision
        scale = precision.rsqrt() if self.exact else torch.tensor(0.7)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc if self.exact else 0.8 * loc, scale).to_event(1))

    def evidence(self, x):
        return dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + torch.outer(self.a, self.a)).log_prob(x).sum()


@pytest.fixture(autouse=True)
def _own_store_and_seed():
    with pyro.get_param_store().scope(), seeded(0):
        yield


def loss_and_gradients(objective, vae, x=X):
    vae.zero_grad()
    with seeded(1):
        loss = float(objective.loss_and_grads(vae.model, vae.guide, x))
    return loss, [p.grad.clone() for p in vae.parameters()]


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE])
@pytest.mark.parametrize("particles", [1, 5])
def test_same_numbers_as_trace_elbo(make, particles):
    vae = make((1, 4, 4), 3, (8,))

    class Sampled(ELBO):
        """Model and guide under scales that are equal but not known to be, so no closed form is used."""

    theirs = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    one = torch.ones(())
    with poutine.scale(scale=one):
        loss, gradients = loss_and_gradients(theirs, vae)

    ours = Sampled(particles)

    def model(x):
        with poutine.scale(scale=one.clone()):
            vae.model(x)

    vae.zero_grad()
    with seeded(1):
        assert float(ours.loss_and_grads(model, vae.guide, X)) == pytest.approx(loss, rel=1e-6)
    for p, expected in zip(vae.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-5)


def test_same_numbers_as_trace_mean_field_elbo():
    vae = GaussianVAE((1, 4, 4), 3, (8,))
    loss, gradients = loss_and_gradients(TraceMeanField_ELBO(), vae)
    ours, own = loss_and_gradients(ELBO(), vae)
    assert ours == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(own, gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE])
def test_same_numbers_as_renyi_elbo(make):
    vae = make((1, 4, 4), 3, (8,))
    theirs = RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    loss, gradients = loss_and_gradients(theirs, vae)
    ours, own = loss_and_gradients(IWAE_ELBO(6), vae)
    assert ours == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(4), IWAE_ELBO(4)])
def test_entry_points_and_svi_agree(objective):
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    numbers = []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    with seeded(3):
        numbers.append(objective(vae.model, vae.guide)(X).detach().item())
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    with seeded(3):
        numbers.append(svi.evaluate_loss(X))
    with seeded(3):
        numbers.append(svi.step(X))
    assert numbers == pytest.approx([numbers[0]] * 6, rel=1e-6)


def test_svi_trains_the_objective_it_is_given():
    """A subclass that defines terms alone changes what plain SVI optimises."""

    class Pull(TensorELBO):
        def terms(self, model_trace, guide_trace):
            loc = guide_trace.nodes["z"]["fn"].base_dist.loc
            return {"loss": (loc - 3).square().sum(), "reconstruction": loc.sum(), "kl": loc.sum()}

    vae = GaussianVAE((1, 4, 4), 2, (8,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.05}), Pull())
    for _ in range(100):
        svi.step(X)
    z = pyro.poutine.trace(vae.guide).get_trace(X).nodes["z"]["fn"].base_dist.loc
    assert (z - 3).abs().max() < 0.3


def test_elbo_at_the_exact_posterior_is_the_evidence():
    vae = Linear(exact=True)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for objective in (IWAE_ELBO(1), IWAE_ELBO(7)):
        assert -objective.loss(vae.model, vae.guide, x).item() == pytest.approx(vae.evidence(x).item(), rel=1e-5)


def test_bounds_are_ordered_and_reach_the_evidence():
    vae = Linear()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with seeded(0), torch.no_grad():
        elbo = -ELBO(20_000).loss(vae.model, vae.guide, x)
        iwae_10 = torch.stack([-IWAE_ELBO(10).loss(vae.model, vae.guide, x) for _ in range(400)]).mean()
        iwae = -IWAE_ELBO(100_000).loss(vae.model, vae.guide, x)
    assert elbo < iwae_10 < vae.evidence(x)
    assert iwae.item() == pytest.approx(vae.evidence(x).item(), abs=0.05)


def test_kl_weight_scales_the_latent_terms_alone():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    objective = ELBO()
    with seeded(0):
        full = objective.all_terms(vae.model, vae.guide, X)
    objective.kl_weight = torch.tensor(0.25)
    with seeded(0):
        weighted = objective.all_terms(vae.model, vae.guide, X)
    assert weighted["kl"] == full["kl"]
    assert weighted["loss"].item() == pytest.approx((0.25 * full["kl"] - full["reconstruction"]).item())


def test_particles_average():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    with seeded(0), torch.no_grad():
        one = torch.stack([ELBO().loss(vae.model, vae.guide, X) for _ in range(300)])
        many = ELBO(300).loss(vae.model, vae.guide, X)
    assert many.item() == pytest.approx(one.mean().item(), abs=4 * one.std().item() * math.sqrt(2 / 300))


def test_reversed_order_of_latents_uses_samples():
    """model: z2, z1 | z2; guide: z1, z2 | z1. A closed form for z1 given one z2 that depends on z1 would be biased."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x)), 1.0))
            z1 = pyro.sample("z1", dist.Normal(0.9 * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            z1 = pyro.sample("z1", dist.Normal(0.5 * x, 0.8))
            pyro.sample("z2", dist.Normal(0.8 * z1, 0.7))

    x = torch.tensor([1.0, -2.0])
    with seeded(0):
        ours = ELBO(400_000).loss(model, guide, x).item()
    with seeded(1):
        theirs = Trace_ELBO(400_000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x)
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("ours, theirs", [(ELBO(), TraceMeanField_ELBO()), (IWAE_ELBO(1), Trace_ELBO())])
def test_mask_and_scale(ours, theirs):
    vae = Linear()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, True, False, True, False, False])
    model, guide = (poutine.mask(poutine.scale(fn, scale=2.5), mask=mask) for fn in (vae.model, vae.guide))
    with seeded(0):
        loss = ours.loss(model, guide, x).item()
    with seeded(0):
        assert loss == pytest.approx(theirs.loss(model, guide, x), rel=1e-5)


def test_iwae_refuses_a_latent_outside_the_plate():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(0.1, 1.0))

    with pytest.raises(ValueError, match="site 'mean': expected every site in the data plate"):
        IWAE_ELBO(3).loss(model, guide, torch.zeros(4))
    assert torch.isfinite(ELBO(3).loss(model, guide, torch.zeros(4)))


def test_a_law_without_pathwise_gradient_is_refused():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(c.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("c", dist.Categorical(torch.ones(2)))

    with pytest.raises(ValueError, match="site 'c': Categorical has no pathwise gradient"):
        ELBO().differentiable_loss(model, guide, torch.zeros(4))


def test_deterministic_and_auxiliary_sites():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.1 * u, 1.0))

    x = torch.tensor([0.3, 1.0])
    with seeded(0):
        ours = ELBO(200_000).loss(model, guide, x).item()
    with seeded(0):
        theirs = Trace_ELBO(200_000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x)
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE])
@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE_ELBO(3)])
def test_traceable(make, objective):
    """One graph without reading a value back: the traced loss under the same seed is the eager one."""
    vae = make((1, 4, 4), 3, (8,))
    with isolated_param_store(), pyro.validation_enabled(False):
        with seeded(0):
            graph = make_fx(lambda x: objective.differentiable_loss(vae.model, vae.guide, x))(X)
        with seeded(2):
            eager = objective.differentiable_loss(vae.model, vae.guide, X).detach()
        with seeded(2):
            torch.testing.assert_close(graph(X).detach(), eager)


def test_bad_number_of_particles():
    with pytest.raises(ValueError, match="num_particles: expected at least 1, got 0"):
        ELBO(0)


def test_a_deterministic_encoder_has_no_importance_weights():
    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Delta(x[:, :1], event_dim=1))

    with pytest.raises(ValueError, match=r"site 'z': a deterministic encoder .* neither a KL nor an importance weight"):
        IWAE_ELBO(3).loss(Linear().model, guide, torch.zeros(4, 3))
