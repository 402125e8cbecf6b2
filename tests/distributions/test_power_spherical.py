"""The power spherical law against mpmath, scipy and quadrature; the battery for all laws is in test_laws.py."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from ppvae.distributions import HypersphericalUniform, PowerSpherical, VonMisesFisher
from ppvae.distributions.power_spherical import _Angle
from ppvae.manifolds.sphere import log_area, sphere

DIMENSIONS = [2, 3, 4, 6, 20, 101, 4096]
CONCENTRATIONS = [0.0, 1e-8, 1e-3, 0.1, 0.125, 0.2, 1.0, 10.0, 300.0, 600.0, 1e4, 1e6, 1e8]
BOUND = {torch.float64: 1e-12, torch.float32: 5e-6}
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=str)


def pole(m: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(1, m, dtype=dtype)[0]


def directions(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1).to(dtype)


def exact_area(m: int):
    return mpmath.log(2) + mpmath.mpf(m) / 2 * mpmath.log(mpmath.pi) - mpmath.loggamma(mpmath.mpf(m) / 2)


def exact_offset(m: int, k):
    """D(k), with D' and D'': the log density at the mode relative to the uniform one."""
    beta = mpmath.mpf(m - 1) / 2
    log_gamma, psi = mpmath.loggamma, mpmath.psi
    value = log_gamma(beta) + log_gamma(2 * beta + k) - log_gamma(2 * beta) - log_gamma(beta + k)
    return value, psi(0, 2 * beta + k) - psi(0, beta + k), psi(1, 2 * beta + k) - psi(1, beta + k)


def assert_close(value: float, exact, scale, bound: float, *where):
    assert abs(value - exact) <= bound * abs(scale) + mpmath.mpf(1e-50), (*where, value, mpmath.nstr(exact, 12))


@pytest.fixture(autouse=True)
def _sixty_digits():
    with mpmath.workdps(60):
        yield


# Densities and moments.


@DTYPES
@pytest.mark.parametrize("m", DIMENSIONS)
def test_log_prob_and_its_gradient_in_concentration(m, dtype):
    angles = [0.0, 1e-8, 1e-4, 0.3, math.pi / 2, 2.5, 3.1, math.pi - 1e-4]
    z = torch.zeros(len(angles), 1, m, dtype=dtype)
    angle = torch.tensor(angles, dtype=torch.float64)
    z[:, 0, 0], z[:, 0, 1] = angle.cos(), angle.sin()
    k = torch.tensor(CONCENTRATIONS, dtype=dtype).expand(len(angles), -1).clone().requires_grad_()
    log_q = PowerSpherical(pole(m, dtype), k).log_prob(z)
    (slope,) = torch.autograd.grad(log_q.sum(), k)
    area = exact_area(m)
    offsets = [exact_offset(m, mpmath.mpf(k)) for k in k[0].tolist()]
    for i, (x, y) in enumerate(z[:, 0, :2].tolist()):
        toward, away = mpmath.mpf(x) + 1, mpmath.mpf(x) - 1
        y2 = mpmath.mpf(y) ** 2  # the point as rounded, taken back to the sphere
        log_cos2 = -mpmath.log1p((away**2 + y2) / (toward**2 + y2))
        for j, (D, D1, _) in enumerate(offsets):
            power = mpmath.mpf(k[i, j].item()) * log_cos2
            where = angles[i], CONCENTRATIONS[j]
            assert_close(log_q[i, j].item(), power + D - area, max(-power, D, abs(area)), BOUND[dtype], *where)
            assert_close(slope[i, j].item(), log_cos2 + D1, max(-log_cos2, D1), BOUND[dtype], *where)


@DTYPES
@pytest.mark.parametrize("m", DIMENSIONS)
def test_log_prob_gradient_in_the_points_is_the_riemannian_one(m, dtype):
    """k (mu - t z) / (1 + t) in z and k (z - t mu) / (1 + t) in mu."""
    both = directions(2, 2, m)
    v = normalize(both[1] - (both[1] * both[0]).sum(-1, keepdim=True) * both[0], dim=-1)
    for angle in (0.0, 1e-3, 1.0, math.pi / 2, 3.0):
        z = (math.cos(angle) * both[0] + math.sin(angle) * v).to(dtype).requires_grad_()
        loc = both[0].to(dtype).requires_grad_()
        k = torch.tensor([2.0, 1e8], dtype=dtype)
        by_z, by_loc = torch.autograd.grad(PowerSpherical(loc, k).log_prob(z).sum(), [z, loc])
        mu, x = normalize(loc.detach().double(), dim=-1), normalize(z.detach().double(), dim=-1)
        gap = (x - mu).square().sum(-1, keepdim=True) / 2  # 1 - t
        for grad, here, there in ((by_z, x, mu), (by_loc, mu, x)):
            exact = k.double()[:, None] * ((there - here) + gap * here) / (2 - gap)
            error = (grad - exact).norm(dim=-1)
            # The rounded points are off the sphere by up to eps, which moves the gradient by k eps.
            assert (error <= BOUND[dtype] * exact.norm(dim=-1) + 4 * torch.finfo(dtype).eps * k).all(), angle


