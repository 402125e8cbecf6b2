"""The von Mises-Fisher law: what the common battery of tests/distributions/test_laws.py does not ask."""

import copy
import functools
import math
import pickle

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import normalize

from ppvae.distributions import HypersphericalUniform, VonMisesFisher
from ppvae.distributions.von_mises_fisher import _CosineSine
from ppvae.manifolds.sphere import log_area, sphere

DTYPES = [torch.float64, torch.float32]


def axis(m: int, i: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.eye(m, dtype=dtype)[i]


def points(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normalize(torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(7)), dim=-1)


@functools.cache
def oracle(k: float, m: int) -> dict[str, mpmath.mpf]:
    """log C + k, A, A' and log area in 60 digits, from the definitions."""
    with mpmath.workdps(60):
        half, area = mpmath.mpf(m) / 2, mpmath.log(2) + mpmath.mpf(m) / 2 * mpmath.log(mpmath.pi)
        area -= mpmath.loggamma(half)
        if k == 0:
            return {"log_peak": -area, "A": mpmath.mpf(0), "A'": 1 / mpmath.mpf(m), "log_area": area}
        k = mpmath.mpf(k)
        if k > 1e6 or (k > 1e4 and k > 50 * m * m):
            i0, i1 = mpmath.besseli(half - 1, k), mpmath.besseli(half, k)
        else:
            scale = (k / 2) ** (half - 1) / mpmath.gamma(half)
            i0 = scale * mpmath.hyp0f1(half, k * k / 4)
            i1 = scale * k / 2 / half * mpmath.hyp0f1(half + 1, k * k / 4)
        log_c = (half - 1) * mpmath.log(k) - half * mpmath.log(2 * mpmath.pi) - mpmath.log(i0)
        A = i1 / i0
        return {"log_peak": log_c + k, "A": A, "A'": 1 - A * A - (m - 1) * A / k, "log_area": area}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
def test_values_agree_with_mpmath(dtype, bound):
    for m in (2, 3, 4, 16, 101, 1024, 4096):
        k = torch.tensor([0, 1e-8, 1e-2, 1, 30, 1e3, 1e5, 1e8], dtype=dtype)
        law, flat = VonMisesFisher(axis(m, dtype=dtype), k), HypersphericalUniform(m, dtype=dtype)
        entropy, kl, mean = law.entropy(), kl_divergence(law, flat), law.mean[:, 0]
        for cosine in (1.0, 0.5, 0.0, -1.0):
            z = cosine * axis(m, 0, dtype) + math.sqrt(1 - cosine**2) * axis(m, 1, dtype)
            log_q = law.log_prob(z)
            for i, x in enumerate(k.tolist()):
                e = oracle(x, m)
                expected = [e["log_peak"], -mpmath.mpf(x) * (1 - mpmath.mpf(cosine))]
                scale = max(1, *(abs(y) for y in [*expected, e["log_area"]]))
                assert abs(log_q[i].item() - sum(expected)) < bound * scale, (m, x, cosine)
        for i, x in enumerate(k.tolist()):
            e = oracle(x, m)
            with mpmath.workdps(60):
                # k A + log C, and the divergence with its constant
                h = -(x * (e["A"] - 1) + e["log_peak"])
                expected = e["log_area"] - h
            assert abs(kl[i].item() - expected) <= bound * abs(expected), (m, x)
            assert abs(entropy[i].item() - h) < bound * max(abs(h), abs(e["log_area"])), (m, x)
            assert abs(mean[i].item() - e["A"]) <= bound * e["A"], (m, x)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
def test_gradients_agree_with_mpmath(dtype, bound):
    for m in (2, 3, 16, 101, 4096):
        k = torch.tensor([0, 1e-2, 1, 30, 1e4, 1e8], dtype=dtype, requires_grad=True)
        law = VonMisesFisher(axis(m, dtype=dtype), k)
        (by_kl,) = torch.autograd.grad(kl_divergence(law, HypersphericalUniform(m)).sum(), k)
        z = 0.6 * axis(m, 0, dtype) + 0.8 * axis(m, 1, dtype)
        (by_log_q,) = torch.autograd.grad(law.log_prob(z).sum(), k)
        for i, x in enumerate(k.tolist()):
            e = oracle(x, m)
            assert abs(by_kl[i].item() - x * e["A'"]) <= bound * x * e["A'"], (m, x)
            assert abs(by_log_q[i].item() - (0.6 - e["A"])) < bound, (m, x)


def test_gradient_along_the_sphere_in_loc_and_value():
    k, v = torch.tensor(50.0, dtype=torch.float64), torch.tensor([0.0, 0.7, -1.1], dtype=torch.float64)

    def log_q(step_loc, step_value):
        law = VonMisesFisher(normalize(axis(3) + step_loc, dim=-1), k)
        return law.log_prob(normalize(points(3) + step_value, dim=-1))

    assert torch.autograd.gradcheck(log_q, (v.clone().requires_grad_(), (0.3 * v).requires_grad_()))


def test_agrees_with_scipy():
    for m, k in ((2, 0.7), (3, 5.0), (5, 40.0), (16, 12.0)):
        mu, z = points(m), points(6, m)
        law, other = VonMisesFisher(mu, k), scipy.stats.vonmises_fisher(mu.numpy(), k)
        np.testing.assert_allclose(law.log_prob(z), other.logpdf(z.numpy()), rtol=1e-10)
        np.testing.assert_allclose(law.entropy(), other.entropy(), rtol=1e-10)
    angle = torch.linspace(-3, 3, 7, dtype=torch.float64)
    z = torch.stack([angle.cos(), angle.sin()], -1)
    circle = scipy.stats.vonmises(3.0).logpdf(angle.numpy())
    np.testing.assert_allclose(VonMisesFisher(axis(2), 3.0).log_prob(z), circle, rtol=1e-12)


def angle_quadrature(m: int, k: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles from the mean direction with the probabilities that Gauss-Legendre gives them."""
    mode = math.acos(2 * k / ((m - 2) + math.sqrt((m - 2) ** 2 + 4 * k * k))) if k > 0 else math.pi / 2
    width = 12 / math.sqrt(k + m - 1)
    low, high = max(0.0, mode - width), min(math.pi, mode + width)
    x, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(400))
    angle = low + (high - low) * (x + 1) / 2
    log_g = -2 * k * (angle / 2).sin().square() + (m - 2) * angle.sin().log()
    return angle, (log_g + weights.log()).softmax(0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("m", [2, 3, 4, 6, 11, 41, 101, 1024])
def test_pathwise_gradient_integrates_to_the_exact_one(m, dtype, bound):
    """E[dw/dk] = A' and E[d(w^2)/dk] = d/dk (1 - (m-1) A / k), over the law by quadrature, without a sample."""
    for x in (0.01, 1.0, 10.0, 100.0, 1e4):
        angle, probability = angle_quadrature(m, x)
        k = torch.full_like(angle, x).to(dtype).requires_grad_()
        below, above = 2 * (angle / 2).sin().square(), 2 * (angle / 2).cos().square()
        cos, sin, *_ = _CosineSine.apply(k, below.to(dtype), above.to(dtype), m)
        (rate,) = torch.autograd.grad(cos.sum(), k, retain_graph=True)
        e = oracle(x, m)
        first = (probability * rate.double()).sum().item()
        assert first == pytest.approx(float(e["A'"]), rel=bound), x
        second = (probability * 2 * cos.detach().double() * rate.double()).sum().item()
        with mpmath.workdps(60):
            exact = -(m - 1) * (e["A'"] - e["A"] / mpmath.mpf(x)) / mpmath.mpf(x)
        # Where the derivative of the second moment is small, it is the sum of terms as large as the first's.
        assert second == pytest.approx(float(exact), rel=bound, abs=bound * float(e["A'"])), x
        (rate,) = torch.autograd.grad(sin.sum(), k)
        by_score = (probability * angle.sin() * (angle.cos() - float(e["A"]))).sum().item()
        assert (probability * rate.double()).sum().item() == pytest.approx(by_score, rel=10 * bound, abs=bound), x


@pytest.mark.parametrize(("m", "x"), [(2, 1.0), (3, 2.0), (4, 1.0), (6, 10.0), (11, 10.0), (41, 10.5), (101, 100.0)])
def test_samples_carry_the_gradient_of_first_and_second_moments(m, x):
    """Without the correction for acceptance the first is 0.56 of the truth at m = 2, 0.62 at m = 11."""
    torch.manual_seed(0)
    mu = points(m)
    k = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    per_sample = k.expand(20000)
    z = VonMisesFisher(mu, per_sample).rsample()
    e = {name: float(value) for name, value in oracle(x, m).items()}
    across = -(e["A'"] - e["A"] / x) / x  # d/dk of E[(1 - w^2) / (m-1)] = A / k, with its sign turned
    exact = {"linear": e["A'"], "square": (m - 1) * across * mu[0] ** 2 - across * (1 - mu[0] ** 2)}
    for name, f in {"linear": z @ mu, "square": z[:, 0].square()}.items():
        (rate,) = torch.autograd.grad(f.sum(), per_sample, retain_graph=True)
        error = rate.std() / math.sqrt(len(rate))
        assert abs(rate.mean() - exact[name]) < 4.5 * error, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "x"), [(2, 0.0), (2, 4.0), (2, 1e8), (3, 0.0), (3, 1.0), (3, 1e8), (4, 2.0), (5, 1e4)])
