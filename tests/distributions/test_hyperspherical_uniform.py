"""The uniform law on the sphere: what the common battery of tests/distributions/test_laws.py does not ask."""

import math

import pytest
import torch
from scipy.stats import beta, kstest

from ppvae.distributions.hyperspherical_uniform import HypersphericalUniform
from ppvae.manifolds.sphere import sphere


@pytest.mark.parametrize("m", [2, 3, 16])
def test_a_coordinate_is_a_shifted_beta(m):
    torch.manual_seed(0)
    z = HypersphericalUniform(m, dtype=torch.float64).sample((20000,))
    for i in (0, m - 1):
        # (1 + z_i) / 2 ~ Beta((m - 1) / 2, (m - 1) / 2)
        assert kstest(((1 + z[:, i]) / 2).numpy(), beta((m - 1) / 2, (m - 1) / 2).cdf).pvalue > 1e-3


def test_density_of_circle_and_sphere():
    for m, area in ((2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)):
        law = HypersphericalUniform(m, dtype=torch.float64)
        assert law.log_prob(law.sample()).item() == pytest.approx(-math.log(area))
        assert law.entropy().item() == pytest.approx(math.log(area))


def test_a_draw_of_zeros_is_a_point(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.zeros(shape, **options))
    z = HypersphericalUniform(2).sample((5,))
    assert sphere.check(z).all()


def test_dtype_and_shapes():
    law = HypersphericalUniform(4096, (2, 1), dtype=torch.float64)
    assert law.batch_shape == (2, 1) and law.event_shape == (4096,) and law.expand((5, 2, 3)).dim == 4096
    z = law.sample((3,))
    assert z.shape == (3, 2, 1, 4096) and z.dtype == law.mean.dtype == law.entropy().dtype == torch.float64
    assert sphere.check(z).all()
    assert HypersphericalUniform(3).sample().dtype == torch.get_default_dtype()
    assert law.log_prob(law.expand((2, 7)).sample()).shape == (2, 7)


def test_errors():
    with pytest.raises(ValueError, match="dim >= 2"):
        HypersphericalUniform(1)
    with pytest.raises(ValueError, match="floating dtype"):
        HypersphericalUniform(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="ambient dimensions 3 and 4"):
        torch.distributions.kl_divergence(HypersphericalUniform(3), HypersphericalUniform(4))
    with pytest.raises(ValueError):
        HypersphericalUniform(3, validate_args=True).log_prob(torch.ones(3))
