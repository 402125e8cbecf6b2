"""The terms of the regularised auto-encoder against closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import SphericalVAE, WassersteinVAE

import ppvae
from ppvae.infer import CodeNorm, DecoderGradient, InfoVAE_ELBO, Regularized
from ppvae.nn import CategoricalLikelihood, NormalLikelihood, SphericalDeltaHead
from ppvae.random import seeded

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _own_store():
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def vae():
    with seeded(0):
        return WassersteinVAE((5,), 2, (8,), likelihood=NormalLikelihood(0.5))


def test_the_norm_of_the_codes(vae):
    z = torch.as_tensor(ppvae.encode(vae, X))
    assert CodeNorm(1.0)(vae.model, vae.guide, X).item() == pytest.approx((z**2).sum().item() / 2, rel=1e-6)


def test_the_jacobian_of_the_decoder_is_estimated_without_bias(vae):
    z = torch.as_tensor(ppvae.encode(vae, X))
    exact = sum(torch.autograd.functional.jacobian(lambda z: vae.decode(z).mean, code).square().sum() for code in z)
    term = DecoderGradient(1.0)
    with seeded(0):
        draws = torch.stack([term(vae.model, vae.guide, X).detach() for _ in range(2000)])
        quiet = torch.no_grad()(term)(vae.model, vae.guide, X)
    assert draws.mean().item() == pytest.approx(exact.item(), abs=4 * draws.std().item() / 2000**0.5)
    assert draws.std() > 0 and not quiet.requires_grad


def test_the_gradient_of_the_jacobian_is_the_decoder_s(vae):
    DecoderGradient(1.0)(vae.model, vae.guide, X).backward()
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in vae.decoder.named_parameters() if "weight" in name)


def test_training_shows_the_terms_and_lowers_them(vae):
    norms = {}
    for weight in (0.0, 5.0):
        with seeded(0):
            vae = WassersteinVAE((5,), 2, (8,), likelihood=NormalLikelihood(0.5))
        objective = Regularized(
            InfoVAE_ELBO(alpha=1, lambda_=0), code=CodeNorm(weight), smooth=DecoderGradient(0.1 * weight)
        )
        fit = ppvae.fit(vae, X, objective=objective, epochs=60, lr=1e-2, seed=0, progress=False)
        norms[weight] = {name: fit.history[name][-1] for name in ("code", "smooth")}
    assert norms[5.0]["code"] < norms[0.0]["code"] and norms[5.0]["smooth"] < norms[0.0]["smooth"]


def test_a_latent_that_the_data_do_not_read_has_no_part_in_the_gradient():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(2 * b, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("a", dist.Delta(x, event_dim=1))
            pyro.sample("b", dist.Delta(x, event_dim=1))

    assert DecoderGradient(1.0)(model, guide, X).item() == pytest.approx(6 * 5 * 4)


def test_classes_have_no_mean_that_moves():
    vae = WassersteinVAE((5,), 2, (8,), likelihood=CategoricalLikelihood(3))
    with pytest.raises(ValueError, match="site 'x': the mean of Independent does not move with the latents"):
        DecoderGradient(1.0)(vae.model, vae.guide, torch.zeros(6, 5))


def test_a_curved_latent_has_no_norm():
    vae = SphericalVAE((5,), 3, (8,), likelihood=NormalLikelihood(0.5), head=SphericalDeltaHead(3))
    with pytest.raises(ValueError, match="site 'z': the norm of a code is for Euclidean latents"):
        CodeNorm(1.0)(vae.model, vae.guide, X)
