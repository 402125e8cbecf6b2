"""The spectral toy: its action is that of the Wigner matrices, its evidence that of quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ppvae.data.spectral_toy import SpectralToy
from ppvae.manifolds import so3
from ppvae.nn import WignerD


def test_mean_is_the_action_on_the_spectrum():
    toy, r = SpectralToy(), Rotation.random(20, random_state=0).as_matrix()
    blocks = WignerD(3).double()(torch.tensor(r))
    action = torch.stack([torch.block_diag(*(block[i] for block in blocks)) for i in range(20)])
    expected = (action @ torch.tensor(toy.spectrum)).flatten(1)
    assert np.allclose(toy.mean(r), expected, atol=1e-12)
    assert np.allclose(np.linalg.norm(toy.mean(r), axis=-1), 10)
    assert toy.mean(r.reshape(4, 5, 3, 3)).shape == (4, 5, 48)


def test_draws():
    toy = SpectralToy(noise=0.3, seed=1)
    x, r = toy.draw(2000, seed=2)
    assert x.shape == (2000, 48) and x.dtype == r.dtype == np.float32 and toy.shape == (48,)
    assert (x - toy.mean(r)).std() == pytest.approx(0.3, rel=0.01)
    assert abs(np.trace(r, axis1=1, axis2=2).mean()) < 0.1, "E tr R = 0 under Haar's measure"
    assert np.array_equal(toy.draw(5, seed=2)[0], toy.draw(5, seed=2)[0])
    assert not np.array_equal(SpectralToy(seed=1).spectrum, SpectralToy(seed=2).spectrum)


def test_evidence_is_that_of_importance_sampling():
    toy = SpectralToy(noise=0.5)
    x, r = toy.draw(50, seed=0)
    # About the truth by the Gaussian of the information, wider by a half; noise moves the mode by about its own size.
    scale = torch.tensor(1.5 * np.linalg.eigvalsh(np.linalg.inv(toy.information())).max() ** 0.5)
    torch.manual_seed(0)
    v = 1.5 * scale * torch.randn(1500, 3, dtype=torch.float64)
    log_q = torch.distributions.Normal(0, 1.5 * scale).log_prob(v).sum(-1) - so3.log_jacobian(v)
    values = []
    for datum, truth in zip(x, r, strict=True):
        turned = so3.compose(torch.tensor(truth).double(), so3.exp(v))
        log_p = (
            torch.distributions.Normal(torch.tensor(toy.mean(turned)), 0.5)
            .log_prob(torch.tensor(datum).double())
            .sum(-1)
        )
        values.append((log_p - math.log(so3.VOLUME) - log_q).logsumexp(0).item() - math.log(1500))
    assert abs(np.mean(values) - toy.evidence()) < 4 * np.std(values) / 50**0.5
    # The same data at the exact value of the noise, whose chi-square carries most of that error.
    chi = ((x - toy.mean(r)) ** 2).sum(-1) / 0.25
    assert np.mean(values + chi / 2 - 24) == pytest.approx(toy.evidence(), abs=0.4)


def test_noise_is_not_negative():
    with pytest.raises(ValueError, match="noise"):
        SpectralToy(-1.0)
