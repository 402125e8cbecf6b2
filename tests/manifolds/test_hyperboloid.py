"""Hyperbolic space against mpmath, geoopt and numerical Jacobians."""

import geoopt
import mpmath
import pytest
import torch
from torch.nn.functional import normalize

from ppvae.manifolds.hyperboloid import (
    Hyperboloid,
    asinhc,
    boost,
    frame,
    from_origin,
    hyperboloid,
    log_sinhc,
    sinhc,
    to_frame,
    to_origin,
)

F64 = torch.float64
DTYPES = [torch.float32, F64]


def vectors(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def inner(x, y):
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def exactly(x):
    """The point of the dtype as one of float64."""
    p = x[..., 1:].double()
    return torch.cat([(1 + p.square().sum(-1, keepdim=True)).sqrt(), p], -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_the_square(dtype):
    s = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-12, 3, 60, dtype=F64)]).to(dtype).requires_grad_()
    exact = {
        sinhc: lambda s: mpmath.sinh(mpmath.sqrt(s)) / mpmath.sqrt(s),
        log_sinhc: lambda s: mpmath.log(mpmath.sinh(mpmath.sqrt(s)) / mpmath.sqrt(s)),
        asinhc: lambda s: mpmath.asinh(mpmath.sqrt(s)) / mpmath.sqrt(s),
    }
    eps = torch.finfo(dtype).eps
    for ours, theirs in exact.items():
        values = ours(s)
        (gradient,) = torch.autograd.grad(values.sum(), s)
        assert values[0] == (0 if ours is log_sinhc else 1)
        with mpmath.workdps(40):
            for i in range(1, len(s)):
                at = mpmath.mpf(s[i].item())
                assert values[i].item() == pytest.approx(float(theirs(at)), rel=50 * eps, abs=2 * eps)
                assert gradient[i].item() == pytest.approx(float(mpmath.diff(theirs, at, h=at / 10**12)), rel=200 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 3, 11])
def test_constraint(m, dtype):
    for scale in (0.1, 1.0, 4.0):
        x = from_origin(vectors(50, m - 1, scale=scale / m**0.5).to(dtype))
        assert hyperboloid.check(x).all() and hyperboloid.check(x).shape == (50,)
        assert not hyperboloid.check(-x).any()
        off = torch.zeros_like(x)
        off[..., 0] = 40 * m**0.5 * torch.finfo(dtype).eps * x[..., 0]
        assert not hyperboloid.check(x + off).any() and not hyperboloid.check(x - off).any()
        assert not hyperboloid.check(torch.full_like(x, torch.nan)).any()


def test_geometry_agrees_with_geoopt():
    ours, theirs = Hyperboloid(), geoopt.Lorentz()
    x, y = from_origin(vectors(200, 4)), from_origin(vectors(200, 4, seed=1))
    w = vectors(200, 5, seed=2)
    u = ours.proju(x, w)
    torch.testing.assert_close(u, theirs.proju(x, w))
    u = 2 * u / inner(u, u).sqrt().unsqueeze(-1)
    torch.testing.assert_close(ours.expmap(x, u), theirs.expmap(x, u))
    torch.testing.assert_close(ours.logmap(x, y), theirs.logmap(x, y))
    torch.testing.assert_close(ours.dist(x, y), theirs.dist(x, y))