@DTYPES
@pytest.mark.parametrize("m", DIMENSIONS)
def test_entropy_and_divergence_from_uniform(m, dtype):
    """The divergence keeps its relative accuracy where it is of the order k^2."""
    k = torch.tensor(CONCENTRATIONS, dtype=dtype, requires_grad=True)
    q = PowerSpherical(pole(m, dtype), k)
    kl, entropy = kl_divergence(q, HypersphericalUniform(m, dtype=dtype)), q.entropy()
    (slope,) = torch.autograd.grad(kl.sum(), k)
    area = exact_area(m)
    for i, x in enumerate(k.tolist()):
        D, D1, D2 = exact_offset(m, mpmath.mpf(x))
        exact = D - x * D1
        assert_close(kl[i].item(), exact, exact, BOUND[dtype], x)
        assert_close(slope[i].item(), -x * D2, x * D2, BOUND[dtype], x)
        assert_close(entropy[i].item(), area - exact, max(abs(area), exact), BOUND[dtype], x)


@DTYPES
@pytest.mark.parametrize("m", [2, 3, 6, 101, 4096])
def test_divergence_from_von_mises_fisher(m, dtype):
    k_q = [0.0, 1e-4, 1.0, 50.0, 1e3, 1e4, 1e8]
    gaps = [0.0, 1e-3, math.pi / 2, math.pi]
    mu_q = torch.zeros(len(gaps), 1, 1, m, dtype=dtype)
    angle = torch.tensor(gaps, dtype=torch.float64)[:, None, None]
    mu_q[..., 0], mu_q[..., 1] = angle.cos(), angle.sin()
    k = torch.tensor([0.0, 1e-3, 2.0, 1e4, 1e8], dtype=dtype)
    p = PowerSpherical(pole(m, dtype), k)
    q = VonMisesFisher(mu_q, torch.tensor(k_q, dtype=dtype)[:, None])
    kl = kl_divergence(p, q)
    v = mpmath.mpf(m) / 2 - 1
    for j, x_q in enumerate(torch.tensor(k_q, dtype=dtype).tolist()):
        x_q = mpmath.mpf(x_q)
        with mpmath.workdps(30):
            bessel = mpmath.log(mpmath.besseli(v, x_q)) if x_q else 0
        F = mpmath.loggamma(v + 1) + bessel - v * mpmath.log(x_q / 2) if x_q else mpmath.mpf(0)
        for i, (x, y) in enumerate(mu_q[:, 0, 0, :2].tolist()):
            t = mpmath.mpf(x) / mpmath.hypot(x, y)
            for n, kappa in enumerate(k.tolist()):
                kappa = mpmath.mpf(kappa)
                D, D1, _ = exact_offset(m, kappa)
                own, cross = D - kappa * D1, x_q * t * kappa / (m - 1 + kappa)
                where = gaps[i], x_q, kappa
                # F - x_q and x_q - cross are the terms that are left where F is near x_q.
                scale = max(own, min(max(F, abs(cross)), max(x_q - F, x_q - cross)))
                assert_close(kl[i, j, n].item(), own + F - cross, scale, 4 * BOUND[dtype], *where)


def test_known_values():
    """On the circle with k = 4; the uniform law at k = 0; an integral by hand on S^2 with k = 1."""
    circle = PowerSpherical(pole(2), torch.tensor(4.0, dtype=torch.float64))
    assert kl_divergence(circle, HypersphericalUniform(2)).item() == pytest.approx(0.827695, abs=1e-6)
    flat = PowerSpherical(pole(5), torch.zeros((), dtype=torch.float64))
    assert flat.log_prob(directions(9, 5)).numpy() == pytest.approx(-log_area(5), rel=1e-14)
    # (1 + t) / 4 pi on S^2, whose divergence is the mean of (1 + t) log(1 + t) over t in [-1, 1], log 2 - 1/2.
    linear = PowerSpherical(pole(3), torch.tensor(1.0, dtype=torch.float64))
    assert linear.log_prob(pole(3)).item() == pytest.approx(math.log(2 / (4 * math.pi)), rel=1e-14)
    assert linear.entropy().item() == pytest.approx(math.log(4 * math.pi) - math.log(2) + 0.5, rel=1e-14)


