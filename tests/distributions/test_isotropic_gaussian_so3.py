"""The heat kernel on SO(3): both series against mpmath, mass, semigroup, sampler and its gradient."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.distributions import kl_divergence

from ppvae.distributions.center import center
from ppvae.distributions.isotropic_gaussian_so3 import IsotropicGaussianSO3, _log_heat_kernel, _score
from ppvae.distributions.so3_pushforward import kl_isotropic
from ppvae.distributions.so3_uniform import SO3Uniform
from ppvae.manifolds import so3
from ppvae.testing import check_distribution

F64 = torch.float64
UNIFORM = SO3Uniform(dtype=F64)
ANGLES = [0.0, 1e-12, 1e-3, 0.5, 2.0, 3.0, math.pi - 1e-7, math.pi]
SCALES = [0.1, 0.3, 0.999, 1.0, 1.5, 4.0]


def rotations(*shape, seed=0):
    r = Rotation.random(math.prod(shape), random_state=seed).as_matrix()
    return torch.tensor(r).reshape(*shape, 3, 3)


def about_z(theta):
    return so3.exp(torch.stack([0 * theta, 0 * theta, theta], -1))


def law(scale, dtype=F64):
    return IsotropicGaussianSO3(torch.eye(3, dtype=dtype), torch.tensor(scale, dtype=dtype))


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.3, 0.999, 1.0, 1.5, 8.0])
def test_the_score_is_the_derivative_of_the_log_density(t):
    omega = [0.0, 1e-12, 1e-6, 1e-4, 1e-3, 0.4999, 0.5001, 1.0, 2.0, 3.0, math.pi]
    omega, t = torch.tensor(omega, dtype=F64, requires_grad=True), torch.tensor(t, dtype=F64)
    (exact,) = torch.autograd.grad(_log_heat_kernel(omega, t).sum(), omega)
    assert torch.allclose(_score(omega.detach(), t), exact, rtol=2e-11, atol=1e-15 / t)


def exact_density(omega, t):
    """The sum over characters, with respect to the normalised Haar measure."""
    terms = int(math.sqrt(180 / t)) + 10
    with mpmath.workdps(45):
        w, t = mpmath.mpf(omega), mpmath.mpf(t)

        def character(l):
            return 2 * l + 1 if w < 1e-20 else mpmath.sin((l + mpmath.mpf(1) / 2) * w) / mpmath.sin(w / 2)

        return sum((2 * l + 1) * mpmath.exp(-l * (l + 1) * t / 2) * character(l) for l in range(terms))


def nodes(n, largest):
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.tensor(largest * (x + 1) / 2), torch.tensor(w * largest / 2)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_density_is_that_of_mpmath(scale, dtype):
    q = law(scale, dtype)
    t = float(q.scale) ** 2
    for angle in ANGLES:
        exact = exact_density(angle, t)
        if exact > 1e-25:  # below it the sum in mpmath has no digits left
            got = q.log_prob(about_z(torch.tensor(angle, dtype=dtype))).item() + math.log(so3.VOLUME)
            # Relative to its terms, of which omega^2 / 2t is the largest.
            scale_of_terms = 10 + angle**2 / t
            assert abs(got - float(mpmath.log(exact))) < 2 * torch.finfo(dtype).eps * scale_of_terms


@pytest.mark.parametrize("scale", [1e-4, 1e-2, *SCALES, 20.0])
def test_mass_mean_and_kl_by_quadrature(scale):
    theta, weight = nodes(200, min(math.pi, 12 * scale))
    log_q = law(scale).log_prob(about_z(theta))
    density = weight * 16 * math.pi * (theta / 2).sin() ** 2 * log_q.exp()
    assert density.sum().item() == pytest.approx(1, abs=1e-9)
    trace = (density * (1 + 2 * theta.cos())).sum().item()
    assert trace == pytest.approx(3 * math.exp(-(scale**2)), abs=1e-9)
    assert torch.allclose(law(scale).mean, math.exp(-(scale**2)) * torch.eye(3, dtype=F64))
    kl = (density * (log_q + math.log(so3.VOLUME))).sum().item()
    assert kl_divergence(law(scale), UNIFORM).item() == pytest.approx(kl, abs=1e-9)
    assert kl_divergence(law(scale, torch.float32), UNIFORM).item() == pytest.approx(kl, rel=1e-5, abs=1e-6)


def test_kl_falls_to_zero_and_starts_as_that_of_the_pushforward():
    scale = torch.logspace(-3, 1, 100, dtype=F64, requires_grad=True)
    kl = kl_divergence(IsotropicGaussianSO3(torch.eye(3, dtype=F64), scale), UNIFORM)
    assert (kl.diff() <= 1e-15).all()
    assert kl[-1].abs() < 1e-12
    (slope,) = torch.autograd.grad(kl.sum(), scale)
    assert (slope <= 1e-12).all()
    assert slope.isfinite().all()
    small = scale.detach()[:30]
    assert (kl[:30] - kl_isotropic(small)).abs().max() < 2e-3


def test_semigroup():
    """Products of samples at sigma = .6 and .8 are samples at 1."""
    torch.manual_seed(0)
    product = so3.compose(law(0.6).sample((20000,)), law(0.8).sample((20000,)))
    for l, exact in ((1, math.exp(-1)), (2, math.exp(-3))):
        w = so3.angle(product)
        character = ((l + 0.5) * w).sin() / (w / 2).sin() / (2 * l + 1)
        assert abs(character.mean() - exact) < 5 * character.std() / math.sqrt(20000)


@pytest.mark.parametrize("scale", [1e-3, 0.2, 0.7, 1.3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_samples_have_the_distribution_function(scale, dtype):
    """F(w) = (1/pi) sum (2l+1) e^{-l(l+1)t/2} (sin(lw)/l - sin((l+1)w)/(l+1)), w - sin w at l = 0."""
    torch.manual_seed(0)
    w = so3.angle(law(scale, dtype).sample((20000,))).double().sort().values
    if scale < 0.1:
        cdf = torch.special.gammainc(torch.tensor(1.5, dtype=F64), (w / scale) ** 2 / 2)
    else:
        cdf = w - w.sin()
        for l in range(1, int(9 / scale) + 9):
            weight = (2 * l + 1) * math.exp(-l * (l + 1) * scale**2 / 2)
            cdf = cdf + weight * ((l * w).sin() / l - ((l + 1) * w).sin() / (l + 1))
        cdf = cdf / math.pi
    assert (cdf - torch.linspace(0, 1, 20000, dtype=F64)).abs().max() < 1.95 / math.sqrt(20000)  # Kolmogorov, 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-4, 0.1, 0.999, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("theta", [0.0, 1e-20, 1e-8, 1e-5, 1.0, math.pi - 1e-7, math.pi])
def test_values_and_gradients_are_finite_at_every_angle(theta, scale, dtype):
    v = (theta * torch.eye(3, dtype=dtype)).requires_grad_()
    loc = rotations(1)[0].to(dtype).requires_grad_()
    sigma = torch.tensor(scale, dtype=dtype, requires_grad=True)
    log_q = IsotropicGaussianSO3(loc, sigma, validate_args=False).log_prob(so3.compose(loc.detach(), so3.exp(v)))
    assert log_q.isfinite().all()
    for gradient in torch.autograd.grad(log_q.sum(), (v, loc, sigma)):
        assert gradient.isfinite().all()


def test_passes_the_battery():
    g = rotations(1, seed=4)[0]
    loc = torch.randn(2, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    check_distribution(
        lambda loc, scale: IsotropicGaussianSO3(so3.project(loc), scale),
        {"loc": loc, "scale": torch.tensor([0.6, 1.3])},
        proposal=UNIFORM,
        isometry=(lambda z: g @ z, {"loc": g @ loc}),
        kl_to=[UNIFORM],
        grid=[{"loc": loc, "scale": torch.full((2,), s)} for s in (1e-2, 10.0)],
        points=lambda q: torch.cat(
            [q.loc[None], so3.compose(q.loc, so3.exp(math.pi * torch.eye(3).to(q.loc))[:, None])]
        ),
    )


def test_errors_and_center():
    with pytest.raises(ValueError, match="loc"):
        IsotropicGaussianSO3(2 * torch.eye(3), torch.ones(()), validate_args=True)
    with pytest.raises(ValueError, match="scale"):
        IsotropicGaussianSO3(torch.eye(3), torch.zeros(()), validate_args=True)
    assert torch.equal(center(law(1.0)), torch.eye(3, dtype=F64))
