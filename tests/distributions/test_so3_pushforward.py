"""Laws on SO(3): mass, wraps, the mode, KL, gradients and symmetry against mpmath and quadrature."""

import math

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, affine_coupling
from scipy.spatial.transform import Rotation
from torch.distributions import kl_divergence

from ppvae.distributions.center import center
from ppvae.distributions.so3_pushforward import SO3Normal, SO3Pushforward, kl_isotropic
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.manifolds import so3
from ppvae.testing import check_distribution

F64 = torch.float64
UNIFORM = SO3Uniform(dtype=F64)


def rotations(*shape, seed=0):
    r = Rotation.random(math.prod(shape), random_state=seed).as_matrix()
    return torch.tensor(r).reshape(*shape, 3, 3)


def legendre(n, low, high):
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.tensor(low + (high - low) * (x + 1) / 2), torch.tensor(w * (high - low) / 2)


def grid(n, largest):
    """Nodes v (..., 3) of the ball |v| <= largest and the weights of an integral over the rotations exp(v)."""
    theta, w_theta = legendre(n, 0, largest)
    z, w_z = legendre(n // 2, -1, 1)
    phi = 2 * math.pi * torch.arange(n, dtype=F64) / n
    theta, z, phi = torch.meshgrid(theta, z, phi, indexing="ij")
    rho = (1 - z**2).sqrt()
    u = torch.stack([rho * phi.cos(), rho * phi.sin(), z], -1)
    weight = w_theta[:, None, None] * w_z[:, None] * 2 * math.pi / n * 4 * (theta / 2).sin() ** 2
    return theta.unsqueeze(-1) * u, weight


def isotropic_mass(law, scale, n=400):
    theta, weight = legendre(n, 0, min(math.pi, 14 * scale))
    r = so3.compose(law.loc, so3.exp(torch.stack([0 * theta, theta, 0 * theta], -1)))
    return (weight * 16 * math.pi * (theta / 2).sin() ** 2 * law.log_prob(r).exp()).sum().item()


def angle_density(theta, scale):
    """Density of the class angle under an isotropic SO3Normal, in mpmath."""
    t = [theta + 2 * mpmath.pi * k for k in range(-40, 41)]
    return 2 / scale**2 * sum(x**2 * mpmath.npdf(x, 0, scale) for x in t)


def exact_kl(scale):
    scale = mpmath.mpf(scale)
    largest = min(mpmath.pi, 14 * scale)

    def integrand(theta):
        f = angle_density(theta, scale)
        return f * mpmath.log(mpmath.pi * f / (2 * mpmath.sin(theta / 2) ** 2)) if f else f

    return float(mpmath.quad(integrand, [0, largest / 20, largest / 4, largest]))


@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.5, 1, 3, 10.9, 11.1, 15, 40, 1e3, 1e6])
def test_mass_is_one(scale):
    """With k = 0 alone it is .98 at scale 1 and .22 at 3; clamps of 1e-3 leave .9945 at 3 and .9933 at 6."""
    law = SO3Normal(rotations(1)[0], torch.full((3,), scale, dtype=F64))
    assert abs(isotropic_mass(law, scale) - 1) < 1e-9


@pytest.mark.parametrize("scale, mass", [(1.0, 0.9803), (3.0, 0.222)])
def test_mass_without_wraps_is_that_of_the_ball(scale, mass):
    law = SO3Normal(rotations(1)[0], torch.full((3,), scale, dtype=F64), num_wraps=0)
    exact = mpmath.quad(lambda r: 2 * r**2 / scale**2 * mpmath.npdf(r, 0, scale), [0, mpmath.pi])
    assert abs(isotropic_mass(law, scale) - float(exact)) < 1e-9
    assert abs(float(exact) - mass) < 1e-3


@pytest.mark.parametrize("scale", [(0.3, 0.5, 0.8), (1.0, 0.7, 2.0), (3.0, 2.0, 3.0)])
def test_mass_of_unequal_scales(scale):
    law = SO3Normal(rotations(1)[0], torch.tensor(scale, dtype=F64))
    v, weight = grid(48, math.pi)
    mass = (weight * law.log_prob(so3.compose(law.loc, so3.exp(v))).exp()).sum().item()
    assert abs(mass - 1) < 1e-6


def test_density_is_that_of_mpmath():
    scale, u = (0.9, 0.6, 1.7), torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=F64), dim=0)
    law = SO3Normal(torch.eye(3, dtype=F64), torch.tensor(scale, dtype=F64))
    for theta in (1e-6, 1e-3, 0.5, 2.0, math.pi - 1e-9, math.pi):
        exact = mpmath.mpf(0)
        for k in range(-20, 21):
            t = mpmath.mpf(theta) + 2 * mpmath.pi * k
            normal = mpmath.fprod(mpmath.npdf(t * ui, 0, si) for ui, si in zip(u.tolist(), scale, strict=True))
            exact += normal * t**2 / (4 * mpmath.sin(mpmath.mpf(theta) / 2) ** 2)
        got = law.log_prob(so3.exp(theta * u)).item()
        assert got == pytest.approx(float(mpmath.log(exact)), abs=1e-8 if theta < 1e-3 else 1e-11)