@pytest.mark.parametrize("m", [2, 3, 6, 41])
@pytest.mark.parametrize("k", [0.0, 0.7, 30.25, 400.0])
def test_mass_and_moments_by_quadrature(m, k):
    """Gauss-Jacobi in t; the weight holds the area element and what the rule does not integrate exactly."""
    a, order = (m - 3) / 2, math.floor(min(k, 100))
    t, weight = scipy.special.roots_jacobi(60, a, a + k - order)
    q = PowerSpherical(pole(m), torch.tensor(k, dtype=torch.float64))
    z = torch.zeros(60, m, dtype=torch.float64)
    z[:, 0], z[:, 1] = torch.from_numpy(t), torch.from_numpy(np.sqrt(1 - t * t))
    log_rest = q.log_prob(z).numpy() - (k - order) * np.log1p(t)
    mass = weight * np.exp(log_rest + log_area(m - 1))
    assert mass.sum() == pytest.approx(1, rel=1e-10)
    mean = (mass * t).sum()
    assert q.mean[0].item() == pytest.approx(mean, rel=1e-10, abs=1e-14)
    assert q.variance[0].item() == pytest.approx((mass * (t - mean) ** 2).sum(), rel=1e-9)
    assert q.variance[1:].numpy() == pytest.approx((mass * (1 - t * t)).sum() / (m - 1), rel=1e-9)


def test_variance_of_a_batch():
    """From the covariance, Var(t) mu mu^T + E[1 - t^2] (I - mu mu^T) / (m - 1)."""
    loc, k = directions(3, 1, 5), torch.tensor([0.5, 20.0], dtype=torch.float64)
    alpha, beta = k + 2, 2.0
    along = 4 * alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))
    across = along * (alpha + beta) / 4
    outer = loc[..., :, None] * loc[..., None, :]
    covariance = along[:, None, None] * outer + across[:, None, None] * (torch.eye(5) - outer)
    variance = PowerSpherical(loc, k).variance
    assert variance.shape == (3, 2, 5)
    torch.testing.assert_close(variance, covariance.diagonal(dim1=-2, dim2=-1))


@DTYPES
def test_variance_along_a_narrow_law(dtype):
    """At k = 1e8 the variance along mu is 1e-8 of that across; 1 - mu_i^2 as a difference would be all rounding."""
    k = torch.tensor(1e8, dtype=dtype)
    expected = [4 * 1e8 / ((1e8 + 2) ** 2 * (1e8 + 3)), 2e-8, 2e-8]
    np.testing.assert_allclose(PowerSpherical(pole(3, dtype), k).variance, expected, rtol=1e-6)
    tilted = normalize(torch.tensor([1.0, 1e-4, 0.0], dtype=torch.float64), dim=-1).to(dtype)
    np.testing.assert_allclose(PowerSpherical(tilted, k).variance[0], expected[0] + 2e-16, rtol=1e-6)


def test_narrow_law_is_von_mises_fisher_of_half_the_concentration():
    for m in (2, 3, 50):
        p = PowerSpherical(pole(m), torch.tensor(1e7, dtype=torch.float64))
        assert 0 <= kl_divergence(p, VonMisesFisher(pole(m), torch.tensor(5e6, dtype=torch.float64))) < m**2 * 1e-7


# Extremes.


