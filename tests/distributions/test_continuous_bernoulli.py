import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.distributions.continuous_bernoulli import ContinuousBernoulli

# both sides of zero, of the switch between the two forms (|h| = 1/2), and far beyond where a probability rounds to 1
LOGITS = [0.0, 1e-6, -1e-3, 0.01, 0.3, -0.499, 0.501, 1.0, -3.0, 10.0, 17.0, -30.0, 90.0, -1e4]


def exact(h: float, x: float):
    h, x = mp.mpf(h), mp.mpf(x)
    return h * x - (mp.log(mp.expm1(h) / h) if h else 0)


def exact_mean(h: float):
    with mp.workdps(60):
        h = mp.mpf(h)
        return (1 / (1 - mp.exp(-h)) - 1 / h) if h else mp.mpf("0.5")


def exact_variance(h: float):
    with mp.workdps(60):
        h = mp.mpf(h)
        return 1 / h**2 - 1 / (4 * mp.sinh(h / 2) ** 2) if h else mp.mpf(1) / 12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-7)])
@pytest.mark.parametrize("h", LOGITS)
def test_density_mean_variance_and_entropy(h, dtype, tolerance):
    law = ContinuousBernoulli(torch.tensor(h, dtype=dtype), validate_args=True)
    h = float(law.logits)
    for x in (0.0, 0.25, 0.7, 1.0):
        x = float(torch.tensor(x, dtype=dtype))
        want = float(exact(h, x))
        # h x and h / 2 are rounded before they cancel
        assert float(law.log_prob(torch.tensor(x, dtype=dtype))) == pytest.approx(want, abs=tolerance * max(1, abs(h)))
    mean, variance = float(exact_mean(h)), float(exact_variance(h))
    assert float(law.mean) == pytest.approx(mean, abs=tolerance)
    assert float(law.variance) == pytest.approx(variance, rel=2e-11 if dtype == torch.float64 else 2e-5)
    assert float(law.entropy()) == pytest.approx(-float(exact(h, mean)), abs=tolerance * max(1, abs(h)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_gradient_is_x_minus_the_mean(dtype, tolerance):
    h = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    ContinuousBernoulli(h).log_prob(torch.tensor(0.25, dtype=dtype)).sum().backward()
    want = [0.25 - float(exact_mean(float(value))) for value in h.detach()]
    assert np.allclose(h.grad, want, atol=tolerance, rtol=0)


GRID = [sign * 10.0**k for k in (-30, -8, -4, -1, 0, 1, 2, 3, 4, 6, 8, 12, 30) for sign in (1, -1)]


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float64, 2.3e-16), (torch.float32, 1.2e-7)])
@pytest.mark.parametrize("h", GRID)
def test_logits_of_any_size_keep_their_digits(h, dtype, eps):
    """Also at the end that the law prefers, where log p is log |h| and all else is small."""
    logits = torch.tensor(h, dtype=dtype, requires_grad=True)
    law = ContinuousBernoulli(logits, validate_args=True)
    exact_h = mp.mpf(logits.item())
    with mp.workdps(80):
        # For large |h| expm1 leaves nothing but its larger term.
        log_c = mp.log(mp.expm1(-abs(exact_h)) / -abs(exact_h))
        mean = 1 / -mp.expm1(-exact_h) - 1 / exact_h if abs(exact_h) < 1e3 else (exact_h > 0) - 1 / exact_h
        for x in (0.0, 1e-10, 0.25, 0.7, 1.0):
            x = torch.tensor(x, dtype=dtype)
            log_p = law.log_prob(x)
            (slope,) = torch.autograd.grad(log_p, logits)
            largest = exact_h * (x.item() - (h > 0))
            assert log_p.item() == pytest.approx(
                float(largest - log_c), abs=4 * eps * float(1 + abs(largest) + abs(log_c))
            )
            exact_slope = x.item() - mean
            assert slope.item() == pytest.approx(
                float(exact_slope), abs=4 * eps * float(abs(x.item() - (h > 0)) + 1 / (1 + abs(exact_h)))
            )
        nearest = mean if h < 0 else 1 - mean
        if h < 0:
            assert law.mean.item() == pytest.approx(float(mean), rel=8 * eps)
        assert law.mean.item() == pytest.approx(float(mean), abs=eps)
        entropy = log_c + abs(exact_h) * nearest
        assert law.entropy().item() == pytest.approx(float(entropy), abs=8 * eps * float(1 + abs(log_c)))
    for value in (law.mean, law.variance, law.entropy()):
        assert torch.autograd.grad(value, logits)[0].isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_draws_near_0_are_exponential(dtype):
    """They are as small as 1 / |h|, and not rounded to the spacing of the numbers near 1."""
    torch.manual_seed(0)
    x = ContinuousBernoulli(torch.tensor(-1e10, dtype=dtype)).sample((4000,))
    assert kstest(x.double().numpy() * 1e10, "expon").pvalue > 0.001