def test_convention_at_the_mode():
    """The wraps diverge as 1 / theta^2 towards the mode, where they are left out; never NaN or infinite."""
    law = SO3Normal(rotations(1)[0], torch.full((3,), 3.0, dtype=F64))
    base = dist.Normal(torch.zeros(3, dtype=F64), 3.0).to_event(1).log_prob(torch.zeros(3, dtype=F64))
    assert law.log_prob(law.loc).item() == pytest.approx(base.item(), abs=1e-9)
    v = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    near = [law.log_prob(so3.compose(law.loc, so3.exp(t * v))).item() for t in (1e-4, 1e-5, 1e-6)]
    assert np.allclose(np.diff(near), 2 * math.log(10), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 15.0, 1e3, 1e15])
@pytest.mark.parametrize("theta", [0.0, 1e-20, 1e-8, 1e-5, 1.0, math.pi - 1e-7, math.pi])
def test_values_and_gradients_are_finite_at_every_angle(theta, scale, dtype):
    v = (theta * torch.eye(3, dtype=dtype)).requires_grad_()
    loc = rotations(1)[0].to(dtype).requires_grad_()
    sigma = torch.full((3,), scale, dtype=dtype, requires_grad=True)
    log_q = SO3Normal(loc, sigma, validate_args=False).log_prob(so3.compose(loc.detach(), so3.exp(v)))
    assert log_q.isfinite().all()
    for gradient in torch.autograd.grad(log_q.sum(), (v, loc, sigma)):
        assert gradient.isfinite().all()


def test_symmetry():
    g, loc, z = rotations(3, seed=1)
    scale = torch.tensor([0.3, 0.8, 1.2], dtype=F64)
    law, moved = SO3Normal(loc, scale), SO3Normal(g @ loc, scale)
    assert torch.allclose(moved.log_prob(g @ z), law.log_prob(z), atol=1e-12)
    torch.manual_seed(0)
    first = law.sample((10,))
    torch.manual_seed(0)
    assert torch.allclose(moved.sample((10,)), g @ first, atol=1e-14)
    equal = SO3Normal(torch.eye(3, dtype=F64), torch.full((3,), 0.7, dtype=F64))
    assert torch.allclose(equal.log_prob(g @ z @ g.mT), equal.log_prob(z), atol=1e-12), "isotropic: a class function"


@pytest.mark.parametrize("scale", [0.2, 1.0, 1.7, 4.0])
def test_trace_of_samples(scale):
    """E tr(loc^T R) = 1 + 2 (1 - sigma^2) e^{-sigma^2 / 2}."""
    torch.manual_seed(0)
    law = SO3Normal(rotations(1)[0], torch.full((3,), scale, dtype=F64))
    trace = so3.compose(law.loc.mT, law.sample((20000,))).diagonal(dim1=-2, dim2=-1).sum(-1)
    exact = 1 + 2 * (1 - scale**2) * math.exp(-(scale**2) / 2)
    assert abs(trace.mean().item() - exact) < 5 * trace.std().item() / math.sqrt(20000)


@pytest.mark.parametrize("scale", [1e-3, 0.26, 0.5, 1.0, 1.5, 1.75, 1.99, 2.01, 3.0, 10.0])
def test_kl_isotropic_is_that_of_mpmath(scale):
    exact = exact_kl(scale)
    for dtype, error in ((F64, 1e-12), (torch.float32, 1e-5)):
        sigma = torch.tensor(scale, dtype=dtype, requires_grad=True)
        kl = kl_isotropic(sigma)
        assert kl.item() == pytest.approx(exact, rel=1e-6 if dtype == torch.float32 else 1e-13, abs=error)
        (slope,) = torch.autograd.grad(kl, sigma)
        h = 1e-4 * scale
        with torch.no_grad():
            difference = (kl_isotropic(sigma.double() + h) - kl_isotropic(sigma.double() - h)) / (2 * h)
        assert slope.item() == pytest.approx(difference.item(), rel=1e-3, abs=1e-5)


def test_kl_isotropic_is_not_monotone():
    """It falls from the asymptote at small scales to its minimum between 1.5 and 2, and rises to log 2."""
    scale = torch.logspace(-3, 3, 601, dtype=F64)
    kl = kl_isotropic(scale)
    assert 1.5 < scale[kl.argmin()] < 2
    assert kl[-1].item() == pytest.approx(math.log(2), abs=1e-9)
    small = scale[:200]  # below 0.1
    asymptote = -1.5 * math.log(2 * math.pi * math.e) - 3 * small.log() + math.log(8 * math.pi**2) + small**2 / 4
    assert (kl[:200] - asymptote).abs().max() < 1e-4


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7, 3.0])
def test_kl_isotropic_is_that_of_samples(scale):
    torch.manual_seed(0)
    law = SO3Normal(rotations(1)[0], torch.full((3,), scale, dtype=F64))
    difference = law.log_prob(z := law.sample((20000,))) - UNIFORM.log_prob(z)
    error = difference.std() / math.sqrt(20000)
    assert abs(difference.mean() - kl_isotropic(torch.tensor(scale, dtype=F64))) < 5 * error


