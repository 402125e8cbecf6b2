"""The three parts of the KL against enumeration of all data, and the estimate of the aggregate posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, SphericalVAE, WassersteinVAE
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import ppvae
from ppvae.distributions import HypersphericalUniform, VonMisesFisher
from ppvae.infer import ELBO, TotalCorrelation_ELBO
from ppvae.isolation import isolated_param_store
from ppvae.nn import InverseAutoregressiveHead
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
PARTS = ("mutual_information", "total_correlation", "coordinate_kl")


@pytest.fixture(autouse=True)
def _own_store():
    with pyro.get_param_store().scope():
        yield


class Known(nn.Module):
    """q(z | x) = N(x, s^2) in two dimensions, so that q(z) is a mixture with a component for each datum."""

    shape = torch.Size([2])

    def __init__(self, s=0.5):
        super().__init__()
        self.s = s

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x, self.s).to_event(1))


LINE = torch.tensor([[-1.0, -1.0], [-0.5, -0.4], [0.2, 0.1], [1.0, 1.2]])


def by_quadrature(x, s):
    """The parts in nats per datum, on a grid."""
    t = torch.linspace(-6, 6, 601, dtype=torch.float64)
    q_1, q_2 = (dist.Normal(x[:, j].double(), s).log_prob(t[:, None]).exp() for j in (0, 1))  # (grid, data)
    q = (q_1[:, None] * q_2).mean(-1)
    a, b = q_1.mean(-1), q_2.mean(-1)
    p = dist.Normal(0.0, 1.0).log_prob(t)
    h = float(t[1] - t[0])
    entropy = -(q * q.log()).sum() * h * h
    entropies = [-(m * m.log()).sum() * h for m in (a, b)]
    own = math.log(2 * math.pi * math.e) + 2 * math.log(s)
    cross = [(m * (m.log() - p)).sum() * h for m in (a, b)]
    return (entropy - own).item(), (sum(entropies) - entropy).item(), sum(cross).item()


def terms(objective, vae, x=X, seed=1):
    with seeded(seed):
        return objective.all_terms(vae.model, vae.guide, x)


def test_the_parts_are_those_of_quadrature():
    found = terms(TotalCorrelation_ELBO(num_particles=20_000), Known(), LINE)
    for name, expected in zip(PARTS, by_quadrature(LINE, 0.5), strict=True):
        assert found[name].item() / 4 == pytest.approx(expected, abs=0.01), name


def test_the_estimate_of_the_aggregate_posterior_has_no_bias():
    """Of 8 data, batches of 4 that hold the first: the mean of exp of the estimate of log q(z_1) is q(z_1)."""
    x = torch.cat([LINE, -LINE.flip(1)])
    z = torch.tensor([-0.7, -1.3])
    exact = dist.Normal(x, 0.5).to_event(1).log_prob(z).exp().mean()
    objective, estimates = TotalCorrelation_ELBO(num_data=8), []
    for rest in torch.combinations(torch.arange(1, 8), 3):
        batch = x[[0, *rest.tolist()]]
        pair = dist.Normal(batch, 0.5).to_event(1).log_prob(z)
        share = objective._log_share(4, pair)[0, 0]
        estimates.append((pair + share).exp().sum())
    assert torch.stack(estimates).mean().item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("num_data", [None, 500])
@pytest.mark.parametrize("particles", [1, 3])
def test_at_weights_of_one_it_is_the_elbo_by_samples(num_data, particles):
    vae = GaussianVAE((1, 4, 4), 3, (8,))
    ours = terms(TotalCorrelation_ELBO(1.0, 1.0, 1.0, num_data, particles), vae)
    with seeded(1):
        theirs = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(
            vae.model, vae.guide, X
        )
    assert ours["loss"].item() == pytest.approx(theirs.item(), rel=1e-5)
    assert sum(ours[name] for name in PARTS).item() == pytest.approx(ours["kl"].item(), rel=1e-5)


def test_weights():
    vae = GaussianVAE((1, 4, 4), 3, (8,))
    objective = TotalCorrelation_ELBO(4.0, 0.5, 2.0)
    objective.kl_weight = torch.tensor(0.3)
    found = terms(objective, vae)
    information, correlation, coordinates = (found[name] for name in PARTS)
    loss = 0.3 * (0.5 * information + 4 * correlation + 2 * coordinates) - found["reconstruction"]
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_sphere_and_a_line_are_two_coordinates():
    class Both(nn.Module):
        def model(self, x):
            with pyro.plate("data", x.shape[0]):
                u = pyro.sample("u", HypersphericalUniform(3))
                t = pyro.sample("t", dist.Normal(torch.zeros(x.shape[0]), 1.0))
                pyro.sample("x", dist.Normal(torch.cat([u, t[..., None]], -1), 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", x.shape[0]):
                pyro.sample("u", VonMisesFisher(x[:, :3] / x[:, :3].norm(dim=-1, keepdim=True), torch.tensor(5.0)))
                pyro.sample("t", dist.Normal(x[:, 3], 0.3))

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    free = terms(TotalCorrelation_ELBO(num_particles=4000), Both(), x)
    x[:, :3] = x[0, :3]  # the sphere knows nothing: what is left of the correlation is zero
    alone = terms(TotalCorrelation_ELBO(num_particles=4000), Both(), x)
    assert free["total_correlation"] > 6 * 0.3
    assert alone["total_correlation"].item() == pytest.approx(0.0, abs=1e-3)


def test_scale_of_the_plate():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    one = terms(TotalCorrelation_ELBO(), vae)
    with seeded(1):
        ten = TotalCorrelation_ELBO().all_terms(poutine.scale(vae.model, 10.0), poutine.scale(vae.guide, 10.0), X)
    assert all(ten[name].item() == pytest.approx(10 * one[name].item(), rel=1e-4) for name in one)


def test_entry_points_agree_and_are_traceable():
    vae, objective = GaussianVAE((1, 4, 4), 2, (8,)), TotalCorrelation_ELBO(num_data=100)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    numbers = []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    with seeded(3):
        numbers.append(float(svi.step(X)))
    with isolated_param_store(), pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.differentiable_loss(vae.model, vae.guide, x))(X)
        with seeded(3):
            numbers.append(graph(X).item())
    assert numbers == pytest.approx([numbers[0]] * 5, rel=1e-6)


def test_training_lowers_the_total_correlation():
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(200, 2, generator=g) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]])).numpy()
    found = {}
    for beta in (0.0, 20.0):
        with seeded(0):
            vae = GaussianVAE((2,), 2, (16,), likelihood=ppvae.nn.NormalLikelihood(0.3))
        objective = TotalCorrelation_ELBO(beta, num_data=200)
        ppvae.fit(vae, x, objective=objective, epochs=40, batch_size=100, lr=1e-2, seed=0, progress=False)
        found[beta] = terms(TotalCorrelation_ELBO(num_particles=20), vae, torch.tensor(x))["total_correlation"] / 200
    assert found[20.0] < 0.05 < found[0.0], found


def test_a_posterior_that_is_no_product_is_one_coordinate():
    vae = GaussianVAE((1, 4, 4), 2, (8,), head=InverseAutoregressiveHead(2, 1, 4, 2))
    with pytest.raises(ValueError, match="expected several coordinates or latents, got one"):
        terms(TotalCorrelation_ELBO(), vae)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TotalCorrelation_ELBO(-1.0), "beta: expected at least 0, got -1.0"),
        (lambda: TotalCorrelation_ELBO(num_data=1), "num_data: expected at least 2, got 1"),
        (lambda: terms(TotalCorrelation_ELBO(num_data=8), GaussianVAE((1, 4, 4), 2, (8,))), "got one of 12"),
        (lambda: terms(TotalCorrelation_ELBO(), GaussianVAE((1, 4, 4), 2, (8,)), X[:1]), "got one of 1;"),
        (lambda: terms(TotalCorrelation_ELBO(), SphericalVAE((1, 4, 4), 3, (8,))), "several coordinates or latents"),
        (lambda: terms(TotalCorrelation_ELBO(), WassersteinVAE((1, 4, 4), 2, (8,))), "deterministic encoder"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_particles_beside_another_plate_dimension():
    objective = TotalCorrelation_ELBO(num_particles=4000, max_plate_nesting=2)
    found = terms(objective, Known(), LINE)
    for name, expected in zip(PARTS, by_quadrature(LINE, 0.5), strict=True):
        assert found[name].item() / 4 == pytest.approx(expected, abs=0.03), name


def test_a_latent_drawn_from_another_is_refused():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            u = pyro.sample("u", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            v = pyro.sample("v", dist.Normal(torch.zeros(x.shape[0]), 1.0))
            pyro.sample("x", dist.Normal(u + v, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", x.shape[0]):
            u = pyro.sample("u", dist.Normal(loc * x, 1.0))
            pyro.sample("v", dist.Normal(u, 0.1))

    with pyro.validation_enabled(), pytest.raises(ValueError, match=r"site 'v': .* the guide draws it from 'u'"):
        TotalCorrelation_ELBO().differentiable_loss(model, guide, torch.randn(5))


def test_a_scale_of_the_model_alone_is_refused():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    with pytest.raises(ValueError, match="site 'z': expected one scale in model and guide"):
        TotalCorrelation_ELBO().loss(poutine.scale(vae.model, 10.0), vae.guide, X)


def test_a_masked_latent_is_refused():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    mask = torch.arange(12) < 6
    with pytest.raises(ValueError, match="site 'z': no total correlation: it is masked"):
        TotalCorrelation_ELBO().loss(poutine.mask(vae.model, mask=mask), poutine.mask(vae.guide, mask=mask), X)
    assert ELBO().loss(poutine.mask(vae.model, mask=mask), poutine.mask(vae.guide, mask=mask), X).isfinite()
