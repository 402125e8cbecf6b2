"""Wigner-D matrices: the group law, orthogonality, the action on spherical harmonics of scipy."""

import numpy as np
import pytest
import scipy.special
import torch
from scipy.spatial.transform import Rotation
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.manifolds import so3
from ppvae.nn.wigner import ActionDecoder, WignerD, spherical_harmonics

L = 6


def rotations(n, seed=0):
    return torch.tensor(Rotation.random(n, random_state=seed).as_matrix())


@pytest.fixture(scope="module")
def wigner():
    return WignerD(L).double()


def test_spherical_harmonics_are_those_of_scipy():
    x = torch.nn.functional.normalize(
        torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    polar, azimuth = torch.acos(x[:, 2]).numpy(), torch.atan2(x[:, 1], x[:, 0]).numpy()
    for l, y in enumerate(spherical_harmonics(L, x)):
        for m in range(-l, l + 1):
            if hasattr(scipy.special, "sph_harm_y"):
                complex_y = scipy.special.sph_harm_y(l, abs(m), polar, azimuth)
            else:
                complex_y = scipy.special.sph_harm(abs(m), l, azimuth, polar)
            complex_y = complex_y * (-1) ** m * (np.sqrt(2) if m else 1)
            exact = complex_y.imag if m < 0 else complex_y.real
            assert np.allclose(y[:, m + l], exact, atol=1e-12)


def test_group_law_and_orthogonality(wigner):
    r, s = rotations(20), rotations(20, seed=1)
    for l, (d, e, de) in enumerate(zip(wigner(r), wigner(s), wigner(r @ s), strict=True)):
        assert d.shape == (20, 2 * l + 1, 2 * l + 1)
        assert torch.allclose(d @ e, de, atol=1e-13)
        assert torch.allclose(d @ d.mT, torch.eye(2 * l + 1, dtype=torch.float64), atol=1e-13)
        assert torch.allclose(d.det(), torch.ones(20, dtype=torch.float64), atol=1e-12)


def test_degree_one_is_the_rotation(wigner):
    r = rotations(5)
    assert torch.equal(wigner(r)[1], r[:, [1, 2, 0]][:, :, [1, 2, 0]])


def test_action_on_spherical_harmonics(wigner):
    r = rotations(20)
    x = torch.nn.functional.normalize(
        torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    for d, y, moved in zip(wigner(r), spherical_harmonics(L, x), spherical_harmonics(L, so3.act(r, x)), strict=True):
        assert torch.allclose((d @ y.unsqueeze(-1)).squeeze(-1), moved, atol=1e-13)


def test_traces_are_the_characters(wigner):
    theta = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    u = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), dim=0)
    for l, d in enumerate(wigner(so3.exp(theta[:, None] * u))):
        character = ((l + 0.5) * theta).sin() / (theta / 2).sin()
        assert torch.allclose(d.diagonal(dim1=-2, dim2=-1).sum(-1), character, atol=1e-12)


def test_float32_batches_and_trace():
    wigner, r = WignerD(L), rotations(8).float().unflatten(0, (2, 4))
    double = WignerD(L).double()
    for d, e in zip(wigner(r), double(rotations(8)), strict=True):
        assert d.dtype == torch.float32
        assert (d.flatten(0, 1) - e).abs().max() < 1e-5
    traced = make_fx(lambda r: wigner(r)[-1])(r)
    assert torch.equal(traced(r.mT), wigner(r.mT)[-1])


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_decoder_turns_its_coefficients(degree):
    decoder = ActionDecoder(degree=degree, copies=5).double()
    r, s = rotations(4), rotations(4, seed=1)
    out = decoder(r)
    assert out.shape == (4, decoder.features) == (4, (degree + 1) ** 2 * 5)
    blocks = decoder.wigner(s)
    turned = torch.cat(
        [
            d @ c
            for d, c in zip(
                blocks, out.unflatten(-1, (-1, 5)).split([2 * l + 1 for l in range(degree + 1)], -2), strict=True
            )
        ],
        -2,
    )
    assert torch.allclose(decoder(s @ r), turned.flatten(-2), atol=1e-12)
    assert decoder(r.expand(7, 4, 3, 3)).shape == (7, 4, decoder.features)


def test_decoder_learns_and_takes_a_network():
    decoder = ActionDecoder(nn.Linear(16 * 2, 48), degree=3, copies=2)
    r = rotations(4).float().requires_grad_()
    decoder(r).square().sum().backward()
    assert r.grad.isfinite().all()
    assert decoder.spectrum.grad.abs().max() > 0
    assert "wigner.c2" not in decoder.state_dict(), "constants are not weights"
    with pytest.raises(ValueError, match="degree >= 0"):
        WignerD(-1)
