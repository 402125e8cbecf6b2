import math

import mpmath
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppvae.distributions.unimodal_beta import UnimodalBeta
from ppvae.testing import check_distribution

CONCENTRATIONS = [0.0, 1e-8, 1e-3, 0.5, 7.9, 8.1, 100.0, 1e4, 1e7]
PAIRS = [(p, q) for p in CONCENTRATIONS for q in CONCENTRATIONS]


def uniform(*shape, dtype=torch.float64):
    return dist.Uniform(torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype))


def test_battery():
    report = check_distribution(
        UnimodalBeta,
        {"p": torch.tensor([0.3, 2.0, 20.0]), "q": torch.tensor([1.0, 7.0, 20.0])},
        proposal=uniform(),
        kl_to=[uniform()],
        num_samples=2**13,
        grid=[{"p": torch.tensor([0.0, 1e-6, 1.0, 1e3, 1e6]), "q": torch.tensor([0.0, 1.0, 1e-6, 1e5, 1e6])}],
    )
    assert {name for name, figure in report.items() if isinstance(figure, str)} == {"isometry"}


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_density_and_entropy_against_mpmath(dtype, limit):
    p, q = torch.tensor(PAIRS, dtype=dtype).unbind(-1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = UnimodalBeta(p, q).sample((4,))
    log_q, entropy = UnimodalBeta(p, q).log_prob(z), UnimodalBeta(p, q).entropy()
    with mpmath.workdps(40):
        for i, (a, b) in enumerate(zip(p.tolist(), q.tolist(), strict=True)):
            log_beta = mpmath.log(mpmath.beta(1 + mpmath.mpf(a), 1 + mpmath.mpf(b)))
            exact = log_beta - a * mpmath.digamma(1 + a) - b * mpmath.digamma(1 + b)
            exact += (mpmath.mpf(a) + b) * mpmath.digamma(2 + mpmath.mpf(a) + b)
            assert abs(float(entropy[i] - float(exact))) < limit
            for k in range(4):
                x = mpmath.mpf(float(z[k, i]))
                exact = a * mpmath.log(x) + b * mpmath.log(1 - x) - log_beta
                assert abs(float(log_q[k, i]) - exact) < limit * max(1, abs(exact))


def test_the_usual_formula_loses_what_this_one_keeps():
    p = torch.tensor([1e6, 1e7])
    law, z = UnimodalBeta(p, p), torch.tensor([0.5, 0.5])
    exact = UnimodalBeta(p.double(), p.double()).log_prob(z.double()).float()
    torch.testing.assert_close(law.log_prob(z), exact, rtol=0, atol=1e-5)
    usual = torch.distributions.Beta(1 + p, 1 + p).log_prob(z)
    assert (usual - exact).abs().max() > 0.1


def test_kl_to_uniform_by_quadrature():
    p, q = torch.tensor([0.5, 3.0], dtype=torch.float64), torch.tensor([2.0, 30.0], dtype=torch.float64)
    law = UnimodalBeta(p, q)
    kl = kl_divergence(law.to_event(1), uniform(2).to_event(1))
    exact = sum(
        mpmath.quad(
            lambda x, a=a, b=b: (lambda f: f * mpmath.log(f) if f else 0)(
                x**a * (1 - x) ** b / mpmath.beta(1 + a, 1 + b)
            ),
            [0, 0.05, 0.2, 0.5, 1],
        )
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
    )
    assert float(kl) == pytest.approx(float(exact), abs=1e-8)
    # A prior that covers [0, 1] spreads its mass; one that does not is infinitely far.
    wide = dist.Uniform(torch.tensor(-1.0).double(), torch.tensor(3.0).double())
    torch.testing.assert_close(kl_divergence(law, wide), -law.entropy() + math.log(4))
    assert kl_divergence(law, dist.Uniform(torch.tensor(0.1).double(), torch.tensor(1.0).double())).isinf().all()


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.5, 3.0), (40.0, 2.0), (900.0, 400.0)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_implicit_gradients_against_quantiles(p, q, dtype, limit):
    """dz/da at a fixed quantile, by differences of the incomplete beta function's inverse."""
    law = [torch.tensor([v], dtype=dtype, requires_grad=True) for v in (p, q)]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = UnimodalBeta(*law).rsample()
    grads = torch.autograd.grad(z.sum(), law)
    with mpmath.workdps(30):
        a, b, x = mpmath.mpf(p) + 1, mpmath.mpf(q) + 1, mpmath.mpf(z.item())

        def cdf(a, b):
            return mpmath.betainc(a, b, 0, x, regularized=True)

        density = x ** (a - 1) * (1 - x) ** (b - 1) / mpmath.beta(a, b)
        h = mpmath.mpf(10) ** -8
        exact = [
            -(cdf(a + h, b) - cdf(a - h, b)) / (2 * h) / density,
            -(cdf(a, b + h) - cdf(a, b - h)) / (2 * h) / density,
        ]
    for grad, value in zip(grads, exact, strict=True):
        assert float(grad) == pytest.approx(float(value), rel=limit)


def test_bad_arguments():
    with pytest.raises(ValueError):
        UnimodalBeta(torch.tensor(-0.1), torch.tensor(1.0), validate_args=True)
    with pytest.raises(ValueError):
        UnimodalBeta(torch.tensor(1.0), torch.tensor(1.0), validate_args=True).log_prob(torch.tensor(1.1))
