"""Laws under torch.jit.trace, in which sizes are tensors: JitTrace_ELBO has the loss and gradients of Trace_ELBO."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppvae.models import HamiltonianVAE, SphericalVAE
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch.nn.functional import normalize

from ppvae import distributions as ours
from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppvae.manifolds import Circle, Hyperboloid, Sphere, Torus, so3
from ppvae.manifolds.embeddings import TorusEmbedding
from ppvae.manifolds.hyperboloid import from_origin

# The sizes that a trace holds as numbers do not change.
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")

SO3_UNIFORM, ON_01 = ours.SO3Uniform(), dist.Uniform(torch.zeros(()), torch.ones(()))
PLANE = dist.Normal(torch.zeros(2), 1.0).to_event(1)
#: law -> the guide's law from tensors of shape (5, n) and (5, 4), the prior, n
LAWS = {
    **{
        f"{family.__name__}({m}) to {type(prior).__name__}": (
            lambda a, b, family=family: family(normalize(a, dim=-1), b[:, 0].exp()),  # type: ignore[misc]
            prior,
            m,
        )
        for m in (2, 3, 16)
        for family in (ours.VonMisesFisher, ours.PowerSpherical)
        for prior in (
            ours.HypersphericalUniform(m),
            ours.VonMisesFisher(torch.eye(m)[0], torch.tensor(2.0)),
        )
    },
    "WrappedNormal, circle": (
        lambda a, b: ours.WrappedNormal(Circle(), normalize(a, dim=-1), b[:, :1].exp()),
        ours.HypersphericalUniform(2),
        2,
    ),
    "WrappedNormal, torus": (
        lambda a, b: ours.WrappedNormal(Torus(2), normalize(a.reshape(5, 2, 2), dim=-1), b[:, :2].exp()),
        ours.HypersphericalUniform(2).expand((2,)).to_event(1),
        4,
    ),
    "WrappedNormal, sphere": (
        lambda a, b: ours.WrappedNormal(Sphere(), normalize(a, dim=-1), b.exp()),
        ours.HypersphericalUniform(5),
        5,
    ),
    "WrappedNormal, hyperboloid": (
        lambda a, b: ours.WrappedNormal(Hyperboloid(), from_origin(a), b.exp()),
        ours.WrappedNormal(Hyperboloid(), from_origin(torch.zeros(4)), torch.ones(4)),
        4,
    ),
    "SO3Normal": (lambda a, b: ours.SO3Normal(so3.exp(a), b[:, :3].exp()), SO3_UNIFORM, 3),
    "IsotropicGaussianSO3": (lambda a, b: ours.IsotropicGaussianSO3(so3.exp(a), b[:, 0].exp()), SO3_UNIFORM, 3),
    "MatrixFisher": (lambda a, b: ours.MatrixFisher(a.reshape(5, 3, 3)), SO3_UNIFORM, 9),
    "FrameAverage": (lambda a, b: ours.FrameAverage(ours.MatrixFisher(a.reshape(5, 3, 3))), SO3_UNIFORM, 9),
    "UnimodalBeta": (lambda a, b: ours.UnimodalBeta(a[:, 0].exp(), b[:, 0].exp()), ON_01, 1),
    "UnrolledCircle": (
        lambda a, b: ours.UnrolledCircle(ours.VonMisesFisher(normalize(a, dim=-1), b[:, 0].exp())),
        ON_01,
        2,
    ),
    "EmbeddedPushforward": (
        lambda a, b: ours.EmbeddedPushforward(ours.UnimodalBeta(a.exp(), b[:, :2].exp()).to_event(1), TorusEmbedding()),
        None,
        2,
    ),
    "GaussianMixture": (
        lambda a, b: ours.GaussianMixture(b, a.reshape(5, 4, 2), a.reshape(5, 4, 2).exp()),
        PLANE,
        8,
    ),
    "Mixture": (
        lambda a, b: dist.Normal(a, b[:, :2].exp()).to_event(1),
        ours.Mixture(torch.zeros(3), dist.Normal(torch.eye(3)[:, :2], 1.0).to_event(1)),
        2,
    ),
    "ContinuousBernoulli": (lambda a, b: ContinuousBernoulli(b[:, 0]), ON_01, 1),
    "InverseAutoregressive": (lambda a, b: ours.InverseAutoregressive(a, b[:, :2].exp(), b, []), PLANE, 2),
    "HamiltonianFlow": (
        lambda a, b: ours.HamiltonianFlow(
            a, b[:, :2].exp(), lambda z: -z.square().sum(-1), torch.full((2,), 0.1), torch.tensor(0.5), 2
        ),
        PLANE,
        2,
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_loss_and_gradients_are_those_of_the_eager_elbo(law):
    make, prior, n = LAWS[law]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(5, size, generator=generator) for size in (n, 4)]

    def guide():
        a, b = (pyro.param(name, value) for name, value in zip("ab", start, strict=True))
        with pyro.plate("data", 5):
            pyro.sample("z", make(a, b))

    def model():
        with pyro.plate("data", 5):
            pyro.sample("z", prior or make(*start))

    results = []
    for elbo in (Trace_ELBO(max_plate_nesting=1), JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True)):
        with pyro.get_param_store().scope():
            guide()
            parameters = [p for _, p in pyro.get_param_store().named_parameters()]
            for _ in range(2):  # the first call of a traced loss traces, the second runs the trace
                torch.manual_seed(1)
                for p in parameters:
                    p.grad = None
                loss = elbo.loss_and_grads(model, guide)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            results.append([torch.tensor(loss), *gradients])
    for eager, traced in zip(*results, strict=True):
        assert eager.isfinite().all()
        torch.testing.assert_close(traced, eager, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_spherical_vae(dim):
    torch.manual_seed(0)
    vae, x = SphericalVAE((6,), dim, hidden=(8,)), torch.rand(4, 6).round()
    jit, eager = JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True), Trace_ELBO(max_plate_nesting=1)
    with pyro.get_param_store().scope():
        # Compiled code may draw in another order: the means agree.
        losses = torch.tensor([[e.loss(vae.model, vae.guide, x) for _ in range(200)] for e in (jit, eager)])
        jit.loss_and_grads(vae.model, vae.guide, x)
    means, errors = losses.mean(1), losses.std(1) / 200**0.5
    assert abs(means[0] - means[1]) < 5 * errors.norm()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


def test_a_flow_that_cannot_be_traced_says_so():
    vae, x = HamiltonianVAE((6,), 2, hidden=(8,)), torch.rand(4, 6).round()
    with pyro.get_param_store().scope(), pytest.raises(RuntimeError, match="use Trace_ELBO"):
        JitTrace_ELBO(max_plate_nesting=1, ignore_jit_warnings=True).loss_and_grads(vae.model, vae.guide, x)
