"""Several importance weighted bounds, and gradients split between model and guide, against the IWAE's."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import GaussianVAE, HyperbolicVAE, SphericalVAE
from pyro import poutine
from pyro.infer import SVI
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.infer import CIWAE_ELBO, ELBO, IWAE_ELBO, MIWAE_ELBO, PIWAE_ELBO, DReG_ELBO
from ppvae.infer.objectives.dreg import SplitELBO
from ppvae.isolation import isolated_param_store
from ppvae.random import seeded

X = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


class Chain(nn.Module):
    """p(z_1) = N(0, 1), p(z_2 | z_1) = N(a z_1, 1), p(x | z) = N(z_2, 1); the guide draws z_2 and then z_1 from it."""

    def __init__(self, exact=False):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))
        s2 = (1 + 0.49) / (2 + 0.49)
        m1, s1 = 0.7 / 1.49, 1 / 1.49
        start = [s2, math.log(s2) / 2, m1, math.log(s1) / 2] if exact else [0.5, 0.1, 0.3, -0.4]
        self.guess = nn.Parameter(torch.tensor(start))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z_1 = pyro.sample("z_1", dist.Normal(torch.zeros(x.shape), 1.0))
            z_2 = pyro.sample("z_2", dist.Normal(self.a * z_1, 1.0))
            pyro.sample("x", dist.Normal(z_2, 1.0), obs=x)

    def guide(self, x):
        m2, s2, m1, s1 = self.guess
        with pyro.plate("data", x.shape[0]):
            z_2 = pyro.sample("z_2", dist.Normal(m2 * x, s2.exp()))
            pyro.sample("z_1", dist.Normal(m1 * z_2, s1.exp()))

    def evidence(self, x):
        return dist.Normal(0.0, (2 + self.a**2).sqrt()).log_prob(x).sum()


@pytest.fixture(autouse=True)
def _own_store_and_seed():
    with pyro.get_param_store().scope(), seeded(0):
        yield


def loss_and_gradients(objective, vae, x=X, seed=1):
    vae.zero_grad()
    with seeded(seed):
        loss = objective.loss_and_grads(vae.model, vae.guide, x).item()
    return loss, {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}


def log_weights(vae, K):
    with seeded(1), torch.no_grad():
        model_trace, guide_trace = ELBO(K).traces(vae.model, vae.guide, X)
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
    p, q = model_trace.nodes, guide_trace.nodes
    return p["x"]["log_prob"] + p["z"]["log_prob"] - q["z"]["log_prob"]


class Ordinary(SplitELBO):
    """The weights of the IWAE's own gradient."""

    def coefficients(self, log_w):
        return (log_w.softmax(0),) * 3


@pytest.mark.parametrize("make", [GaussianVAE, SphericalVAE, HyperbolicVAE])
@pytest.mark.parametrize("w", [1.0, 0.4])
def test_a_split_gradient_with_the_weights_of_the_iwae_is_the_iwae_s(make, w):
    vae = make((1, 4, 4), 3, (8,))
    results = []
    for objective in (IWAE_ELBO(5), Ordinary(5)):
        objective.kl_weight = torch.tensor(w)
        results.append(loss_and_gradients(objective, vae))
    (loss, gradients), (ours, own) = results
    assert ours == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-4)


def test_a_split_gradient_follows_latents_that_depend_on_latents():
    x = torch.tensor([0.3, -1.0, 2.0])
    loss, gradients = loss_and_gradients(IWAE_ELBO(5), Chain(), x)
    ours, own = loss_and_gradients(Ordinary(5), Chain(), x)
    assert ours == pytest.approx(loss)
    torch.testing.assert_close(own, gradients)