@DTYPES
@pytest.mark.parametrize("m", [2, 3, 100])
def test_density_is_zero_at_the_antipode_alone(m, dtype):
    loc = directions(40, m, dtype=dtype).requires_grad_()
    for concentration, expected in ((1e-3, -math.inf), (1e8, -math.inf), (0.0, -log_area(m))):
        k = torch.full((40,), concentration, dtype=dtype, requires_grad=True)
        z = (-loc.detach()).requires_grad_()
        log_q = PowerSpherical(loc, k).log_prob(z)
        np.testing.assert_allclose(log_q.detach(), expected, rtol=1e-6)
        for grad in torch.autograd.grad(log_q.sum(), [loc, k, z]):
            assert grad.isfinite().all()
    # Next to it the logarithm is exact: cos^2(theta / 2) = 1e-20 / 4 at 1e-10 radians from the antipode of e_1.
    z = -pole(m, dtype)
    z[1] = 1e-10
    k = torch.tensor(3.0, dtype=dtype)
    z.requires_grad_()
    log_q = PowerSpherical(pole(m, dtype), k).log_prob(z)
    D = float(exact_offset(m, 3)[0])
    assert log_q.item() == pytest.approx(3 * math.log(0.25e-20) + D - log_area(m), rel=1e-6)
    assert torch.autograd.grad(log_q, z)[0][1].item() == pytest.approx(6e10, rel=1e-5)


@DTYPES
@pytest.mark.parametrize("m", [2, 3, 4096])
@pytest.mark.parametrize("k", [0.0, 1e-6, 1.0, 1e8])
def test_samples_lie_on_the_sphere_with_finite_gradients(m, k, dtype):
    torch.manual_seed(0)
    e1, e2 = pole(m, dtype), pole(m, dtype).roll(1)
    loc = torch.stack([e1, -e1, e2, -e2, directions(m, dtype=dtype)])
    loc = loc.requires_grad_()
    concentration = torch.full((5,), k, dtype=dtype, requires_grad=True)
    q = PowerSpherical(loc, concentration)
    z = q.rsample((40,))
    assert z.shape == (40, 5, m)
    assert z.dtype == dtype
    assert sphere.check(z).all()
    assert (z.norm(dim=-1) - 1).abs().max() < 20 * torch.finfo(dtype).eps
    weight = torch.randn_like(z)
    for loss in ((weight * z).sum(), q.log_prob(z).sum()):
        for grad in torch.autograd.grad(loss, [loc, concentration], retain_graph=True):
            assert grad.isfinite().all()


def test_a_draw_of_zeros_has_a_direction(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **kw: torch.zeros(shape, **kw))
    for m in (2, 3):
        k = torch.tensor(3.0, requires_grad=True)
        z = PowerSpherical(pole(m, torch.float32), k).rsample((10,))
        assert sphere.check(z).all()
        assert torch.autograd.grad(z.sum(), k)[0].isfinite()


# The sampler.


@DTYPES
@pytest.mark.parametrize(
    ("m", "k"), [(2, 0.0), (2, 0.3), (2, 1e8), (3, 5.0), (3, 1e8), (12, 40.0), (300, 1e8), (4096, 1.0)]
)
def test_angles_follow_the_beta_law_down_to_the_smallest(m, k, dtype):
    torch.manual_seed(1)
    n = 1000 if m > 1000 else 20000
    z = PowerSpherical(pole(m, dtype), torch.tensor(k, dtype=dtype)).sample((n,)).double()
    gap, sum_ = (z - pole(m)).square().sum(-1), (z + pole(m)).square().sum(-1)
    law = scipy.stats.beta((m - 1) / 2, (m - 1) / 2 + k)  # of sin^2(theta / 2)
    w = (gap / (gap + sum_)).numpy()
    assert scipy.stats.kstest(w, law.cdf).pvalue > 1e-4
    # The j-th smallest quantile, times n, is nearly a gamma variate of shape j: a floor under the angles moves it.
    smallest = np.sort(law.cdf(w)) * n
    for j in (1, 20):
        assert 1e-5 < scipy.stats.gamma(j).cdf(smallest[j - 1]) < 1 - 1e-5


def test_samples_are_symmetric_about_loc():
    torch.manual_seed(2)
    loc = directions(4)
    z = PowerSpherical(loc, torch.tensor(3.0, dtype=torch.float64)).sample((40000,))
    across = z - (z @ loc)[:, None] * loc
    second = normalize(across, dim=-1).T @ normalize(across, dim=-1) / len(z)
    expected = (torch.eye(4, dtype=torch.float64) - torch.outer(loc, loc)) / 3
    assert (second - expected).abs().max() < 5 * math.sqrt(0.1 / len(z))
    assert normalize(across, dim=-1).mean(0).abs().max() < 5 * math.sqrt(0.4 / len(z))


