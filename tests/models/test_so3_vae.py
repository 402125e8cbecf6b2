"""The rotation latent: exact evidence, complete densities, both dtypes, and a homeomorphism that is learned."""

import math

import numpy as np
import pytest
import torch
from ppvae.models import SO3VAE
from scipy.spatial.transform import Rotation
from scipy.stats import norm

import ppvae
from ppvae.distributions import SO3Uniform
from ppvae.infer import ELBO, IWAE_ELBO
from ppvae.manifolds import SO3
from ppvae.metrics import closed_geodesics, discontinuity, equivariance_error, rotation_class
from ppvae.nn import MLP, ActionDecoder, NormalLikelihood, Quaternion, SO3NormalHead


def small(likelihood=None, head=None):
    torch.manual_seed(0)
    return SO3VAE(
        (4,), hidden=(8,), decoder=MLP((3, 3), (4,), (8,)), likelihood=likelihood or NormalLikelihood(0.5), head=head
    )


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) / 2


def test_bounds_rise_to_the_evidence():
    vae = small()
    torch.manual_seed(0)
    with torch.no_grad():
        z = SO3Uniform().sample((100_000, 1))
        log_p = vae.decode(z).log_prob(X).double()
        evidence = (log_p.logsumexp(0) - math.log(100_000)).numpy()
        elbo, iwae = (-objective(vae.model, vae.guide)(X).item() for objective in (ELBO(2000), IWAE_ELBO(50)))
    assert elbo < iwae < evidence.sum() + 0.05
    ll = ppvae.log_likelihood(vae, X, num_samples=20_000, seed=0)
    assert np.abs(ll.values - evidence).max() < 4 * (ll.error.max() + 0.005)


def test_the_density_of_an_image_is_complete():
    """A squared error in place of log p(x | z) would be 48/2 log(2 pi s^2) nats off, and not comparable."""
    vae = small()
    z = SO3Uniform().sample((6,))
    law = vae.decode(z)
    expected = norm.logpdf(X, vae.decoder(z).detach(), 0.5).sum(-1)
    assert np.allclose(law.log_prob(X).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_densities_have_the_dtype_of_the_data(dtype):
    vae = small().to(dtype)
    model_trace, guide_trace = ELBO(3).traces(vae.model, vae.guide, X.to(dtype))
    for trace, name in ((model_trace, "z"), (model_trace, "x"), (guide_trace, "z")):
        trace.compute_log_prob()
        assert trace.nodes[name]["log_prob"].dtype == trace.nodes[name]["value"].dtype == dtype


def test_the_latent_moves_the_coefficients_by_its_action():
    torch.manual_seed(0)
    vae = SO3VAE((48,), decoder=ActionDecoder(degree=3, copies=3), likelihood=NormalLikelihood())
    r, s = torch.tensor(Rotation.random(2, random_state=0).as_matrix()).float()
    blocks = torch.block_diag(*vae.decoder.module.wigner(s)).detach()
    moved, still = (vae.decode(z[None]).mean[0].unflatten(-1, (16, 3)) for z in (s @ r, r))
    assert torch.allclose(moved, blocks @ still, atol=1e-4)


def test_saved_and_loaded(tmp_path):
    vae = SO3VAE((1, 8, 8), 2, 3, (16,), head=SO3NormalHead(Quaternion()))
    x = np.random.default_rng(0).integers(0, 2, (5, 1, 8, 8)).astype(np.float32)
    z = ppvae.encode(vae, x)
    assert z.shape == (5, 3, 3) and np.allclose(z @ z.transpose(0, 2, 1), np.eye(3), atol=1e-5)
    ppvae.save(vae, tmp_path / "vae.safetensors")
    assert np.array_equal(ppvae.encode(ppvae.load(tmp_path / "vae.safetensors"), x), z)


@pytest.fixture(scope="module")
def trained():
    """Two encoders of x = R A + noise, nine numbers: the mean by Gram-Schmidt and by quaternions."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 3))
    r = Rotation.random(2048, random_state=0).as_matrix()
    x = (r @ a + 0.3 * rng.standard_normal((2048, 3, 3))).reshape(-1, 9).astype(np.float32)
    vaes = {}
    for name, head in {"S2S2": SO3NormalHead(), "quaternion": SO3NormalHead(Quaternion())}.items():
        torch.manual_seed(0)
        vae = SO3VAE(
            (9,),
            encoder=MLP((9,), (head.features,), (64,)),
            decoder=_Degree1(),
            likelihood=NormalLikelihood(0.3),
            head=head,
        )
        ppvae.fit(vae, x, epochs=16, batch_size=128, lr=1e-2, seed=0, progress=False)
        vaes[name] = vae
    return vaes, a


class _Degree1(torch.nn.Module):
    """z F with nine numbers F."""

    def __init__(self):
        super().__init__()
        self.F = torch.nn.Parameter(torch.randn(3, 3))

    def forward(self, z):
        return (z @ self.F).flatten(-2)


def loops(vae, a):
    r = closed_geodesics(10, 500)
    return ppvae.encode(vae, (r @ a).reshape(-1, 9).astype(np.float32)).reshape(10, 500, 3, 3)


def test_gram_schmidt_learns_a_homeomorphism(trained):
    vaes, a = trained
    z = loops(vaes["S2S2"], a)
    assert discontinuity(z, SO3().dist, 2).max() < 3
    assert (rotation_class(z) == 1).all()
    r, g = (Rotation.random(200, random_state=i).as_matrix() for i in (1, 2))
    z, gz = (ppvae.encode(vaes["S2S2"], (s @ a).reshape(-1, 9).astype(np.float32)) for s in (r, g @ r))
    assert equivariance_error(z, gz, g).mean() < 0.2


def test_quaternions_cannot(trained):
    vaes, a = trained
    z = loops(vaes["quaternion"], a)
    assert not (rotation_class(z) == 1).any(), "each loop is torn, or of the class of a constant"
    assert discontinuity(z, SO3().dist, 2).max() > 3