def test_the_angle_has_its_law(m, x, dtype):
    torch.manual_seed(1)
    mu = axis(m, m - 1, dtype)  # across the pole: z - mu keeps its digits
    z = VonMisesFisher(mu, x).sample((5000,))
    angle = 2 * torch.atan2((z - mu).double().norm(dim=-1), (z + mu).double().norm(dim=-1)).numpy()
    grid, probability = angle_quadrature(m, x)
    cumulative = np.cumsum(probability.numpy()) - probability.numpy() / 2
    # A float32 point at concentration 1e8 is known to 1e-3 of its spread only: far below what the test can see.
    assert scipy.stats.kstest(angle, lambda t: np.interp(t, grid.numpy(), cumulative, 0, 1)).pvalue > 1e-3


@pytest.mark.parametrize(("m", "x"), [(21, 15), (41, 15), (41, 30), (101, 30), (101, 100), (201, 60), (4096, 1e4)])
def test_concentrations_of_the_order_of_the_dimension(m, x):
    """A sampler that takes the limit of b for large k at k > 10 is off by up to 0.19 here."""
    torch.manual_seed(2)
    n = 20000 if m < 1000 else 2000
    w = VonMisesFisher(axis(m), float(x)).sample((n,))[:, 0]
    e = oracle(float(x), m)
    spread = math.sqrt(float(e["A'"]))
    assert abs(w.mean().item() - float(e["A"])) < 4.5 * spread / math.sqrt(n)
    assert w.std().item() == pytest.approx(spread, rel=4.5 / math.sqrt(2 * n))


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_lie_on_the_sphere_for_every_loc(dtype):
    torch.manual_seed(3)
    for m in (2, 3, 8, 500):
        for tilt in (0.0, 1e-12, 1e-8, 1e-4, 1e-3, 1e-2, 0.1, math.pi / 2):
            for sign in (1.0, -1.0):
                loc = normalize(sign * math.cos(tilt) * axis(m) + math.sin(tilt) * axis(m, 1), dim=-1).to(dtype)
                k = torch.tensor([0, 1, 1e3, 1e8], dtype=dtype)
                z = VonMisesFisher(loc, k).sample((20,))
                assert sphere.check(z).all()
                # Tangent to loc, z - loc is of the order of sqrt(m / k).
                assert ((z[:, 3] - loc).norm(dim=-1) < 3 * math.sqrt((m + 8) / 1e8)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_are_finite(dtype):
    torch.manual_seed(4)
    x = [0, 1e-12, 1e-8, 1e-3, 1, 10, 1e3, 1e4, 1e6, 1e8]
    for m in (2, 3, 4, 16, 101, 4096):
        for mu in (axis(m), -axis(m), axis(m, 1), points(m)):
            loc, k = mu.to(dtype).requires_grad_(), torch.tensor(x, dtype=dtype, requires_grad=True)
            law = VonMisesFisher(normalize(loc, dim=-1), k)
            tangent = normalize(torch.roll(mu, 1) - (torch.roll(mu, 1) @ mu) * mu, dim=-1)
            z = torch.stack([mu, -mu, tangent]).to(dtype).unsqueeze(1).requires_grad_()
            sample = law.rsample((20,))
            outputs = [
                law.log_prob(normalize(z, dim=-1)),
                sample * torch.randn_like(sample),
                law.log_prob(sample),
                law.entropy(),
                law.mean,
                law.stddev,
                kl_divergence(law, VonMisesFisher(normalize(loc.flip(0), dim=-1), k.flip(0))),
            ]
            for y in outputs:
                assert y.isfinite().all() and y.dtype == dtype
            grads = torch.autograd.grad(sum(y.sum() for y in outputs), (loc, k, z))
            assert all(g.isfinite().all() for g in grads), (m, mu)


def test_variance_and_mean_by_quadrature():
    for m, x in ((2, 0.5), (3, 4.0), (16, 20.0), (101, 1e6)):
        mu = points(m)
        law = VonMisesFisher(mu, x)
        angle, probability = angle_quadrature(m, x)
        mean = (probability * angle.cos()).sum()
        along = (probability * (angle.cos() - mean).square()).sum()
        across = (probability * angle.sin().square()).sum() / (m - 1)
        torch.testing.assert_close(law.mean, mean * mu)
        torch.testing.assert_close(law.variance, along * mu**2 + across * (1 - mu**2), rtol=1e-6, atol=0)
        torch.testing.assert_close(law.stddev, law.variance.sqrt())
    # Along the mean direction it is (m-1) / 2k^2, far below the rounding error of the variance across.
    variance = VonMisesFisher(axis(3, dtype=torch.float32), 1e8).variance
    torch.testing.assert_close(variance, torch.tensor([1e-16, 1e-8, 1e-8]), rtol=1e-6, atol=0)


def test_divergence_between_two_laws():
    for m in (2, 3, 16, 300):
        p, q = VonMisesFisher(points(m), 40.0), VonMisesFisher(points(2, m)[1], 15.0)
        log_c = [float(oracle(x, m)["log_peak"]) - x for x in (40.0, 15.0)]
        exact = log_c[0] - log_c[1] + float(oracle(40.0, m)["A"]) * (40.0 - 15.0 * (p.loc @ q.loc).item())
        assert kl_divergence(p, q).item() == pytest.approx(exact, rel=1e-10)
    # Near one another the terms cancel to their last digit, where the quadratic form of Fisher information is exact.
    mu, step = axis(5), 1e-7
    near = VonMisesFisher(normalize(mu + step * axis(5, 1), dim=-1), 30 * (1 + step))
    e = oracle(30.0, 5)
    exact = 0.5 * (float(e["A'"]) * 30**2 + float(e["A"]) * 30) * step**2
    assert kl_divergence(VonMisesFisher(mu, 30.0), near).item() == pytest.approx(exact, rel=1e-5)


def test_shapes_follow_the_batch():
    law = VonMisesFisher(points(4, 3), torch.ones(5, 1, dtype=torch.float64), validate_args=True)
    assert law.batch_shape == (5, 4) and law.event_shape == (3,) and law.dim == 3
    wide = law.expand((2, 5, 4))
    assert type(wide) is VonMisesFisher and wide.batch_shape == (2, 5, 4) and wide._validate_args
    assert wide.rsample((6,)).shape == (6, 2, 5, 4, 3) and wide.log_prob(wide.sample()).shape == (2, 5, 4)
    assert wide.mean.shape == wide.stddev.shape == (2, 5, 4, 3) and wide.entropy().shape == (2, 5, 4)
    assert law.to_event(1).log_prob(law.sample()).shape == (5,)
    flat = HypersphericalUniform(3, (2, 1, 1), dtype=torch.float64)
    assert kl_divergence(law, flat).shape == kl_divergence(law, wide).shape == (2, 5, 4)
    for other in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        torch.testing.assert_close(other.log_prob(law.loc), law.log_prob(law.loc), rtol=0, atol=0)


def test_wrong_arguments_raise():
    mu = axis(3)
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(1.001 * mu, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="concentration"):
        VonMisesFisher(mu, -1.0, validate_args=True)
    with pytest.raises(ValueError, match="m >= 2"):
        VonMisesFisher(torch.ones(1), 1.0)
    with pytest.raises(ValueError, match="dtype"):
        VonMisesFisher(mu, torch.tensor(1.0))
    law = VonMisesFisher(mu, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(1.001 * mu)
    assert VonMisesFisher(mu, 1.0, validate_args=False).log_prob(1.001 * mu).isfinite()
    for other in (HypersphericalUniform(4), VonMisesFisher(axis(4), 1.0)):
        with pytest.raises(ValueError, match="one sphere"):
            kl_divergence(law, other)


def test_a_sample_is_nan_if_all_proposals_are_refused(monkeypatch):
    def rand(shape, **options):
        draws = torch.full(shape, 0.3, **options)
        draws[0] = 1 - 1e-12  # u, which accepts only what is at the mode
        return draws

    monkeypatch.setattr(torch, "rand", rand)
    law = VonMisesFisher(axis(4), torch.tensor([5.0, 0.0], dtype=torch.float64))
    z = law.sample()
    assert z[0].isnan().all() and z[1].isfinite().all()


def test_a_draw_of_zeros_is_a_point_of_the_circle_and_of_the_sphere(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.zeros(shape, **options))
    for m in (2, 3):
        assert sphere.check(VonMisesFisher(axis(m), 1.0).sample((5,))).all()


@pytest.mark.parametrize("m", [2, 3, 4, 16, 101])
def test_second_derivative_of_a_sample_integrates_to_the_exact_one(m):
    for x in (0.1, 3.0, 100.0):
        angle, probability = angle_quadrature(m, x)
        k = torch.full_like(angle, x).requires_grad_()
        cos, *_ = _CosineSine.apply(k, 2 * (angle / 2).sin().square(), 2 * (angle / 2).cos().square(), m)
        (rate,) = torch.autograd.grad(cos.sum(), k, create_graph=True)
        (second,) = torch.autograd.grad(rate.sum(), k)
        e = {name: float(value) for name, value in oracle(x, m).items()}
        exact = -2 * e["A"] * e["A'"] - (m - 1) * (e["A'"] - e["A"] / x) / x
        assert (probability * second).sum().item() == pytest.approx(exact, rel=1e-6), x


@pytest.mark.parametrize("m", [2, 3, 16])
def test_traces_with_its_gradients(m):
    def f(loc, k):
        law = VonMisesFisher(loc, k, validate_args=False)
        z = law.rsample()
        loss = (law.log_prob(z) + law.entropy() + z[..., 0]).sum()
        return loss.detach(), *torch.autograd.grad(loss, (loc, k))

    loc, k = points(5, m).requires_grad_(), torch.linspace(0.1, 9, 5, dtype=torch.float64).requires_grad_()
    traced = make_fx(f)(loc, k)
    # Other values, among them those at which a branch would turn.
    loc, k = (-loc).detach().requires_grad_(), torch.tensor([0, 1e-8, 20, 1e4, 1e8]).double().requires_grad_()
    torch.manual_seed(5)
    expected = f(loc, k)
    torch.manual_seed(5)
    torch.testing.assert_close(traced(loc, k), expected, rtol=0, atol=0)


def test_uniform_at_zero_concentration():
    for m in (2, 3, 50):
        law = VonMisesFisher(axis(m), 0.0)
        z = points(4, m)
        torch.testing.assert_close(law.log_prob(z), torch.full((4,), -log_area(m), dtype=torch.float64))
        assert kl_divergence(law, HypersphericalUniform(m)).item() == 0
        torch.testing.assert_close(law.variance, torch.full((m,), 1 / m, dtype=torch.float64))