def test_the_frame_is_an_isometry_onto_the_tangent_space():
    x = from_origin(vectors(30, 3))
    a, b = vectors(30, 3, seed=1), vectors(30, 3, seed=2)
    u, w = frame(x, a), frame(x, b)
    torch.testing.assert_close(inner(u, x), torch.zeros(30, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(inner(u, w), (a * b).sum(-1))
    torch.testing.assert_close(boost(x, a), Hyperboloid().expmap(x, u))
    torch.testing.assert_close(to_origin(from_origin(a)), a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 3, 11])
@pytest.mark.parametrize("r", [0.0, 1e-3, 0.5, 0.9, 2.0, 6.0, 9.0])
def test_log_inverts_exp_at_any_distance_from_the_origin(m, dtype, r):
    """To e^r rounding units: the textbook form loses e^{2r}, at 9 all digits of float32."""
    x = from_origin(r * normalize(vectors(100, m - 1), dim=-1)).to(dtype)
    v = normalize(vectors(100, m - 1, seed=1), dim=-1) * torch.linspace(0, 3, 100, dtype=F64)[:, None]
    units = (r + torch.linspace(0, 3, 100, dtype=F64)).exp() * torch.finfo(dtype).eps
    z = boost(x, v.to(dtype))
    assert hyperboloid.check(z).all()
    assert ((to_frame(x, z) - v).norm(dim=-1) < 40 * units).all()
    assert ((Hyperboloid().dist(x, z) - v.norm(dim=-1)).abs() < 40 * units).all()


@pytest.mark.parametrize("r", [1.0, 5.0, 9.0])
def test_distance_between_the_same_points_in_either_dtype(r):
    x = from_origin(r * normalize(vectors(200, 3), dim=-1)).float()
    for y in (from_origin(vectors(200, 3, seed=1).float()), x.roll(1, 0), -x * torch.tensor([-1.0, 1, 1, 1])):
        near, exact = Hyperboloid().dist(x, y), Hyperboloid().dist(exactly(x), exactly(y))
        assert ((near - exact).abs() < 100 * torch.finfo(torch.float32).eps * (1 + exact)).all()
    assert (Hyperboloid().dist(x, x) < 20 * torch.finfo(torch.float32).eps * x[..., 0]).all()


def test_distance_does_not_end():
    far = from_origin(torch.tensor([[40.0, 0.0], [-40.0, 0.0]]))
    origin = from_origin(torch.zeros(2))
    torch.testing.assert_close(Hyperboloid().dist(origin, far), torch.tensor([40.0, 40.0]))


def test_a_boost_keeps_distances():
    x, y, g = (from_origin(vectors(50, 3, seed=seed)) for seed in range(3))
    moved = (boost(g, to_origin(x)), boost(g, to_origin(y)))
    torch.testing.assert_close(Hyperboloid().dist(*moved), Hyperboloid().dist(x, y))


def test_gradients_are_exact_and_finite():
    ours = Hyperboloid()
    # Between the two forms of the boost, at |p| = 1, and at the origin, where neither has a direction.
    p = torch.cat([vectors(4, 3), 3 * vectors(4, 3, seed=3), torch.zeros(1, 3, dtype=F64)]).requires_grad_()
    v = torch.cat([vectors(8, 3, seed=1), vectors(1, 3, seed=4)]).requires_grad_()

    def lifted(f):
        return lambda p, v: f(torch.cat([(1 + p.square().sum(-1, keepdim=True)).sqrt(), p], -1), v)

    assert torch.autograd.gradcheck(lifted(boost), (p, v))
    assert torch.autograd.gradcheck(lifted(lambda x, v: to_frame(x, from_origin(v))), (p, v))
    assert torch.autograd.gradcheck(lifted(lambda x, v: ours.dist(x, from_origin(v))), (p, v))
    x = from_origin(p)
    for value in (ours.dist(x, x), ours.logmap(x, x), to_frame(x, x), ours.expmap(x, torch.zeros_like(x))):
        (gradient,) = torch.autograd.grad(value.sum(), p, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("m", [2, 3, 5])
def test_logvolume_is_the_jacobian_of_exp(m):
    ours, x = Hyperboloid(), from_origin(vectors(m - 1, seed=3))
    for length in (1e-3, 0.5, 2.0, 4.0):
        v = length * normalize(vectors(m - 1, seed=4), dim=-1)
        jacobian = torch.autograd.functional.jacobian(lambda v: ours.expmap(x, frame(x, v)), v)
        metric = torch.diag(torch.tensor([-1.0] + [1.0] * (m - 1), dtype=F64))
        exact = torch.linalg.slogdet(jacobian.mT @ metric @ jacobian)[1] / 2
        torch.testing.assert_close(ours.logvolume(x, frame(x, v)), exact)
