"""Laws of frames without heads: the four sheets, mass, samples, and the likelihood of earthquakes."""

import math

import numpy as np
import pytest
import torch
from ppvae.models import SphericalVAE

import ppvae
from ppvae.distributions import FrameAverage, MatrixFisher, SO3Normal, SO3Uniform, VonMisesFisher, center
from ppvae.distributions.frame_average import D2
from ppvae.nn import FrameLikelihood
from ppvae.testing import check_vae

F64 = torch.float64
SHEETS = torch.diag_embed(torch.tensor(D2, dtype=F64))


def matrix_fisher(*shape, seed=0):
    return MatrixFisher(3 * torch.randn(*shape, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(seed)))


def uniform(n):
    torch.manual_seed(0)
    return SO3Uniform(dtype=F64).sample((n,))


def test_the_four_frames_have_one_density_the_mean_of_four():
    law, base = FrameAverage(matrix_fisher()), matrix_fisher()
    r = uniform(50)
    found = torch.stack([law.log_prob(r @ d) for d in SHEETS])
    assert torch.allclose(found, found[:1].expand(4, -1), atol=1e-12)
    mean = torch.stack([base.log_prob(r @ d).exp() for d in SHEETS]).mean(0)
    assert torch.allclose(found[0].exp(), mean, atol=1e-14)
    assert (base.log_prob(r) - law.log_prob(r)).abs().max() > 1


def test_mass_is_one():
    r = uniform(40_000)
    for base in (matrix_fisher(), SO3Normal(r[0], torch.tensor([0.5, 0.8, 1.1], dtype=F64))):
        mass = FrameAverage(base).log_prob(r).exp() * 8 * math.pi**2
        assert mass.mean().item() == pytest.approx(1, abs=4 * mass.std().item() / 200)


def test_samples_have_the_density():
    base = matrix_fisher(seed=1)
    law = FrameAverage(base)
    torch.manual_seed(0)
    z = law.sample((20_000,))
    # E (R_ij)^2 is a function of axes, which the base has too; E R is not, and is 0 for the average.
    square, expected = z.square().mean(0), base.sample((20_000,)).square().mean(0)
    assert (square - expected).abs().max() < 0.02
    assert z.mean(0).abs().max() < 0.03
    assert base.mean.abs().max() > 0.3


def test_shapes_expand_and_centre():
    law = FrameAverage(matrix_fisher(4))
    assert law.batch_shape == (4,) and law.event_shape == (3, 3)
    assert law.expand((5, 4)).sample((2,)).shape == (2, 5, 4, 3, 3)
    assert law.log_prob(uniform(3)[:, None]).shape == (3, 4)
    assert law.log_prob(uniform(1)[0]).shape == (4,)
    assert torch.equal(center(law), center(law.base))
    with pytest.raises(ValueError, match="expected a law on SO"):
        FrameAverage(VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(1.0)))
    with pytest.raises(ValueError):
        FrameAverage(matrix_fisher(), validate_args=True).log_prob(2 * torch.eye(3, dtype=F64))


def test_what_the_encoder_reads_is_the_same_for_the_four_frames_and_tells_others_apart():
    head, r = FrameLikelihood(), uniform(30)
    h = head.inputs(r, 2)
    assert h.shape == (30, 9, 3)
    for d in SHEETS:
        assert torch.allclose(head.inputs(r @ d, 2), h, atol=1e-15)
    # Two frames have equal projections only if they are one frame but for D_2.
    assert torch.pdist(h.flatten(1)).min() > 0.1
    for i in range(3):
        assert torch.allclose(h[:, 3 * i : 3 * i + 3], r[:, :, i : i + 1] * r[:, None, :, i])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3, 3\)"):
        head(torch.zeros(4, 6), 1)


def test_a_vae_of_earthquakes_does_not_see_which_frame_was_stored():
    data = ppvae.data.load("focal-mechanisms")
    x = data.train[:64]

    def make():
        torch.manual_seed(0)
        return SphericalVAE((3, 3), 3, (16,), likelihood=FrameLikelihood())

    check_vae(make, x)
    vae = make()
    ppvae.fit(vae, x, epochs=20, lr=1e-2, seed=0, progress=False)
    ll = ppvae.log_likelihood(vae, x, num_samples=20, seed=0)
    other = x * np.array([D2[i % 4] for i in range(64)], np.float32)[:, None, :]
    assert np.abs(other - x).max() > 1
    assert np.allclose(ppvae.log_likelihood(vae, other, num_samples=20, seed=0).values, ll.values, atol=1e-4)
    assert np.allclose(ppvae.encode(vae, other), ppvae.encode(vae, x), atol=1e-5)
    assert ll.mean > -math.log(8 * math.pi**2), "better than uniform frames"
    assert ppvae.generate(vae, 5, seed=0).shape == (5, 3, 3)