def test_mass_is_one():
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = torch.tensor((nodes + 1) / 2).unsqueeze(-1)
    law = ContinuousBernoulli(torch.tensor([0.0, 1e-3, 0.4, -2.0, 20.0, -100.0], dtype=torch.float64))
    mass = (law.log_prob(x).exp() * torch.tensor(weights / 2).unsqueeze(-1)).sum(0)
    assert torch.allclose(mass, torch.ones(6, dtype=torch.float64), atol=1e-12)


def test_samples_follow_the_distribution_function():
    torch.manual_seed(0)
    n = 20_000
    for h in (0.0, 1e-4, 0.5, -3.0, 25.0):
        x = np.sort(ContinuousBernoulli(torch.tensor(h, dtype=torch.float64)).sample((n,)).numpy())
        cdf = np.expm1(h * x) / np.expm1(h) if h else x
        # Kolmogorov-Smirnov: 1.95 / sqrt n is the 0.1 % point
        assert np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)


def test_pathwise_gradients_of_the_first_two_moments():
    n = 100_000
    for h in (0.0, 5e-4, 0.7, -4.0):
        torch.manual_seed(0)
        logits = torch.full((n,), h, dtype=torch.float64, requires_grad=True)
        x = ContinuousBernoulli(logits).rsample()
        (grad,) = torch.autograd.grad(x.sum(), logits, retain_graph=True)
        assert abs(grad.mean() - float(exact_variance(h))) < 5 * grad.std() / np.sqrt(n)
        (grad,) = torch.autograd.grad(x.square().sum(), logits)
        with mp.workdps(40):  # d/dh E x^2 = E x^2 (x - E x), by quadrature
            want = float(mp.quad(lambda x, h=h: x**2 * (x - exact_mean(h)) * mp.exp(exact(h, x)), [0, 1]))
        assert abs(grad.mean() - want) < 5 * grad.std() / np.sqrt(n)


def test_samples_and_gradients_are_finite_for_logits_of_any_size():
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([0.0, 1e-30, -1e-8, 20.0, -200.0, 1e6], dtype=dtype, requires_grad=True)
        x = ContinuousBernoulli(logits).rsample((1000,))
        assert ((x >= 0) & (x <= 1)).all()
        x.sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_expand_validation_and_tracing():
    law = ContinuousBernoulli(torch.zeros(3), validate_args=True)
    wide = law.expand((2, 3))
    assert wide.batch_shape == (2, 3) and wide.log_prob(torch.full((2, 3), 0.5)).shape == (2, 3)
    assert wide.sample((4,)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"support|Interval"):
        law.log_prob(torch.tensor(1.5))
    make_fx(
        lambda h, x: (
            ContinuousBernoulli(h, validate_args=False).log_prob(x),
            ContinuousBernoulli(h, validate_args=False).rsample(),
        )
    )(torch.zeros(3), torch.zeros(3))