def test_no_kl_of_unequal_scales_is_registered():
    with pytest.raises(NotImplementedError):
        kl_divergence(SO3Normal(rotations(1)[0], torch.ones(3, dtype=F64)), UNIFORM)


def test_normal_passes_the_battery():
    torch.manual_seed(0)

    def make(loc, scale):
        return SO3Normal(so3.project(loc), scale)

    def points(law):
        half_turns = so3.compose(law.loc, so3.exp(math.pi * torch.eye(3).to(law.loc)).unflatten(0, (3, 1)))
        return torch.cat([law.loc[None], half_turns])

    g = rotations(1, seed=4)[0]
    loc = torch.randn(2, 3, 3, dtype=F64)
    params = {"loc": loc, "scale": torch.tensor([[0.6, 0.9, 0.5], [1.5, 0.8, 1.2]], dtype=F64)}
    extremes = [{"loc": loc, "scale": torch.full((2, 3), s)} for s in (1e-2, 10.0)]
    check_distribution(
        make, params, proposal=UNIFORM, isometry=(lambda z: g @ z, {"loc": g @ loc}), grid=extremes, points=points
    )


def test_uniform_angles():
    """The class angle has density (1 - cos t) / pi; E tr = 0, E tr^2 = 1."""
    torch.manual_seed(0)
    r = UNIFORM.sample((40000,))
    trace = r.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.mean()) < 5 / 200
    assert abs(trace.square().mean() - 1) < 5 * trace.square().std() / 200
    t = so3.angle(r).sort().values
    cdf = (t - t.sin()) / math.pi
    assert (cdf - torch.linspace(0, 1, 40000, dtype=F64)).abs().max() < 1.95 / 200  # Kolmogorov, 1e-3
    assert UNIFORM.log_prob(r[0]).item() == pytest.approx(-4.36891, abs=1e-5)


@pytest.mark.parametrize("name", ["shifted normal", "mixture", "flow"])
def test_any_base_law_on_r3(name):
    torch.manual_seed(0)
    zeros, ones = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    if name == "shifted normal":
        base = dist.Normal(torch.tensor([0.5, -1.0, 2.0], dtype=F64), 0.8 * ones).to_event(1)
    elif name == "mixture":
        components = dist.Normal(torch.randn(4, 3, dtype=F64), 0.7).to_event(1)
        base = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(4, dtype=F64)), components)
    else:
        flow = affine_coupling(3, hidden_dims=[8]).double()
        base = dist.TransformedDistribution(dist.Normal(zeros, ones).to_event(1), [flow, AffineTransform(0.3, 0.5)])
    law = SO3Pushforward(base, rotations(2), num_wraps=4)
    assert law.batch_shape == (2,)
    assert law.has_rsample == base.has_rsample
    with torch.no_grad():
        v, weight = grid(40, math.pi)
        z = so3.compose(law.loc[0], so3.exp(v))
        density = law.log_prob(z.unsqueeze(-3))[..., 0].exp()
        assert abs((weight * density).sum() - 1) < 1e-3  # the flow has kinks
        samples = law.sample((20000,))[:, 0]
        exact = ((weight * density)[..., None, None] * z).sum((0, 1, 2))
        assert (samples.mean(0) - exact).abs().max() < 5 * samples.std(0).max() / math.sqrt(20000)


def test_errors():
    eye, scale = torch.eye(3), torch.ones(3)
    with pytest.raises(ValueError, match=r"event_shape \(3,\)"):
        SO3Pushforward(dist.Normal(torch.zeros(3), 1.0), eye)
    with pytest.raises(ValueError, match="num_wraps >= 0"):
        SO3Normal(eye, scale, num_wraps=-1)
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        SO3Normal(eye, torch.ones(()))
    with pytest.raises(ValueError, match="loc"):
        SO3Normal(1.1 * eye, scale, validate_args=True)
    with pytest.raises(ValueError, match="scale"):
        SO3Normal(eye, -scale, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        SO3Normal(eye, scale, validate_args=True).log_prob(-eye)
    with pytest.raises(ValueError, match="floating"):
        SO3Uniform(dtype=torch.int64)


def test_center_and_dtype():
    law = SO3Normal(rotations(2).float(), torch.ones(3))
    assert torch.equal(center(law), law.loc)
    assert law.rsample().dtype == torch.float32
    assert law.log_prob(law.rsample()).dtype == torch.float32
    assert law.expand((5, 2)).scale.shape == (5, 2, 3)
