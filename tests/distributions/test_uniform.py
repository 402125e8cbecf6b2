"""The uniform law on any manifold: its density, what it refuses, and the KL of other laws to it."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppvae.distributions import (
    HypersphericalUniform,
    MatrixFisher,
    OnQuotient,
    SO3Uniform,
    TangentNormal,
    Uniform,
    UnimodalBeta,
    VonMisesFisher,
)
from ppvae.manifolds import SO3, Box, Circle, Euclidean, Hyperboloid, Power, Sphere, Torus, quotient

F64 = torch.float64


def loc(*shape):
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=F64), dim=-1)


@pytest.mark.parametrize(
    "manifold, shape, volume",
    [
        (Circle(), (2,), 2 * math.pi),
        (Sphere(), (3,), 4 * math.pi),
        (Torus(2), (2, 2), 4 * math.pi**2),
        (SO3(), (3, 3), 8 * math.pi**2),
        (Box(low=-1.0, high=2.0), (2,), 9.0),
        (Power(Sphere(), 1), (2, 3), 16 * math.pi**2),
        (quotient("klein"), (2, 2), 2 * math.pi**2),
        (quotient("axes"), (3, 3), 2 * math.pi**2),
    ],
)
def test_density_and_entropy(manifold, shape, volume):
    law = Uniform(manifold, shape, (4,), dtype=F64)
    z = law.rsample((5,))
    assert z.shape == (5, 4, *shape) and z.dtype == F64 and manifold.support.check(z).all()
    assert torch.allclose(law.log_prob(z), torch.full((5, 4), -math.log(volume), dtype=F64))
    assert torch.allclose(law.entropy(), torch.full((4,), math.log(volume), dtype=F64))
    by_point = Uniform(manifold, z[0])
    assert by_point.batch_shape == () and by_point.event_shape == shape and by_point.sample().dtype == F64


def test_off_a_box_the_density_is_zero():
    law = Uniform(Box(high=2.0), (2,), validate_args=False)
    assert law.log_prob(torch.tensor([[1.0, 0.5], [1.0, 2.5]])).exp().tolist() == [0.25, 0]


def test_it_agrees_with_the_laws_of_one_manifold():
    z = loc(5, 3)
    assert torch.equal(Uniform(Sphere(), z[0]).log_prob(z), HypersphericalUniform(3, dtype=F64).log_prob(z))
    r = SO3().uniform(torch.zeros(5, 3, 3, dtype=F64))
    assert torch.allclose(Uniform(SO3(), r[0]).log_prob(r), SO3Uniform(dtype=F64).log_prob(r))


@pytest.mark.parametrize(
    "q, manifold",
    [
        (VonMisesFisher(loc(4, 3), torch.tensor(3.0, dtype=F64)), Sphere()),
        (VonMisesFisher(loc(4, 2, 2), torch.tensor(3.0, dtype=F64)).to_event(1), Torus(2)),
        (VonMisesFisher(loc(4, 2, 3), torch.tensor(3.0, dtype=F64)).to_event(1), Power(Sphere(), 1)),
        (TangentNormal(Circle(), loc(4, 2), torch.tensor([[0.7]], dtype=F64)), Circle()),
        (MatrixFisher(torch.eye(3, dtype=F64).expand(4, 3, 3)), SO3()),
        (UnimodalBeta(loc(4, 2).abs(), 2 * loc(4, 2).abs()).to_event(1), Box()),
        (UnimodalBeta(loc(4, 2).abs(), 2 * loc(4, 2).abs()).to_event(1), Box(low=-1.0, high=1.0)),
        (Uniform(Sphere(), (3,), (4,), dtype=F64), Sphere()),
    ],
)
def test_kl_of_any_law_with_an_entropy(q, manifold):
    p = Uniform(manifold, q.event_shape, dtype=F64)
    torch.manual_seed(0)
    z = q.sample((20000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(0) / math.sqrt(len(z)) + 1e-9
    assert ((kl_divergence(q, p) - ratio.mean(0)).abs() < 5 * error).all()


def test_kl_where_the_law_leaves_the_box_is_infinite():
    p = Uniform(Box(), (2,))
    assert kl_divergence(dist.Normal(torch.zeros(2), 1.0).to_event(1), p).isinf()
    assert kl_divergence(dist.Uniform(torch.zeros(2), 2.0).to_event(1), p).isinf()
    assert kl_divergence(dist.Uniform(torch.zeros(2), 0.5).to_event(1), p).item() == pytest.approx(2 * math.log(2))


def test_what_is_refused():
    for manifold, shape in ((Euclidean(), (2,)), (Hyperboloid(), (3,)), (quotient("moebius"), (3,))):
        with pytest.raises(ValueError, match="finite volume"):
            Uniform(manifold, shape)
    with pytest.raises(ValueError, match="shape of 2 numbers, got the shape"):
        Uniform(Torus(2), (2,))
    with pytest.raises(ValueError, match="floating dtype"):
        Uniform(Sphere(), (3,), dtype=torch.int64)
    with pytest.raises(ValueError):
        Uniform(Sphere(), (3,), validate_args=True).log_prob(torch.ones(3))
    no_entropy = TangentNormal(Sphere(), loc(3), torch.eye(2, dtype=F64))
    with pytest.raises(NotImplementedError):
        kl_divergence(no_entropy, Uniform(Sphere(), (3,), dtype=F64))


def test_kl_between_a_space_and_another_is_refused():
    q = VonMisesFisher(loc(3), torch.tensor(3.0, dtype=F64))
    projective = quotient("projective")
    for other in (Uniform(projective, (3,)), Uniform(Sphere(), (4,)), Uniform(Box(), (3,))):
        with pytest.raises(ValueError, match="different measures"):
            kl_divergence(q, other)
    with pytest.raises(ValueError, match="different measures"):
        kl_divergence(OnQuotient(q, projective), Uniform(Sphere(), (3,)))
    with pytest.raises(ValueError, match="different measures"):
        kl_divergence(MatrixFisher(torch.eye(3)), Uniform(Power(Sphere(), 1), (3, 3)))
