"""Hyperbolic space against mpmath, geoopt and numerical Jacobians."""

import math

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


def exact_displacement(x, y):
    """v with exp_x(v) = y in the frame of x, ``|v|``, and the gradients of ``|v|`` by x and y without their first."""
    with mpmath.workdps(700):
        p, q = ([mpmath.mpf(a) for a in point[1:].tolist()] for point in (x, y))
        x1, y1 = (mpmath.sqrt(1 + mpmath.fsum(a * a for a in point)) for point in (p, q))
        pq = mpmath.fsum(a * b for a, b in zip(p, q, strict=True))
        sinh = [b + (pq / (1 + x1) - y1) * a for a, b in zip(p, q, strict=True)]
        n = mpmath.sqrt(mpmath.fsum(s * s for s in sinh))
        d = mpmath.asinh(n)
        by_x = [(y1 / x1 * a - b) / n for a, b in zip(p, q, strict=True)]
        by_y = [(x1 / y1 * b - a) / n for a, b in zip(p, q, strict=True)]
        v = [s / n * d for s in sinh]
        return [torch.tensor([float(a) for a in values], dtype=F64) for values in (v, [d], by_x, by_y)]


FAR = [(torch.float32, r) for r in (3.0, 16.0, 25.0, 40.0, 85.0)] + [(F64, r) for r in (3.0, 36.0, 190.0, 350.0, 700.0)]


@pytest.mark.parametrize("dtype, r", FAR)
def test_displacements_and_their_gradients_as_far_as_the_coordinates_reach(dtype, r):
    """The points are those of the dtype, to the last bit; the textbook form ends at 22 in float32, 177 in float64."""
    eps, ours = torch.finfo(dtype).eps, Hyperboloid()
    u, o = normalize(vectors(3, seed=1), dim=-1), normalize(vectors(3, seed=2), dim=-1)
    x = from_origin(r * u).to(dtype)
    others = {
        "a few units aside": x * (1 + eps * torch.tensor([0, 3, -2, 5], dtype=dtype)),
        "across": from_origin(r * o).to(dtype),
        "opposite": x * torch.tensor([1, -1, -1, -1], dtype=dtype),
        "near the origin": from_origin(0.3 * o).to(dtype),
        "the origin": from_origin(0 * o).to(dtype),
    }
    for where, y in others.items():
        for a, b in ((x, y), (y, x)):
            v, d, by_a, by_b = exact_displacement(a, b)
            p, q = a[1:].clone().requires_grad_(), b[1:].clone().requires_grad_()
            dist = ours.dist(torch.cat([a[:1], p]), torch.cat([b[:1], q]))
            assert dist.item() == pytest.approx(d.item(), rel=20 * eps), where
            assert ((to_frame(a, b).double() - v).abs() < 20 * eps * d).all(), where
            for got, exact in zip(torch.autograd.grad(dist, (p, q)), (by_a, by_b), strict=True):
                assert ((got.double() - exact).abs() <= 20 * eps * exact.abs().max()).all(), where


@pytest.mark.parametrize("dtype, r", FAR)
def test_neighbours_far_out_are_finite(dtype, r):
    """Rounding decides what their distance is, beyond 16 and 36."""
    x = from_origin(r * normalize(vectors(50, 3), dim=-1)).to(dtype).requires_grad_()
    v = (0.3 * vectors(50, 3, seed=1)).to(dtype).requires_grad_()
    y = boost(x, v)
    assert hyperboloid.check(y).all()
    v_again, dist = to_frame(x, y), Hyperboloid().dist(x, y)
    values = {"y": y, "v": v_again, "d": dist, "d(x, x)": Hyperboloid().dist(x, x), "v(x, x)": to_frame(x, x)}
    if r <= (40 if dtype == torch.float32 else 350):  # an ambient tangent vector is |v| times as long as x
        values["log"] = Hyperboloid().logmap(x, y)
    for name, value in values.items():
        assert value.isfinite().all(), name
        for gradient in torch.autograd.grad(value.sum(), (x, v), retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all(), name
    resolution = torch.finfo(dtype).eps * math.exp(r)
    if resolution < 0.01:
        assert ((v_again - v).norm(dim=-1) < 40 * resolution).all()
        assert ((dist - v.norm(dim=-1)).abs() < 40 * resolution).all()


@pytest.mark.parametrize("dtype, r", [(torch.float32, 8.0), (torch.float32, 14.0), (F64, 16.0), (F64, 34.0)])
def test_a_boost_comes_back_from_far_out(dtype, r):
    """The rounding of v is worth e^r units across it; the boost itself would lose e^{2r} along it."""
    x = from_origin((r * normalize(vectors(50, 3, seed=1), dim=-1)).to(dtype))
    v = to_origin(x)
    back = to_origin(boost(x, -0.99 * v))
    assert ((back - 0.01 * v).norm(dim=-1) < 40 * torch.finfo(dtype).eps * math.exp(r)).all()


@pytest.mark.parametrize("dtype, r", [(torch.float32, 3.0), (torch.float32, 8.0), (F64, 15.0), (F64, 25.0)])
def test_ambient_tangent_vectors_lose_no_more_than_they_must(dtype, r):
    ours, eps = Hyperboloid(), torch.finfo(dtype).eps
    x = from_origin(r * normalize(vectors(50, 3), dim=-1)).to(dtype)
    v = vectors(50, 3, seed=1).to(dtype)
    u, unit = frame(x, v), eps * math.exp(r)
    assert ((to_frame(x, ours.expmap(x, u)) - v).norm(dim=-1) < 100 * unit).all()
    assert ((ours.logmap(x, boost(x, v)) - u).norm(dim=-1) < 100 * unit * x[..., 0]).all()
    exact = 2 * log_sinhc(v.square().sum(-1))
    assert ((ours.logvolume(x, u) - exact).abs() < 100 * unit).all()
    assert ((ours.proju(x, u) - u).norm(dim=-1) < 100 * eps * math.exp(2 * r) * u.norm(dim=-1)).all()


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
