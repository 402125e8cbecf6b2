"""The five maps to a rotation: on the manifold, right inverses, degenerate inputs, loops."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.manifolds import so3
from ppvae.nn.rotation_heads import S2S1, S2S2, AxisAngle, Polar, Quaternion, SO3NormalHead

MEANS = [S2S2(), Polar(), Quaternion(), AxisAngle(), S2S1()]
DTYPES = [torch.float32, torch.float64]


def rotations(n, seed=0):
    return torch.tensor(Rotation.random(n, random_state=seed).as_matrix())


def svd_rotation(a):
    u, _, vh = torch.linalg.svd(a)
    sign = torch.ones(*a.shape[:-2], 3, dtype=a.dtype)
    sign[..., 2] = (u @ vh).det()
    return u @ torch.diag_embed(sign) @ vh


@pytest.mark.parametrize("mean", MEANS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_values_are_rotations_at_every_size_of_the_features(mean, dtype, size):
    if isinstance(mean, AxisAngle) and size > 1:
        size = 100.0  # radians: the map is periodic, and no number of 1e30 has a phase
    h = size * torch.randn(500, mean.features, dtype=dtype, generator=torch.Generator().manual_seed(0))
    r = mean(h.requires_grad_())
    assert r.shape == (500, 3, 3)
    assert so3.rotation.check(r).all()
    (gradient,) = torch.autograd.grad((r * torch.arange(9).view(3, 3)).sum(), h)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("mean", MEANS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_degenerate_features_give_rotations_and_finite_gradients(mean, dtype):
    e = torch.eye(mean.features, dtype=dtype)
    h = torch.cat([torch.zeros_like(e), e, -e, torch.ones_like(e), torch.tensor(1.5, dtype=dtype) * e.cumsum(0)])
    h = torch.cat([h, h + 1e-7 * torch.randn(h.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))])
    r = mean(h.requires_grad_())
    assert so3.rotation.check(r).all()
    (gradient,) = torch.autograd.grad((r * torch.arange(9).view(3, 3)).sum(), h)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mean", MEANS, ids=lambda m: type(m).__name__)
def test_gradients_agree_with_finite_differences_and_trace(mean):
    h = torch.randn(4, mean.features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(mean, h.clone().requires_grad_())
    assert torch.equal(make_fx(mean)(h)(-h), mean(-h))


def test_every_map_is_onto_by_its_right_inverse():
    r = rotations(200)
    assert torch.allclose(S2S2()(torch.cat([r[..., 0], r[..., 1]], -1)), r, atol=1e-14)
    assert torch.allclose(Polar()(r.flatten(-2)), r, atol=1e-14)
    assert torch.allclose(Quaternion()(3 * so3.to_quaternion(r)), r, atol=1e-14)
    assert torch.allclose(AxisAngle()(so3.log(r)), r, atol=1e-14)
    v, t = so3.log(r), so3.angle(r)
    assert torch.allclose(S2S1()(torch.cat([v, torch.stack([t.cos(), t.sin()], -1)], -1)), r, atol=1e-13)


def test_gram_schmidt_is_that_of_qr():
    h = torch.randn(100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, upper = torch.linalg.qr(h.unflatten(-1, (2, 3)).mT)
    q = q * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    assert torch.allclose(S2S2()(h)[..., :2], q, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_projection_is_that_of_the_svd(seed):
    a = torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert (a.det() < 0).any()
    assert torch.allclose(so3.project(a), svd_rotation(a), atol=1e-11)
    weight = torch.arange(9, dtype=torch.float64).view(3, 3)
    a = a[:20].requires_grad_()
    (ours,) = torch.autograd.grad((so3.project(a) * weight).sum(), a)
    (oracle,) = torch.autograd.grad((svd_rotation(a) * weight).sum(), a)
    assert torch.allclose(ours, oracle, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("s", [(3, 2, 1), (1, 1, 1), (1, 1, -0.9), (1, 1e-2, 1e-3), (1, 1e-3, -0.99e-3), (1e8, 1e3, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_projection_at_all_singular_values(s, dtype):
    """Its error is a rounding unit over the gap (s_2 + s_3) / s_1 that decides how well R is determined."""
    u, v = rotations(300), rotations(300, seed=1)
    a = (u @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ v.mT).to(dtype)
    eps = torch.finfo(dtype).eps
    assert (so3.project(a) - u @ v.mT).abs().max() < 5 * eps * (1 + s[0] / (s[1] + s[2]))


def test_no_map_but_s2s2_and_polar_follows_a_loop():
    """Along the loop exp(t e_3), 0 <= t <= 2 pi, the sections of the two close; those of the others cannot."""
    t = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)
    v = torch.stack([0 * t, 0 * t, t], -1)
    r = so3.exp(v)

    def largest_step(x):
        return (x - x.roll(1, 0)).norm(dim=-1).max()

    assert largest_step(torch.cat([r[..., 0], r[..., 1]], -1)) < 0.03
    assert largest_step(r.flatten(-2)) < 0.03
    assert largest_step(so3.to_quaternion(r)) > 1.9, "from q to -q"
    assert largest_step(so3.log(r)) > 6, "from pi to -pi"


def test_head():
    head = SO3NormalHead()
    assert head.features == 9
    law = head(torch.zeros(4, 9))
    assert law.batch_shape == (4,)
    assert law.scale[0, 0].item() == pytest.approx(math.log(2), abs=2e-4)
    assert SO3NormalHead(AxisAngle()).features == 6
    assert SO3NormalHead(Polar())(torch.randn(2, 5, 12)).batch_shape == (2, 5)
    law = head(torch.full((1, 9), -1e4))
    assert law.rsample().isfinite().all()
    assert law.log_prob(law.rsample()).isfinite().all()
    for module, wrong in ((head, 8), (S2S2(), 5), (Polar(), 8)):
        with pytest.raises(ValueError, match="end the encoder in"):
            module(torch.zeros(2, wrong))