@pytest.mark.parametrize("w", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("K", [1, 4])
def test_dreg_has_the_mean_gradient_of_the_iwae_and_less_noise(K, w):
    """One datum many times over: the gradient is a mean over draws, its error taken from 40 such means."""
    vae, x = Chain(), torch.full((4000,), 1.2)
    found = {}
    for objective in (IWAE_ELBO(K), DReG_ELBO(K)):
        objective.kl_weight = torch.tensor(w)
        runs = [loss_and_gradients(objective, vae, x, seed)[1] for seed in range(40)]
        found[type(objective)] = torch.stack([torch.cat([g["guess"], g["a"][None]]) for g in runs]) / len(x)
    iwae, dreg = found[IWAE_ELBO], found[DReG_ELBO]
    error = ((iwae.var(0) + dreg.var(0)) / 40).sqrt()
    assert ((iwae.mean(0) - dreg.mean(0)).abs() <= 4 * error).all()
    if w == 1:
        assert (dreg.std(0)[:4] < iwae.std(0)[:4]).all()


@pytest.mark.parametrize("K", [1, 5])
def test_dreg_has_no_gradient_for_a_guide_that_is_the_posterior(K):
    x = torch.tensor([0.3, -1.0, 2.0])
    _, own = loss_and_gradients(DReG_ELBO(K), Chain(exact=True), x)
    _, iwae = loss_and_gradients(IWAE_ELBO(K), Chain(exact=True), x)
    assert own["guess"].abs().max() < 1e-5 < 1e-2 < iwae["guess"].abs().max()
    torch.testing.assert_close(own["a"], iwae["a"])


def test_dreg_with_parameters_that_model_and_guide_share():
    """The guide is the posterior of the current a: the mean gradient is that of the evidence."""

    class Shared(Chain):
        def guide(self, x):
            v2, v1 = 1 + self.a**2, 1 / (1 + self.a**2)
            with pyro.plate("data", x.shape[0]):
                z_2 = pyro.sample("z_2", dist.Normal(x * v2 / (1 + v2), (v2 / (1 + v2)).sqrt()))
                pyro.sample("z_1", dist.Normal(self.a * v1 * z_2, v1.sqrt()))

    vae, x = Shared(), torch.full((100_000,), 1.2)
    loss, gradients = loss_and_gradients(DReG_ELBO(1), vae, x)
    evidence = -vae.evidence(x) / len(x)
    (expected,) = torch.autograd.grad(evidence, vae.a)
    assert loss / len(x) == pytest.approx(evidence.item(), abs=1e-4)
    assert gradients["a"].item() / len(x) == pytest.approx(expected.item(), abs=0.01)


def test_values_by_hand():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    log_w = log_weights(vae, 6)
    assert log_w.shape == (6, 12)
    iwae = (log_w.logsumexp(0) - math.log(6)).sum()
    miwae = (log_w.reshape(2, 3, 12).logsumexp(1) - math.log(3)).mean(0).sum()
    elbo = log_w.mean(0).sum()
    expected = {
        IWAE_ELBO(6): iwae,
        MIWAE_ELBO(6, 1): iwae,
        MIWAE_ELBO(6, 2): miwae,
        MIWAE_ELBO(6, 6): elbo,
        CIWAE_ELBO(0.0, 6): iwae,
        CIWAE_ELBO(1.0, 6): elbo,
        CIWAE_ELBO(0.3, 6): 0.3 * elbo + 0.7 * iwae,
        PIWAE_ELBO(6, 2): iwae,
        DReG_ELBO(6): iwae,
    }
    for objective, bound in expected.items():
        assert loss_and_gradients(objective, vae)[0] == pytest.approx(-bound.item(), rel=1e-5), type(objective)


def test_piwae_trains_the_model_by_the_iwae_and_the_guide_by_the_miwae():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    iwae, miwae, piwae = (loss_and_gradients(o, vae)[1] for o in (IWAE_ELBO(6), MIWAE_ELBO(6, 3), PIWAE_ELBO(6, 3)))
    for name, gradient in piwae.items():
        torch.testing.assert_close(
            gradient, (miwae if name.startswith("encoder") else iwae)[name], rtol=1e-4, atol=1e-5
        )
        assert not torch.allclose(iwae[name], miwae[name], rtol=1e-2)


@pytest.mark.parametrize("objective", [MIWAE_ELBO(6, 2), CIWAE_ELBO(0.3, 6), PIWAE_ELBO(6, 2), DReG_ELBO(6)])
def test_entry_points_agree_and_are_traceable(objective):
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    objective.kl_weight = torch.tensor(0.7)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), objective)
    numbers = []
    for entry in (objective.loss, objective.differentiable_loss, objective.loss_and_grads):
        with seeded(3):
            numbers.append(entry(vae.model, vae.guide, X).detach().item())
    for call in (objective(vae.model, vae.guide), svi.evaluate_loss, svi.step):
        with seeded(3):
            numbers.append(torch.as_tensor(call(X)).detach().item())
    parameters = list(vae.parameters())

    def gradients(x):
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    with isolated_param_store(), pyro.validation_enabled(False):
        graph = make_fx(gradients)(X)
        with seeded(3):
            traced = graph(X)
        with seeded(3):
            torch.testing.assert_close(traced, gradients(X))
    assert [*numbers, traced[0].item()] == pytest.approx([numbers[0]] * 7, rel=1e-6)


def test_what_a_second_path_cannot_have_is_refused():
    vae = GaussianVAE((1, 4, 4), 2, (8,))
    masked = [poutine.mask(fn, mask=torch.arange(12) < 6) for fn in (vae.model, vae.guide)]

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", vae.head(vae.encoder(x)))
            pyro.factor("f", torch.zeros(x.shape[0]), has_rsample=True)

    with pytest.raises(ValueError, match="site 'z': DReG_ELBO weights gradients of whole draws, and it is masked"):
        DReG_ELBO(2).loss(*masked, X)
    with pytest.raises(ValueError, match="site 'f': DReG_ELBO knows no factors in the guide"):
        DReG_ELBO(2).loss(vae.model, guide, X)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MIWAE_ELBO(6, 4), "num_bounds: expected a divisor of num_particles = 6, got 4"),
        (lambda: PIWAE_ELBO(6, 0), "num_bounds: expected a divisor of num_particles = 6, got 0"),
        (lambda: CIWAE_ELBO(1.5), r"beta: expected a number in \[0, 1\], got 1.5"),
        (lambda: DReG_ELBO(0), "num_particles: expected at least 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
