"""The sphere against mpmath, geoopt and numerical Jacobians."""

import math

import geoopt
import mpmath
import pytest
import torch
from torch.nn.functional import normalize

from ppvae.manifolds.sphere import Sphere, log_area, rotate_from_pole, sphere

DTYPES = [torch.float32, torch.float64]


def points(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1).to(dtype)


def pole(m, sign=1.0, dtype=torch.float64):
    return sign * torch.eye(m, dtype=dtype)[0]


@pytest.mark.parametrize("m", [1, 2, 3, 4, 17, 64, 439, 1000, 4096])
def test_log_area(m):
    exact = mpmath.log(2 * mpmath.pi ** (mpmath.mpf(m) / 2) / mpmath.gamma(mpmath.mpf(m) / 2))
    assert log_area(m) == pytest.approx(float(exact), rel=1e-13)


def test_log_area_of_nothing():
    with pytest.raises(ValueError, match="m >= 1"):
        log_area(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 3, 16, 4096])
def test_constraint(m, dtype):
    z = points(50, m).to(dtype)
    z = z / z.norm(dim=-1, keepdim=True)
    assert sphere.check(z).all() and sphere.check(z).shape == (50,)
    off = 40 * math.sqrt(m) * torch.finfo(dtype).eps
    assert not sphere.check(z * (1 + off)).any()
    assert not sphere.check(z * (1 - off)).any()
    assert not sphere.check(torch.full_like(z, math.nan)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 3, 16, 4096])
def test_rotation_takes_the_pole_to_loc_and_keeps_inner_products(m, dtype):
    near = pole(m) + 1e-4 * points(8, m, seed=2)  # the angles at which a threshold would show
    loc = torch.cat([points(20, m), near, -near, pole(m)[None], -pole(m)[None], pole(m).roll(1)[None]])
    loc = normalize(loc, dim=-1).to(dtype)
    y = points(len(loc), m, dtype=dtype, seed=1)
    eps = torch.finfo(dtype).eps
    assert (rotate_from_pole(pole(m, dtype=dtype), loc) - loc).abs().max() < 20 * eps
    z = rotate_from_pole(y, loc)
    assert sphere.check(z).all()
    assert ((z * loc).sum(-1) - y[:, 0]).abs().max() < 20 * eps


def test_rotation_has_exact_and_finite_gradients():
    y = points(6, 4, seed=1).requires_grad_()
    loc = torch.cat([points(4, 4), pole(4)[None], -pole(4)[None]]).requires_grad_()
    assert torch.autograd.gradcheck(rotate_from_pole, (y, loc))


def test_rotation_broadcasts():
    assert rotate_from_pole(points(7, 1, 3), points(5, 3)).shape == (7, 5, 3)


def test_geometry_agrees_with_geoopt():
    ours, theirs = Sphere(), geoopt.Sphere()
    x, y = points(200, 5), points(200, 5, seed=1)
    u = ours.proju(x, 2 * points(200, 5, seed=2))
    torch.testing.assert_close(u, theirs.proju(x, 2 * points(200, 5, seed=2)))
    torch.testing.assert_close(ours.expmap(x, u), theirs.expmap(x, u))
    torch.testing.assert_close(ours.logmap(x, y), theirs.logmap(x, y))
    torch.testing.assert_close(ours.dist(x, y), theirs.dist(x, y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_distance_is_accurate_at_both_ends(dtype):
    t = torch.logspace(-7, 0, 30, dtype=torch.float64)
    x = pole(3, dtype=dtype).expand(30, 3)
    y = torch.stack([t.cos(), t.sin(), torch.zeros_like(t)], -1).to(dtype)
    for target, sign in ((t, 1), (math.pi - t, -1)):
        d = Sphere().dist(x, sign * y).double()
        assert (d - target).abs().max() < 4 * torch.finfo(dtype).eps
    # Relative to the distance itself where it is small: a clamped arc cosine has nothing left at 1e-7.
    assert ((Sphere().dist(x, y).double() - t) / t).abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 3, 16])
def test_log_inverts_exp(m, dtype):
    ours, eps = Sphere(), torch.finfo(dtype).eps
    x = points(40, m, dtype=dtype)
    tangent_at_pole = torch.nn.functional.pad(points(40, m - 1, seed=1), (1, 0))
    direction = rotate_from_pole(tangent_at_pole, x.double())
    for length in (0, 1e-6, 1e-3, 1, 3, math.pi - 1e-3):
        u = (length * direction).to(dtype)
        error = (ours.logmap(x, ours.expmap(x, u)) - u).norm(dim=-1).max()
        # A point near the antipode fixes the direction only to the rounding error over its distance from there.
        assert error < 40 * eps / min(1, math.pi - length)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_of_the_antipode_is_a_tangent_vector_of_length_pi(dtype):
    x = torch.cat([points(20, 4), pole(4)[None], -pole(4)[None]]).to(dtype)
    u = Sphere().logmap(x, -x)
    eps = torch.finfo(dtype).eps
    assert (u.norm(dim=-1) - math.pi).abs().max() < 20 * eps
    assert (u * x).sum(-1).abs().max() < 20 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_finite_at_the_point_and_its_antipode(dtype):
    ours = Sphere()
    for sign in (1, -1):
        x = points(10, 3, dtype=dtype).requires_grad_()
        y = (sign * x).detach().requires_grad_()
        for value in (ours.dist(x, y), ours.logmap(x, y), ours.expmap(x, torch.zeros_like(x).requires_grad_())):
            for g in torch.autograd.grad(value.sum(), (x, y), allow_unused=True):
                assert g is None or g.isfinite().all()


def test_gradients_are_exact_elsewhere():
    ours = Sphere()
    x, y = points(5, 4).requires_grad_(), points(5, 4, seed=1).requires_grad_()
    u = (0.5 * points(5, 4, seed=2)).requires_grad_()
    assert torch.autograd.gradcheck(ours.dist, (x, y))
    assert torch.autograd.gradcheck(ours.logmap, (x, y))
    assert torch.autograd.gradcheck(ours.expmap, (x, u))
    # d exp_x = id at u = 0 on the tangent space, and the point stays on the sphere along the normal
    jacobian = torch.autograd.functional.jacobian(lambda v: ours.expmap(pole(4), v), torch.zeros(4).double())
    torch.testing.assert_close(jacobian, torch.eye(4).double() - torch.outer(pole(4), pole(4)))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_logvolume_is_the_jacobian_of_exp(m):
    ours, x = Sphere(), points(m, seed=3)
    frame = rotate_from_pole(torch.eye(m).double()[1:], x)  # (m - 1, m), an orthonormal basis of the tangent space
    for length in (1e-3, 0.5, 2.0, 3.0, 4.0):
        t = length * points(m - 1, seed=4) if m > 2 else torch.tensor([length]).double()
        jacobian = torch.autograd.functional.jacobian(lambda t: ours.expmap(x, t @ frame), t)
        exact = torch.linalg.svdvals(jacobian).log().sum()
        torch.testing.assert_close(ours.logvolume(x, t @ frame), exact)
