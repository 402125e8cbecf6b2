import mpmath as mp
import numpy as np
import pytest
import scipy.stats
import torch

from ppvae.distributions.negative_binomial import NegativeBinomial


def exact(r: float, h: float, x: float) -> float:
    r, h, x = mp.mpf(r), mp.mpf(h), mp.mpf(x)
    coefficient = mp.loggamma(r + x) - mp.loggamma(r) - mp.loggamma(x + 1)
    return float(coefficient - r * mp.log1p(mp.exp(h)) - x * mp.log1p(mp.exp(-h)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 3e-6)])
@pytest.mark.parametrize("r", [1e-3, 0.5, 3.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("mean", [0.1, 1.0, 100.0])
def test_density_at_any_dispersion(r, mean, dtype, tolerance):
    total_count = torch.tensor(r, dtype=dtype)
    logits = torch.tensor(mean, dtype=dtype).log() - total_count.log()
    law = NegativeBinomial(total_count, logits=logits, validate_args=True)
    for x in (0.0, 1.0, 3.0, 100.0):
        want = exact(float(total_count), float(logits), x)
        # the rounding of logits itself moves the density by its size
        assert float(law.log_prob(torch.tensor(x, dtype=dtype))) == pytest.approx(
            want, rel=tolerance, abs=tolerance * 10
        )


def test_against_scipy_and_mass_one():
    r, h = torch.tensor([0.7, 5.0], dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    x = torch.arange(400, dtype=torch.float64).unsqueeze(-1)
    log_p = NegativeBinomial(r, logits=h).log_prob(x)
    want = scipy.stats.nbinom.logpmf(x.numpy(), r.numpy(), torch.sigmoid(-h).numpy())
    assert np.allclose(log_p, want, rtol=1e-12, atol=1e-12)
    assert torch.allclose(log_p.exp().sum(0), torch.ones(2, dtype=torch.float64), atol=1e-12)
    mean, variance = (log_p.exp() * x).sum(0), (log_p.exp() * x**2).sum(0)
    law = NegativeBinomial(r, logits=h)
    assert torch.allclose(law.mean, mean) and torch.allclose(law.variance, variance - mean**2)


def test_shapes_dtype_and_gradient():
    law = NegativeBinomial(torch.ones(3), logits=torch.zeros(3), validate_args=True).expand((2, 3))
    assert type(law) is NegativeBinomial
    assert law.log_prob(torch.zeros(2, 3)).dtype == torch.float32
    with pytest.raises(ValueError):
        law.log_prob(torch.tensor(0.5))
    r = torch.tensor([0.5, 20.0], dtype=torch.float64, requires_grad=True)
    h = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([2.0, 7.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r, h: NegativeBinomial(r, logits=h, validate_args=False).log_prob(x), (r, h))