def nodes(m: int, k: float, n: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    """b, w and probabilities: the trapezoidal rule in lambda = log(w / b), exponentially accurate for this law."""
    alpha, beta = (m - 1) / 2 + k, (m - 1) / 2
    mode = math.log(beta / alpha)

    def log_p(x):
        return beta * x - (alpha + beta) * np.logaddexp(0, x)

    wide = np.linspace(mode - 100, mode + 100, 400001)
    kept = wide[log_p(wide) > log_p(mode) - 42]
    x = np.linspace(kept[0], kept[-1], n)
    p = np.exp(log_p(x) - log_p(mode))
    t = torch.from_numpy(x)
    return torch.sigmoid(-t), torch.sigmoid(t), torch.from_numpy(p / p.sum())


@pytest.mark.parametrize("m", [2, 3, 4, 6, 11, 41, 101, 4096])
@pytest.mark.parametrize("k", [0.0, 0.01, 1.0, 100.0, 1e4, 1e8])
def test_implicit_gradient_integrates_to_that_of_the_moments(m, k):
    """The integral of df/dk over the law is d E[f] / dk, for f = 1 - t, (1 - t)^2 and sqrt(1 - t^2)."""
    b, w, p = nodes(m, k)
    beta = (m - 1) / 2
    alpha = torch.full_like(b, beta + k, requires_grad=True)
    cos, sin = _Angle.apply(alpha, torch.full_like(b, beta), b, w)

    def slope(integral: Tensor) -> float:
        return torch.autograd.grad(integral, alpha, retain_graph=True)[0].sum().item()

    s = mpmath.mpf(m - 1 + k)
    exact = -2 * beta / s**2
    assert slope(-(p * cos).sum()) == pytest.approx(float(exact), rel=1e-7)
    exact = -4 * beta * (beta + 1) * (2 * s + 1) / (s * (s + 1)) ** 2
    assert slope(-(p * 4 * w * cos).sum()) == pytest.approx(float(exact), rel=1e-7)
    a, half = mpmath.mpf(beta + k), mpmath.mpf(0.5)
    mean = 2 * mpmath.beta(a + half, beta + half) / mpmath.beta(a, beta)
    exact = mean * (mpmath.psi(0, a + half) - mpmath.psi(0, a) + mpmath.psi(0, s) - mpmath.psi(0, s + 1))
    # E sin(theta) is largest at k = 0 on S^1 and has a zero slope in no case, but a small one at large m.
    assert slope((p * sin).sum()) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4, 41, 4096])
@pytest.mark.parametrize("k", [0.0, 1.0, 1e4, 1e8])
def test_implicit_gradient_of_each_sample_in_float32(m, k):
    """Against the derivative of the incomplete beta function in float64; no sample is NaN or far off."""
    b, w, _ = nodes(m, k, 200)
    beta = (m - 1) / 2
    slopes = []
    for dtype in (torch.float32, torch.float64):
        b_, w_ = b.to(dtype), w.to(dtype)
        alpha = torch.full_like(b_, beta + k, requires_grad=True)
        cos, sin = _Angle.apply(alpha, torch.full_like(b_, beta), b_, w_)
        (by_cos,) = torch.autograd.grad(cos.sum(), alpha, retain_graph=True)
        (by_sin,) = torch.autograd.grad(sin.sum(), alpha)
        slopes.append(torch.hypot(by_cos, by_sin).double())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=2e-5, atol=1e-25)


@pytest.mark.parametrize(
    ("m", "k", "w"), [(2, 0.01, 0.9), (3, 10.0, 0.05), (6, 0.0, 0.3), (41, 100.0, 0.2), (2, 1e4, 1e-4)]
)
def test_implicit_gradient_against_the_incomplete_beta_function(m, k, w):
    """dw/dk = -(dF/dk) / f, the numerator by mpmath's differences of the regularised incomplete beta function."""
    beta = mpmath.mpf(m - 1) / 2
    w = mpmath.mpf(w)
    slope = mpmath.diff(lambda x: mpmath.betainc(beta, beta + x, 0, w, regularized=True), mpmath.mpf(k), direction=1)
    exact = -slope / (w ** (beta - 1) * (1 - w) ** (beta + k - 1) / mpmath.beta(beta, beta + k))
    alpha = torch.tensor(float(beta + k), dtype=torch.float64, requires_grad=True)
    w_, b_ = (torch.tensor(float(x), dtype=torch.float64) for x in (w, 1 - w))
    cos, _ = _Angle.apply(alpha, torch.full_like(alpha, float(beta)), b_, w_)
    assert torch.autograd.grad(cos, alpha)[0].item() == pytest.approx(float(-2 * exact), rel=1e-8)


@pytest.mark.parametrize("m", [2, 3, 4, 6, 11, 41, 101])
@pytest.mark.parametrize("k", [0.01, 1.0, 100.0, 1e4])
def test_pathwise_gradients_of_first_and_second_moments(m, k):
    """E[1 - mu.z] and E[(a.z)^2], from the sampler to the parameters: each sample's gradient, with its error."""
    torch.manual_seed(3)
    n = 4000
    loc, a = directions(2, m)
    c = (a @ loc).item()
    concentration = torch.full((n,), k, dtype=torch.float64, requires_grad=True)
    leaf = loc.expand(n, m).clone().requires_grad_()
    z = PowerSpherical(normalize(leaf, dim=-1), concentration).rsample()
    # With s = m - 1 + k: E[t] = k / s, E[1 - t^2] = 4 alpha beta / (s (s + 1)) =: S, E[t^2] = 1 - S.
    s, beta = m - 1 + k, (m - 1) / 2
    S = 4 * (beta + k) * beta / (s * (s + 1))
    S_slope = 4 * beta / (s * (s + 1)) - S * (2 * s + 1) / (s * (s + 1))
    second_slope = -S_slope * c**2 + S_slope * (1 - c**2) / (m - 1)
    by_loc = 2 * c * (1 - S - S / (m - 1)) * (a - c * loc)

    def assert_mean(values: Tensor, exact: float):
        error = values.std().item() / math.sqrt(n)
        assert abs(values.mean().item() - exact) < 5 * error + 1e-9 * abs(exact)

    (grad,) = torch.autograd.grad((z - loc).square().sum() / 2, concentration, retain_graph=True)
    assert_mean(grad, -(m - 1) / s**2)
    grad, grad_loc = torch.autograd.grad((z @ a).square().sum(), [concentration, leaf])
    assert_mean(grad, second_slope)
    assert_mean(grad_loc @ a, (by_loc @ a).item())


# The interface.


def test_shapes_and_expand():
    loc, k = directions(3, 1, 4), torch.rand(2, dtype=torch.float64)
    q = PowerSpherical(loc, k)
    assert (q.batch_shape, q.event_shape) == ((3, 2), (4,))
    assert q.rsample((5,)).shape == (5, 3, 2, 4)
    assert q.log_prob(directions(4)).shape == q.entropy().shape == (3, 2)
    assert q.mean.shape == q.variance.shape == (3, 2, 4)
    wide = q.expand((6, 3, 2))
    assert (type(wide), wide.batch_shape, wide.sample().shape) == (PowerSpherical, (6, 3, 2), (6, 3, 2, 4))
    z = directions(6, 3, 2, 4)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z))
    assert q.to_event(2).log_prob(z).shape == (6,)
    assert kl_divergence(q, HypersphericalUniform(4, (6, 1, 1))).shape == (6, 3, 2)
    assert PowerSpherical(loc, 2.0).batch_shape == (3, 1)


def test_log_prob_is_twice_differentiable():
    loc, z = directions(2, 3)
    k = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)

    def log_q(z, loc, k):
        # Off the sphere the finite differences would see how far |z| is from 1.
        return PowerSpherical(normalize(loc, dim=-1), k, validate_args=False).log_prob(normalize(z, dim=-1))

    for point in (z, loc.clone()):
        arguments = (point.requires_grad_(), loc.requires_grad_(), k)
        assert torch.autograd.gradcheck(log_q, arguments)
        assert torch.autograd.gradgradcheck(log_q, arguments)


def test_errors():
    with pytest.raises(ValueError, match="m >= 2"):
        PowerSpherical(torch.ones(3, 1), torch.ones(3))
    with pytest.raises(ValueError, match="one dtype"):
        PowerSpherical(pole(3), torch.ones(()))
    with pytest.raises(ValueError, match="concentration"):
        PowerSpherical(pole(3), -1.0, validate_args=True)
    with pytest.raises(ValueError, match="loc"):
        PowerSpherical(2 * pole(3), 1.0, validate_args=True)
    q = PowerSpherical(pole(3), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(2 * pole(3))
    for other in (HypersphericalUniform(4), VonMisesFisher(pole(4), 1.0)):
        with pytest.raises(ValueError, match="one sphere"):
            kl_divergence(q, other)


def test_divergences_without_a_closed_form_are_not_registered():
    p = PowerSpherical(pole(3), 1.0)
    for q in (p, VonMisesFisher(pole(3), 1.0)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
